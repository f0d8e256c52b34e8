//! The report of `--once`: sections, what was seen, and what was checked, printed as they come.
use std::io::{self, IsTerminal, Write};

use anyhow::Result;

/// Counts checks, and prints.
pub(crate) struct Report {
    passed: u32,
    failed: u32,
    sections: u32,
    colour: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            passed: 0,
            failed: 0,
            sections: 0,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// A heading of its own number.
    pub(crate) fn section(&mut self, title: &str) -> Result<()> {
        self.sections += 1;
        let heading = format!("{}. {title}", self.sections);
        self.line("")?;
        self.line(&self.paint("1", &heading))
    }

    /// Lines as they are, indented.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        text.lines()
            .try_for_each(|line| self.line(format!("   {line}").trim_end()))
    }

    /// Something that must be so.
    pub(crate) fn check(&mut self, well: bool, what: &str) -> Result<()> {
        if well {
            self.passed += 1;
            self.line(&format!("   {} {what}", self.paint("32", "ok  ")))
        } else {
            self.failed += 1;
            self.line(&format!("   {} {what}", self.paint("1;31", "FAIL")))
        }
    }

    /// The last line. Whether nothing failed.
    pub(crate) fn end(&self) -> Result<bool> {
        self.line("")?;
        self.line(&format!("{} checks passed, {} failed", self.passed, self.failed))?;
        Ok(self.failed == 0)
    }

    /// A line on standard output.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        writeln!(io::stdout(), "{line}")?;
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
