//! Debian's Chromium without a screen, told what to do by its own protocol (DevTools) over two pipes.
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{Place, Process};
use serde_json::{Value, json};

use crate::common::eventually;

/// A machine with much else to do is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pipes are its descriptors 3 and 4.
const START: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;
/// As root there is no sandbox; only the agent's own page is opened.
const OPTIONS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--remote-debugging-pipe",
];

/// A browser with one page; both end when this is dropped.
pub(crate) struct Browser {
    input: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    asked: u64,
    /// What scripts did not catch, and what the page's policy forbade.
    troubles: Vec<String>,
    _process: Process,
}

impl Browser {
    /// Starts one here, and opens a page. What it keeps is in this directory, which goes with the rig.
    pub(crate) fn open(place: &Place, profile: &Path, url: &str) -> Result<Self> {
        std::fs::create_dir_all(profile)?;
        let mut command = place.command("sh")?;
        let chromium = binaries::system("chromium")?;
        command.args(["-c", START, "sh"]).arg(chromium).args(OPTIONS);
        command.arg(format!("--user-data-dir={}", profile.display()));
        command.env("HOME", profile).env_remove("DISPLAY");
        let log = File::create(profile.join("log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = Process::start("chromium", command)?;
        let input = process.stdin().context("its input")?;
        let output = process.stdout().context("its output")?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            input,
            messages,
            session: String::new(),
            asked: 0,
            troubles: vec![],
            _process: process,
        };
        let target = browser.tell("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.tell("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Runtime", "Log", "Page"] {
            browser.tell(&format!("{domain}.enable"), &json!({}))?;
        }
        browser.tell("Page.navigate", &json!({"url": url}))?;
        Ok(browser)
    }

    /// Sends a command and waits for its answer.
    fn tell(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.asked += 1;
        let mut message = json!({"id": self.asked, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.input.write_all(&bytes).context("the browser is gone")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let mut message = message.with_context(|| format!("no answer to {method}"))?;
            if message["id"] == self.asked {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].take());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.troubles.push(parameters["exceptionDetails"].to_string()),
            // An agent that is away is no fault of the page's.
            Some("Log.entryAdded") if parameters["entry"]["source"] != "network" => {
                self.troubles.push(parameters["entry"].to_string());
            }
            _ => {}
        }
    }

    /// What went wrong in the page so far.
    pub(crate) fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// The value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let mut result = self.tell("Runtime.evaluate", &parameters)?;
        if !result["exceptionDetails"].is_null() {
            bail!("{expression}: {}", result["exceptionDetails"]);
        }
        Ok(result["result"]["value"].take())
    }

    /// The texts of all elements of a selector.
    pub(crate) fn texts(&mut self, selector: &str) -> Result<Vec<String>> {
        let selector = serde_json::to_string(selector)?;
        let value = self.value(&format!(
            "[...document.querySelectorAll({selector})].map((one) => (one.innerText ?? one.textContent).replace(/\\s+/g, ' ').trim())"
        ))?;
        Ok(serde_json::from_value(value)?)
    }

    /// Waits until the texts of a selector are as they should be.
    pub(crate) fn shows(&mut self, selector: &str, right: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let mut last = Vec::new();
        let shown = eventually(selector, || {
            last = self.texts(selector)?;
            Ok(right(&last))
        });
        shown.with_context(|| format!("{selector}: {last:#?}"))?;
        Ok(last)
    }

    /// Presses and releases a key: `Tab`, `Enter`, `ArrowDown`, `Space`.
    pub(crate) fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Space" => (32, " "),
            "ArrowDown" => (40, ""),
            _ => bail!("no key {key}"),
        };
        let name = if key == "Space" { " " } else { key };
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            let event = json!({"type": kind, "key": name, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.tell("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Types into what has the focus.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        self.tell("Input.insertText", &json!({"text": text})).map(|_| ())
    }

    /// Presses Tab until that which has the focus has this text or id.
    pub(crate) fn tab_to(&mut self, wanted: &str) -> Result<()> {
        let mut seen = Vec::new();
        for _ in 0..60 {
            self.press("Tab")?;
            let focused = "[document.activeElement.innerText, document.activeElement.id]";
            let focused: [Option<String>; 2] = serde_json::from_value(self.value(focused)?)?;
            if focused.iter().flatten().any(|one| one.trim() == wanted) {
                let ring = "getComputedStyle(document.activeElement).outlineStyle";
                ensure!(self.value(ring)? == "solid", "the focus on {wanted} cannot be seen");
                return Ok(());
            }
            seen.push(focused);
        }
        bail!("no key leads to {wanted}: {seen:?}")
    }

    /// Of a page so wide, dark or light: its picture, and how wide and high its content is.
    pub(crate) fn picture(&mut self, width: u32, height: u32, dark: bool) -> Result<(Vec<u8>, Value)> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.tell("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.tell("Emulation.setEmulatedMedia", &features)?;
        // Drawn anew for this width.
        let looks = "Number(document.body.dataset.looks)";
        let before = self.value(looks)?.as_f64();
        eventually("two more looks", || {
            Ok(self.value(looks)?.as_f64() >= before.map(|looks| looks + 2.0))
        })?;
        let extent = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]";
        let extent = self.value(extent)?;
        let picture = self.tell(
            "Page.captureScreenshot",
            &json!({"format": "png", "optimizeForSpeed": false}),
        )?;
        Ok((STANDARD.decode(picture["data"].as_str().context("a picture")?)?, extent))
    }
}
