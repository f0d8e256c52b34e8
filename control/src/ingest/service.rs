//! Services.

use super::{HEADLESS, PROXY_NAME, Selection, address, port_number, protocol};
use crate::index::Options;
use crate::names::Family;
use crate::notice::NoticeKind;
use ferrogate_common::{Address, Algorithm, FrontendKind, Protocol, service_flags};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use std::net::IpAddr;

/// Why a Service has nothing to program; `Display` says what its clients use instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unprogrammed {
    #[error("it is of type ExternalName: DNS answers with the name {name:?}, and clients connect to that")]
    ExternalName { name: String },
    #[error("it is headless (clusterIP: None): DNS answers with the pods' own addresses, and clients connect to those")]
    Headless,
    #[error("it has the label service.kubernetes.io/headless, which takes it from service proxies")]
    LabelledHeadless,
    #[error("its label service.kubernetes.io/service-proxy-name gives it to the proxy {name:?}")]
    OtherProxy { name: String },
    #[error(
        "it lacks the label service.kubernetes.io/service-proxy-name: {ours}, and this agent takes only Services with it"
    )]
    NotOurProxy { ours: String },
    #[error("no ClusterIP is allotted to it (yet)")]
    NoClusterIp,
    #[error("none of its clusterIPs is an address that can be used")]
    NoUsableAddress,
    #[error("it has no spec")]
    NoSpec,
}

/// `spec.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// A Service that has something to program.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct ServiceModel {
    pub(crate) kind: ServiceKind,
    /// Seconds of the Unix epoch.
    pub(crate) created: Option<i64>,
    /// Bits of [`service_flags`].
    pub(crate) flags: u32,
    /// Every address but the node's, with its kind; ClusterIPs first.
    pub(crate) addresses: Vec<(Address, FrontendKind)>,
    pub(crate) ports: Vec<PortModel>,
    /// Where a load balancer asks whether this node has endpoints; only with externalTrafficPolicy Local.
    pub(crate) health_check_node_port: Option<u16>,
    pub(crate) source_ranges: SourceRanges,
    pub(crate) selection: Selection,
    /// Addresses of load balancers of `ipMode: Proxy`, to which the node's own clients must go out too.
    pub(crate) proxied: Vec<IpAddr>,
}

/// loadBalancerSourceRanges: those of a family restrict its addresses only.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct SourceRanges {
    networks: Vec<IpNet>,
    /// One of them says nothing that can be read: neither family is open to everybody.
    invalid: bool,
}

impl SourceRanges {
    /// Who may use the load balancer's addresses of a family; none: everybody.
    pub(crate) fn of(&self, family: Family) -> Option<impl Iterator<Item = IpNet>> {
        let own = self
            .networks
            .iter()
            .filter(move |net| Family::of(&net.addr().into()) == family);
        let restricted = self.invalid || own.clone().next().is_some();
        let open = own.clone().any(|net| net.prefix_len() == 0);
        (restricted && !open).then(|| own.copied())
    }
}

/// One entry of `spec.ports`.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct PortModel {
    /// Empty for the only port of a Service.
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

impl ServiceModel {
    /// Whether the service exists in this family: it has a ClusterIP of it.
    pub(crate) fn has(&self, family: Family) -> bool {
        let is_cluster_ip = |(address, kind): &(Address, FrontendKind)| {
            *kind == FrontendKind::ClusterIp && Family::of(address) == family
        };
        self.addresses.iter().any(is_cluster_ip)
    }
}

/// The model of a Service, or why there is nothing to program, and what its operator must know.
pub(crate) fn service(object: &Service, options: &Options) -> (Result<ServiceModel, Unprogrammed>, Vec<NoticeKind>) {
    let mut reader = Reader {
        options,
        notices: Vec::new(),
    };
    let model = reader.service(object);
    (model, reader.notices)
}

/// sessionAffinityConfig.clientIP.timeoutSeconds where the object leaves it out: the API's default.
const AFFINITY_SECONDS: i32 = 10_800;

struct Reader<'a> {
    options: &'a Options,
    notices: Vec<NoticeKind>,
}

impl Reader<'_> {
    fn service(&mut self, object: &Service) -> Result<ServiceModel, Unprogrammed> {
        let spec = object.spec.as_ref().ok_or(Unprogrammed::NoSpec)?;
        self.is_ours(object)?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.clone().unwrap_or_default();
            return Err(Unprogrammed::ExternalName { name });
        }
        let cluster_ips = self.cluster_ips(spec)?;
        let mut model = ServiceModel {
            kind: match spec.type_.as_deref() {
                Some("NodePort") => ServiceKind::NodePort,
                Some("LoadBalancer") => ServiceKind::LoadBalancer,
                _ => ServiceKind::ClusterIp,
            },
            created: object
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.as_second()),
            flags: 0,
            addresses: cluster_ips,
            ports: Vec::new(),
            health_check_node_port: None,
            source_ranges: SourceRanges::default(),
            selection: Selection::read(object, &mut self.notices),
            proxied: Vec::new(),
        };
        self.load_balancer_addresses(object, spec, &mut model);
        self.external_ips(spec, &mut model);
        self.ports(spec, &mut model);
        self.policies(spec, &mut model);
        self.session_affinity(spec, &mut model);
        model.health_check_node_port = self.health_check_node_port(spec);
        model.flags |= model.selection.algorithm.bits();
        let by_client = matches!(
            model.selection.algorithm,
            Algorithm::SourceHash | Algorithm::LeastConnections
        );
        if by_client || model.flags >> service_flags::AFFINITY_SHIFT != 0 {
            model.flags |= service_flags::NEEDS_CLIENT;
        }
        Ok(model)
    }

    /// As `k8s.io/kubernetes/pkg/api/v1/service.NeedsHealthCheck` has it.
    fn health_check_node_port(&mut self, spec: &ServiceSpec) -> Option<u16> {
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        if spec.type_.as_deref() != Some("LoadBalancer") || !local {
            return None;
        }
        let number = spec.health_check_node_port.unwrap_or_default();
        let port = port_number(number);
        if port.is_none() && number != 0 {
            self.notices.push(NoticeKind::InvalidHealthCheckPort { port: number });
        }
        port
    }

    fn session_affinity(&mut self, spec: &ServiceSpec, model: &mut ServiceModel) {
        match spec.session_affinity.as_deref() {
            None | Some("None" | "") => {}
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref();
                let timeout = config
                    .and_then(|config| config.client_ip.as_ref())
                    .and_then(|client| client.timeout_seconds)
                    .unwrap_or(AFFINITY_SECONDS);
                let seconds = timeout.clamp(1, service_flags::AFFINITY_MAX as i32) as u32;
                model.flags |= seconds << service_flags::AFFINITY_SHIFT;
            }
            Some(value) => self.notices.push(NoticeKind::SessionAffinity {
                value: value.to_owned(),
            }),
        }
    }

    /// Fails for one that is labelled as headless, or as another proxy's.
    fn is_ours(&self, object: &Service) -> Result<(), Unprogrammed> {
        let label = |key| object.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if label(HEADLESS).is_some() {
            return Err(Unprogrammed::LabelledHeadless);
        }
        match (label(PROXY_NAME), &self.options.proxy_name) {
            (theirs, ours) if theirs == ours.as_ref() => Ok(()),
            (Some(name), _) => Err(Unprogrammed::OtherProxy { name: name.clone() }),
            (None, ours) => Err(Unprogrammed::NotOurProxy {
                ours: ours.clone().unwrap_or_default(),
            }),
        }
    }

    /// Fails when there is nothing to program: headless, or not one usable address.
    fn cluster_ips(&mut self, spec: &ServiceSpec) -> Result<Vec<(Address, FrontendKind)>, Unprogrammed> {
        let listed = spec.cluster_ips.as_deref().unwrap_or_default();
        let texts = if listed.is_empty() {
            spec.cluster_ip.as_slice()
        } else {
            listed
        };
        if texts.iter().any(|text| text == "None") {
            return Err(Unprogrammed::Headless);
        }
        if texts.iter().all(String::is_empty) {
            self.notices.push(NoticeKind::NoClusterIp);
            return Err(Unprogrammed::NoClusterIp);
        }
        let mut addresses = Vec::with_capacity(texts.len());
        for text in texts {
            match self.usable("clusterIP", text) {
                Some(ip) => addresses.push((ip.into(), FrontendKind::ClusterIp)),
                None => continue,
            }
        }
        if addresses.is_empty() {
            return Err(Unprogrammed::NoUsableAddress);
        }
        Ok(addresses)
    }

    fn usable(&mut self, field: &'static str, text: &str) -> Option<IpAddr> {
        let ip = address::parse(text).filter(|ip| address::unusable(ip).is_none());
        if ip.is_none() {
            let value = text.to_owned();
            self.notices.push(NoticeKind::InvalidAddress { field, value });
        }
        ip
    }

    fn load_balancer_addresses(&mut self, object: &Service, spec: &ServiceSpec, model: &mut ServiceModel) {
        if spec.type_.as_deref() != Some("LoadBalancer") {
            return;
        }
        self.source_ranges(spec, model);
        let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for entry in status.and_then(|status| status.ingress.as_deref()).unwrap_or_default() {
            // The provider wants traffic to pass through its own proxy (KEP-1860).
            if entry.ip_mode.as_deref() == Some("Proxy") {
                model.proxied.extend(entry.ip.as_deref().and_then(address::parse));
                continue;
            }
            if let Some(ip) = self.load_balancer_address(entry, model) {
                model.addresses.push((ip.into(), FrontendKind::LoadBalancer));
            }
        }
    }

    fn load_balancer_address(&mut self, entry: &LoadBalancerIngress, model: &ServiceModel) -> Option<IpAddr> {
        let Some(text) = entry.ip.as_ref().filter(|text| !text.is_empty()) else {
            if let Some(hostname) = entry.hostname.clone() {
                self.notices.push(NoticeKind::HostnameOnly { hostname });
            }
            return None;
        };
        let ip = self.usable("load balancer address", text)?;
        self.of_own_family("load balancer address", ip, model)
    }

    fn source_ranges(&mut self, spec: &ServiceSpec, model: &mut ServiceModel) {
        for text in spec.load_balancer_source_ranges.as_deref().unwrap_or_default() {
            match address::parse_network(text.trim()) {
                Some(net) => model.source_ranges.networks.push(net),
                None => {
                    model.source_ranges.invalid = true;
                    let value = text.clone();
                    self.notices.push(NoticeKind::InvalidSourceRange { value });
                }
            }
        }
    }

    fn external_ips(&mut self, spec: &ServiceSpec, model: &mut ServiceModel) {
        for text in spec.external_ips.as_deref().unwrap_or_default() {
            let ip = address::parse(text).filter(|ip| address::special(ip).is_none());
            let Some(ip) = ip else {
                let (field, value) = ("externalIPs", text.clone());
                self.notices.push(NoticeKind::InvalidAddress { field, value });
                continue;
            };
            if !self.options.external_ips.iter().any(|net| net.contains(&ip)) {
                self.notices.push(NoticeKind::ExternalIpRefused { address: ip });
            } else if let Some(ip) = self.of_own_family("externalIPs", ip, model) {
                model.addresses.push((ip.into(), FrontendKind::ExternalIp));
            }
        }
    }

    fn of_own_family(&mut self, field: &'static str, ip: IpAddr, model: &ServiceModel) -> Option<IpAddr> {
        if model.has(Family::of(&ip.into())) {
            return Some(ip);
        }
        self.notices.push(NoticeKind::ForeignFamily { field, address: ip });
        None
    }

    fn ports(&mut self, spec: &ServiceSpec, model: &mut ServiceModel) {
        for entry in spec.ports.as_deref().unwrap_or_default() {
            let Some(port) = self.port(entry, spec.type_.as_deref()) else {
                continue;
            };
            let same = |other: &PortModel| (other.port, other.protocol) == (port.port, port.protocol);
            if model.ports.iter().any(same) {
                let (port, protocol) = (port.port, port.protocol.name());
                self.notices.push(NoticeKind::DuplicatePort { port, protocol });
            } else {
                model.ports.push(port);
            }
        }
    }

    fn port(&mut self, entry: &ServicePort, service_type: Option<&str>) -> Option<PortModel> {
        let Some(port) = port_number(entry.port) else {
            self.notices.push(NoticeKind::InvalidPort { port: entry.port });
            return None;
        };
        let Some(protocol) = protocol(entry.protocol.as_deref()) else {
            let protocol = entry.protocol.clone().unwrap_or_default();
            let port = entry.port;
            self.notices.push(NoticeKind::UnknownProtocol { protocol, port });
            return None;
        };
        let node_port = match (service_type, entry.node_port.unwrap_or_default()) {
            (Some("NodePort"), 0) => {
                self.notices.push(NoticeKind::NoNodePort { port });
                None
            }
            (Some("LoadBalancer"), 0) => None,
            (Some("NodePort" | "LoadBalancer"), number) => {
                let node_port = port_number(number);
                if node_port.is_none() {
                    self.notices.push(NoticeKind::InvalidNodePort { port: number });
                }
                node_port
            }
            _ => None,
        };
        Some(PortModel {
            name: entry.name.as_deref().unwrap_or_default().into(),
            protocol,
            port,
            node_port,
        })
    }

    fn policies(&mut self, spec: &ServiceSpec, model: &mut ServiceModel) {
        if self.is_local("internalTrafficPolicy", spec.internal_traffic_policy.as_deref()) {
            model.flags |= service_flags::INTERNAL_LOCAL;
        }
        let is_external = |(_, kind): &(Address, FrontendKind)| *kind != FrontendKind::ClusterIp;
        let external =
            model.addresses.iter().any(is_external) || model.ports.iter().any(|port| port.node_port.is_some());
        // The policy says nothing where there is no address that it governs.
        if external && self.is_local("externalTrafficPolicy", spec.external_traffic_policy.as_deref()) {
            model.flags |= service_flags::EXTERNAL_LOCAL;
        }
    }

    fn is_local(&mut self, field: &'static str, policy: Option<&str>) -> bool {
        match policy {
            Some("Local") => true,
            None | Some("" | "Cluster") => false,
            Some(other) => {
                let value = other.to_owned();
                self.notices.push(NoticeKind::UnknownPolicy { field, value });
                false
            }
        }
    }
}
