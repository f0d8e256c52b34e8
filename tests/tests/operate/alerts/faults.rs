//! What the alerts warn of, made to happen on node 1.
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use ferrogate_tests::kernel::freeze;
use ferrogate_tests::rig::addresses::{self, NODE_BASE, lan};
use ferrogate_tests::rig::{Family, NAMESPACE, Place, Rig};
use ferrogate_tests::wire::{ProbeRequest, Protocol};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::common::{self, Is, apply_void, cluster_ip};

/// So few Service ports and SNATed flows have room: with Services it is soon full, with flows nine tenths and more.
const SMALL: [&str; 2] = ["--map-entries=SERVICES=40", "--map-entries=SNAT_FLOWS=4096"];
/// More Services than that.
const CROWD: std::ops::Range<u16> = 100..150;
/// NodePorts of a Service whose endpoint is on node 2, and of one whose endpoint nobody finds the way to.
const FAR: u16 = 31_710;
const NOWHERE: u16 = 31_711;
const UNROUTED: &str = "198.18.0.0/15";
/// Older than what the alert for slow programming takes for slow.
const OLD: Duration = Duration::from_secs(45);

/// Something that an alert is there for.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// Every one of these has to fire.
    pub(super) fires: &'static [&'static str],
    /// What else may: it follows from the same, a little later.
    pub(super) may_fire: &'static [&'static str],
    pub(super) begin: fn(&mut Well) -> Result<()>,
    /// Again and again until it was noticed.
    pub(super) go_on: fn(&mut Well) -> Result<()>,
    /// Makes it good; what cannot be made good comes last.
    pub(super) end: Option<fn(&mut Well) -> Result<()>>,
}

const NOTHING: fn(&mut Well) -> Result<()> = |_| Ok(());

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "the manifests cannot be read",
        fires: &["FerrogateSourceAway"],
        may_fire: &["FerrogateProblems"],
        begin: |well| well.move_manifests(false),
        go_on: NOTHING,
        end: Some(|well| well.move_manifests(true)),
    },
    Fault {
        name: "a manifest is broken",
        fires: &["FerrogateProblems"],
        may_fire: &[],
        begin: |well| Ok(fs::write(well.manifests().join("broken.yaml"), "kind: [")?),
        go_on: NOTHING,
        end: Some(|well| Ok(fs::remove_file(well.manifests().join("broken.yaml"))?)),
    },
    Fault {
        name: "a pod asks for a Service without endpoints",
        fires: &["FerrogateNoEndpoints"],
        may_fire: &[],
        begin: NOTHING,
        go_on: |well| well.ask(&well.rig.pod("client").place, well.void),
        end: Some(NOTHING),
    },
    Fault {
        name: "an endpoint to which no route leads",
        fires: &["FerrogateCannotForward"],
        may_fire: &[],
        begin: |well| well.route("replace"),
        go_on: |well| well.ask(&well.rig.outside, well.node_port(NOWHERE)),
        end: Some(|well| well.route("delete")),
    },
    Fault {
        name: "endpoints' changes that are old when they come",
        fires: &["FerrogateSlowProgramming"],
        may_fire: &[],
        begin: NOTHING,
        go_on: Well::change_late,
        end: Some(NOTHING),
    },
    Fault {
        name: "more Services than there is room for",
        fires: &["FerrogateNoRoom", "FerrogateMapPressure"],
        may_fire: &["FerrogateProblems"],
        begin: |well| {
            CROWD
                .into_iter()
                .try_for_each(|number| well.rig.apply(&crowded(number)))
        },
        go_on: NOTHING,
        end: Some(|well| {
            CROWD
                .into_iter()
                .try_for_each(|number| well.rig.delete(&crowded(number)))
        }),
    },
    Fault {
        name: "more flows to one endpoint than the table has room for",
        fires: &["FerrogateFlowTablePressure"],
        // Source ports towards that endpoint are used up as well, which the agent tells of for a minute.
        may_fire: &["FerrogateCannotForward", "FerrogateProblems"],
        begin: NOTHING,
        go_on: Well::flood,
        end: None,
    },
    Fault {
        name: "a map that can no longer be written",
        fires: &["FerrogateWritesFail", "FerrogateChangesWait"],
        may_fire: &[
            "FerrogateProblems",
            "FerrogateFlowTablePressure",
            "FerrogateCannotForward",
        ],
        begin: |well| {
            let path = well.rig.node(1).pin("maps/FRONTENDS");
            freeze(MapData::from_pin(&path)?.fd().as_fd())?;
            well.rig.apply(&crowded(CROWD.start))
        },
        go_on: NOTHING,
        end: None,
    },
    Fault {
        name: "the agent ends",
        fires: &["FerrogateDown"],
        may_fire: &[
            "FerrogateProblems",
            "FerrogateFlowTablePressure",
            "FerrogateCannotForward",
            "FerrogateWritesFail",
            "FerrogateChangesWait",
        ],
        begin: |well| well.end_agent(),
        go_on: NOTHING,
        end: None,
    },
];

pub(super) fn boot() -> Result<Rig> {
    common::boot(&SMALL)
}

/// A Service of which there are too many.
fn crowded(number: u16) -> Value {
    let own = addresses::cluster_ip(number).get(Family::V4);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": format!("crowd-{number}")},
        "spec": {"clusterIP": own, "clusterIPs": [own], "ports": [{"protocol": "TCP", "port": 80}]},
    })
}

/// A NodePort Service and its endpoint.
fn node_port_service(number: u16, protocol: &str, node_port: u16, endpoint: IpAddr) -> [Value; 2] {
    let (name, own) = (format!("np-{node_port}"), addresses::cluster_ip(number).get(Family::V4));
    [
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
            "ports": [{"name": "", "protocol": protocol, "port": 8080}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": {"type": "NodePort", "clusterIP": own, "clusterIPs": [own],
                "ports": [{"protocol": protocol, "port": 80, "targetPort": 8080, "nodePort": node_port}]},
        }),
    ]
}

/// A node where nothing is wrong, yet.
pub(super) struct Well {
    pub(super) rig: Rig,
    void: SocketAddr,
    turns: u32,
}

impl Well {
    pub(super) fn new(rig: Rig) -> Result<Self> {
        common::apply(&rig, &json!({}), &[("a1", Is::Ready), ("b1", Is::Ready)])?;
        let void = apply_void(&rig)?;
        let far = rig.pod("b1").addresses.get(Family::V4);
        let objects = [
            node_port_service(902, "UDP", FAR, far),
            node_port_service(903, "TCP", NOWHERE, [198, 18, 0, 1].into()),
        ];
        objects.iter().flatten().try_for_each(|object| rig.apply(object))?;
        common::serves(&rig, 4)?;
        Ok(Self { rig, void, turns: 0 })
    }

    /// Fails where a client of the Service with endpoints is not answered.
    pub(super) fn serves(&self) -> Result<()> {
        let request = ProbeRequest::new(Protocol::Tcp, SocketAddr::new(cluster_ip(), 80)).count(4);
        let report = self.rig.pod("client").place.probe(&request)?;
        ensure!(report.complete(), "{report:?}");
        Ok(())
    }

    fn manifests(&self) -> PathBuf {
        self.rig.node(1).directory.with_file_name("manifests")
    }

    fn move_manifests(&self, back: bool) -> Result<()> {
        let (here, away) = (self.manifests(), self.manifests().with_extension("away"));
        let (from, to) = if back { (away, here) } else { (here, away) };
        fs::rename(&from, to).with_context(|| from.display().to_string())
    }

    /// Nobody answers: that is what it is for.
    fn ask(&self, from: &Place, to: SocketAddr) -> Result<()> {
        let request = ProbeRequest {
            timeout_ms: 200,
            ..ProbeRequest::new(Protocol::Tcp, to).count(3)
        };
        from.probe(&request).map(drop)
    }

    fn node_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(lan(NODE_BASE + 1).get(Family::V4), port)
    }

    fn route(&self, verb: &str) -> Result<()> {
        let line = format!("route {verb} unreachable {UNROUTED}\n");
        self.rig.node(1).place.netns.ip_batch(&line)
    }

    /// The slice changes, and says that what it tells of happened long ago.
    fn change_late(&mut self) -> Result<()> {
        self.turns += 1;
        let trigger = Timestamp::now() - OLD;
        let far = self.rig.pod("b1").addresses.get(Family::V4);
        let [mut slice, _] = node_port_service(902, "UDP", FAR, far);
        slice["metadata"]["annotations"] =
            json!({"endpoints.kubernetes.io/last-change-trigger-time": trigger.to_string()});
        slice["ports"][0]["port"] = json!(8080 + self.turns % 2);
        self.rig.apply(&slice)
    }

    /// Datagrams from outside, each from a port of its own.
    fn flood(&mut self) -> Result<()> {
        let to = self.node_port(FAR);
        let script = format!(
            "for i in {{1..3000}}; do echo x >/dev/udp/{}/{}; done",
            to.ip(),
            to.port()
        );
        self.rig.outside.run("bash", ["-c", &script]).map(drop)
    }

    fn end_agent(&mut self) -> Result<()> {
        self.rig.take_proxy(1)?.kill().map(drop)
    }
}
