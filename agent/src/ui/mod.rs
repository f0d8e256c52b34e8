//! The page of a node (`--ui`): plain files in this program, and what they ask for as JSON.
//!
//! It can be read, and nothing can be done by it. What it shows is made when it is asked for, at most once in a while for all who
//! ask, so it costs nothing while nobody looks, and a bounded share of a CPU however many do (`held.rs`). Events are told
//! by the programs only while somebody asks for them (`feed.rs`).
//!
//! [`ENDPOINTS`] says what is answered; [`NodeView`], [`ServiceView`] and [`EventsView`] are its JSON.

mod api;
mod feed;
mod guard;
mod held;

pub use self::api::{EventsView, NodeView, NumberedEvent, ReasonView, ServiceView};

use self::api::Page;
use self::feed::{Feed, Opened};
use crate::admin::Provider;
use crate::http::{Answer, Handler, Question};
use crate::kernel::StateDir;
use crate::trace::{Events, Line, Processes, Turn, wanted};
use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// A path, what may follow its question mark, and what is answered.
#[derive(Serialize)]
pub struct Endpoint {
    pub path: &'static str,
    pub parameters: &'static [&'static str],
    pub answer: &'static str,
}

/// What the page asks for, and anybody else may.
pub const ENDPOINTS: [Endpoint; 3] = [
    Endpoint {
        path: "/api/node",
        parameters: &[
            "sort=rate|total|endpoints|name",
            "reverse=1",
            "search=PART_OF_NAME",
            "limit=N (200; 2000 at most)",
        ],
        answer: "The node: rates of the last second or so, its Services in that order, reasons of refusals and drops, how full the \
                 maps are, edges, source, problems.",
    },
    Endpoint {
        path: "/api/service",
        parameters: &["id=N (of a Service port, as /api/node has it)"],
        answer: "One Service port in one family: ways in, endpoints and why each is used or not, its latest flows. 404: there is no \
                 such port any more.",
    },
    Endpoint {
        path: "/api/events",
        parameters: &[
            "after=N (what the last answer has as next)",
            "new=1 (connections that begin, too)",
        ],
        answer: "What was refused or dropped since, one event each, as `ferrogate trace` has them. The programs tell for 5 s after the \
                 last question; while a `ferrogate trace` runs on the node they tell that one alone, and state is waiting.",
    },
];

/// Files of the page: path, type, content.
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/way.js", SCRIPT, include_str!("page/way.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Answers browsers.
pub(crate) fn handler(provider: Arc<dyn Provider>, state_dir: PathBuf, run_dir: PathBuf) -> Handler {
    let names = Arc::clone(&provider);
    let first = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
    let feed = Feed::new(first, move |reasons| {
        open(&names, &StateDir::new(&state_dir), &run_dir, reasons)
    });
    serve(Page::new(provider, feed))
}

fn serve(page: Page) -> Handler {
    // Maps are read: not in the way of other tasks.
    Arc::new(move |question| tokio::task::block_in_place(|| respond(&page, question)))
}

fn respond(page: &Page, question: &Question<'_>) -> Answer {
    let mut answer = guard::refuse(question).unwrap_or_else(|| {
        let file = FILES.iter().find(|(path, ..)| *path == question.path);
        match file {
            Some((_, content_type, content)) => Answer {
                content_type,
                ..Answer::text(*content)
            },
            None => page.answer(question),
        }
    });
    answer.headers.extend(guard::headers());
    answer
}

/// What the programs tell, in the agent's own process.
struct Told {
    events: Events,
    provider: Arc<dyn Provider>,
    run_dir: PathBuf,
    /// Goes after the events, whose end tells the programs to be silent.
    _turn: Turn,
}

fn open(provider: &Arc<dyn Provider>, state: &StateDir, run_dir: &std::path::Path, reasons: u64) -> Result<Opened> {
    let Some(turn) = Turn::of_page(run_dir)? else {
        return Ok(Opened::Taken);
    };
    let names = provider.names(None)?;
    let told = Told {
        events: Events::start(state, reasons, &names, Processes::of_the_living())?,
        provider: Arc::clone(provider),
        run_dir: run_dir.to_owned(),
        _turn: turn,
    };
    Ok(Opened::Stream(Box::new(told)))
}

impl feed::Stream for Told {
    fn take(&mut self) -> Option<Line> {
        let provider = &self.provider;
        self.events.take(&mut || provider.names(None).ok())
    }

    fn go_on(&mut self) -> Result<()> {
        self.events.go_on()
    }

    fn lost(&self) -> Result<u64> {
        self.events.lost()
    }

    fn must_end(&self) -> Result<bool> {
        wanted(&self.run_dir)
    }
}

#[cfg(test)]
mod tests;
