//! Many Services with some endpoints each, and one more that is looked at.
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::rig::{ControlPlane, NAMESPACE, Rig};

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// At most 60,000: so many addresses are there.
    pub(super) services: u32,
    /// Of each Service.
    pub(super) endpoints: u32,
}

/// Objects entered at once.
const FILLING: u32 = 8;

/// The port that all endpoints serve.
pub(super) const PORT: u16 = 8080;

/// The Service that is looked at. The last of all by its name: what is written in the order of names ends with it.
const PROBE: &str = "z-probe";
/// Its ClusterIP.
pub(super) const PROBE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);

/// Where an API server is.
fn control_plane(leader: &Rig) -> Result<&ControlPlane> {
    leader.control_plane().context("a rig without a control plane")
}

impl Crowd {
    /// Enters all objects; the Service that is looked at has no endpoints.
    pub(super) fn fill(&self, leader: &Rig) -> Result<()> {
        let mut objects = Vec::new();
        for number in 0..self.services {
            let address = Ipv4Addr::from(0x0a60_1000 + number);
            objects.extend(stored(&format!("s{number}"), address, &self.endpoints(number, 0)));
        }
        objects.extend(stored(PROBE, PROBE_ADDRESS, &[]));
        let control_plane = control_plane(leader)?;
        control_plane.seed(&objects)?;
        // The API server serves what it has seen of etcd.
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{PROBE}-1");
        control_plane.api().get(&path).map(drop)
    }

    /// Gives a Service other than the one that is looked at new endpoints. An object that stays as it is would be no event.
    pub(super) fn change(&self, leader: &Rig) -> Result<()> {
        static TURNS: AtomicU32 = AtomicU32::new(0);
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        let service = turn.wrapping_mul(37) % self.services;
        control_plane(leader)?
            .api()
            .replace(&slice(&format!("s{service}"), &self.endpoints(service, 1 + turn)))
    }

    /// The endpoints of a Service; `turn` moves them on.
    fn endpoints(&self, service: u32, turn: u32) -> Vec<Ipv4Addr> {
        (0..self.endpoints)
            .map(|number| Ipv4Addr::from(0x0af5_0000 + (service * 7 + number + turn) % 60_000))
            .collect()
    }
}

/// What the API server stores of a Service: itself, the hold on its address, and its endpoints. With their keys.
fn stored(name: &str, address: Ipv4Addr, endpoints: &[Ipv4Addr]) -> [(String, Value); 3] {
    let hold = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {
            "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": NAMESPACE, "name": name}},
    });
    let mut objects = [
        (format!("services/specs/{NAMESPACE}/{name}"), service(name, address)),
        (format!("ipaddresses/{address}"), hold),
        (format!("endpointslices/{NAMESPACE}/{name}-1"), slice(name, endpoints)),
    ];
    for (kind, (key, object)) in objects.iter_mut().enumerate() {
        *key = format!("/registry/{key}");
        let number = u32::from(address);
        object["metadata"]["uid"] = format!("{number:08x}-0000-4000-8000-{kind:012x}").into();
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    objects
}

/// Gives the Service that is looked at these endpoints.
pub(super) fn set_probed(leader: &Rig, endpoints: &[Ipv4Addr]) -> Result<()> {
    control_plane(leader)?.api().replace(&slice(PROBE, endpoints))
}

/// Does something for each number below `count`, on several threads that take turns.
pub(super) fn by_many(count: u32, each: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..FILLING)
            .map(|first| scope.spawn(move || (first..count).step_by(FILLING as usize).try_for_each(each)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
    })
}

fn service(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": PORT}],
        },
    })
}

fn slice(name: &str, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "n1"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "tcp", "protocol": "TCP", "port": PORT}],
    })
}
