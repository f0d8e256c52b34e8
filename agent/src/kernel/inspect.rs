//! The hooks as the kernel has them: whether our programs are attached, and whose else are beside them.

use super::attached::{self, Attached, has_tcx};
use super::edges::Hook;
use super::programs::SOCKET;
use super::state::StateDir;
use super::sys::{self, LinkTarget};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

/// One of our programs where it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookReport {
    /// Name of our program.
    pub program: String,
    /// `tcx ingress`, `tcx egress` (`clsact` on kernels without tcx), `XDP`, or `cgroup connect4` and the like.
    pub hook: String,
    /// The interface; 0 at the socket edge.
    pub ifindex: u32,
    /// Why ours is not attached; `None`: it is.
    pub missing: Option<String>,
    /// The id of ours, where it is XDP.
    pub xdp: Option<u32>,
    /// Other programs there that run before ours, and behind it.
    pub before: Vec<String>,
    pub after: Vec<String>,
}

/// A program on an interface.
///
/// An XDP hook has one program only; whose else it is, rtnetlink tells.
pub fn inspect(state: &StateDir, ifindex: u32, program: &str) -> HookReport {
    let (name, hook) = match program {
        _ if program.contains("xdp") => {
            let pinned = |native| {
                let pin = Hook::Xdp { native }.pin(program, ifindex);
                state.links().join(pin).exists()
            };
            let native = pinned(true) || !pinned(false);
            ("XDP", Hook::Xdp { native })
        }
        _ if program.contains("egress") && has_tcx() => ("tcx egress", Hook::Egress),
        _ if program.contains("egress") => ("clsact egress", Hook::Egress),
        _ if has_tcx() => ("tcx ingress", Hook::Ingress),
        _ => ("clsact ingress", Hook::Ingress),
    };
    let pin = state.links().join(hook.pin(program, ifindex));
    let ours = own_program(&pin, hook.target(ifindex), 0);
    let all = attached::programs(hook.target(ifindex));
    report((program, name, ifindex), ours, all)
}

/// The socket edge's programs on a cgroup.
///
/// # Errors
/// When the directory cannot be opened.
pub fn inspect_sockets(state: &StateDir, cgroup: &Path) -> io::Result<Vec<HookReport>> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = File::open(cgroup)?;
    let id = directory.metadata()?.ino();
    let descriptor = directory.as_raw_fd().cast_unsigned();
    let reports = SOCKET.iter().map(|(program, attach_type)| {
        let target = LinkTarget::Cgroup {
            directory: directory.as_fd(),
            attach_type: *attach_type,
        };
        let ours = own_program(&state.links().join(program), target, id);
        let hook = format!("cgroup {program}");
        report((program, &hook, 0), ours, sys::attached(descriptor, *attach_type))
    });
    Ok(reports.collect())
}

/// The id of the program behind a pin, if the link is attached to where it should be.
fn own_program(pin: &Path, target: LinkTarget<'_>, cgroup_id: u64) -> io::Result<Option<u32>> {
    Attached::open(pin)?.program(target, cgroup_id)
}

fn report(
    (program, hook, ifindex): (&str, &str, u32),
    ours: io::Result<Option<u32>>,
    attached: io::Result<Vec<u32>>,
) -> HookReport {
    let (ours, missing) = match ours {
        Ok(Some(id)) => (Some(id), None),
        Ok(None) => (None, Some("its link is detached".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Some("its link is gone".to_owned())),
        Err(error) => (None, Some(format!("its link cannot be looked at: {error}"))),
    };
    let attached = attached.unwrap_or_default();
    let place = attached.iter().position(|id| Some(*id) == ours);
    let names = |ids: &[u32]| ids.iter().map(|id| name(*id)).collect();
    let (before, after) = match place {
        Some(place) => (names(&attached[..place]), names(&attached[place + 1..])),
        None => (vec![], names(&attached)),
    };
    HookReport {
        program: program.to_owned(),
        hook: hook.to_owned(),
        ifindex,
        missing,
        xdp: ours.filter(|_| hook == "XDP"),
        before,
        after,
    }
}

/// How programs of others are called where the caller may not know their names.
const NAMELESS: &str = "a program with id ";

fn name(id: u32) -> String {
    match sys::program_name(id) {
        Ok(name) if !name.is_empty() => format!("{name} (id {id})"),
        _ => format!("{NAMELESS}{id}"),
    }
}

/// A report with the programs' names, as far as the kernel tells: only with CAP_SYS_ADMIN, which the agent has dropped.
pub fn with_program_names(report: &str) -> String {
    let mut parts = report.split(NAMELESS);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(part.len());
        let (digits, rest) = part.split_at(end);
        let named = digits
            .parse()
            .map(name)
            .unwrap_or_else(|_| format!("{NAMELESS}{digits}"));
        text.push_str(&named);
        text.push_str(rest);
    }
    text
}
