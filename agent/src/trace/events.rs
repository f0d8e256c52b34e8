//! What the programs tell, as lines with names.

use super::{Line, Processes, Reader};
use crate::admin::Names;
use crate::kernel::{StateDir, Tables, Tracer, boot_nanos};
use anyhow::{Context, Result};
use ferrogate_common::{TraceEvent, trace_edge};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names are asked for again when one is missing, and this has passed, ...
const NAMES_HOLD: Duration = Duration::from_secs(2);
/// ... and at least so many times as long as asking took.
const NAMES_SHARE: u32 = 50;

/// The programs tell while this lives; see [`super::Turn`].
pub struct Events {
    tracer: Tracer,
    reader: Reader,
    processes: Processes,
    interfaces: HashMap<u32, Option<String>>,
    /// When names may be asked for again.
    ask: Instant,
}

impl Events {
    /// Starts tracing these reasons (bit n: the reason with that number).
    ///
    /// # Errors
    /// The maps are missing or of another version.
    pub fn start(state: &StateDir, reasons: u64, names: &Names, processes: Processes) -> Result<Self> {
        let sources = Tables::open(state)
            .and_then(|tables| tables.sources())
            .context("cannot read the maps")?;
        let tracer = Tracer::start(state, reasons).context("cannot trace")?;
        Ok(Self {
            tracer,
            reader: Reader::new(boot_nanos(), Timestamp::now(), sources, names),
            processes,
            interfaces: HashMap::new(),
            ask: Instant::now() + NAMES_HOLD,
        })
    }

    /// Asks the programs for more; to be called once a second.
    pub fn go_on(&self) -> Result<()> {
        self.tracer.go_on().context("cannot go on tracing")
    }

    /// Events that had no room since the beginning.
    pub fn lost(&self) -> Result<u64> {
        self.tracer.lost().context("cannot count what was lost")
    }

    /// The next line, if there is one. `names` is asked now and then, where a Service's name is missing.
    pub fn take(&mut self, names: &mut dyn FnMut() -> Option<Names>) -> Option<Line> {
        loop {
            let event = self.tracer.take()?;
            // A reason that this version does not know is not shown.
            if let Some(line) = self.line(&event, names) {
                return Some(line);
            }
        }
    }

    fn line(&mut self, event: &TraceEvent, names: &mut dyn FnMut() -> Option<Names>) -> Option<Line> {
        let caller = (event.edge == trace_edge::SOCKET).then(|| {
            let v4 = event.tuple.destination.is_v4();
            (process(event), self.processes.address(event.process, event.netns, v4))
        });
        let index = event.ifindex;
        let known = (index != 0).then(|| self.interfaces.entry(index).or_insert_with(|| interface(index)).clone());
        let line = self.reader.line(event, |_| known.clone().flatten(), caller.clone())?;
        let begun = Instant::now();
        if line.service.is_some() || begun < self.ask {
            return Some(line);
        }
        // Perhaps it is a Service since a moment ago.
        if let Some(names) = names() {
            self.reader.set_names(&names);
        }
        self.ask = Instant::now() + NAMES_HOLD.max(begun.elapsed() * NAMES_SHARE);
        self.reader.line(event, |_| known.clone().flatten(), caller)
    }
}

/// `name[id]` of who made a socket call.
fn process(event: &TraceEvent) -> String {
    let end = event.name.iter().position(|byte| *byte == 0);
    let name = String::from_utf8_lossy(&event.name[..end.unwrap_or(event.name.len())]);
    // Anybody can name a process, and this goes to a terminal.
    let name = name.replace(char::is_control, "?");
    format!("{name}[{}]", event.process)
}

/// Name of an interface in this network namespace; of one that is gone, none.
pub(super) fn interface(ifindex: u32) -> Option<String> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    rustix::net::netdevice::index_to_name(socket.ok()?, ifindex).ok()
}
