//! A program that is attached, and the pin that says so.
//!
//! Mostly the pin is that of a link. On a kernel without tcx, a program on an interface is a filter, which has no pin of its own:
//! the program is pinned, and the pin's name tells the interface and the direction.

use super::clsact::Clsact;
use super::sys::{self, Link, LinkTarget, TCX_EGRESS};
use ferrogate_common::LOOPBACK;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

/// What a pin of the links' directory stands for.
#[derive(Debug)]
pub(super) enum Attached {
    Link(Link),
    Filter(Clsact),
}

/// Whether this kernel has tcx links.
pub(super) fn has_tcx() -> bool {
    static HAS_TCX: OnceLock<bool> = OnceLock::new();
    // Whatever is on the loopback device: a kernel without tcx does not know what is asked for.
    let unknown = |error: io::Error| error.raw_os_error() == Some(libc::EINVAL);
    *HAS_TCX.get_or_init(|| !sys::attached(LOOPBACK, TCX_EGRESS).is_err_and(unknown))
}

/// Attaches a program and pins that at `path`.
pub(super) fn attach(program: BorrowedFd<'_>, target: LinkTarget<'_>, path: &Path) -> io::Result<()> {
    match filter(target) {
        Some(filter) if !has_tcx() => {
            filter.put(program, name(path))?;
            sys::object_pin(program, path)
        }
        _ => sys::attach(program, target)?.pin(path),
    }
}

impl Attached {
    /// What is pinned at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let object = sys::object_get(path)?;
        if !sys::is_program(object.as_fd())? {
            return Ok(Self::Link(Link::from(object)));
        }
        let (program, ifindex) = name(path).rsplit_once('-').unwrap_or_default();
        let ifindex = ifindex
            .parse()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let egress = program.contains("egress");
        Ok(Self::Filter(Clsact { ifindex, egress }))
    }

    /// Replaces the program by another one, with no moment between the two.
    pub(super) fn update(&self, program: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        match self {
            Self::Link(link) => link.update(program),
            Self::Filter(filter) => {
                filter.put(program, name(path))?;
                fs::remove_file(path)?;
                sys::object_pin(program, path)
            }
        }
    }

    /// Detaches the program now.
    pub(super) fn detach(&self) -> io::Result<()> {
        match self {
            Self::Link(link) => link.detach(),
            Self::Filter(filter) => filter.remove(),
        }
    }

    /// The id of the program, if it is attached to `target` still; see [`Link::is_attached_to`].
    pub(super) fn program(&self, target: LinkTarget<'_>, cgroup_id: u64) -> io::Result<Option<u32>> {
        match self {
            Self::Link(link) if link.is_attached_to(target, cgroup_id)? => link.program().map(Some),
            Self::Filter(clsact) if filter(target) == Some(*clsact) => clsact.ours(),
            _ => Ok(None),
        }
    }
}

/// The id of the program that what is pinned at `path` stands for.
pub(super) fn pinned_program(path: &Path) -> io::Result<u32> {
    let object = sys::object_get(path)?;
    if sys::is_program(object.as_fd())? {
        sys::program_id(object.as_fd())
    } else {
        Link::from(object).program()
    }
}

/// The ids of all programs at a hook of an interface, in the order in which they run.
pub(super) fn programs(target: LinkTarget<'_>) -> io::Result<Vec<u32>> {
    match (filter(target), target) {
        (Some(filter), _) if !has_tcx() => filter.programs(),
        (_, LinkTarget::TcxIngress { ifindex }) => sys::attached(ifindex, sys::TCX_INGRESS),
        (_, LinkTarget::TcxEgress { ifindex }) => sys::attached(ifindex, TCX_EGRESS),
        _ => Ok(vec![]),
    }
}

fn filter(target: LinkTarget<'_>) -> Option<Clsact> {
    match target {
        LinkTarget::TcxIngress { ifindex } => Some(Clsact { ifindex, egress: false }),
        LinkTarget::TcxEgress { ifindex } => Some(Clsact { ifindex, egress: true }),
        _ => None,
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
