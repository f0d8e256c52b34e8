//! eBPF objects that are not the embedded one.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object as _, ObjectSection as _};

/// `target/bpf/<name>` of the checkout, as `cargo xtask` builds it.
pub(super) fn built(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf").join(name);
    ensure!(
        path.is_file(),
        "{} is missing: `cargo xtask test` and `cargo xtask chaos` build it",
        path.display()
    );
    Ok(path)
}

/// Writes the object to `to` with one program's first instruction replaced by one that no kernel knows.
pub(super) fn spoil(from: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(from).with_context(|| from.display().to_string())?;
    let file = object::File::parse(&*bytes).context("not an ELF file")?;
    // The last one that is loaded: all others have been taken by then.
    let section = file
        .sections()
        .filter(|section| section.name().is_ok_and(|name| name.starts_with("classifier")))
        .last()
        .context("no tcx program")?;
    let (start, size) = section.file_range().context("an empty program")?;
    ensure!(size >= 8, "a program without instructions");
    let start = usize::try_from(start)?;
    bytes[start] = 0xff;
    fs::write(to, bytes).with_context(|| to.display().to_string())
}
