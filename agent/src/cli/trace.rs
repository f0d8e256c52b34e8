//! `ferrogate trace`.

use super::query::{STATE_DIR, Source};
use super::{OutputFormat, parse};
use crate::admin::{self, Names, Request};
use crate::kernel::{StateDir, Tables, Tracer, boot_nanos};
use crate::signals::ended_by_signal;
use crate::trace::{Filter, Line, Processes, Reader, Verdict, reasons};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrogate_common::{Reason, TraceEvent, trace_edge};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Says something beside the events; whoever started this may not listen.
macro_rules! note {
    ($($text:tt)*) => {{
        let _ = writeln!(io::stderr(), $($text)*);
    }};
}

/// Time between two looks at the ring buffer, which has room for some thousand events.
const LOOK: Duration = Duration::from_millis(20);
/// Time between two requests to the programs to go on.
const RENEW: Duration = Duration::from_secs(1);
/// Names are asked for again when one is missing, and this has passed.
const NAMES_HOLD: Duration = Duration::from_secs(2);

/// Connections as they begin, and what is refused or dropped and why: one line an event, with the addresses before and after.
/// Packets of connections that exist already are not shown, and cost nothing more than without. The programs tell at most what
/// fits into a buffer; what did not is counted at the end.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Only connections to this Service
    #[arg(value_name = "[NAMESPACE/]SERVICE", value_parser = parse::service_filter)]
    service: Option<String>,

    /// Only with this pod of the node as client or backend
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    pod: Option<String>,

    /// Only with this address as client, frontend, backend or source
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// Only what begins, or only what gets no further
    #[arg(long, value_name = "WHAT")]
    verdict: Option<Verdict>,

    /// Only for this reason (see the list in docs/reference.md); may be repeated
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,

    /// End after this many events
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,

    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration)]
    duration: Option<Duration>,

    /// How to print; json: an object for each event, one a line
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: OutputFormat,

    /// The agent's state directory
    #[arg(long, value_name = "DIR", env = "FERROGATE_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,

    #[command(flatten)]
    source: Source,
}

fn reason(text: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().find(|reason| reason.label() == text).copied();
    let told = |reason: &&Reason| reasons(None, &[**reason]) != 0;
    found.filter(|reason| told(&reason)).ok_or_else(|| {
        let names: Vec<&str> = Reason::ALL.iter().filter(told).map(|reason| reason.label()).collect();
        format!("not one of {}", names.join(", "))
    })
}

pub(super) fn run(args: &TraceArgs) -> Result<()> {
    let names = names(args)?;
    let _alone = lock(args)?;
    let ended = ended_by_signal()?;
    let mut addresses: Vec<IpAddr> = names.pod.clone();
    if args.pod.is_some() && addresses.is_empty() {
        bail!("the pod has no address yet");
    }
    if let Some(address) = args.address {
        if args.pod.is_some() {
            bail!("give --pod or --address, not both");
        }
        addresses.push(address);
    }
    let told = reasons(args.verdict, &args.reason);
    if told == 0 {
        bail!("--verdict and --reason exclude each other: nothing would be shown");
    }
    let state = StateDir::new(&args.state_dir);
    let sources = Tables::open(&state)
        .and_then(|tables| tables.sources())
        .context("cannot read the maps")?;
    let tracer = Tracer::start(&state, told).context("cannot trace")?;
    let reader = Reader::new(boot_nanos(), Timestamp::now(), sources, &names);
    let filter = Filter {
        service: args.service.clone(),
        addresses,
    };
    let mut session = Session {
        args,
        tracer,
        reader,
        filter,
        processes: Processes::find(),
        interfaces: HashMap::new(),
        named: Instant::now(),
        shown: 0,
        lost: 0,
    };
    let result = session.run(&|| ended.load(Ordering::Acquire));
    note!("{} events, {} lost for want of room.", session.shown, session.lost);
    result
}

/// What the addresses are called. Without an agent nothing is, and connections can be looked at all the same.
fn names(args: &TraceArgs) -> Result<Names> {
    match args.source.ask_agent(&Request::Names { pod: args.pod.clone() }) {
        Err(admin::Error::NotRunning { .. }) if args.service.is_none() && args.pod.is_none() => {
            note!("Note: no agent answers, so Services are not named.");
            Ok(Names::default())
        }
        answer => Ok(answer?),
    }
}

/// Held while this command traces: two would take each other's events.
fn lock(args: &TraceArgs) -> Result<File> {
    let path = args.source.run_dir.join("trace.lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!("somebody traces on this node already ({})", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A trace under way.
struct Session<'a> {
    args: &'a TraceArgs,
    tracer: Tracer,
    reader: Reader,
    filter: Filter,
    processes: Processes,
    interfaces: HashMap<u32, Option<String>>,
    /// When names were asked for.
    named: Instant,
    shown: u64,
    lost: u64,
}

impl Session<'_> {
    fn run(&mut self, ended: &dyn Fn() -> bool) -> Result<()> {
        let end = self.args.duration.map(|duration| Instant::now() + duration);
        let mut renew = Instant::now() + RENEW;
        let mut out = io::BufWriter::new(io::stdout().lock());
        // Who waits for it can begin.
        note!("Tracing; Ctrl-C ends it.");
        loop {
            // What the programs told before the end is shown.
            let last = ended() || end.is_some_and(|end| Instant::now() >= end);
            if !self.look(&mut out)? || last {
                return Ok(());
            }
            if Instant::now() >= renew {
                renew = Instant::now() + RENEW;
                self.tracer.go_on().context("cannot go on tracing")?;
                self.count_lost()?;
            }
            sleep(LOOK);
        }
    }

    fn count_lost(&mut self) -> Result<()> {
        let lost = self.tracer.lost().context("cannot count what was lost")?;
        if lost > self.lost {
            note!(
                "{} events lost: they come faster than they are shown.",
                lost - self.lost
            );
            self.lost = lost;
        }
        Ok(())
    }

    /// Shows what has come; whether to go on.
    fn look(&mut self, out: &mut impl io::Write) -> Result<bool> {
        let mut go_on = true;
        while let Some(event) = self.tracer.take() {
            let Some(line) = self.line(&event).filter(|line| self.filter.takes(line)) else {
                continue;
            };
            let text = match self.args.output {
                OutputFormat::Json => serde_json::to_string(&line).context("cannot write an event as JSON")?,
                OutputFormat::Table => line.text(),
            };
            if !written(writeln!(out, "{text}"))? {
                return Ok(false);
            }
            self.shown += 1;
            if self.args.count.is_some_and(|count| self.shown >= count) {
                go_on = false;
                break;
            }
        }
        self.count_lost()?;
        Ok(written(out.flush())? && go_on)
    }

    fn line(&mut self, event: &TraceEvent) -> Option<Line> {
        let caller = (event.edge == trace_edge::SOCKET).then(|| {
            let v4 = event.tuple.destination.is_v4();
            (process(event), self.processes.address(event.process, event.netns, v4))
        });
        let interfaces = &mut self.interfaces;
        if event.ifindex != 0 && !interfaces.contains_key(&event.ifindex) {
            interfaces.insert(event.ifindex, interface(event.ifindex));
        }
        let interfaces = &self.interfaces;
        let name = |ifindex: u32| interfaces.get(&ifindex).cloned().flatten();
        let line = self.reader.line(event, name, caller.clone())?;
        if line.service.is_some() || self.named.elapsed() < NAMES_HOLD {
            return Some(line);
        }
        // Perhaps it is a Service since a moment ago.
        self.named = Instant::now();
        if let Ok(names) = self.args.source.ask_agent(&Request::Names { pod: None }) {
            self.reader.set_names(&names);
        }
        let interfaces = &self.interfaces;
        self.reader
            .line(event, |ifindex| interfaces.get(&ifindex).cloned().flatten(), caller)
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
fn interface(ifindex: u32) -> Option<String> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    rustix::net::netdevice::index_to_name(socket.ok()?, ifindex).ok()
}

/// Whether anybody reads on.
fn written(result: io::Result<()>) -> Result<bool> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("cannot write to standard output"),
    }
}
