//! Links: a program attached to something, alive while its descriptor or pin is.

use super::{Command, bpf, object_info, object_pin, owned, raw};
use bytemuck::{Pod, Zeroable};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// BPF_F_BEFORE (include/uapi/linux/bpf.h): with no other program named, before all that are there.
const BEFORE: u32 = 1 << 3;
/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE (include/uapi/linux/if_link.h).
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;
/// `enum bpf_attach_type`.
pub(crate) const TCX_INGRESS: u32 = 46;
pub(crate) const TCX_EGRESS: u32 = 47;
const XDP: u32 = 37;
/// `enum bpf_link_type`.
const LINK_CGROUP: u32 = 3;
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkTarget<'a> {
    /// Before all other programs at the device's ingress: what they see is translated.
    TcxIngress { ifindex: u32 },
    /// Behind all other programs at the device's egress: what they saw is not translated back yet.
    TcxEgress { ifindex: u32 },
    /// The driver (native) or the stack (generic).
    Xdp { ifindex: u32, native: bool },
    /// A cgroup2 directory; the type is an `enum bpf_attach_type`.
    Cgroup {
        directory: BorrowedFd<'a>,
        attach_type: u32,
    },
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// For tcx: the program or link to be placed beside; 0 for none. Must be 0 for the others.
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

/// Attaches a program. The result holds it there until it is dropped, unless it is pinned.
///
/// # Errors
/// Among others ENODEV and EINVAL for a device that is gone, EBUSY for one that has an XDP program, EOPNOTSUPP for a
/// driver without XDP.
pub(crate) fn attach(program: BorrowedFd<'_>, target: LinkTarget<'_>) -> io::Result<Link> {
    let (target, attach_type, flags) = match target {
        LinkTarget::TcxIngress { ifindex } => (ifindex, TCX_INGRESS, BEFORE),
        LinkTarget::TcxEgress { ifindex } => (ifindex, TCX_EGRESS, 0),
        LinkTarget::Xdp { ifindex, native } => (ifindex, XDP, if native { XDP_NATIVE } else { XDP_GENERIC }),
        // A link in a cgroup always allows other programs beside it; kernels before 6.16 refuse to be told so.
        LinkTarget::Cgroup { directory, attach_type } => (raw(directory), attach_type, 0),
    };
    let mut attr = CreateAttr {
        prog_fd: raw(program),
        target,
        attach_type,
        flags,
        ..CreateAttr::zeroed()
    };
    // SAFETY: the attributes hold no addresses.
    unsafe { bpf(Command::LinkCreate, &mut attr) }.map(|fd| Link { fd: owned(fd) })
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DetachAttr {
    link_fd: u32,
}

/// The beginning of `struct bpf_link_info`, with what cgroup, tcx and XDP links have in its union.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    /// The union is aligned to 8 bytes.
    padding: u32,
    /// tcx and XDP: the ifindex, 0 when the device is gone. Cgroup: low half of its id.
    first: u32,
    /// tcx: the attach type. Cgroup: high half of its id.
    second: u32,
    /// Cgroup: the attach type.
    third: u32,
    fourth: u32,
}

/// A descriptor of a link.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
}

/// The link of a descriptor.
impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl Link {
    /// Pins it, so that it outlives this process.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        object_pin(self.fd.as_fd(), path)
    }

    /// Replaces its program by another one, with no moment between the two.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = UpdateAttr {
            link_fd: raw(self.fd.as_fd()),
            new_prog_fd: raw(program),
            flags: 0,
            old_prog_fd: 0,
        };
        // SAFETY: the attributes hold no addresses.
        unsafe { bpf(Command::LinkUpdate, &mut attr) }.map(drop)
    }

    /// Detaches its program now. To drop or unpin a link does so too, but only some time after the call.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut attr = DetachAttr {
            link_fd: raw(self.fd.as_fd()),
        };
        // SAFETY: the attributes hold no addresses.
        unsafe { bpf(Command::LinkDetach, &mut attr) }.map(drop)
    }

    /// The id of its program.
    pub(crate) fn program(&self) -> io::Result<u32> {
        object_info::<LinkInfo>(self.fd.as_fd()).map(|info| info.prog_id)
    }

    /// Whether the link is attached to `target` still. The mode of an XDP link cannot be asked for.
    ///
    /// `cgroup_id` is the inode number of the target's directory, for cgroup links.
    pub(crate) fn is_attached_to(&self, target: LinkTarget<'_>, cgroup_id: u64) -> io::Result<bool> {
        let info: LinkInfo = object_info(self.fd.as_fd())?;
        Ok(match target {
            LinkTarget::TcxIngress { ifindex } => {
                (info.kind, info.first, info.second) == (LINK_TCX, ifindex, TCX_INGRESS)
            }
            LinkTarget::TcxEgress { ifindex } => {
                (info.kind, info.first, info.second) == (LINK_TCX, ifindex, TCX_EGRESS)
            }
            LinkTarget::Xdp { ifindex, .. } => (info.kind, info.first) == (LINK_XDP, ifindex),
            LinkTarget::Cgroup { attach_type, .. } => {
                let words: [u32; 2] = [info.first, info.second];
                let id: u64 = bytemuck::cast(words);
                (info.kind, id, info.third) == (LINK_CGROUP, cgroup_id, attach_type)
            }
        })
    }
}
