//! A first file system for a kernel: a cpio archive of the "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cmd;

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

pub(super) struct Archive {
    file: BufWriter<File>,
    inode: u32,
    /// Paths that are in it already, folders among them.
    paths: BTreeSet<String>,
}

impl Archive {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
            inode: 0,
            paths: BTreeSet::new(),
        })
    }

    /// Adds a file and the folders above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.add(path, REGULAR | mode, content)
    }

    /// Adds a symbolic link and the folders above it.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, LINK | 0o777, target.as_bytes())
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let folders: Vec<&str> = path
            .match_indices('/')
            .skip(1)
            .filter_map(|(at, _)| path.get(..at))
            .collect();
        for folder in folders {
            if self.paths.insert(folder.to_owned()) {
                self.entry(folder, DIRECTORY | 0o755, &[])?;
            }
        }
        if self.paths.insert(path.to_owned()) {
            self.entry(path, mode, content)?;
        }
        Ok(())
    }

    /// Adds a program, where it is or at another place, and the libraries that it is linked with.
    pub(super) fn binary(&mut self, program: &Path, at: Option<&str>) -> Result<()> {
        let path = match at {
            Some(path) => path,
            None => program.to_str().context("a path that is not UTF-8")?,
        };
        let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        self.file(path, 0o755, &content)?;
        // Of a static one it fails.
        let Ok(list) = cmd::output(Command::new("ldd").arg(program)) else {
            return Ok(());
        };
        for library in list.split_whitespace().filter(|word| word.starts_with('/')) {
            if !self.paths.contains(library) {
                self.file(library, 0o755, &fs::read(library)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.entry("/TRAILER!!!", 0, &[])?;
        self.file.flush()?;
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let length = u32::try_from(content.len()).with_context(|| format!("{path} is too long"))?;
        let name_length = u32::try_from(name.len() + 1)?;
        // Inode, mode, user, group, links, time, length, device (2), special device (2), length of the name, no check sum.
        let fields = [self.inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.padded(&[header.as_bytes(), name.as_bytes(), b"\0"].concat())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.file.write_all(&[0; 3][..padding])?;
        Ok(())
    }
}
