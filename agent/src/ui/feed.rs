//! What the programs tell of single connections, for as long as somebody asks for it.
//!
//! A thread reads, keeps the last few, and ends when nobody has asked for a while; the programs are silent from then on. However
//! much happens, it takes so many events in a second and no more: what has no room in the ring buffer meanwhile is
//! counted by the programs, and costs them a look at the buffer.

use crate::trace::{Line, Verdict, reasons};
use anyhow::Result;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Nobody looks any more.
const ASKED: Duration = Duration::from_secs(5);
/// Time between two looks at the ring buffer, and events taken by each, at most.
const LOOK: Duration = Duration::from_millis(100);
const TAKEN: usize = 200;
/// Time between two requests to the programs to go on, and between two attempts to begin.
const RENEW: Duration = Duration::from_secs(1);
/// Events kept: those that were refused, and those that began.
const KEPT: usize = 200;

/// Where events come from.
pub(super) trait Stream {
    fn take(&mut self) -> Option<Line>;
    /// To be called once a second.
    fn go_on(&mut self) -> Result<()>;
    fn lost(&self) -> Result<u64>;
    /// Somebody with a better right waits.
    fn must_end(&self) -> Result<bool>;
}

pub(super) enum Opened {
    Stream(Box<dyn Stream>),
    /// A command traces.
    Taken,
}

/// Begins to tell these reasons.
type Open = dyn Fn(u64) -> Result<Opened> + Send + Sync;

/// What is told to one who asks.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) state: &'static str,
    pub(super) why: Option<String>,
    pub(super) lost: u64,
    pub(super) next: u64,
    pub(super) lines: Vec<(u64, Line)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Starting,
    Telling,
    Waiting,
    Failed(String),
}

#[derive(Default)]
struct Shared {
    state: State,
    /// Whether the thread runs.
    runs: bool,
    /// When somebody last asked, and when for connections that begin.
    asked: Option<Instant>,
    asked_for_new: Option<Instant>,
    /// Of the next event.
    next: u64,
    /// Of earlier streams, and of this one.
    lost: (u64, u64),
    refused: VecDeque<(u64, Line)>,
    new: VecDeque<(u64, Line)>,
}

impl Shared {
    /// Which reasons are asked for; `None`: nobody asks.
    fn wanted(&self) -> Option<u64> {
        let lately = |asked: Option<Instant>| asked.is_some_and(|asked| asked.elapsed() < ASKED);
        let verdict = (!lately(self.asked_for_new)).then_some(Verdict::Refused);
        lately(self.asked).then(|| reasons(verdict, &[]))
    }

    fn keep(&mut self, line: Line) {
        let kept = if line.refused { &mut self.refused } else { &mut self.new };
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((self.next, line));
        self.next += 1;
    }
}

/// The events of a node, for all who look at its page.
pub(super) struct Feed {
    shared: Arc<Mutex<Shared>>,
    open: Arc<Open>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing is left half done where this could have been given up.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// `first` is the number of the first event: those of a later agent are to be higher.
    pub(super) fn new(first: u64, open: impl Fn(u64) -> Result<Opened> + Send + Sync + 'static) -> Self {
        let shared = Shared {
            next: first,
            ..Shared::default()
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            open: Arc::new(open),
        }
    }

    /// Events from this number on, and for a while the programs go on telling.
    pub(super) fn ask(&self, after: u64, new: bool) -> Told {
        let mut shared = lock(&self.shared);
        let now = Some(Instant::now());
        shared.asked = now;
        if new {
            shared.asked_for_new = now;
        }
        if !shared.runs {
            self.start(&mut shared);
        }
        // The number is another agent's, whose clock was ahead.
        let after = if after > shared.next { 0 } else { after };
        let those = |kept: &VecDeque<(u64, Line)>| -> Vec<(u64, Line)> {
            kept.iter().filter(|(number, _)| *number >= after).cloned().collect()
        };
        let mut lines = those(&shared.refused);
        if new {
            lines.extend(those(&shared.new));
            lines.sort_by_key(|(number, _)| *number);
        }
        let (state, why) = match &shared.state {
            State::Starting => ("starting", None),
            State::Telling => ("telling", None),
            State::Waiting => {
                let why = "`ferrogate trace` runs on this node, and the programs tell one at a time";
                ("waiting", Some(why.to_owned()))
            }
            State::Failed(why) => ("failed", Some(why.clone())),
        };
        Told {
            state,
            why,
            lost: shared.lost.0 + shared.lost.1,
            next: shared.next,
            lines,
        }
    }

    fn start(&self, shared: &mut Shared) {
        shared.state = State::Starting;
        shared.lost = (0, 0);
        let thread = thread::Builder::new().name("page-events".to_owned());
        let (its, open) = (Arc::clone(&self.shared), Arc::clone(&self.open));
        match thread.spawn(move || run(&its, &*open)) {
            Ok(_) => shared.runs = true,
            Err(error) => shared.state = State::Failed(format!("cannot start a thread: {error}")),
        }
    }
}

/// Until nobody asks any more.
fn run(shared: &Mutex<Shared>, open: &Open) {
    let mut reading: Option<Reading> = None;
    loop {
        let wanted = {
            let mut shared = lock(shared);
            let wanted = shared.wanted();
            // Said with the lock still held: who asks from here on starts another thread.
            shared.runs = wanted.is_some();
            wanted
        };
        let Some(wanted) = wanted else { return };
        let pause = match look(shared, open, wanted, &mut reading) {
            Ok(pause) => pause,
            Err(error) => {
                reading = None;
                lock(shared).state = State::Failed(format!("{error:#}"));
                RENEW
            }
        };
        thread::sleep(pause);
    }
}

/// A stream under way.
struct Reading {
    stream: Box<dyn Stream>,
    reasons: u64,
    renewed: Instant,
}

/// One look. Returns the time to the next.
fn look(shared: &Mutex<Shared>, open: &Open, wanted: u64, reading: &mut Option<Reading>) -> Result<Duration> {
    if reading.as_ref().is_some_and(|reading| reading.reasons != wanted) {
        end(shared, reading);
    }
    let Some(now) = reading else {
        match open(wanted)? {
            Opened::Taken => {
                lock(shared).state = State::Waiting;
                return Ok(RENEW);
            }
            Opened::Stream(stream) => {
                *reading = Some(Reading {
                    stream,
                    reasons: wanted,
                    renewed: Instant::now(),
                });
                lock(shared).state = State::Telling;
                return Ok(LOOK);
            }
        }
    };
    let lines: Vec<Line> = std::iter::from_fn(|| now.stream.take()).take(TAKEN).collect();
    let lost = now.stream.lost()?;
    {
        let mut shared = lock(shared);
        lines.into_iter().for_each(|line| shared.keep(line));
        shared.lost.1 = lost;
    }
    if now.stream.must_end()? {
        end(shared, reading);
        return Ok(LOOK);
    }
    if now.renewed.elapsed() >= RENEW {
        now.stream.go_on()?;
        now.renewed = Instant::now();
    }
    Ok(LOOK)
}

/// What it has lost is not forgotten.
fn end(shared: &Mutex<Shared>, reading: &mut Option<Reading>) {
    *reading = None;
    let mut shared = lock(shared);
    shared.lost = (shared.lost.0 + shared.lost.1, 0);
}

#[cfg(test)]
mod tests;
