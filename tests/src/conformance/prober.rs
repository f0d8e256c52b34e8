//! A `testpod ask` that runs somewhere in the rig, and takes many questions at once.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::rig::{Place, Process};
use crate::wire::ask::{Answer, Ask, Question, Told};

/// Longer than any question takes.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Prober {
    // Dropped first: the program ends with its input.
    input: ChildStdin,
    /// Behind a lock so that threads may share what holds it.
    answers: Mutex<Receiver<Answer>>,
    _process: Process,
}

impl Prober {
    pub fn start(place: &Place, name: &str) -> Result<Self> {
        let mut command = place.testpod_command()?;
        command.arg("ask").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(name, command)?;
        let input = process.stdin().context("standard input is a pipe")?;
        let output = process.stdout().context("standard output is a pipe")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for answer in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            input,
            answers: Mutex::new(answers),
            _process: process,
        })
    }

    /// Hands over the questions; the ids are the caller's.
    fn begin(&mut self, questions: Vec<Question>) -> Result<usize> {
        let count = questions.len();
        for question in questions {
            let mut line = serde_json::to_string(&question)?;
            line.push('\n');
            self.input.write_all(line.as_bytes()).context("testpod ask ended")?;
        }
        Ok(count)
    }
}

/// Asks everything at once, each from its place, and returns what was told in the order of the questions.
pub fn ask_all(probers: &mut BTreeMap<String, Prober>, questions: Vec<(String, Ask)>) -> Result<Vec<Told>> {
    let mut told: Vec<Option<Told>> = questions.iter().map(|_| None).collect();
    let mut by_place: BTreeMap<String, Vec<Question>> = BTreeMap::new();
    for (id, (place, ask)) in questions.into_iter().enumerate() {
        by_place.entry(place).or_default().push(Question { id, ask });
    }
    let mut pending = Vec::new();
    for (place, questions) in by_place {
        let prober = probers
            .get_mut(&place)
            .with_context(|| format!("nobody asks at {place}"))?;
        pending.push((place, prober.begin(questions)?));
    }
    for (place, count) in pending {
        let prober = probers
            .get_mut(&place)
            .with_context(|| format!("nobody asks at {place}"))?;
        for _ in 0..count {
            let answers = prober.answers.get_mut().unwrap_or_else(PoisonError::into_inner);
            let answer = answers
                .recv_timeout(PATIENCE)
                .map_err(|_| anyhow!("testpod ask at {place} does not answer"))?;
            if let Some(slot) = told.get_mut(answer.id) {
                *slot = Some(answer.told);
            }
        }
    }
    told.into_iter()
        .map(|told| told.context("a question was not answered"))
        .collect()
}
