//! The ways that lead to the order pods, each drawn hop by hop as in "Client -> LoadBalancer -> NodePort -> ClusterIP -> Pod".
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use ferrogate_tests::rig::{Family, Place};
use ferrogate_tests::wire::{Attempt, ProbeRequest, Protocol};

use crate::cluster::Cluster;

/// Where Ferrogate translates the addresses of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// connect(2) and sendmsg(2) of a hooked process.
    Socket,
    /// The node's side of a pod's link.
    Pod,
    /// The node's own link.
    Uplink,
}

impl Edge {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Edge::Socket => "socket edge",
            Edge::Pod => "pod edge",
            Edge::Uplink => "uplink edge",
        }
    }

    /// How it does it, in a few words.
    pub(crate) fn how(self, protocol: Protocol) -> &'static str {
        match (self, protocol) {
            (Edge::Socket, Protocol::Tcp) => "translates connect(), no packet is changed",
            (Edge::Socket, Protocol::Udp) => "translates connect() and sendmsg(), no packet",
            (Edge::Socket, Protocol::Sctp) => "leaves SCTP to the other edges",
            (Edge::Pod, _) => "translates packets as they leave the pod",
            (Edge::Uplink, _) => "translates packets as they reach the node",
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// An ordinary pod on n1.
    Payment,
    /// A pod on n1 whose sockets are not hooked, as those of a virtual machine are not.
    Vm,
    /// A machine outside the cluster.
    Outside,
}

/// One way to the order pods.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    /// Who that is, for people: name and address.
    pub(crate) client_text: String,
    pub(crate) protocol: Protocol,
    pub(crate) service: String,
    /// The addresses that the client asks, in turn.
    pub(crate) to: Vec<SocketAddr>,
    /// The cloud load balancer's public address.
    pub(crate) balancer: Option<SocketAddr>,
    /// The nodes' doors, by the name of the node.
    pub(crate) node_ports: Vec<(String, SocketAddr)>,
    pub(crate) cluster_ip: SocketAddr,
    pub(crate) edge: Edge,
}

/// Every path, in the order of its key in the live view.
pub(crate) fn all(cluster: &Cluster) -> Result<Vec<Path>> {
    let payment = (Client::Payment, Edge::Socket);
    let outside = (Client::Outside, Edge::Uplink);
    let mut balanced = path(
        cluster,
        "LoadBalancer",
        "order-service-loadbalancer",
        Family::V4,
        outside,
    )?;
    let public = cluster.examples.service(&balanced.service)?;
    let ingress = public.ingress.context("the LoadBalancer Service has no address")?;
    balanced.balancer = Some(SocketAddr::new(ingress, public.port));
    balanced.to = balanced.balancer.into_iter().collect();
    Ok(vec![
        path(cluster, "ClusterIP", "order-service", Family::V4, payment)?,
        path(cluster, "NodePort", "order-service-nodeport", Family::V4, outside)?,
        balanced,
        path(
            cluster,
            "ClusterIP v6",
            "order-service",
            Family::V6,
            (Client::Vm, Edge::Pod),
        )?,
        path(cluster, "ClusterIP UDP", "order-events", Family::V4, payment)?,
    ])
}

/// A path by way of the Service's ClusterIP, or for an outside client by way of its node ports.
pub(crate) fn path(
    cluster: &Cluster,
    name: &'static str,
    service: &str,
    family: Family,
    (client, edge): (Client, Edge),
) -> Result<Path> {
    let service = cluster.examples.service(service)?;
    let node_ports: Vec<_> = match client {
        Client::Outside => cluster.doors(service.node_port()?, family),
        Client::Payment | Client::Vm => Vec::new(),
    };
    let cluster_ip = service.cluster_ip(family)?;
    let (who, address) = cluster.client(client, family);
    Ok(Path {
        name,
        client,
        client_text: format!("{who} {address}"),
        protocol: service.protocol,
        service: service.name.clone(),
        to: match client {
            Client::Outside => node_ports.iter().map(|(_, door)| *door).collect(),
            Client::Payment | Client::Vm => vec![cluster_ip],
        },
        balancer: None,
        node_ports,
        cluster_ip,
        edge,
    })
}

impl Path {
    /// Where its clients run.
    pub(crate) fn place<'a>(&self, cluster: &'a Cluster) -> &'a Place {
        cluster.place(self.client)
    }

    /// `count` new connections (or UDP sockets), over all addresses of the path in turn.
    pub(crate) fn request(&self, count: u32) -> ProbeRequest {
        let mut request = ProbeRequest::new(self.protocol, self.to[0]);
        request.to.clone_from(&self.to);
        request.count(count)
    }

    /// The node whose door an attempt came in by: the one that was asked, or behind the load balancer the one that the pod saw
    /// in the client's place. A pod that saw the load balancer itself was reached by its own node's door.
    pub(crate) fn entered_by(&self, attempt: &Attempt, pod_node: Option<&str>) -> Option<String> {
        let seen = attempt.answers.first()?.peer.ip();
        let asked = attempt.to.ip();
        let node_of = |ip: IpAddr| self.node_ports.iter().find(|(_, door)| door.ip() == ip);
        match node_of(if self.balancer.is_some() { seen } else { asked }) {
            Some((node, _)) => Some(node.clone()),
            None if self.balancer.is_some() => pod_node.map(str::to_owned),
            None => None,
        }
    }
}
