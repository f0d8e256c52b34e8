//! Sends streams of packets out of an interface, and counts what comes back.
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use super::traffic::Traffic;
use crate::kernel::{Counter, Driver, Kind, RawProgram, Then};

/// Frames handed over at a time, as a network card's driver takes them.
const BATCH: u32 = 64;

/// Frames of one system call at full speed.
const CHUNK: u32 = 1 << 15;

/// How often a stream of fixed rate looks at the clock.
const PACE: Duration = Duration::from_millis(1);

/// How fast, how long, and on which CPUs.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Packets a second, of all CPUs together; none: as many as will go.
    pub rate: Option<u64>,
    pub duration: Duration,
    pub cpus: Vec<usize>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    /// Packets that were made.
    pub sent: u64,
    /// Of them those that the interface took; the others found its far end's queue full.
    pub accepted: u64,
    /// Packets that came back to the clients.
    pub replies: u64,
    pub seconds: f64,
}

/// An interface to send from. While it lives, what arrives there for the counted network is taken away.
pub struct Generator {
    device: String,
    ifindex: u32,
    counter: Counter,
}

impl Generator {
    /// On an interface of this thread's network namespace: counts what arrives for `network`.
    pub fn open(device: &str, network: IpNet) -> Result<Self> {
        let ifindex = ifindex(device)?;
        Ok(Self {
            device: device.to_owned(),
            ifindex,
            counter: Counter::attach(Kind::Xdp, ifindex, network)
                .with_context(|| format!("counting on {device}: has it an XDP program already?"))?,
        })
    }

    /// Packets counted since it was opened.
    pub fn counted(&self) -> Result<u64> {
        self.counter.count()
    }

    /// Sends; this thread must be in the interface's network namespace.
    pub fn send(&self, traffic: &Traffic, pace: &Pace) -> Result<Report> {
        let frames = traffic.frames()?;
        let length = frames.length();
        let driver = Driver::new(Kind::Xdp, &frames, &Then::Transmit)?;
        let (accepted, counted) = (transmitted(&self.device)?, self.counted()?);
        let begun = Instant::now();
        let share = pace.rate.map(|rate| rate / pace.cpus.len() as u64);
        let sent = thread::scope(|scope| {
            let threads: Vec<_> = pace
                .cpus
                .iter()
                .map(|cpu| {
                    let program = &driver.program;
                    scope.spawn(move || self.stream(program, length, share, *cpu, begun, pace.duration))
                })
                .collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a sending thread panicked"))?);
            ended.sum::<Result<u64>>()
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Report {
            sent,
            accepted: transmitted(&self.device)?.saturating_sub(accepted),
            replies: self.counted()? - counted,
            seconds,
        })
    }

    fn stream(
        &self,
        program: &RawProgram,
        length: usize,
        rate: Option<u64>,
        cpu: usize,
        begun: Instant,
        duration: Duration,
    ) -> Result<u64> {
        let mut cpus = CpuSet::new();
        cpus.set(cpu);
        sched_setaffinity(None, &cpus).with_context(|| format!("CPU {cpu}"))?;
        let packet = vec![0; length];
        let context: Vec<u8> = [0, length as u32, 0, self.ifindex, 0, 0]
            .iter()
            .flat_map(|field: &u32| field.to_ne_bytes())
            .collect();
        let mut sent = 0;
        while begun.elapsed() < duration {
            let due = match rate {
                None => CHUNK,
                Some(rate) => {
                    let whole = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
                    // What the machine could not keep up with is not sent in a burst.
                    (whole.saturating_sub(sent)).min(rate / 10 + 1).min(u64::from(CHUNK)) as u32
                }
            };
            if due == 0 {
                thread::sleep(PACE);
                continue;
            }
            program.run_live(&packet, &context, due, BATCH.min(due))?;
            sent += u64::from(due);
        }
        Ok(sent)
    }
}

/// The number of an interface of this thread's network namespace.
pub fn ifindex(device: &str) -> Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    netdevice::name_to_index(socket(AddressFamily::INET, SocketType::DGRAM, None)?, device)
        .with_context(|| format!("no interface {device} in this network namespace"))
}

/// Packets that an interface of this thread's network namespace has sent.
fn transmitted(device: &str) -> Result<u64> {
    const TRANSMITTED: usize = 9;
    let file = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(file).context(file)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines
        .find(|(name, _)| name.trim() == device)
        .with_context(|| format!("{file} has no {device}"))?;
    let number = numbers.split_whitespace().nth(TRANSMITTED);
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{file} says nothing of what {device} sent"))
}
