//! The host: kernel, settings, firewall, other proxies, ports, packet sizes.

use super::Doctor;
use super::listen::listeners;
use crate::admin::Severity;
use crate::kube_proxy::{self, Rules};
use crate::net::Device;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// What is known of the node's Services and interfaces; without an agent little.
#[derive(Default, Debug)]
pub(crate) struct Host {
    /// Names of uplinks, and of interfaces that lead to pods.
    pub(crate) uplinks: Vec<String>,
    pub(crate) pods: Vec<String>,
    /// The loopback device has our program: this node's processes reach its own NodePorts by it.
    pub(crate) loopback: bool,
    /// Pods hang on a bridge.
    pub(crate) bridge: bool,
    /// Packets between clients and pods of this node go past the stack.
    pub(crate) redirect: bool,
    /// With `--dsr on`: addresses that this node sends from, and that its Node object does not have.
    pub(crate) unknown_sources: Vec<IpAddr>,
    /// There are IPv6 Services.
    pub(crate) v6: bool,
    /// Protocol, number, and the Service port whose NodePort it is.
    pub(crate) node_ports: Vec<(&'static str, u16, String)>,
    /// First port of the SNAT range, and how many.
    pub(crate) snat: Option<(u16, u16)>,
    /// All interfaces, where they can be listed.
    pub(crate) devices: Vec<Device>,
    /// Ids of our XDP programs.
    pub(crate) own_xdp: Vec<u32>,
}

impl Host {
    pub(crate) fn examine(&self, doctor: &mut Doctor) {
        kernel(doctor);
        self.sysctls(doctor);
        firewall(doctor);
        self.shortcut(doctor);
        self.direct(doctor);
        self.ports(doctor);
        self.devices(doctor);
    }

    fn sysctls(&self, doctor: &mut Doctor) {
        doctor.looked_at("sysctls: forwarding, rp_filter, accept_local, bridge-nf-call, reserved ports");
        if sysctl("net/ipv4/ip_forward").as_deref() == Some("0") {
            doctor.found(
                Severity::Error,
                "sysctl",
                "net.ipv4.ip_forward is 0: the node forwards nothing between its pods and other nodes",
                "sysctl -w net.ipv4.ip_forward=1, and set it in /etc/sysctl.d",
            );
        }
        if self.v6 && sysctl("net/ipv6/conf/all/forwarding").as_deref() == Some("0") {
            doctor.found(
                Severity::Error,
                "sysctl",
                "net.ipv6.conf.all.forwarding is 0, and there are IPv6 Services",
                "sysctl -w net.ipv6.conf.all.forwarding=1, and set it in /etc/sysctl.d",
            );
        }
        let strict = |name: &str| sysctl(&format!("net/ipv4/conf/{name}/rp_filter")).as_deref() == Some("1");
        let all = strict("all");
        let uplinks: Vec<&str> = self
            .uplinks
            .iter()
            .map(String::as_str)
            .filter(|name| all || strict(name))
            .collect();
        // The stricter of the two counts, and 2 (loose) is the higher number.
        let loose = |name: &&str| sysctl(&format!("net/ipv4/conf/{name}/rp_filter")).as_deref() != Some("2");
        let uplinks: Vec<&str> = uplinks.into_iter().filter(loose).collect();
        if !uplinks.is_empty() {
            doctor.found(
                Severity::Warning,
                "sysctl",
                format!(
                    "rp_filter is 1 (strict) on {}: what comes by another interface than its answer would take is dropped",
                    uplinks.join(", ")
                ),
                "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose), or 0 where the uplinks are trusted",
            );
        }
        // Either of the two is enough.
        let accepts = |name: &str| sysctl(&format!("net/ipv4/conf/{name}/accept_local")).as_deref() == Some("1");
        if self.loopback && !accepts("all") && !accepts("lo") {
            doctor.found(
                Severity::Error,
                "sysctl",
                "net.ipv4.conf.lo.accept_local is 0: answers from backends elsewhere to this node's own use of its NodePorts are dropped",
                "sysctl -w net.ipv4.conf.lo.accept_local=1, which the agent had set, and see what took it back (/etc/sysctl.d)",
            );
        }
        if self.bridge && sysctl("net/bridge/bridge-nf-call-iptables").as_deref() == Some("1") {
            doctor.found(
                Severity::Note,
                "sysctl",
                "bridge-nf-call-iptables is 1: packets between pods of one bridge pass iptables' rules for forwarding",
                "network plugins ask for it; rules that drop there drop them too",
            );
        }
        self.reserved_ports(doctor);
    }

    fn reserved_ports(&self, doctor: &mut Doctor) {
        let (Some((base, count)), Some(reserved)) = (self.snat, sysctl("net/ipv4/ip_local_reserved_ports")) else {
            return;
        };
        let end = base.saturating_add(count.saturating_sub(1));
        let covers = |range: &str| {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
            Some(low <= base && end <= high)
        };
        if !reserved.split(',').any(|range| covers(range) == Some(true)) {
            doctor.found(
                Severity::Warning,
                "sysctl",
                format!("net.ipv4.ip_local_reserved_ports does not hold the SNAT ports {base}-{end}: a socket may get one of them"),
                "restart the agent, which reserves them; its log says why it could not",
            );
        }
    }

    fn shortcut(&self, doctor: &mut Doctor) {
        if self.redirect {
            doctor.found(
                Severity::Note,
                "firewall",
                "packets between the clients of Services and pods of this node go past the host's netfilter (--forwarding redirect)",
                "if NetworkPolicies or other rules are enforced there, they do not hold for these: --forwarding stack",
            );
        }
    }

    fn direct(&self, doctor: &mut Doctor) {
        for address in &self.unknown_sources {
            doctor.found(
                Severity::Warning,
                "node",
                format!(
                    "--dsr is on, and {address}, which this node sends from, is no address of its Node object: other nodes take nothing \
                     from it, so connections of that family are masqueraded"
                ),
                "let the Node have it as its InternalIP (the kubelet's --node-ip, with an address of each family)",
            );
        }
    }

    fn ports(&self, doctor: &mut Doctor) {
        doctor.looked_at(format!(
            "ports: NodePorts beside listening sockets and ephemeral ports ({})",
            self.node_ports.len()
        ));
        let listeners = listeners();
        let ephemeral = sysctl("net/ipv4/ip_local_port_range").and_then(|text| {
            let (low, high) = text.split_once(char::is_whitespace)?;
            Some((low.trim().parse::<u16>().ok()?, high.trim().parse::<u16>().ok()?))
        });
        for (protocol, port, service) in &self.node_ports {
            if listeners.contains(&(*protocol, *port)) {
                doctor.found(
                    Severity::Warning,
                    "ports",
                    format!("a process of this node listens on {protocol} port {port}, the NodePort of {service}"),
                    "clients of the node's address reach the Service and not the process: give one of them another port \
                     (ss -lnp says whose it is; a pod's hostPort is one too)",
                );
            }
            if ephemeral.is_some_and(|(low, high)| (low..=high).contains(port)) {
                doctor.found(
                    Severity::Warning,
                    "ports",
                    format!("NodePort {port} of {service} is among the ephemeral ports (net.ipv4.ip_local_port_range)"),
                    "replies to a connection of this node from that port would go to the Service: keep NodePorts and ephemeral \
                     ports apart",
                );
            }
        }
    }

    fn devices(&self, doctor: &mut Doctor) {
        doctor.looked_at("interfaces: packet sizes, XDP programs of others");
        let of = |names: &[String]| -> Vec<&Device> {
            self.devices
                .iter()
                .filter(|device| names.contains(&device.name))
                .collect()
        };
        let (uplinks, pods) = (of(&self.uplinks), of(&self.pods));
        let narrowest = uplinks.iter().min_by_key(|device| device.mtu);
        let wide = narrowest.map(|uplink| (uplink, pods.iter().filter(|pod| pod.mtu > uplink.mtu).count()));
        if let Some((uplink, count)) = wide.filter(|(_, count)| *count > 0) {
            doctor.found(
                Severity::Warning,
                "mtu",
                format!(
                    "{count} of {} pod interfaces have a larger MTU than {} ({}): their packets to other nodes are cut up, or refused",
                    pods.len(),
                    uplink.name,
                    uplink.mtu
                ),
                "set the network plugin's MTU to what its tunnel or uplink can carry",
            );
        }
        for device in &uplinks {
            if let Some(id) = device.xdp.filter(|id| !self.own_xdp.contains(id)) {
                doctor.found(
                    Severity::Warning,
                    "hooks",
                    format!("an XDP program of others (id {id}) is on {}", device.name),
                    "what it drops, redirects or rewrites never reaches Ferrogate: see whose it is (bpftool prog show id N)",
                );
            }
        }
    }
}

fn kernel(doctor: &mut Doctor) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    doctor.looked_at(format!("kernel {release}"));
    if version(&release).is_some_and(|version| version < (5, 18)) {
        doctor.found(
            Severity::Error,
            "kernel",
            format!("Linux {release} has no bpf_set_retval: the agent cannot load its programs"),
            "run Linux 6.1 or later",
        );
    }
    if sysctl("net/core/bpf_jit_enable").as_deref() == Some("0") {
        doctor.found(
            Severity::Warning,
            "kernel",
            "net.core.bpf_jit_enable is 0: every packet is interpreted, some ten times slower",
            "sysctl -w net.core.bpf_jit_enable=1, then restart the agent",
        );
    }
}

fn firewall(doctor: &mut Doctor) {
    doctor.looked_at("firewall: base chains for forwarding, rules of kube-proxy");
    match kube_proxy::forward_drops() {
        Ok(chains) => {
            for chain in chains {
                doctor.found(
                    Severity::Warning,
                    "firewall",
                    format!("{chain} drops what none of its rules accepts: connections to pods on this node pass it"),
                    "let its rules accept the pods' networks, or set its policy to accept (for iptables: iptables -P FORWARD \
                     ACCEPT)",
                );
            }
        }
        Err(error) => doctor.found(
            Severity::Note,
            "firewall",
            format!("nf_tables cannot be asked: {error}"),
            "run this as root, in the node's network namespace",
        ),
    }
    if let Ok(rules) = Rules::find(true)
        && rules.any()
    {
        doctor.found(
            Severity::Warning,
            "kube-proxy",
            format!("rules of kube-proxy are in place ({rules})"),
            "while kube-proxy runs beside the agent that is right; once it is stopped, `ferrogate cleanup --kube-proxy`",
        );
    }
}

/// A setting of this network namespace, where there is one of this name.
fn sysctl(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// `6.18.0-rc1` is (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_their_version() {
        assert_eq!(version("6.18.0-rc1"), Some((6, 18)));
        assert_eq!(version("5.15.0-105-generic"), Some((5, 15)));
        assert_eq!(version("6"), None);
        assert!(version("6.1.0-21-amd64") < Some((6, 6)));
    }

    #[test]
    fn what_an_option_leaves_out_is_told_only_where_it_is_on() {
        let told = |host: Host| {
            let mut doctor = Doctor::new("n1");
            host.shortcut(&mut doctor);
            host.direct(&mut doctor);
            let findings = doctor.done().findings.into_iter();
            findings.map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert_eq!(told(Host::default()), Vec::<String>::new());
        // The worse one first.
        let both = told(Host {
            redirect: true,
            unknown_sources: vec![IpAddr::from([192, 0, 2, 10])],
            ..Host::default()
        });
        assert!(both[0].contains("192.0.2.10, which this node sends from"), "{both:?}");
        assert!(both[1].contains("--forwarding redirect"), "{both:?}");
    }

    #[test]
    fn pods_that_send_more_than_an_uplink_carries_are_told() {
        let device = |name: &str, mtu| Device {
            ifindex: 1,
            name: name.to_owned(),
            mtu,
            xdp: None,
        };
        let host = |pod_mtu| Host {
            uplinks: vec!["eth0".to_owned(), "vxlan0".to_owned()],
            pods: vec!["veth1".to_owned()],
            devices: vec![device("eth0", 1500), device("vxlan0", 1450), device("veth1", pod_mtu)],
            ..Host::default()
        };
        let told = |pod_mtu| {
            let mut doctor = Doctor::new("n1");
            host(pod_mtu).devices(&mut doctor);
            doctor.done().findings
        };
        assert_eq!(told(1450), []);
        assert!(told(1500)[0].what.contains("vxlan0 (1450)"));
    }
}
