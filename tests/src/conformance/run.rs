//! Takes cases through a cluster, many side by side: what all of them change is applied, and when it is programmed, what all
//! of them probe is asked at once.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::addresses::fill_in;
use super::case::Case;
use super::cluster::Cluster;
use super::judge::{Names, Outcome, judge};
use super::objects::{Objects, Pods, objects};
use super::prober::ask_all;
use super::question::{Known, Question, questions};
use crate::rig::Family;

/// Cases that are on the way at the same time.
const BATCH: usize = 40;
/// Changes that are sent to the API server at the same time.
const WRITERS: usize = 8;
/// How long controllers may take, and how long what is seen may differ from what must be seen.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRIES: Duration = Duration::from_secs(4);

/// What one case came to in one cluster.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By step and probe: each question in words, and its outcome.
    pub probes: Vec<Vec<Vec<(String, Outcome)>>>,
    /// Questions that were not asked, and why.
    pub limits: Vec<(String, &'static str)>,
    /// What kept the case from being taken to its end.
    pub error: Option<String>,
}

impl Found {
    pub fn outcomes(&self) -> impl Iterator<Item = &(String, Outcome)> {
        self.probes.iter().flatten().flatten()
    }

    /// Everything was as it must be.
    pub fn well(&self) -> bool {
        self.error.is_none() && self.outcomes().all(|(_, outcome)| outcome.expected)
    }
}

/// A case on its way.
struct Going<'a> {
    case: &'a Case,
    /// The Services as the steps so far left them.
    services: BTreeMap<String, Value>,
    /// What the API server holds for each of them.
    held: BTreeMap<String, Objects>,
    known: BTreeMap<String, Known>,
    found: Found,
}

/// Runs the cases; `progress` is told after each batch how many are done.
pub fn run(cluster: &mut Cluster, cases: &[Case], progress: impl Fn(usize)) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for batch in cases.chunks(BATCH) {
        let mut going: Vec<Going> = batch.iter().map(Going::new).collect();
        create_namespaces(cluster, &going)?;
        let steps = batch.iter().map(|case| case.steps.len()).max().unwrap_or(0);
        for step in 0..steps {
            take_step(cluster, &mut going, step)?;
        }
        found.extend(going.into_iter().map(|going| going.found));
        progress(found.len());
    }
    Ok(found)
}

fn create_namespaces(cluster: &Cluster, going: &[Going<'_>]) -> Result<()> {
    let create = |going: &Going| {
        let name = &going.case.name;
        cluster
            .rig
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    };
    side_by_side(going, |one| create(one)).into_iter().collect()
}

fn take_step(cluster: &mut Cluster, going: &mut [Going<'_>], step: usize) -> Result<()> {
    let taking = |one: &Going| one.found.error.is_none() && one.case.steps.len() > step;
    let mut taken: Vec<&mut Going> = going.iter_mut().filter(|one| taking(one)).collect();
    let changed = {
        let cluster = &*cluster;
        let cells: Vec<_> = taken.iter_mut().map(Mutex::new).collect();
        side_by_side(&cells, |cell| match cell.lock() {
            Ok(mut one) => one.change(cluster, step),
            Err(_) => bail!("another case panicked"),
        })
    };
    for (one, result) in taken.iter_mut().zip(changed) {
        one.note(result);
    }
    cluster.settle()?;
    let pause = taken.iter().map(|one| one.case.steps[step].pause_ms).max();
    thread::sleep(Duration::from_millis(pause.unwrap_or(0)));
    for one in &mut taken {
        one.found.probes.push(Vec::new());
    }
    probe(cluster, &mut taken, step)
}

/// Asks everything of this step; what is not as it must be is asked again for a while.
fn probe(cluster: &mut Cluster, going: &mut [&mut Going<'_>], step: usize) -> Result<()> {
    let mut all: Vec<Question> = Vec::new();
    for (index, one) in going.iter_mut().enumerate() {
        for (number, probe) in one.case.steps[step].probes.iter().enumerate() {
            if let Some(probes) = one.found.probes.last_mut() {
                probes.push(Vec::new());
            }
            match questions(cluster, (index, one.case), (number, probe), &one.known) {
                Ok(questions) => all.extend(questions),
                Err(error) => one.note(Err(error)),
            }
        }
    }
    let deadline = Instant::now() + RETRIES;
    let mut outcomes: Vec<Option<Outcome>> = vec![None; all.len()];
    loop {
        let open: Vec<usize> = (0..all.len())
            .filter(|index| all[*index].limit.is_none())
            .filter(|index| !outcomes[*index].as_ref().is_some_and(|outcome| outcome.expected))
            .collect();
        if open.is_empty() {
            break;
        }
        let asked = open
            .iter()
            .map(|i| (all[*i].client.clone(), all[*i].ask.clone()))
            .collect();
        for (index, told) in open.iter().zip(ask_all(&mut cluster.probers, asked)?) {
            let question = &all[*index];
            let one = &going[question.case];
            let sight = one.case.steps[step].probes[question.probe].sight(cluster.side, cluster.socket_edge);
            let names = Dictionary {
                known: &one.known,
                pods: &cluster.pods,
            };
            outcomes[*index] = Some(judge(cluster, question, &sight, &names, &told));
        }
        if Instant::now() > deadline {
            break;
        }
    }
    for (question, outcome) in all.iter().zip(outcomes) {
        let found = &mut going[question.case].found;
        match (outcome, question.limit) {
            (_, Some(limit)) => found.limits.push((question.text(), limit)),
            (Some(outcome), None) => {
                if let Some(probe) = found
                    .probes
                    .last_mut()
                    .and_then(|probes| probes.get_mut(question.probe))
                {
                    probe.push((question.text(), outcome));
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}

impl<'a> Going<'a> {
    fn new(case: &'a Case) -> Self {
        Self {
            case,
            services: BTreeMap::new(),
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            found: Found::default(),
        }
    }

    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.found.error.get_or_insert(format!("{error:#}"));
        }
    }

    /// Brings the API server to what the step says, and waits for what controllers make of it.
    fn change(&mut self, cluster: &Cluster, step: usize) -> Result<()> {
        let step = &self.case.steps[step];
        for (name, change) in &step.services {
            let merged = merged(self.services.remove(name), change);
            let after = match &merged {
                Some(written) => objects(&cluster.pods, self.case.number, &self.case.name, name, written)?,
                None => Objects::default(),
            };
            let before = self.held.remove(name).unwrap_or_default();
            write(cluster, &before, &after)?;
            if let Some(written) = merged {
                self.services.insert(name.clone(), written);
                let path = format!("/api/v1/namespaces/{}/services/{name}", self.case.name);
                self.known.entry(name.clone()).or_default().learn(&cluster.get(&path)?);
            }
            if let Some(promised) = &after.promised {
                wait_for_slices(cluster, &self.case.name, name, promised)?;
            }
            self.held.insert(name.clone(), after);
        }
        for object in &step.objects {
            let mut object = object.clone();
            fill_in(&mut object, self.case.number);
            object["metadata"]["namespace"] = self.case.name.as_str().into();
            cluster.rig.apply(&object)?;
        }
        Ok(())
    }
}

/// RFC 7396; `None` when nothing is left.
fn merged(before: Option<Value>, change: &Value) -> Option<Value> {
    if change.is_null() {
        return None;
    }
    let mut value = before.unwrap_or_else(|| json!({}));
    merge(&mut value, change);
    Some(value)
}

fn merge(value: &mut Value, change: &Value) {
    let Some(fields) = change.as_object() else {
        *value = change.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, change) in fields {
        match value.as_object_mut() {
            Some(fields) if change.is_null() => drop(fields.remove(name)),
            _ => merge(&mut value[name], change),
        }
    }
}

/// Applies what differs, deletes what is gone, and has pods die that are to.
fn write(cluster: &Cluster, before: &Objects, after: &Objects) -> Result<()> {
    let same = |one: &Value, other: &Value| {
        one["kind"] == other["kind"] && one["metadata"]["name"] == other["metadata"]["name"]
    };
    for object in &after.all {
        if !before.all.contains(object) {
            cluster.rig.apply(object)?;
        }
    }
    for object in &after.dying {
        if !before.dying.iter().any(|dying| same(dying, object)) {
            let control_plane = cluster.rig.control_plane().context("a control plane")?;
            control_plane.api().delete_gracefully(object)?;
        }
    }
    for object in &before.all {
        if !after.all.iter().any(|other| same(other, object)) {
            cluster.rig.delete(object)?;
        }
    }
    Ok(())
}

/// Until the endpoint slice controller's slices say what they must.
fn wait_for_slices(cluster: &Cluster, namespace: &str, service: &str, promised: &[(String, bool)]) -> Result<()> {
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io/service-name={service}"
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = cluster.get(&path)?;
        let mut told: Vec<(String, bool)> = Vec::new();
        for slice in list["items"].as_array().into_iter().flatten() {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let address = endpoint["addresses"][0].as_str().unwrap_or_default();
                told.push((address.to_owned(), endpoint["conditions"]["ready"] == true));
            }
        }
        // A selector that ports resolve differently for makes several slices; none names an endpoint twice.
        told.sort();
        if told == promised {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the controller's slices of {service} say {told:?}, not {promised:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Does one thing for each, some of them at the same time; results in order.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WRITERS.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = work(item);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Names of addresses, for what a DNS server is to answer.
struct Dictionary<'a> {
    known: &'a BTreeMap<String, Known>,
    pods: &'a Pods,
}

impl Names for Dictionary<'_> {
    fn address(&self, name: &str, family: Family) -> Option<IpAddr> {
        let service = match name.strip_prefix("ClusterIP") {
            Some("") => self.known.values().next()?,
            Some(of) => self.known.get(of.strip_prefix(" of ")?)?,
            None => {
                return self
                    .pods
                    .get(name)
                    .map(|pod| pod.addresses.get(family))
                    .or(name.parse().ok());
            }
        };
        service.cluster_ip(family)
    }
}
