//! Notes that an agent leaves for its successors: targets of symbolic links, since a BPF file system has no files.

use super::error::{During as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// One note, written or not. The lock on the state directory keeps others away.
pub(super) struct Note(pub(super) PathBuf);

impl Note {
    /// `None`: there is none.
    pub(super) fn read(&self) -> Result<Option<String>> {
        match fs::read_link(&self.0) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during(|| format!("cannot read {}", self.0.display())),
        }
    }

    /// Replaces what it says; nothing to say is no note. A BPF file system renames nothing over another entry, so it is removed and made
    /// again.
    pub(super) fn write(&self, text: &str) -> Result<()> {
        if self.read()?.as_deref() == Some(text) {
            return Ok(());
        }
        self.remove()?;
        if text.is_empty() {
            return Ok(());
        }
        symlink(text, &self.0).during(|| format!("cannot write {}", self.0.display()))
    }

    /// What it says of each name: `NAME=NUMBER,...`. Anything else in it is passed over.
    pub(super) fn numbers(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.read()?.unwrap_or_default();
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        Ok(pairs
            .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
            .collect())
    }

    /// Has it say that.
    pub(super) fn write_numbers<'a>(&self, numbers: impl IntoIterator<Item = (&'a str, u64)>) -> Result<()> {
        let pairs = numbers.into_iter().map(|(name, number)| format!("{name}={number}"));
        self.write(&pairs.collect::<Vec<_>>().join(","))
    }

    /// Whether there was one.
    pub(super) fn remove(&self) -> Result<bool> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed
                .during(|| format!("cannot remove {}", self.0.display()))
                .map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_last_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let note = Note(directory.path().join("note"));
        assert_eq!(note.read().expect("none"), None);
        assert!(!note.remove().expect("none"));
        for text in ["1-3", "1-3", "4"] {
            note.write(text).expect("writable");
            assert_eq!(note.read().expect("one").as_deref(), Some(text));
        }
        note.write_numbers([("b", 2), ("c", 3)]).expect("writable");
        assert_eq!(note.read().expect("one").as_deref(), Some("b=2,c=3"));
        let numbers = note.numbers().expect("numbers");
        assert_eq!(numbers, BTreeMap::from([("b".to_owned(), 2), ("c".to_owned(), 3)]));
        assert!(note.remove().expect("one"));
        note.write("").expect("nothing to write");
        assert_eq!(note.read().expect("none"), None);
        assert!(note.numbers().expect("none").is_empty());
    }
}
