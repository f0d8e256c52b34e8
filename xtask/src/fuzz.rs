//! `cargo xtask fuzz`: the fuzzers of `tests/fuzz`, guided by coverage, under AddressSanitizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{bpf, cmd, paths, setup};

const PACKAGE: &str = "ferrogate-fuzz";

/// What is kept in the repository of a target, at most: so many bytes.
const KEPT: u64 = 16 * 1024;

/// Coverage as libFuzzer reads it, comparisons included; overflow and debug assertions as in tests.
const FLAGS: [&str; 11] = [
    "--cfg",
    "fuzzing",
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

#[derive(clap::Args)]
#[command(
    after_help = "What is found is in target/fuzz/found, and said at the end. Put such an input into tests/fuzz/corpus/<TARGET>, \
                        under a name that says what it is: `cargo xtask test` runs all of them."
)]
pub(crate) struct Args {
    /// Only these targets
    #[arg(value_name = "TARGET", value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long each target is fuzzed
    #[arg(long, value_name = "N", default_value_t = 5)]
    minutes: u64,
    /// Afterwards put the smallest inputs that lead furthest into tests/fuzz/corpus
    #[arg(long)]
    keep: bool,
    /// Run a target on one input, and say what is wrong with it
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    repeat: Option<PathBuf>,
}

/// As in `tests/fuzz/src/lib.rs`.
const TARGETS: [&str; 5] = ["packets", "handed", "sockets", "objects", "files"];

/// Builds the fuzzers and runs them one after the other. Returns whether they found nothing.
pub(crate) fn fuzz(args: &Args) -> Result<bool> {
    setup::setup(&setup::Args { peers: false })?;
    setup::programs(&[("c++", "g++", "libFuzzer, which is C++")])?;
    bpf::build()?;
    let program = build()?;
    let chosen: Vec<&str> = TARGETS
        .into_iter()
        .filter(|name| args.targets.is_empty() || args.targets.iter().any(|wanted| wanted == name))
        .collect();
    let fuzzers: Vec<Fuzzer> = chosen.into_iter().map(|name| Fuzzer::new(&program, name)).collect();
    if let Some(file) = &args.repeat {
        ensure!(
            fuzzers.len() == 1,
            "say which target is to be run: cargo xtask fuzz TARGET --repeat FILE"
        );
        return Ok(fuzzers[0].command().arg(std::path::absolute(file)?).status()?.success());
    }
    let mut results = Vec::new();
    for fuzzer in &fuzzers {
        results.push(fuzzer.run(args.minutes)?);
        if args.keep {
            fuzzer.keep()?;
        }
    }
    println!("\ntarget    executions  found");
    for (fuzzer, (executions, found)) in fuzzers.iter().zip(&results) {
        println!("{:<9} {executions:>10}  {}", fuzzer.name, found.len());
        for file in found {
            println!("          {}", file.display());
        }
    }
    Ok(results.iter().all(|(_, found)| found.is_empty()))
}

/// Builds with the stable compiler, which is asked to allow the sanitizer.
fn build() -> Result<PathBuf> {
    let rustc = cmd::output(Command::new("rustc").arg("-vV"))?;
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    let target = paths::target().join("fuzz");
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--package", PACKAGE, "--bin", "fuzz"]);
    // With a target, build scripts and macros are built without the sanitizer.
    cargo.args(["--target", host, "--target-dir"]).arg(&target);
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    cmd::run(&mut cargo)?;
    Ok(target.join(host).join("debug/fuzz"))
}

/// One target, and where its inputs are.
struct Fuzzer<'a> {
    program: &'a Path,
    name: &'static str,
    /// What is in the repository.
    kept: PathBuf,
    /// All that led to something new, run after run.
    corpus: PathBuf,
    found: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn new(program: &'a Path, name: &'static str) -> Self {
        let fuzz = paths::target().join("fuzz");
        Self {
            program,
            name,
            kept: paths::root().join("tests/fuzz/corpus").join(name),
            corpus: fuzz.join("corpus").join(name),
            found: fuzz.join("found").join(name),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env("FERROGATE_FUZZ", self.name).current_dir(paths::root());
        command
    }

    /// Fuzzes for so long. Returns the number of inputs that were run, and files of those that failed.
    fn run(&self, minutes: u64) -> Result<(u64, Vec<PathBuf>)> {
        for directory in [&self.corpus, &self.found] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let before = files(&self.found)?;
        println!("{}: {minutes} minutes", self.name);
        let log = self.corpus.with_extension("log");
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        self.command()
            .args([&self.corpus, &self.kept])
            .arg(format!("-artifact_prefix={}/", self.found.display()))
            .arg(format!("-max_total_time={}", minutes * 60))
            .args([
                "-max_len=2048",
                "-timeout=20",
                "-rss_limit_mb=3000",
                "-print_final_stats=1",
                "-verbosity=1",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .status()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let mut found = files(&self.found)?;
        found.retain(|file| !before.contains(file));
        let executions = said
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
            .and_then(|number| number.trim().parse().ok())
            .with_context(|| {
                format!(
                    "the fuzzer {} did not come to its end; see {}",
                    self.name,
                    log.display()
                )
            })?;
        if !found.is_empty() {
            let lines: Vec<&str> = said.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        Ok((executions, found))
    }

    /// Adds to what is kept, until it is large enough: small inputs that reach what no other one does.
    fn keep(&self) -> Result<()> {
        let merged = self.corpus.with_extension("merged");
        let _ = fs::remove_dir_all(&merged);
        fs::create_dir_all(&merged)?;
        cmd::run(
            self.command()
                .arg("-merge=1")
                .args([&merged, &self.kept, &self.corpus])
                .stderr(Stdio::null()),
        )?;
        let mut inputs = files(&merged)?;
        inputs.sort_by_key(|file| (fs::metadata(file).map_or(0, |meta| meta.len()), file.clone()));
        let mut size = 0;
        for file in files(&self.kept)? {
            size += fs::metadata(file)?.len();
        }
        for input in inputs {
            let length = fs::metadata(&input)?.len();
            if size + length > KEPT {
                break;
            }
            size += length;
            fs::copy(&input, self.kept.join(input.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
