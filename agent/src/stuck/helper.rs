//! The helper: enters network namespaces and destroys sockets there. All that needs CAP_SYS_ADMIN.

use super::diag::Diag;
use super::wire::{self, Reply, Request};
use crate::kernel::netns_cookie;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A search may take this long: less than its caller waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Its name as a command.
pub(super) const COMMAND: &str = "sock-destroy-helper";

/// Serves an agent until it goes: the one at the other end of standard input, or, one after the other, all that come to
/// `listen`.
///
/// # Errors
/// Standard input is no socket, or `listen` cannot be bound.
pub fn run(listen: Option<&Path>) -> Result<()> {
    let Some(path) = listen else {
        let input = io::stdin().as_fd().try_clone_to_owned().context("no standard input")?;
        let stream = UnixStream::from(input);
        stream.peer_addr().context(
            "standard input is no socket: the agent starts this command itself; to run it apart, give --socket",
        )?;
        return serve(&stream);
    };
    // What a dead helper has left.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot replace {}", path.display()));
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))
        .with_context(|| format!("cannot make {} private", path.display()))?;
    for stream in listener.incoming() {
        // An agent that breaks off is not this one's business: the next one is served.
        if let Err(error) = stream.map_err(anyhow::Error::from).and_then(|stream| serve(&stream)) {
            eprintln!("ferrogate {COMMAND}: {error:#}");
        }
    }
    Ok(())
}

fn serve(stream: &UnixStream) -> Result<()> {
    while let Some(request) = wire::read::<Request>(stream)? {
        wire::write(stream, &answer(request)?)?;
    }
    Ok(())
}

/// Nobody starts a helper anew: one request that goes wrong must not end it.
fn answer(request: Request) -> io::Result<Reply> {
    let (done, reply) = mpsc::channel();
    thread::Builder::new().spawn(move || done.send(destroy(&request)))?;
    Ok(reply.recv_timeout(PATIENCE).unwrap_or_else(|error| Reply {
        problem: Some(format!("looking for sockets in every network namespace: {error}")),
        ..Reply::default()
    }))
}

/// Destroys the sockets that are there and connected.
fn destroy(request: &Request) -> Reply {
    let mut wanted: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for target in &request.sockets {
        wanted.entry(target.netns).or_default().insert(target.cookie);
    }
    let mut reply = Reply::default();
    let mut problem = None;
    match namespaces() {
        Ok(namespaces) => {
            for path in namespaces {
                if wanted.is_empty() {
                    break;
                }
                // A namespace whose process has gone meanwhile has no sockets either.
                let Ok(file) = File::open(&path) else { continue };
                if let Err(error) = enter(&file, &mut wanted, &mut reply) {
                    problem.get_or_insert(format!("{}: {error}", path.display()));
                }
            }
        }
        Err(error) => problem = Some(format!("/proc: {error}")),
    }
    reply.is_complete = problem.is_none() && sees_all_processes();
    reply.problem = problem;
    reply
}

/// Whether this process is in the machine's first process namespace, whose members see all others.
fn sees_all_processes() -> bool {
    /// PROC_PID_INIT_INO of include/linux/proc_ns.h.
    const FIRST: u64 = 0xeffffffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == FIRST)
}

fn enter(namespace: &File, wanted: &mut BTreeMap<u64, BTreeSet<u64>>, reply: &mut Reply) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let here = netns_cookie()?;
    if let Some(cookies) = wanted.remove(&here) {
        reply.destroyed.extend(Diag::open()?.destroy(&cookies)?);
        reply.searched.push(here);
    }
    Ok(())
}

/// One path for each network namespace that has a process.
pub(crate) fn namespaces() -> io::Result<Vec<PathBuf>> {
    let (mut seen, mut paths) = (BTreeSet::new(), Vec::new());
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path().join("ns/net");
        // A process that has ended, or a kernel thread.
        let Ok(target) = fs::read_link(&path) else { continue };
        if seen.insert(target) {
            paths.push(path);
        }
    }
    Ok(paths)
}
