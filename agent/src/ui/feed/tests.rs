use super::*;
use crate::admin::Names;
use crate::trace::Reader;
use bytemuck::Zeroable as _;
use ferrogate_common::{Protocol, Reason, TraceEvent};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PATIENCE: Duration = Duration::from_secs(20);

fn line(reason: Reason) -> Line {
    let mut event = TraceEvent::zeroed();
    event.reason = reason as u8;
    event.tuple.protocol = Protocol::Tcp as u8;
    let now = "2026-03-01T12:00:10Z".parse().expect("a time");
    let reader = Reader::new(0, now, BTreeMap::new(), &Names::default());
    reader.line(&event, |_| None, None).expect("a line")
}

/// Tells so many refusals, and as many connections that begin where those are asked for.
struct Fixed {
    refused: usize,
    new: usize,
    ended: Arc<AtomicUsize>,
    taken: Arc<AtomicBool>,
}

impl Stream for Fixed {
    fn take(&mut self) -> Option<Line> {
        if self.refused > 0 {
            self.refused -= 1;
            return Some(line(Reason::NoEndpoints));
        }
        self.new = self.new.checked_sub(1)?;
        Some(line(Reason::NewFlow))
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(())
    }

    fn lost(&self) -> Result<u64> {
        Ok(7)
    }

    fn must_end(&self) -> Result<bool> {
        Ok(self.taken.load(Ordering::Acquire))
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::AcqRel);
    }
}

struct Stage {
    feed: Feed,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    taken: Arc<AtomicBool>,
}

fn stage(events: usize) -> Stage {
    let (begun, ended, taken) = (
        Arc::<AtomicUsize>::default(),
        Arc::<AtomicUsize>::default(),
        Arc::<AtomicBool>::default(),
    );
    let (begins, ends, takes) = (Arc::clone(&begun), Arc::clone(&ended), Arc::clone(&taken));
    let feed = Feed::new(0, move |told| {
        if takes.load(Ordering::Acquire) {
            return Ok(Opened::Taken);
        }
        begins.fetch_add(1, Ordering::AcqRel);
        Ok(Opened::Stream(Box::new(Fixed {
            refused: events,
            new: if told & (1 << Reason::NewFlow as u8) != 0 {
                events
            } else {
                0
            },
            ended: Arc::clone(&ends),
            taken: Arc::clone(&takes),
        })))
    });
    Stage {
        feed,
        begun,
        ended,
        taken,
    }
}

fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_begins_before_somebody_asks_and_all_who_ask_share_one_stream() {
    let stage = stage(3);
    assert_eq!(stage.begun.load(Ordering::Acquire), 0);
    assert_eq!(stage.feed.ask(0, false).state, "starting");
    until("three events", || stage.feed.ask(0, false).next == 3);
    let told = stage.feed.ask(1, false);
    assert_eq!((told.state, told.lost, told.next), ("telling", 7, 3));
    let numbers: Vec<u64> = told.lines.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 2], "from the number on");
    assert_eq!(stage.feed.ask(99, false).lines.len(), 3, "a number of another agent's");
    assert_eq!(stage.begun.load(Ordering::Acquire), 1);
}

#[test]
fn the_stream_ends_when_nobody_asks_and_begins_anew_when_somebody_does() {
    let stage = stage(1);
    until("an event", || stage.feed.ask(0, false).next == 1);
    until("the end", || stage.ended.load(Ordering::Acquire) == 1);
    let told = stage.feed.ask(0, false);
    assert_eq!(
        (told.state, told.lines.len()),
        ("starting", 1),
        "what was told is still there"
    );
    until("another event", || stage.feed.ask(0, false).next == 2);
    assert_eq!(stage.begun.load(Ordering::Acquire), 2);
}

#[test]
fn connections_that_begin_are_told_to_those_who_ask_for_them_and_push_no_refusal_out() {
    let stage = stage(KEPT + 50);
    until("all of them", || stage.feed.ask(0, true).next == 2 * (KEPT as u64 + 50));
    let told = stage.feed.ask(0, true);
    assert_eq!(told.lines.len(), 2 * KEPT);
    assert!(told.lines.is_sorted_by_key(|(number, _)| *number));
    let told = stage.feed.ask(0, false);
    assert!(told.lines.len() == KEPT && told.lines.iter().all(|(_, line)| line.refused));
}

#[test]
fn a_command_goes_first_and_what_fails_is_said() {
    let stage = stage(1);
    until("an event", || stage.feed.ask(0, false).state == "telling");
    stage.taken.store(true, Ordering::Release);
    until("it waits", || stage.feed.ask(0, false).state == "waiting");
    assert_eq!(stage.ended.load(Ordering::Acquire), 1);
    let why = stage.feed.ask(0, false).why.expect("a reason");
    assert!(why.contains("ferrogate trace"), "{why}");
    stage.taken.store(false, Ordering::Release);
    until("it goes on", || stage.feed.ask(0, false).state == "telling");

    let feed = Feed::new(0, |_| anyhow::bail!("the maps are away"));
    until("it says why", || {
        let told = feed.ask(0, false);
        told.state == "failed" && told.why.is_some_and(|why| why.contains("away"))
    });
}
