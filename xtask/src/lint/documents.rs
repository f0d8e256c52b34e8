//! The documents: their links, and the commands in them.

use anyhow::{Result, bail};
use clap::Parser as _;
use clap::error::ErrorKind;
use ferrogate_documents::commands::{self, Block, Command};
use ferrogate_documents::{links, pages};

use crate::{Cli, cmd, paths};

/// Needs no network: of a link to elsewhere only the form is looked at.
pub(super) fn links() -> Result<()> {
    told(links::findings(paths::root(), &pages(paths::root())?))
}

/// Every command of ours is one that the programs take; of other programs' a reason stands beside them.
pub(super) fn commands() -> Result<()> {
    cmd::run(cmd::cargo().args(["build", "--quiet", "--package", "ferrogate-agent", "--bin", "ferrogate"]))?;
    let mut wrong = Vec::new();
    for page in pages(paths::root())? {
        for block in commands::blocks(&page) {
            wrong.extend(findings(&block, taken_by_ferrogate));
        }
    }
    told(wrong)
}

fn told(wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// What is wrong in a block, each as `file:line: what`.
fn findings(block: &Block, ferrogate: impl Fn(&[String]) -> Result<()>) -> Vec<String> {
    let at = |what: String| format!("{}:{}: {what}", block.page, block.line);
    let mut wrong = Vec::new();
    let mut untried = 0;
    for command in &block.commands {
        let judged = match command {
            Command::Xtask(words) => taken_by_xtask(words),
            Command::Ferrogate(words) => ferrogate(words),
            Command::Files(files) if files.iter().all(|file| paths::root().join(file).exists()) => Ok(()),
            Command::Files(_) | Command::Other(_) if block.not_run.is_some() => {
                untried += 1;
                Ok(())
            }
            Command::Files(files) => Err(anyhow::anyhow!("no such file here: {}", files.join(", "))),
            Command::Other(shown) => Err(anyhow::anyhow!(
                "`{shown}` is not tried by any test: say why above the block, <!-- not run: REASON -->"
            )),
        };
        if let Err(error) = judged {
            wrong.push(at(format!("{error:#}")));
        }
    }
    match &block.not_run {
        Some(reason) if reason.split_whitespace().count() < 2 => wrong.push(at("the reason says nothing".to_owned())),
        Some(_) if untried == 0 => wrong.push(at("all of it is tried: take the comment \"not run\" away".to_owned())),
        _ => {}
    }
    wrong
}

fn taken_by_xtask(words: &[String]) -> Result<()> {
    let line = ["cargo xtask"].into_iter().chain(words.iter().map(String::as_str));
    match Cli::try_parse_from(line) {
        Ok(_) => Ok(()),
        Err(help) if matches!(help.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(()),
        Err(error) => bail!("cargo xtask {}: {error}", words.join(" ")),
    }
}

fn taken_by_ferrogate(words: &[String]) -> Result<()> {
    let mut ferrogate = std::process::Command::new(paths::target().join("debug/ferrogate"));
    cmd::output(ferrogate.args(["check-arguments", "--"]).args(words)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_documents::Page;

    fn found(text: &str) -> Vec<String> {
        let page = Page {
            path: "a.md".to_owned(),
            text: text.to_owned(),
        };
        let takes = |words: &[String]| match words.first().is_some_and(|word| word == "status") {
            true => Ok(()),
            false => bail!("unknown"),
        };
        commands::blocks(&page)
            .iter()
            .flat_map(|block| findings(block, takes))
            .collect()
    }

    #[test]
    fn commands_that_programs_do_not_take_are_found() {
        assert_eq!(
            found("```sh\ncargo xtask run --once\nferrogate status\n```\n"),
            Vec::<String>::new()
        );
        assert!(found("```sh\ncargo xtask run --twice\n```\n")[0].contains("--twice"));
        assert!(found("\n```sh\nferrogate stats\n```\n")[0].starts_with("a.md:2: unknown"));
        assert!(found("```sh\nkubectl apply -f deploy/none.yaml\n```\n")[0].contains("deploy/none.yaml"));
        assert_eq!(
            found("```sh\nkubectl apply -f deploy/rbac.yaml\n```\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_not_tried_has_a_reason_and_only_that() {
        assert!(found("```sh\nkubectl get nodes\n```\n")[0].contains("not run: REASON"));
        let with = |reason: &str, command: &str| found(&format!("<!-- not run: {reason} -->\n```sh\n{command}\n```\n"));
        assert_eq!(with("there is no cluster", "kubectl get nodes"), Vec::<String>::new());
        assert!(with("no", "kubectl get nodes")[0].contains("says nothing"));
        assert!(with("there is no cluster", "ferrogate status")[0].contains("take the comment"));
    }
}
