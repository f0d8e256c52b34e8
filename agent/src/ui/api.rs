//! What the page asks for, as JSON.

use super::ENDPOINTS;
use super::feed::{Feed, Told};
use super::held::Held;
use crate::admin::{
    Counters, EdgeStatus, Explained, FlowEntry, MapStatus, PortExplanation, Provider, SourceStatus, Status,
};
use crate::http::{Answer, JSON, Question};
use crate::top::{Rates, ServiceRate, Sort};
use crate::trace::Line;
use anyhow::{Context, Result};
use clap::ValueEnum as _;
use ferrogate_common::Reason;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counters are read this often, at most.
const COUNTERS: Duration = Duration::from_millis(950);
/// Rates over a longer time are nobody's "now": the page was closed.
const NOW: Duration = Duration::from_secs(10);
const STATUS: Duration = Duration::from_secs(3);
/// One Service port in detail: for that the flow tables are walked.
const SERVICE: Duration = Duration::from_millis(950);
/// Service ports that are held in detail.
const SERVICES: usize = 16;

/// Most Services of an answer, and how many where nothing is said.
const LIMITS: (usize, usize) = (2000, 200);
/// Most endpoints and flows of one Service port.
const ENDS: usize = 500;
const FLOWS: u32 = 100;

/// Answer of `/api/node`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Name of the Node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    pub uptime_seconds: Option<u64>,
    pub source: Option<SourceStatus>,
    pub problems: Vec<String>,
    pub edges: Vec<EdgeStatus>,
    /// The time that the rates are of; less than half a second: they are not known yet.
    pub seconds: f64,
    /// A second: new connections, packets translated and passed on, socket calls translated, packets and calls that got no further.
    pub connections: f64,
    pub translated: f64,
    pub passed: f64,
    pub socket_calls: f64,
    pub refused: f64,
    /// Service ports, those that match `search`, and of these the first in the order that was asked for.
    pub total: usize,
    pub matching: usize,
    pub services: Vec<ServiceRate>,
    /// What was ever refused or dropped, the most frequent now first.
    pub drops: Vec<ReasonView>,
    pub maps: Vec<MapStatus>,
}

/// Why something got no further, and how often.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonView {
    pub reason: String,
    pub description: &'static str,
    /// A second, and since the maps were made.
    pub rate: f64,
    pub count: u64,
}

/// Answer of `/api/service`: one Service port in one family.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    pub id: u32,
    /// `namespace/name:port`.
    pub service: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub kind: String,
    /// New connections a second.
    pub rate: f64,
    /// As `ferrogate explain` has it; of the endpoints the first 500.
    pub port: PortExplanation,
    pub endpoints: usize,
    /// What else should be known, one sentence each.
    pub notes: Vec<String>,
    /// The most recent first; those of the socket edge are not among them.
    pub flows: Vec<FlowEntry>,
    /// Whether there are more.
    pub more_flows: bool,
}

/// Answer of `/api/events`.
#[derive(Clone, Debug, Serialize)]
pub struct EventsView {
    /// `starting`, `telling`, `waiting` (a command traces) or `failed`.
    pub state: &'static str,
    /// What to know about that.
    pub why: Option<String>,
    /// Events that had no room, since somebody looks.
    pub lost: u64,
    /// To ask with, next time.
    pub next: u64,
    /// The oldest first.
    pub events: Vec<NumberedEvent>,
}

#[derive(Clone, Debug, Serialize)]
pub struct NumberedEvent {
    pub number: u64,
    /// What its reason means.
    pub description: &'static str,
    #[serde(flatten)]
    pub line: Line,
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

/// The sentence about a reason.
fn description(reason: &str) -> &'static str {
    let found = Reason::ALL.iter().find(|one| one.label() == reason);
    found.map_or("", |reason| reason.description())
}

/// Two moments, and what happened between them.
struct Sampled {
    counters: Counters,
    rates: Rates,
}

/// What is known of the node, for a while each.
pub(super) struct Page {
    provider: Arc<dyn Provider>,
    feed: Feed,
    sampled: Mutex<Option<Held<Sampled>>>,
    status: Mutex<Option<Held<Status>>>,
    services: Mutex<BTreeMap<u32, Held<Option<ServiceView>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Page {
    pub(super) fn new(provider: Arc<dyn Provider>, feed: Feed) -> Self {
        Self {
            provider,
            feed,
            sampled: Mutex::default(),
            status: Mutex::default(),
            services: Mutex::default(),
        }
    }

    pub(super) fn answer(&self, question: &Question<'_>) -> Answer {
        let parameters: BTreeMap<_, _> = form_urlencoded::parse(question.query.as_bytes()).collect();
        let asked = |name: &str| parameters.get(name).map(|value| value.as_ref());
        match question.path {
            "/api/node" => json(self.node(&asked)),
            "/api/service" => match number(asked("id"), "id") {
                Ok(Some(id)) => self.service(id),
                Ok(None) => failed(400, "id: which Service port?"),
                Err(error) => failed(400, &format!("{error:#}")),
            },
            "/api/events" => json(self.events(&asked)),
            "/api" => json(Ok(ENDPOINTS)),
            _ => failed(404, "there are / and what /api lists"),
        }
    }

    fn node<'a>(&self, asked: &dyn Fn(&str) -> Option<&'a str>) -> Result<NodeView> {
        let sort = match asked("sort") {
            None => Sort::Rate,
            Some(word) => Sort::from_str(word, false).map_err(|error| Asked(format!("sort: {error}")))?,
        };
        let limit = number(asked("limit"), "limit")?.unwrap_or(LIMITS.1).min(LIMITS.0);
        let search = asked("search").unwrap_or_default().to_lowercase();
        let status = self.status()?;
        let mut rates = self.rates()?;
        let total = rates.services.len();
        rates
            .services
            .retain(|row| search.is_empty() || row.service.to_lowercase().contains(&search));
        let matching = rates.services.len();
        rates.sort(sort, asked("reverse") == Some("1"));
        rates.services.truncate(limit);
        let drop = |one: crate::top::DropRate| ReasonView {
            description: description(&one.reason),
            reason: one.reason,
            rate: one.rate,
            count: one.count,
        };
        Ok(NodeView {
            node: rates.node,
            version: status.version,
            uptime_seconds: status.uptime_seconds,
            source: status.source,
            problems: status.problems,
            edges: status.edges,
            seconds: rates.seconds,
            connections: rates.connections,
            translated: rates.translated,
            passed: rates.passed,
            socket_calls: rates.socket_calls,
            refused: rates.refused,
            total,
            matching,
            services: rates.services,
            drops: rates.drops.into_iter().map(drop).collect(),
            maps: rates.maps,
        })
    }

    fn status(&self) -> Result<Status> {
        let mut held = lock(&self.status);
        if let Some(status) = held.as_ref().and_then(Held::get) {
            return Ok(status.clone());
        }
        let made = Held::make(STATUS, || self.provider.status())?;
        Ok(held.insert(made).value().clone())
    }

    fn rates(&self) -> Result<Rates> {
        let mut held = lock(&self.sampled);
        if let Some(sampled) = held.as_ref().and_then(Held::get) {
            return Ok(sampled.rates.clone());
        }
        let before = held.take().filter(|held| held.age() < NOW).map(Held::into_inner);
        let made = Held::make(COUNTERS, || {
            let counters = self.provider.counters(None)?;
            let before = before.as_ref().map_or(&counters, |before| &before.counters);
            let rates = Rates::between(before, counters.clone());
            Ok::<_, anyhow::Error>(Sampled { counters, rates })
        })?;
        Ok(held.insert(made).value().rates.clone())
    }

    fn service(&self, id: u32) -> Answer {
        let mut held = lock(&self.services);
        if held.get(&id).and_then(Held::get).is_none() {
            held.retain(|_, view| view.get().is_some());
            if held.len() >= SERVICES {
                held.pop_first();
            }
            match Held::make(SERVICE, || self.look_at(id)) {
                Ok(made) => held.insert(id, made),
                Err(error) => return json(Err::<(), _>(error)),
            };
        }
        match held.get(&id).map(Held::value) {
            Some(Some(view)) => json(Ok(view)),
            _ => failed(404, "there is no such Service port any more"),
        }
    }

    /// `None`: there is no such port.
    fn look_at(&self, id: u32) -> Result<Option<ServiceView>> {
        let rates = self.rates()?;
        let Some(row) = rates.services.into_iter().find(|row| row.id == id) else {
            return Ok(None);
        };
        let Explained::Service(explanation) = self.provider.explain(&row.service, None)? else {
            return Ok(None);
        };
        let Some(mut port) = explanation.ports.into_iter().find(|port| port.id == Some(id)) else {
            return Ok(None);
        };
        let flows = self.provider.port_flows(id, FLOWS)?;
        let endpoints = port.endpoints.len();
        port.endpoints.truncate(ENDS);
        Ok(Some(ServiceView {
            id,
            service: row.service,
            kind: explanation.kind,
            rate: row.rate,
            port,
            endpoints,
            notes: explanation.notes,
            flows: flows.flows,
            more_flows: flows.truncated,
        }))
    }

    fn events<'a>(&self, asked: &dyn Fn(&str) -> Option<&'a str>) -> Result<EventsView> {
        let after = number(asked("after"), "after")?.unwrap_or_default();
        let Told {
            state,
            why,
            lost,
            next,
            lines,
        } = self.feed.ask(after, asked("new") == Some("1"));
        let event = |(number, line): (u64, Line)| NumberedEvent {
            number,
            description: description(line.reason),
            line,
        };
        Ok(EventsView {
            state,
            why,
            lost,
            next,
            events: lines.into_iter().map(event).collect(),
        })
    }
}

/// What was asked for has no meaning.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Asked(String);

fn number<T: std::str::FromStr>(text: Option<&str>, name: &str) -> Result<Option<T>> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Asked(format!("{name}: {text:?} is no number for it")).into())
    };
    text.map(number).transpose()
}

fn json<T: Serialize>(result: Result<T>) -> Answer {
    let text = result.and_then(|view| serde_json::to_string(&view).context("cannot be written as JSON"));
    match text {
        Ok(text) => Answer {
            content_type: JSON,
            ..Answer::text(text)
        },
        Err(error) if error.is::<Asked>() => failed(400, &error.to_string()),
        Err(error) => failed(500, &format!("{error:#}")),
    }
}

fn failed(status: u16, why: &str) -> Answer {
    let error = why.to_owned();
    Answer {
        status,
        content_type: JSON,
        // A string can always be written.
        ..Answer::text(serde_json::to_string(&Failure { error }).unwrap_or_default())
    }
}
