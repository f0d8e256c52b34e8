//! What the log has of writes.

use super::Applied;
use ferrogate_control::{Changes, Plan};
use tracing::{debug, info, warn};

/// Longest list of services in a log line.
const NAMED: usize = 3;
/// As many lines has one write of each kind: where a table is full, each Service of a large cluster can be one.
const LINES: usize = 50;

/// What of a plan has no room, and what has it again.
pub(super) fn outcome(plan: &Plan) {
    for notice in plan.notices.iter().take(LINES) {
        warn!("{notice}");
    }
    if plan.notices.len() > LINES {
        let more = plan.notices.len() - LINES;
        warn!("and {more} more: `ferrogate status` has what is not programmed");
    }
    for port in plan.completed.iter().take(LINES) {
        info!("service {port}: all of it is programmed now");
    }
    if plan.completed.len() > LINES {
        info!("and {} more are programmed now", plan.completed.len() - LINES);
    }
}

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
