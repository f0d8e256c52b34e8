//! The live view: clients on every path, keys, and what is shown of them.
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::Path as FilePath;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::cluster::{Cluster, MOST_ORDERS};
use crate::path::{self, Path};
use crate::stats::Tally;
use crate::traffic::{self, Event, Traffic};
use crate::{Arguments, page, plain, screen, stop};

/// The highest rate of a path, connections a second.
pub(crate) const FASTEST: u32 = 500;
/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Time between two rounds of lines.
const LINES: Duration = Duration::from_secs(2);
/// Notes kept.
const NOTES: usize = 20;

/// Everything that is shown.
pub(crate) struct View {
    pub(crate) cluster: Cluster,
    /// Where a browser sees node 1.
    pub(crate) page: String,
    pub(crate) paths: Vec<Path>,
    /// What the clients of each path met, since the order pods last changed.
    pub(crate) tallies: Vec<Tally>,
    /// Connections of all paths since the start.
    pub(crate) connections: u64,
    /// The path that is drawn.
    pub(crate) selected: usize,
    pub(crate) rate: u32,
    pub(crate) paused: bool,
    /// What happened, the newest first.
    pub(crate) notes: VecDeque<String>,
    began: Instant,
    events: Receiver<Event>,
    clients: Vec<Traffic>,
}

/// Runs until told to end.
pub(crate) fn run(folder: &FilePath, arguments: &Arguments) -> Result<()> {
    eprintln!("Booting 2 nodes, {MOST_ORDERS} order pods, a load balancer and clients as namespaces ...");
    let mut view = View::boot(folder, arguments)?;
    eprintln!("{}", view.page);
    let end = arguments
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    if on_terminal() {
        let mut screen = Screen::open()?;
        if let Some(terminal) = &mut screen.0 {
            view.show(terminal, end)?;
        }
    } else {
        view.print(end)?;
    }
    let (connections, elapsed) = (view.connections, view.elapsed());
    drop(view);
    let farewell = "The cluster is gone, and nothing of it is left.";
    // Whoever hung up does not read it.
    let _ = writeln!(io::stderr(), "{connections} connections in {elapsed}. {farewell}");
    Ok(())
}

/// Whether there is a terminal that can be drawn on.
fn on_terminal() -> bool {
    let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    io::stdout().is_terminal() && able
}

/// The terminal in raw mode on its other page; dropping it gives it back as it was, and so does a panic.
struct Screen(Option<DefaultTerminal>);

impl Screen {
    fn open() -> Result<Self> {
        ratatui::try_init()
            .map(|terminal| Self(Some(terminal)))
            .context("the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // On a terminal that hung up there is nothing to give back, and ratatui's own drop would panic as it tries.
        if ratatui::try_restore().is_err() {
            std::mem::forget(self.0.take());
        }
    }
}

impl View {
    fn boot(folder: &FilePath, arguments: &Arguments) -> Result<Self> {
        let cluster = Cluster::boot(folder, arguments.scale)?;
        let paths = path::all(&cluster)?;
        let page = format!("n1 live: http://{}/", page::open(&cluster.rig)?);
        let (sender, events) = mpsc::channel();
        let clients = traffic::start_all(&cluster, &paths, arguments.rate, &sender)?;
        Ok(Self {
            tallies: vec![Tally::default(); paths.len()],
            connections: 0,
            // The longest path first.
            selected: paths.iter().position(|path| path.balancer.is_some()).unwrap_or(0),
            rate: arguments.rate,
            paused: false,
            notes: VecDeque::new(),
            began: Instant::now(),
            cluster,
            page,
            paths,
            events,
            clients,
        })
    }

    /// `hh:mm:ss` since the start.
    pub(crate) fn elapsed(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// Draws, and follows keys.
    fn show(&mut self, terminal: &mut DefaultTerminal, end: Option<Instant>) -> Result<()> {
        let keys = keys();
        while !ended(end) {
            self.count()?;
            terminal.draw(|frame| screen::draw(frame, self))?;
            let next = Instant::now() + FRAME;
            loop {
                match keys.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(key) if !self.press(key)? => return Ok(()),
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => bail!("the terminal is gone"),
                }
            }
        }
        Ok(())
    }

    /// Prints lines.
    fn print(&mut self, end: Option<Instant>) -> Result<()> {
        let mut next = Instant::now() + LINES;
        while !ended(end) {
            if stop::sleep(FRAME).is_err() {
                break;
            }
            self.count()?;
            if Instant::now() >= next {
                next += LINES;
                plain::print(self)?;
            }
        }
        Ok(())
    }

    /// Counts what came in, and sees that everything still runs.
    fn count(&mut self) -> Result<()> {
        let now = Instant::now();
        for event in self.events.try_iter() {
            let path = &self.paths[event.path];
            let pod = event.attempt.answers.first().map(|answer| answer.pod.as_str());
            let node = path.entered_by(&event.attempt, pod.and_then(|pod| self.cluster.node_of(pod)));
            self.tallies[event.path].add(&event.attempt, node, now);
            self.connections += 1;
        }
        self.cluster.rig.check_proxies()?;
        for (client, path) in self.clients.iter_mut().zip(&self.paths) {
            if !client.runs()? && !stop::wanted() {
                bail!("the client of {} ended", path.name);
            }
        }
        Ok(())
    }

    /// What a key does; false for the end.
    fn press(&mut self, key: KeyEvent) -> Result<bool> {
        if key.kind == KeyEventKind::Release {
            return Ok(true);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(false),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(false),
            KeyCode::Char('+' | '=') => self.scale(1)?,
            KeyCode::Char('-' | '_') => self.scale(-1)?,
            KeyCode::Char('f') => self.set_rate((self.rate * 2).min(FASTEST))?,
            KeyCode::Char('s') => self.set_rate((self.rate / 2).max(1))?,
            KeyCode::Char('p' | ' ') => {
                self.paused = !self.paused;
                self.set_rate(self.rate)?;
            }
            KeyCode::Char('r') => self.reset(),
            KeyCode::Down | KeyCode::Tab => self.selected = (self.selected + 1) % self.paths.len(),
            KeyCode::Up => self.selected = (self.selected + self.paths.len() - 1) % self.paths.len(),
            KeyCode::Char(digit) => {
                let number = digit.to_digit(10).and_then(|digit| (digit as usize).checked_sub(1));
                self.selected = number.filter(|path| *path < self.paths.len()).unwrap_or(self.selected);
            }
            _ => {}
        }
        Ok(true)
    }

    fn reset(&mut self) {
        self.tallies.iter_mut().for_each(Tally::reset);
    }

    fn set_rate(&mut self, rate: u32) -> Result<()> {
        self.rate = rate;
        let rate = if self.paused { 0 } else { rate };
        self.clients.iter_mut().try_for_each(|client| client.set_rate(rate))
    }

    /// Adds or takes away an order pod, and notes how long both agents took to follow.
    fn scale(&mut self, by: i8) -> Result<()> {
        let before = self.cluster.scale();
        let after = before.saturating_add_signed(by).min(MOST_ORDERS);
        if after == before {
            return Ok(());
        }
        self.cluster.scale_to(after)?;
        let took = self.cluster.wait_until_served()?;
        self.count()?;
        self.reset();
        let note = format!(
            "{}  {before} -> {after} order pods: both nodes followed within {} ms",
            self.elapsed(),
            took.as_millis()
        );
        self.notes.push_front(note);
        self.notes.truncate(NOTES);
        Ok(())
    }
}

/// Keys, read on a thread of its own: on a terminal that is gone the reader never returns, and we must.
fn keys() -> Receiver<KeyEvent> {
    let (sender, keys) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(input) = event::read() {
            if let Input::Key(key) = input
                && sender.send(key).is_err()
            {
                return;
            }
        }
    });
    keys
}

fn ended(end: Option<Instant>) -> bool {
    stop::wanted() || end.is_some_and(|end| Instant::now() >= end)
}
