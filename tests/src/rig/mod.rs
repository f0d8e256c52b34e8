//! A small cluster in network namespaces on this machine.
//!
//! ```text
//!   fg<id>-lan   bridge `lan` 172.31.0.1 fd00:31::1      (in a namespace of its own: the machine is not touched)
//!     |-- fg<id>-ctl      .2    etcd, kube-apiserver, kube-controller-manager   (Source::ControlPlane only)
//!     |-- fg<id>-n1       .11   node n1: pods 10.244.1.0/24 fd00:244:1::/64, its own cgroup2, bpffs and run folder
//!     |     `-- fg<id>-p-a      .10   pod `a`, wired as the Layout says
//!     |-- fg<id>-n2       .12   node n2: pods 10.244.2.0/24 fd00:244:2::/64
//!     `-- fg<id>-out      .100  the outside client; its routes to ClusterIPs lead to n1
//! ```
//!
//! [`Rig::boot`] makes it, [`Rig::add_pod`] and [`Rig::add_service`] fill it, [`Place::probe`] asks from anywhere in it.
//! Dropping the [`Rig`] removes everything, also while a panic unwinds; what a killed program leaves is removed by the
//! next boot ([`sweep`]). Every process dies with the program that started it.
//!
//! What a rig needs on the machine: root, iproute2, nftables, a kernel with veth, bridge and vxlan; for the real control
//! plane and the rival the programs that [`crate::binaries`] looks for.
mod access;
pub mod addresses;
mod api;
mod balancer;
mod cluster;
mod control_plane;
mod dns;
mod far_end;
mod follower;
mod layout;
mod lease;
mod machine;
mod manifests;
mod netns;
mod objects;
mod pki;
mod pod;
mod process;
mod proxy;
mod web;

pub use access::{objects, write_kubeconfig_of};
pub use addresses::{Family, Pair};
pub use balancer::{Balanced, LoadBalancer, Server};
pub use cluster::{Options, Rig, Source};
pub use control_plane::ControlPlane;
pub use layout::Layout;
pub(crate) use layout::host_link;
pub use lease::{Lease, sweep};
pub use machine::{Node, Uplink};
pub(crate) use machine::{raise_firewall, take_down_firewall};
pub use manifests::Manifests;
pub use netns::Netns;
pub use objects::{NAMESPACE, ServicePort, ServiceSpec};
pub use pod::{Pod, PodSpec};
pub use process::{Place, Process};
pub use proxy::{FerrogateOptions, KubeProxyOptions, Proxy, SocketEdge};
pub use web::HttpAnswer;
