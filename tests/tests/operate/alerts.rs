//! The alert rules, by a real Prometheus that scrapes an agent while what they warn of happens. Its minutes are seconds here.
mod faults;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{Place, Process, Rig};
use serde_json::{Value, json};

use faults::{FAULTS, Fault, Well};

const RULES: &str = include_str!("../../../deploy/prometheus/alerts.yaml");
const LISTEN: &str = "127.0.0.1:19090";
/// The longest `for` is a quarter of an hour, and as much is looked back: of seconds.
const CALM: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(90);

fn prometheus_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/prometheus")
        .join(name)
}

fn rules() -> Result<Vec<Value>> {
    let file: Value = serde_yaml_ng::from_str(RULES)?;
    let groups = file["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    Ok(rules.flatten().cloned().collect())
}

fn names() -> Result<BTreeSet<String>> {
    let name = |rule: &Value| rule["alert"].as_str().map(str::to_owned).context("an alert's name");
    rules()?.iter().map(name).collect()
}

/// `5m` becomes `5s`, wherever a duration can stand.
fn in_seconds(text: &str) -> String {
    let mut scaled = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut digit = false;
    while let Some(character) = characters.next() {
        let ends = characters.peek().is_none_or(|next| !next.is_alphanumeric());
        scaled.push(if character == 'm' && digit && ends {
            's'
        } else {
            character
        });
        digit = character.is_ascii_digit();
    }
    scaled
}

/// A Prometheus on the agent's node.
struct Prometheus {
    place: Place,
    _process: Process,
}

impl Prometheus {
    fn start(rig: &Rig) -> Result<Self> {
        let node = rig.node(1);
        let home = node.directory.join("prometheus");
        fs::create_dir_all(&home)?;
        fs::write(home.join("alerts.yaml"), in_seconds(RULES))?;
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": "ferrogate", "static_configs": [{"targets": ["127.0.0.1:10249"]}]}],
        });
        fs::write(home.join("prometheus.yaml"), serde_yaml_ng::to_string(&config)?)?;
        let mut command = node.place.command(binaries::system("prometheus")?)?;
        command.arg(format!("--config.file={}", home.join("prometheus.yaml").display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        let process = node.place.spawn("prometheus", command, &home.join("log"))?;
        let started = Self {
            place: node.place.sibling(node.place.cgroup.clone()),
            _process: process,
        };
        let ready = || Ok(started.ask("/-/ready").is_ok());
        ferrogate_tests::wait::eventually(PATIENCE, "Prometheus is ready", ready)?;
        Ok(started)
    }

    fn ask(&self, path: &str) -> Result<String> {
        let url = format!("http://{LISTEN}{path}");
        self.place.run("curl", ["-sSf", "-m", "5", &url])
    }

    /// What it answers to a query now.
    fn query(&self, query: &str) -> Result<String> {
        let (url, query) = (format!("http://{LISTEN}/api/v1/query"), format!("query={query}"));
        self.place
            .run("curl", ["-sS", "-m", "5", "-G", "--data-urlencode", &query, &url])
    }

    /// The alerts that fire now.
    fn firing(&self) -> Result<BTreeSet<String>> {
        let answer: Value = serde_json::from_str(&self.ask("/api/v1/alerts")?)?;
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let name = |alert: &Value| {
            alert["labels"]["alertname"]
                .as_str()
                .map(str::to_owned)
                .context("a name")
        };
        firing.map(name).collect()
    }

    /// Waits until no alert fires.
    fn falls_silent(&self, after: &str) -> Result<()> {
        let mut last = BTreeSet::new();
        let silent = ferrogate_tests::wait::eventually(PATIENCE, "silence", || {
            last = self.firing()?;
            Ok(last.is_empty())
        });
        silent.with_context(|| format!("after {after}: {last:?}"))
    }

    /// Makes it happen until each alert that is expected has fired. Those that follow from it may, and no other.
    fn notices(&self, fault: &Fault, well: &mut Well) -> Result<BTreeSet<String>> {
        let expected: BTreeSet<&str> = fault.fires.iter().copied().collect();
        let mut seen = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        while !expected.iter().all(|name| seen.contains(*name)) {
            ensure!(
                Instant::now() < deadline,
                "{}: expected {expected:?}, saw {seen:?}",
                fault.name
            );
            (fault.go_on)(well)?;
            seen.extend(self.firing()?);
            thread::sleep(Duration::from_millis(100));
        }
        for name in &seen {
            let allowed = expected.contains(name.as_str()) || fault.may_fire.contains(&name.as_str());
            ensure!(allowed, "{}: {name} fires too", fault.name);
        }
        Ok(seen)
    }
}

/// Every query of the dashboard has an answer; those of what does not happen here may have an empty one.
fn dashboard_has_answers(prometheus: &Prometheus) -> Result<()> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(prometheus_file("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let mut asked = 0;
    for (panel, target) in panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (panel["title"].as_str().unwrap_or_default(), target))
    }) {
        let query = target["expr"].as_str().context("a query")?;
        let query = query.replace("$instance", ".*").replace("$__rate_interval", "10s");
        let answer: Value = serde_json::from_str(&prometheus.query(&query)?)?;
        ensure!(answer["status"] == "success", "{panel}: {query}: {answer}");
        let values = answer["data"]["result"].as_array().context("a result")?;
        // Manifests are no API server, and nothing is dropped yet.
        let may_be_empty = [
            "Requests to the API server",
            "Refused, by Service",
            "Refused and dropped",
        ]
        .contains(&panel);
        ensure!(may_be_empty || !values.is_empty(), "{panel}: {query}: no value");
        asked += 1;
    }
    ensure!(asked > 20, "only {asked} queries");
    Ok(())
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() -> Result<()> {
    let mut well = Well::new(faults::boot()?)?;
    let prometheus = Prometheus::start(&well.rig)?;
    let until = Instant::now() + CALM;
    while Instant::now() < until {
        well.serves()?;
        let firing = prometheus.firing()?;
        ensure!(firing.is_empty(), "nothing is wrong, and yet: {firing:?}");
        thread::sleep(Duration::from_millis(500));
    }
    dashboard_has_answers(&prometheus)?;
    let mut fired = BTreeSet::new();
    for fault in FAULTS {
        (fault.begin)(&mut well)?;
        let seen = prometheus.notices(fault, &mut well).with_context(|| fault.name)?;
        println!(
            "{:<60} {}",
            fault.name,
            seen.iter().cloned().collect::<Vec<_>>().join(" ")
        );
        fired.extend(seen);
        if let Some(end) = fault.end {
            end(&mut well)?;
            prometheus.falls_silent(fault.name)?;
        }
    }
    let expected: BTreeSet<String> = names()?;
    // An API server that answers and never ends its list, and three starts within seconds, are cases of alerts.test.yaml alone.
    let elsewhere = BTreeSet::from(["FerrogateNotSynced", "FerrogateRestarts"].map(str::to_owned));
    assert_eq!(&fired | &elsewhere, expected);
    Ok(())
}

#[test]
fn promtool_agrees_with_the_rules_and_their_cases() -> Result<()> {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let mut promtool = Command::new(binaries::system("promtool")?);
        let output = promtool.args(arguments).current_dir(prometheus_file(".")).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&said)
        );
    }
    let cases = fs::read_to_string(prometheus_file("alerts.test.yaml"))?;
    for name in names()? {
        ensure!(cases.contains(&name), "{name} has no case in alerts.test.yaml");
    }
    Ok(())
}
