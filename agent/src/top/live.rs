//! The page on a terminal, with keys.

use super::page::{HEAD, Look, page};
use super::{Rates, Sort};
use crate::admin::{self, Counters};
use crate::signals::ended_by_signal;
use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How long a signal waits to be seen.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long an answer waits to be seen.
const ANSWER: Duration = Duration::from_millis(20);
/// Seconds that rates need: an answer that came for its backends alone, sooner, has none.
const SHORTEST: f64 = 0.5;
const KEYS: &str = "c rate b bytes t total d refused e ends n name r rev Enter more p pause q quit";

/// Shows the page every `interval`, until told to end. `ask` may wait for its answer: it is called on a thread of its own, so that
/// keys work meanwhile.
pub fn live<A>(ask: A, interval: Duration, sort: Sort, reverse: bool) -> Result<()>
where
    A: Fn(Option<u32>) -> Result<Counters, admin::Error> + Send + 'static,
{
    let first = ask(None)?;
    let ended = ended_by_signal()?;
    let agent = Agent::start(ask);
    let mut view = View {
        before: first,
        rates: None,
        sort,
        reverse,
        selected: None,
        first: 0,
        open: None,
        paused: false,
        trouble: None,
    };
    let mut screen = Screen::open()?;
    if let Some(terminal) = &mut screen.0 {
        view.run(terminal, &agent, interval, &ended)?;
    }
    Ok(())
}

/// Questions to the agent, one at a time, and their answers.
struct Agent {
    questions: Sender<Option<u32>>,
    answers: Receiver<Result<Counters, admin::Error>>,
}

impl Agent {
    fn start(ask: impl Fn(Option<u32>) -> Result<Counters, admin::Error> + Send + 'static) -> Self {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        // It is not waited for at the end: it may wait for an answer itself.
        thread::spawn(move || {
            for backends_of in asked {
                if answer.send(ask(backends_of)).is_err() {
                    return;
                }
            }
        });
        Self { questions, answers }
    }
}

/// The terminal in raw mode on its other page; dropping it gives it back as it was, and so does a panic.
struct Screen(Option<DefaultTerminal>);

impl Screen {
    fn open() -> Result<Self> {
        ratatui::try_init()
            .map(|terminal| Self(Some(terminal)))
            .context("cannot draw on the terminal")
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

/// What is shown.
struct View {
    before: Counters,
    rates: Option<Rates>,
    sort: Sort,
    reverse: bool,
    /// The service that the cursor stays on; `None`: on the first line, whichever that is.
    selected: Option<u32>,
    /// First line of the table that is shown.
    first: usize,
    /// The service whose backends are shown.
    open: Option<u32>,
    paused: bool,
    /// Why there is nothing new.
    trouble: Option<String>,
}

impl View {
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        agent: &Agent,
        interval: Duration,
        ended: &AtomicBool,
    ) -> Result<()> {
        // The first rates are not to be waited for.
        let mut due = Instant::now() + interval.min(Duration::from_secs(1));
        let mut asked = false;
        loop {
            if let Ok(answer) = agent.answers.try_recv() {
                asked = false;
                self.answered(answer);
            }
            terminal
                .draw(|frame| {
                    let (width, height) = (frame.area().width, frame.area().height);
                    let lines = self.lines(width.into(), height.into());
                    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
                    frame.render_widget(Paragraph::new(lines), frame.area());
                })
                .context("cannot draw on the terminal")?;
            let now = Instant::now();
            if now >= due {
                if !self.paused && !asked {
                    asked = agent.questions.send(self.open).is_ok();
                }
                due = now + interval;
            }
            let patience = if asked { ANSWER } else { PATIENCE };
            if event::poll((due - now).min(patience)).context("cannot read from the terminal")?
                && let Event::Key(key) = event::read().context("cannot read from the terminal")?
                && key.kind != KeyEventKind::Release
            {
                let open = self.open;
                if self.key(key) {
                    return Ok(());
                }
                if self.open.is_some() && self.open != open {
                    due = Instant::now();
                }
            }
            if ended.load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }

    fn answered(&mut self, answer: Result<Counters, admin::Error>) {
        match answer {
            Ok(after) => {
                self.trouble = None;
                let mut rates = Rates::between(&self.before, after.clone());
                if let Some(shown) = self.rates.as_mut().filter(|_| rates.seconds < SHORTEST) {
                    shown.backends = rates.backends;
                    return;
                }
                rates.sort(self.sort, self.reverse);
                (self.before, self.rates) = (after, Some(rates));
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// Whether to end.
    fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if control => return true,
            KeyCode::Char('c') => self.order(Sort::Rate),
            KeyCode::Char('b') => self.order(Sort::Bytes),
            KeyCode::Char('t') => self.order(Sort::Total),
            KeyCode::Char('d') => self.order(Sort::Refused),
            KeyCode::Char('e') => self.order(Sort::Endpoints),
            KeyCode::Char('n') => self.order(Sort::Name),
            KeyCode::Char('r') => {
                self.reverse = !self.reverse;
                self.order(self.sort);
            }
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('j') | KeyCode::Down => self.go(1),
            KeyCode::Char('k') | KeyCode::Up => self.go(-1),
            KeyCode::PageDown => self.go(10),
            KeyCode::PageUp => self.go(-10),
            KeyCode::Home => self.go(isize::MIN),
            KeyCode::End => self.go(isize::MAX),
            KeyCode::Enter => {
                let at = self.at();
                self.open = if self.open == at { None } else { at };
                self.selected = at;
                if let Some(rates) = &mut self.rates {
                    rates.backends.clear();
                }
            }
            _ => {}
        }
        false
    }

    fn order(&mut self, by: Sort) {
        self.sort = by;
        if let Some(rates) = &mut self.rates {
            rates.sort(by, self.reverse);
        }
    }

    /// The cursor's line among the services.
    fn cursor(&self) -> usize {
        let rates = self.rates.as_ref();
        rates
            .and_then(|rates| rates.services.iter().position(|row| Some(row.id) == self.selected))
            .unwrap_or(0)
    }

    /// The service there.
    fn at(&self) -> Option<u32> {
        let services = &self.rates.as_ref()?.services;
        services.get(self.cursor()).map(|row| row.id)
    }

    fn go(&mut self, lines: isize) {
        let cursor = self.cursor();
        if let Some(rates) = &self.rates {
            let last = rates.services.len().saturating_sub(1);
            let to = cursor.saturating_add_signed(lines).min(last);
            self.selected = rates.services.get(to).map(|row| row.id);
        }
    }

    fn lines(&mut self, width: usize, height: usize) -> Vec<String> {
        let rows = height.saturating_sub(HEAD + 1).max(1);
        let cursor = self.cursor();
        let Some(rates) = &self.rates else {
            let node = &self.before.node;
            return vec![format!("ferrogate top: {node}"), "reading the counters ...".to_owned()];
        };
        // With its backends, if they are shown and fit.
        let opened = self
            .open
            .and_then(|id| rates.services.iter().position(|row| row.id == id));
        let backends = opened.map_or(0, |_| rates.backends.len().max(1));
        let line = cursor
            + if opened.is_some_and(|at| at < cursor) {
                backends
            } else {
                0
            };
        let end = line + 1 + if opened == Some(cursor) { backends } else { 0 };
        self.first = self.first.max(end.saturating_sub(rows)).min(line);
        let look = Look {
            sort: self.sort,
            reverse: self.reverse,
            width,
            rows: Some(rows),
            cursor: Some(cursor),
            first: self.first,
            open: self.open,
        };
        let mut lines = page(rates, &look);
        lines.resize(height.saturating_sub(1), String::new());
        let paused = if self.paused { "PAUSED (p goes on)  " } else { "" };
        lines.push(match &self.trouble {
            Some(trouble) => format!("OLD: {trouble}"),
            None => format!("{paused}{KEYS}"),
        });
        lines
    }
}
