//! The place of a control plane in a rig that follows another rig's: its address, and a way through to the real one.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::addresses::{CONTROL_PLANE, lan};
use super::api::Api;
use super::control_plane::ControlPlane;
use super::machine::tail;
use super::process::{Place, Process};

const PORT: u16 = 6443;

/// A machine at the control plane's address that passes every connection on.
#[derive(Debug)]
pub(crate) struct Follower {
    api: Api,
    kubeconfig: PathBuf,
    agents_kubeconfig: PathBuf,
    // Before the namespace it runs in.
    _relay: Process,
    _place: Place,
}

impl Follower {
    pub(crate) fn start(leader: &ControlPlane, place: Place, directory: &Path) -> Result<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        // A link of its own between the two machines: both rigs use the same addresses on their LANs.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [near, far] = [1, 2].map(|host| Ipv4Addr::new(198, 18, number, host));
        let link = format!("follow{number}");
        leader.place().netns.ip_batch(&format!(
            "link add {link} type veth peer name leader netns {}\naddr add {near}/24 dev {link}\nlink set {link} up\n",
            place.netns.name()
        ))?;
        place
            .netns
            .ip_batch(&format!("addr add {far}/24 dev leader\nlink set leader up\n"))?;
        let log = directory.join("relay.log");
        let mut command = place.testpod_command()?;
        command
            .args(["balance", "--listen"])
            .arg(SocketAddr::from((lan(CONTROL_PLANE).v4, PORT)).to_string())
            .arg("--to")
            .arg(SocketAddr::from((near, PORT)).to_string());
        let mut relay = place.spawn("relay", command, &log)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(&log).unwrap_or_default().trim() != "ready" {
            if relay.ended()?.is_some() || Instant::now() > deadline {
                bail!("the relay to the control plane does not listen: {}", tail(&log));
            }
            thread::sleep(Duration::from_millis(2));
        }
        let kubeconfig = leader.kubeconfig().to_owned();
        let api = Api::open(&place.netns, &kubeconfig).context("a client through the relay")?;
        Ok(Self {
            api,
            kubeconfig,
            agents_kubeconfig: leader.agents_kubeconfig().to_owned(),
            _relay: relay,
            _place: place,
        })
    }

    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn agents_kubeconfig(&self) -> &Path {
        &self.agents_kubeconfig
    }
}
