//! What walks found, and how it is printed: one column a rig, so that proxies stand side by side.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::cell::{Backend, Cell};

/// A reason is cut to this many characters: the rest of a long dump says no more.
const REASON_LENGTH: usize = 800;

/// The result of one walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Pass,
    Fail(String),
    /// A documented limit, or something the machine or the rig does not have.
    Skip(String),
}

impl Mark {
    fn letter(&self) -> char {
        match self {
            Mark::Pass => '+',
            Mark::Fail(_) => 'X',
            Mark::Skip(_) => '-',
        }
    }
}

/// What one rig showed.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Layout, proxy and options in words.
    pub name: String,
    pub cells: Vec<(Cell, Mark)>,
    /// Walks that are not cells, by name.
    pub others: Vec<(String, Mark)>,
    /// What was measured, in words.
    pub notes: Vec<String>,
}

impl Column {
    fn marks(&self) -> impl Iterator<Item = (String, &Mark)> {
        let cells = self.cells.iter().map(|(cell, mark)| (cell.to_string(), mark));
        cells.chain(self.others.iter().map(|(name, mark)| (name.clone(), mark)))
    }
}

/// Everything of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub columns: Vec<Column>,
}

impl Report {
    /// Walks that passed, failed and were skipped.
    pub fn totals(&self) -> (usize, usize, usize) {
        let marks = || self.columns.iter().flat_map(Column::marks).map(|(_, mark)| mark);
        let count = |wanted: fn(&Mark) -> bool| marks().filter(|mark| wanted(mark)).count();
        (
            count(|mark| *mark == Mark::Pass),
            count(|mark| matches!(mark, Mark::Fail(_))),
            count(|mark| matches!(mark, Mark::Skip(_))),
        )
    }

    /// The matrix, the other walks, why something failed or was skipped, and the closing line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nColumns:")?;
        for (number, column) in self.columns.iter().enumerate() {
            writeln!(text, "  {}  {}", letter(number), column.name)?;
            for note in &column.notes {
                writeln!(text, "       {note}")?;
            }
        }
        writeln!(
            text,
            "Backends in each column: L pod on node 1, R pod on node 2, l/r host network of node 1/2, S itself."
        )?;
        writeln!(
            text,
            "+ passed   X failed   - a documented limit   (blank) no such cell\n"
        )?;
        self.write_matrix(text)?;
        self.write_others(text)?;
        for column in &self.columns {
            write_reasons(text, column)?;
        }
        let (passed, failed, skipped) = self.totals();
        writeln!(text, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }

    fn write_matrix(&self, text: &mut String) -> std::fmt::Result {
        let mut rows: BTreeMap<Cell, String> = BTreeMap::new();
        for (cell, _) in self.columns.iter().flat_map(|column| &column.cells) {
            rows.entry(Cell {
                backend: Backend::Local,
                ..*cell
            })
            .or_insert_with(|| cell.row());
        }
        if rows.is_empty() {
            return Ok(());
        }
        write!(text, "{:36}", "")?;
        for number in 0..self.columns.len() {
            write!(text, " {}:LRlrS", letter(number))?;
        }
        for (row, name) in rows {
            write!(text, "\n{name:36}")?;
            for column in &self.columns {
                let marks: BTreeMap<_, _> = column.cells.iter().map(|(cell, mark)| (*cell, mark)).collect();
                let letter = |backend| marks.get(&Cell { backend, ..row }).map_or(' ', |mark| mark.letter());
                write!(text, "   {}", Backend::ALL.map(letter).iter().collect::<String>())?;
            }
        }
        writeln!(text)
    }

    fn write_others(&self, text: &mut String) -> std::fmt::Result {
        let mut seen = BTreeSet::new();
        let names = self
            .columns
            .iter()
            .flat_map(|column| &column.others)
            .map(|(name, _)| name);
        for name in names.filter(|name| seen.insert((*name).clone())) {
            write!(text, "{name:60}")?;
            for (number, column) in self.columns.iter().enumerate() {
                let mark = column.others.iter().find(|(other, _)| other == name);
                write!(
                    text,
                    "  {}:{}",
                    letter(number),
                    mark.map_or(' ', |(_, mark)| mark.letter())
                )?;
            }
            writeln!(text)?;
        }
        Ok(())
    }
}

fn write_reasons(text: &mut String, column: &Column) -> std::fmt::Result {
    for (name, mark) in column.marks() {
        if let Mark::Fail(reason) = mark {
            let reason: String = reason.replace('\n', " / ").chars().take(REASON_LENGTH).collect();
            writeln!(text, "FAILED  {} | {name}: {reason}", column.name)?;
        }
    }
    let mut limits: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, mark) in column.marks() {
        if let Mark::Skip(reason) = mark {
            *limits.entry(reason).or_default() += 1;
        }
    }
    for (reason, count) in limits {
        writeln!(text, "skipped {} | {count} walks: {reason}", column.name)?;
    }
    Ok(())
}

fn letter(number: usize) -> char {
    (b'A' + (number % 26) as u8).into()
}
