//! What the log has of writes.

use super::Applied;
use ferrogate_control::Changes;
use tracing::{debug, info};

/// Longest list of services in a log line.
const NAMED: usize = 3;

/// One line in the log for a write. Full ones are rare; the others can be many a second.
pub(super) fn report(changes: &Changes, applied: &Applied) {
    let Applied {
        generation,
        latency,
        took,
        operations,
        ..
    } = applied;
    if changes.full {
        info!(
            generation,
            services = changes.services.len(),
            operations,
            ?took,
            ?latency,
            "all services written"
        );
        return;
    }
    let mut names: Vec<String> = changes.services.keys().take(NAMED).map(ToString::to_string).collect();
    if changes.services.len() > NAMED {
        names.push(format!("and {} more", changes.services.len() - NAMED));
    }
    debug!(
        generation,
        services = names.join(", "),
        operations,
        ?took,
        ?latency,
        "services written"
    );
}
