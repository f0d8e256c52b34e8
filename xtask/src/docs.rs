//! `cargo xtask docs`: the lists in docs/reference.md, from the code.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use ferrogate_common::maps::{self, BYTES, Size};
use ferrogate_common::{ABI_VERSION, Annotation, Reason};

use crate::{bpf, cmd, paths};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if docs/reference.md is not what the code says
    #[arg(long)]
    check: bool,
}

/// The subcommands of `ferrogate` whose help is printed; the first is `ferrogate` itself.
const COMMANDS: &[&str] = &[
    "",
    "agent",
    "status",
    "services",
    "explain",
    "diff",
    "doctor",
    "top",
    "trace",
    "flows",
    "metrics",
    "drain",
    "cleanup",
    "completions",
    "man",
    "sock-destroy-helper",
];

pub(crate) fn docs(args: &Args) -> Result<()> {
    // The agent, whose help is asked for, embeds the object.
    bpf::build()?;
    if args.check {
        return check();
    }
    let file = file();
    fs::write(&file, text()?).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

/// Whether the file is what the code says. Needs the eBPF object.
pub(crate) fn check() -> Result<()> {
    let file = file();
    let found = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if found != text()? {
        bail!("docs/reference.md is not what the code says: run `cargo xtask docs`");
    }
    Ok(())
}

fn file() -> PathBuf {
    paths::root().join("docs/reference.md")
}

fn text() -> Result<String> {
    let mut text = String::from(
        "# Reference\n\n\
         Written by `cargo xtask docs` from the code; `cargo xtask lint` checks it. Do not edit it by hand.\n\n\
         - [Reasons](#reasons)\n- [Maps](#maps)\n- [Metrics](#metrics)\n\
         - [Annotations and labels](#annotations-and-labels)\n- [Commands and options](#commands-and-options)\n",
    );
    reasons(&mut text);
    map_table(&mut text);
    cmd::run(cmd::cargo().args(["build", "--quiet", "--package", "ferrogate-agent", "--bin", "ferrogate"]))?;
    metrics(&mut text)?;
    annotations(&mut text);
    commands(&mut text)?;
    Ok(text)
}

fn reasons(text: &mut String) {
    text.push_str(
        "\n## Reasons\n\n\
         Every packet and every socket call that a program sees is counted under one of these, in the map `REASONS`; `ferrogate\n\
         status` shows the counts. *Ends*: the packet or call got no further. A socket call that is no Service's is not counted.\n\n\
         | number | reason | ends | meaning |\n|---:|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let (number, label, meaning) = (*reason as u8, reason.label(), reason.description());
        let ends = if reason.is_drop() { "yes" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {number} | `{label}` | {ends} | {meaning} |");
    }
}

fn map_table(text: &mut String) {
    let _ = write!(
        text,
        "\n## Maps\n\nABI version {ABI_VERSION}: the maps are pinned below `<state-dir>/v{ABI_VERSION}/maps/`. A map is\n\
         created with *entries*, where it follows the node's memory (`--map-memory`) between *least* and *most*: the numbers under\n\
         *entries* are those of {} MiB for all maps, 0.5 % of {} GiB. `--map-entries NAME=N` sets another number, for any map with\n\
         one under *set by*, bounds or not.\n\n\
         A map that is pinned keeps its size, so that what it holds goes on working: where an option asks for another, `ferrogate\n\
         status` and `doctor` say so until `ferrogate cleanup`. `ferrogate_map_pressure` is how full each one is. What of a Service\n\
         has no room is refused with an Event and a line under Problems, counted in `ferrogate_refused`, and programmed once there is\n\
         room; `/healthz` stays as it is, since what was programmed goes on. Tables of traffic are LRU: they push out what is least\n\
         recent.\n\n\
         | map | entries | least | most | set by | purpose |\n|---|---:|---:|---:|---|---|\n",
        BYTES >> 20,
        (BYTES * 200) >> 30,
    );
    for map in maps::ALL {
        let entries = if map.entries == 0 {
            "one a socket".to_owned()
        } else {
            map.entries.to_string()
        };
        let (least, most, by) = match map.size {
            Size::Fixed => (String::new(), String::new(), String::new()),
            Size::Like(other) => (String::new(), String::new(), format!("as `{other}`")),
            Size::Chosen => (String::new(), String::new(), "option".to_owned()),
            Size::Memory { least, most } => (least.to_string(), most.to_string(), "option, memory".to_owned()),
        };
        let _ = writeln!(
            text,
            "| `{}` | {entries} | {least} | {most} | {by} | {} |",
            map.name, map.purpose
        );
    }
}

fn metrics(text: &mut String) -> Result<()> {
    let list = cmd::output(Command::new(ferrogate()).args(["metrics", "--list"]))?;
    let _ = write!(
        text,
        "\n## Metrics\n\n\
         Served at `/metrics` on `--metrics-bind-address`, and printed by `ferrogate metrics`. Those that begin with `kubeproxy_` and\n\
         `rest_client_` have kube-proxy's names, types and labels, so that its dashboards and alerts go on working.\n\n{}\n",
        list.trim_end()
    );
    Ok(())
}

fn annotations(text: &mut String) {
    text.push_str(
        "\n## Annotations and labels\n\n\
         What cannot be read is named in the log, in `ferrogate status` and, of a Service, in an Event; the rest of the object counts.\n\n\
         | key | where | values | meaning |\n|---|---|---|---|\n",
    );
    for Annotation {
        key,
        place,
        values,
        meaning,
    } in Annotation::ALL
    {
        let _ = writeln!(text, "| `{key}` | {place} | {values} | {meaning} |");
    }
}

fn ferrogate() -> PathBuf {
    paths::target().join("debug/ferrogate")
}

fn commands(text: &mut String) -> Result<()> {
    text.push_str("\n## Commands and options\n");
    for command in COMMANDS {
        let title = format!("ferrogate {command}");
        let _ = write!(text, "\n### {}\n\n```text\n{}\n```\n", title.trim_end(), help(command)?);
    }
    Ok(())
}

/// What `ferrogate <command> --help` prints, whoever asks: without colours, a hundred columns wide, and without the values
/// that options have in the caller's environment.
fn help(command: &str) -> Result<String> {
    let mut ferrogate = Command::new(ferrogate());
    ferrogate.args((!command.is_empty()).then_some(command)).arg("--help");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"FERROGATE_") || name == "CLICOLOR_FORCE" {
            ferrogate.env_remove(name);
        }
    }
    let help = cmd::output(ferrogate.env("COLUMNS", "100"))?;
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_common::Algorithm;

    #[test]
    fn troubleshooting_has_a_remedy_for_every_reason_that_ends_a_packet() {
        let page = fs::read_to_string(paths::root().join("docs/troubleshooting.md")).expect("a page");
        for reason in Reason::ALL.iter().filter(|reason| reason.is_drop()) {
            assert!(
                page.contains(&format!("| `{}`", reason.label())) || page.contains(&format!(", `{}`", reason.label())),
                "{reason}"
            );
        }
    }

    #[test]
    fn every_reason_and_every_map_has_its_line() {
        let mut text = String::new();
        reasons(&mut text);
        map_table(&mut text);
        annotations(&mut text);
        for algorithm in Algorithm::ALL {
            let name = format!("`{}`", algorithm.name());
            assert!(Annotation::ALGORITHM.values.contains(&name), "{name}");
        }
        for annotation in Annotation::ALL {
            assert!(
                text.contains(&format!("| `{}` |", annotation.key)),
                "{}",
                annotation.key
            );
        }
        for reason in Reason::ALL {
            assert!(text.contains(&format!("| `{}` |", reason.label())), "{reason}");
        }
        for map in maps::ALL {
            assert!(text.contains(&format!("| `{}` |", map.name)), "{}", map.name);
        }
    }
}
