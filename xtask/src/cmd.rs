//! Child processes: run them, say what failed, and become root only where that is needed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result, bail};

/// A cargo of the toolchain this very command was built with, in the checkout, with the caller's flags kept out:
/// what is built must not depend on who calls.
pub(crate) fn cargo() -> Command {
    cargo_named(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// As [`cargo`], by another program that takes cargo's arguments.
pub(crate) fn cargo_named(program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new(program);
    cmd.current_dir(crate::paths::root()).env_remove("CARGO_TARGET_DIR");
    cmd
}

/// The command as a person would type it.
pub(crate) fn shown(cmd: &Command) -> String {
    let mut words = vec![cmd.get_program().to_string_lossy().into_owned()];
    words.extend(cmd.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs to the end with the terminal's own input and output; anything but success is an error.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd.status().with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(cmd));
    }
    Ok(())
}

/// Runs to the end and returns the standard output, without its last newline.
pub(crate) fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(cmd)))?;
    if !out.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            shown(cmd),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

/// Finds a program in `PATH`, and in the directories of system tools that a normal user's `PATH` leaves out.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].into_iter().map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's own /proc entry is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A command that runs as root: as it is when we are root, else through sudo, with the variables that decide where
/// caches and tools are kept. sudo asks for the password by itself.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = which("sudo") else {
        bail!(
            "`{}` needs root, and there is no sudo: run this as root",
            program.as_ref().to_string_lossy()
        );
    };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| println!("(parts of this need root: sudo may ask for your password)"));
    let mut cmd = Command::new(sudo);
    cmd.arg("env");
    let kept = [
        "HOME",
        "PATH",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "TERM",
        "RUST_BACKTRACE",
        "RUST_LOG",
    ];
    for (name, value) in std::env::vars_os() {
        // FERROGATE_…: the cache, and the agent's options.
        if kept.iter().any(|kept| name == *kept) || name.as_encoded_bytes().starts_with(b"FERROGATE_") {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            cmd.arg(pair);
        }
    }
    cmd.arg(program);
    Ok(cmd)
}
