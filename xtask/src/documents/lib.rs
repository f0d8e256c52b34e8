//! What is written in this repository's documents: pages, links, commands. The developer commands check it, and the tests run
//! what can be run.

pub mod commands;
pub mod links;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A Markdown file.
pub struct Page {
    /// From the root of the checkout, with `/`.
    pub path: String,
    pub text: String,
}

impl Page {
    /// A file of this path with this text.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// Every Markdown file of the checkout: those that git has, and new ones that are not ignored.
///
/// # Errors
/// git does not answer, or a file cannot be read.
pub fn pages(root: &Path) -> Result<Vec<Page>> {
    let files = tracked(root, "*.md")?;
    let read = |path: String| -> Result<Page> {
        let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        Ok(Page { path, text })
    };
    files.into_iter().map(read).collect()
}

/// The files that match a pattern of git's, in order.
///
/// # Errors
/// git does not answer.
pub fn tracked(root: &Path, pattern: &str) -> Result<Vec<String>> {
    let mut git = git(root);
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]);
    let output = git.output().context("cannot start git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git ls-files: {said}");
    let mut files: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|file| root.join(file).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// git in a checkout, also where that is another user's: tests that need root are started through sudo.
pub fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-c").arg(format!("safe.directory={}", root.display()));
    git.current_dir(root);
    git
}

/// The line, from 1, on which a byte of a text is.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
