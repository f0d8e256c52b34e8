//! The cluster's DNS: a real CoreDNS as a pod, behind a ClusterIP.
use std::fs;

use anyhow::{Context, Result};

use super::addresses;
use super::cluster::Rig;
use super::objects::ServiceSpec;
use super::pod::PodSpec;
use crate::binaries;
use crate::wire::Protocol;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";

impl Rig {
    /// Runs CoreDNS on `node`, serving `cluster.local` through the Service `kube-system/kube-dns` at ClusterIP number
    /// [`addresses::DNS`]. Needs a control plane: CoreDNS watches the API, straight at its address on the LAN.
    pub fn add_dns(&mut self, node: u8) -> Result<()> {
        let kubeconfig = self
            .control_plane()
            .context("CoreDNS needs a control plane")?
            .kubeconfig()
            .to_owned();
        let directory = self.lease.directory().to_owned();
        let corefile = directory.join("Corefile");
        let text = format!(
            ".:53 {{\n  errors\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {}\n    \
             pods insecure\n    ttl 0\n  }}\n}}\n",
            kubeconfig.display()
        );
        fs::write(&corefile, text)?;
        self.add_pod(PodSpec::new(NAME, node).namespace(NAMESPACE).ports(&[]))?;
        let pod = self.pod(NAME);
        let mut command = pod.place.command(binaries::peer("coredns")?)?;
        command.arg("-conf").arg(&corefile);
        let server = pod.place.spawn(NAME, command, &directory.join("coredns.log"))?;
        self.attach_server(NAME, server);
        let service = ServiceSpec::new("kube-dns", NAME, addresses::DNS).namespace(NAMESPACE);
        self.add_service(
            service
                .port(Protocol::Udp, 53, 53, None)
                .port(Protocol::Tcp, 53, 53, None),
        )
    }
}
