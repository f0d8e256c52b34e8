//! `ferrogate trace`.

use super::query::{STATE_DIR, Source};
use super::{OutputFormat, parse};
use crate::admin::{self, Names, Request, ServiceRow};
use crate::kernel::StateDir;
use crate::signals::ended_by_signal;
use crate::trace::{Events, Filter, Packets, Processes, Turn, Verdict, keys, reasons};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrogate_common::{CaptureKey, Reason};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
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

/// Connections as they begin, and what is refused or dropped and why: one line an event, with the addresses before and after.
/// Packets of connections that exist already are not shown, and cost nothing more than without. The programs tell at most what
/// fits into a buffer; what did not is counted at the end. With --pcap the packets themselves are kept, those of known connections too.
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

    /// Write the packets to and from the Service, pod or address to this file (pcapng, for Wireshark and tcpdump), each as it comes
    /// to a program of ours and as it leaves that: its headers and what lies beside
    /// them in memory, up to 255 bytes. -: to standard output, and no
    /// events. Without SERVICE, --pod and --address: all that our programs see. Needs CAP_SYS_ADMIN
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

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
    let _turn = Turn::of_command(&args.source.run_dir)?;
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
    if args.pcap.is_some() && args.service.is_some() && !addresses.is_empty() {
        bail!("--pcap takes the packets of a Service, of a pod or of an address: give one of them");
    }
    let filter = Filter {
        service: args.service.clone(),
        addresses,
    };
    let state = StateDir::new(&args.state_dir);
    let start = |file| Packets::start(&state, file, wanted(args, &filter)?);
    let packets = args.pcap.as_deref().map(start).transpose()?;
    let events = Events::start(&state, told, &names, Processes::find())?;
    let mut session = Session {
        args,
        state,
        events,
        packets,
        filter,
        shown: 0,
        lost: 0,
    };
    let result = session.run(&|| ended.load(Ordering::Acquire));
    note!("{} events, {} lost for want of room.", session.shown, session.lost);
    if let (Some(packets), Some(file)) = (&session.packets, &args.pcap) {
        let (written, lost) = packets.counts()?;
        note!("{written} packets in {}, {lost} lost for want of room.", file.display());
    }
    result
}

/// Whose packets are to be kept; `None`: all.
fn wanted(args: &TraceArgs, filter: &Filter) -> Result<Option<BTreeSet<CaptureKey>>> {
    if args.service.is_none() && filter.addresses.is_empty() {
        return Ok(None);
    }
    let request = Request::Services {
        name: args.service.clone(),
    };
    let rows: Vec<ServiceRow> = match &args.service {
        Some(_) => args.source.ask_agent(&request)?,
        None => vec![],
    };
    Ok(Some(keys(&filter.addresses, &rows)))
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

/// A trace under way.
struct Session<'a> {
    args: &'a TraceArgs,
    state: StateDir,
    events: Events,
    packets: Option<Packets>,
    filter: Filter,
    shown: u64,
    lost: u64,
}

impl Session<'_> {
    fn run(&mut self, ended: &dyn Fn() -> bool) -> Result<()> {
        let end = self.args.duration.map(|duration| Instant::now() + duration);
        let mut renew = Instant::now() + RENEW;
        let of_packets = self.args.pcap.as_deref() == Some(Path::new("-"));
        let out: Box<dyn io::Write> = if of_packets {
            Box::new(io::sink())
        } else {
            Box::new(io::stdout().lock())
        };
        let mut out = io::BufWriter::new(out);
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
                self.events.go_on()?;
                self.count_lost()?;
                if let Some(packets) = &mut self.packets {
                    // An agent that is away for a moment changes no endpoints.
                    packets.go_on(&self.state, wanted(self.args, &self.filter).unwrap_or_default())?;
                }
            }
            sleep(LOOK);
        }
    }

    fn count_lost(&mut self) -> Result<()> {
        let lost = self.events.lost()?;
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
        if let Some(packets) = &mut self.packets {
            packets.look()?;
        }
        let source = &self.args.source;
        let mut names = || source.ask_agent(&Request::Names { pod: None }).ok();
        while let Some(line) = self.events.take(&mut names) {
            if !self.filter.takes(&line) {
                continue;
            }
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
}

/// Whether anybody reads on.
fn written(result: io::Result<()>) -> Result<bool> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("cannot write to standard output"),
    }
}
