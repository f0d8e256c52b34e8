//! Attaching programs, and keeping their links pinned.

use super::attached::{Attached, attach};
use super::error::{During as _, Result};
use super::programs::{
    POD_EGRESS, POD_INGRESS, Programs, SOCKET, UPLINK_EGRESS, UPLINK_EGRESS_L3, UPLINK_INGRESS, UPLINK_INGRESS_L3,
    UPLINK_XDP,
};
use super::state::StateDir;
use super::sys::LinkTarget;
use crate::net::{Network, Role};
use ferrogate_common::LOOPBACK;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// `--xdp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    /// No XDP.
    Off,
    /// In the driver, on NICs (never on veths, whose packets may have half-computed checksums); where a driver cannot, the
    /// tcx program alone does the work.
    #[default]
    Auto,
    /// In the driver, on every uplink with Ethernet.
    Native,
    /// In the stack, on every uplink with Ethernet: slower than tcx, for tests.
    Generic,
}

/// Which edges are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EdgeOptions {
    /// `--pod-edge`.
    pub pod: bool,
    /// The uplink edge, and the node edge with it.
    pub uplink: bool,
    pub xdp: XdpMode,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            pod: true,
            uplink: true,
            xdp: XdpMode::default(),
        }
    }
}

/// Where on an interface a program goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    Ingress,
    Egress,
    Xdp { native: bool },
}

impl Hook {
    /// Name of a program's pin.
    pub(super) fn pin(self, program: &str, ifindex: u32) -> String {
        match self {
            Self::Ingress | Self::Egress => format!("{program}-{ifindex}"),
            Self::Xdp { native: true } => format!("{program}-native-{ifindex}"),
            Self::Xdp { native: false } => format!("{program}-generic-{ifindex}"),
        }
    }

    pub(super) fn target(self, ifindex: u32) -> LinkTarget<'static> {
        match self {
            Self::Ingress => LinkTarget::TcxIngress { ifindex },
            Self::Egress => LinkTarget::TcxEgress { ifindex },
            Self::Xdp { native } => LinkTarget::Xdp { ifindex, native },
        }
    }
}

/// One program on one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Edge {
    program: &'static str,
    ifindex: u32,
    interface: String,
    hook: Hook,
}

impl Edge {
    /// Name of its pin.
    fn pin(&self) -> String {
        self.hook.pin(self.program, self.ifindex)
    }

    fn target(&self) -> LinkTarget<'static> {
        self.hook.target(self.ifindex)
    }
}

/// All that is to be attached, by the name of its pin. What translates replies comes first for each interface, so that no
/// flow begins whose replies would pass untranslated.
fn wanted(network: &Network, options: EdgeOptions, loopback: bool) -> BTreeMap<String, Edge> {
    let mut edges = BTreeMap::new();
    let mut add = |program, link: &crate::net::Link, hook| {
        let edge = Edge {
            program,
            ifindex: link.ifindex,
            interface: link.name.clone(),
            hook,
        };
        edges.insert(edge.pin(), edge);
    };
    for link in &network.interfaces {
        match link.role {
            Role::Ignored if options.uplink && loopback && link.loopback => {
                add(UPLINK_EGRESS, link, Hook::Egress);
            }
            Role::Pod if options.pod && !link.layer3 => {
                add(POD_EGRESS, link, Hook::Egress);
                add(POD_INGRESS, link, Hook::Ingress);
            }
            Role::Uplink if options.uplink && link.layer3 => {
                add(UPLINK_EGRESS_L3, link, Hook::Egress);
                add(UPLINK_INGRESS_L3, link, Hook::Ingress);
            }
            Role::Uplink if options.uplink => {
                add(UPLINK_EGRESS, link, Hook::Egress);
                add(UPLINK_INGRESS, link, Hook::Ingress);
                let native = match options.xdp {
                    XdpMode::Off => continue,
                    XdpMode::Auto if link.kind.is_some() => continue,
                    XdpMode::Auto | XdpMode::Native => true,
                    XdpMode::Generic => false,
                };
                add(UPLINK_XDP, link, Hook::Xdp { native });
            }
            _ => {}
        }
    }
    edges
}

/// One attached program, for `ferrogate status`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Attachment {
    pub interface: String,
    pub ifindex: u32,
    pub program: &'static str,
}

/// The pinned links of this state directory.
#[derive(Debug)]
pub(super) struct Edges {
    options: EdgeOptions,
    /// The node edge has its part at the loopback device too, for frontends that are addresses of the node.
    loopback: bool,
    /// Attached to interfaces, by pin.
    attached: BTreeMap<String, Attachment>,
    /// What could not be attached; said once.
    refused: BTreeSet<String>,
}

impl Edges {
    /// Puts this object's programs in place of those of an earlier agent, link by link and without a gap. A pin whose link
    /// has lost its device, or is of a hook that this object does not have, is removed.
    ///
    /// # Errors
    /// A link whose program cannot be replaced. It keeps the one it has: a datapath of another version is better than none.
    pub(super) fn take_over(state: &StateDir, programs: &Programs, options: EdgeOptions) -> Result<Self> {
        for pin in pins(state)? {
            let path = state.links().join(&pin);
            let program = pin.split('-').next().unwrap_or_default();
            let attached =
                Attached::open(&path).during(|| format!("cannot open the pinned link {}", path.display()))?;
            let reason = match programs.fd(program) {
                Err(error) => error.to_string(),
                Ok(fd) => match attached.update(fd, &path) {
                    Ok(()) => continue,
                    Err(error) if is_gone(&error) => error.to_string(),
                    Err(error) => {
                        return Err(error)
                            .during(|| format!("cannot replace the program of the link {}", path.display()));
                    }
                },
            };
            tracing::info!(pin, reason, "removed a pinned link that cannot be used any more");
            remove(&path)?;
        }
        Ok(Self {
            options,
            // Where it once was, flows may have begun that need it, even if the socket edge serves all processes now.
            loopback: state
                .links()
                .join(Hook::Egress.pin(UPLINK_EGRESS, LOOPBACK))
                .try_exists()
                .unwrap_or_default(),
            attached: BTreeMap::new(),
            refused: BTreeSet::new(),
        })
    }

    /// Attaches what is missing on the network's interfaces and detaches what is not wanted. An interface that is gone
    /// meanwhile is passed over: the next network will tell. So is one without XDP, which the tcx programs serve as well.
    ///
    /// # Errors
    /// The first tcx program that could not be attached; all others are.
    pub(super) fn sync(&mut self, state: &StateDir, programs: &Programs, network: &Network) -> Result<()> {
        let wanted = wanted(network, self.options, self.loopback);
        // Egress programs first: see `wanted`.
        let (egress, other): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, edge)| edge.hook == Hook::Egress);
        let mut failed = Ok(());
        for (pin, edge) in egress.into_iter().chain(other) {
            let path = state.links().join(pin);
            match ensure(&path, programs.fd(edge.program)?, edge.target(), 0) {
                Ok(()) => {
                    let attachment = Attachment {
                        interface: edge.interface.clone(),
                        ifindex: edge.ifindex,
                        program: edge.program,
                    };
                    self.attached.insert(pin.clone(), attachment);
                    self.refused.remove(pin);
                }
                Err(error) => failed = failed.and(self.refuse(pin, edge, error)),
            }
        }
        // Last: where one device takes another's place (a bridge over the NIC), packets are always met by one of them.
        for pin in pins(state)? {
            let of_socket_edge = SOCKET.iter().any(|(program, _)| *program == pin);
            if !of_socket_edge && !wanted.contains_key(&pin) {
                tracing::debug!(pin, "detached");
                remove(&state.links().join(&pin))?;
            }
        }
        self.attached.retain(|pin, _| wanted.contains_key(pin));
        self.refused.retain(|pin| wanted.contains_key(pin));
        failed
    }

    /// Decides what a failure to attach means.
    fn refuse(&mut self, pin: &str, edge: &Edge, error: io::Error) -> Result<()> {
        self.attached.remove(pin);
        let first = self.refused.insert(pin.to_owned());
        let interface = &edge.interface;
        match edge.hook {
            _ if is_gone(&error) => tracing::debug!(interface, program = edge.program, "the interface is gone"),
            Hook::Xdp { .. } if !first => {}
            Hook::Xdp { .. } if self.options.xdp == XdpMode::Auto => {
                tracing::info!(interface, %error, "no native XDP here: the tcx program does the work");
            }
            Hook::Xdp { .. } => tracing::warn!(interface, %error, "XDP refused: the tcx program does the work"),
            _ => return Err(error).during(|| format!("cannot attach {} to {interface}", edge.program)),
        }
        Ok(())
    }

    /// Attaches a program to the loopback device, and keeps it there.
    pub(super) fn attend_loopback(&mut self, state: &StateDir, programs: &Programs) -> Result<()> {
        let hook = Hook::Egress;
        let pin = hook.pin(UPLINK_EGRESS, LOOPBACK);
        let path = state.links().join(&pin);
        ensure(&path, programs.fd(UPLINK_EGRESS)?, hook.target(LOOPBACK), 0)
            .during(|| format!("cannot attach {UPLINK_EGRESS} to the loopback device"))?;
        self.loopback = true;
        let attachment = Attachment {
            interface: "lo".to_owned(),
            ifindex: LOOPBACK,
            program: UPLINK_EGRESS,
        };
        self.attached.insert(pin, attachment);
        Ok(())
    }

    /// Attaches the socket edge to a cgroup2 directory.
    pub(super) fn attach_socket_edge(&self, state: &StateDir, programs: &Programs, cgroup: &Path) -> Result<()> {
        let directory = File::open(cgroup).during(|| format!("cannot open {}", cgroup.display()))?;
        let id = directory
            .metadata()
            .during(|| format!("cannot look at {}", cgroup.display()))?
            .ino();
        for (program, attach_type) in SOCKET {
            let target = LinkTarget::Cgroup {
                directory: directory.as_fd(),
                attach_type,
            };
            ensure(&state.links().join(program), programs.fd(program)?, target, id)
                .during(|| format!("cannot attach {program} to {}", cgroup.display()))?;
        }
        Ok(())
    }

    pub(super) fn attachments(&self) -> Vec<Attachment> {
        let mut all: Vec<_> = self.attached.values().cloned().collect();
        all.sort();
        all
    }

    /// Interfaces with XDP.
    pub(super) fn xdp_interfaces(&self) -> BTreeSet<u32> {
        let xdp = self
            .attached
            .values()
            .filter(|attachment| attachment.program == UPLINK_XDP);
        xdp.map(|attachment| attachment.ifindex).collect()
    }
}

/// Detaches the socket edge; whether it was attached. Sockets that are translated already keep their connections.
pub(super) fn detach_socket_edge(state: &StateDir) -> Result<bool> {
    let mut any = false;
    for (program, _) in SOCKET.iter().rev() {
        any |= remove(&state.links().join(program))?;
    }
    Ok(any)
}

/// Makes sure that a pinned link to `target` exists. The programs of links that exist were replaced by `take_over`.
fn ensure(path: &Path, program: std::os::fd::BorrowedFd<'_>, target: LinkTarget<'_>, cgroup_id: u64) -> io::Result<()> {
    match Attached::open(path) {
        Ok(attached) if attached.program(target, cgroup_id)?.is_some() => return Ok(()),
        // The pin is of a device or cgroup that had this number, or this path, before.
        Ok(attached) => {
            let _ = attached.detach();
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    attach(program, target, path)
}

/// Whether an error says that the device is not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::ENOLINK))
}

/// Names of all pinned links.
fn pins(state: &StateDir) -> Result<Vec<String>> {
    let directory = state.links();
    let entries = fs::read_dir(&directory).during(|| format!("cannot list {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.during(|| format!("cannot list {}", directory.display()))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Detaches a link and removes its pin; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool> {
    let removed = Attached::open(path).and_then(|attached| {
        // What has lost its device is detached already.
        let _ = attached.detach();
        fs::remove_file(path)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result
            .map(|()| true)
            .during(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Link;

    fn network() -> Network {
        let link = |ifindex, name: &str, kind: Option<&str>, role, layer3| Link {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            role,
            master: None,
            layer3,
            loopback: name == "lo",
            addresses: Vec::new(),
            mac: None,
            peer_netns: None,
            default_route: None,
        };
        Network {
            interfaces: vec![
                link(1, "lo", None, Role::Ignored, false),
                link(2, "eth0", None, Role::Uplink, false),
                link(3, "wg0", Some("wireguard"), Role::Uplink, true),
                link(4, "veth1", Some("veth"), Role::Pod, false),
                link(5, "cni0", Some("bridge"), Role::Ignored, false),
                link(6, "net1", Some("veth"), Role::Uplink, false),
            ],
            ..Network::default()
        }
    }

    fn pins(pod: bool, uplink: bool, xdp: XdpMode) -> Vec<String> {
        let options = EdgeOptions { pod, uplink, xdp };
        wanted(&network(), options, false).into_keys().collect()
    }

    #[test]
    fn each_interface_gets_the_programs_of_its_role() {
        let expected = [
            "pod_egress-4",
            "pod_ingress-4",
            "uplink_egress-2",
            "uplink_egress-6",
            "uplink_egress_l3-3",
            "uplink_ingress-2",
            "uplink_ingress-6",
            "uplink_ingress_l3-3",
            "uplink_xdp-native-2",
        ];
        assert_eq!(pins(true, true, XdpMode::Auto), expected);
    }

    #[test]
    fn the_loopback_device_is_attended_where_that_is_asked_for_and_replies_are_translated() {
        let at_loopback = |uplink| {
            let options = EdgeOptions {
                uplink,
                ..EdgeOptions::default()
            };
            wanted(&network(), options, true).contains_key("uplink_egress-1")
        };
        assert!(at_loopback(true));
        assert!(!at_loopback(false));
    }

    #[test]
    fn edges_that_are_off_are_not_attached() {
        assert_eq!(pins(true, false, XdpMode::Native), ["pod_egress-4", "pod_ingress-4"]);
        assert!(
            pins(false, true, XdpMode::Off)
                .iter()
                .all(|pin| !pin.contains("pod") && !pin.contains("xdp"))
        );
    }

    #[test]
    fn xdp_in_auto_mode_stays_off_virtual_devices_and_generic_mode_takes_them_all() {
        let xdp = |mode| {
            pins(false, true, mode)
                .into_iter()
                .filter(|pin| pin.contains("xdp"))
                .collect::<Vec<_>>()
        };
        assert_eq!(xdp(XdpMode::Auto), ["uplink_xdp-native-2"]);
        assert_eq!(xdp(XdpMode::Native), ["uplink_xdp-native-2", "uplink_xdp-native-6"]);
        assert_eq!(xdp(XdpMode::Generic), ["uplink_xdp-generic-2", "uplink_xdp-generic-6"]);
    }
}
