//! A real control plane: etcd, kube-apiserver, and kube-controller-manager with its endpointslice controller.
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::access;
use super::addresses::{self, CONTROL_PLANE, Family, lan};
use super::api::Api;
use super::pki::Pki;
use super::process::{Place, Process};
use crate::binaries;

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// The processes on the control plane's host, in its own namespace.
#[derive(Debug)]
pub struct ControlPlane {
    api: Api,
    agents_api: Api,
    kubeconfig: PathBuf,
    agents_kubeconfig: PathBuf,
    place: Place,
    directory: PathBuf,
    // In the order in which they are to end.
    _controllers: Process,
    server: Option<Process>,
    _etcd: Process,
    pki: Pki,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    pub(crate) fn boot(place: Place, directory: &Path) -> Result<Self> {
        let directory = directory.join("control-plane");
        let address = lan(CONTROL_PLANE);
        let names = ["kubernetes", "kubernetes.default.svc", "localhost", "127.0.0.1"].map(str::to_owned);
        let pki = Pki::create(
            &directory,
            names
                .into_iter()
                .chain(address.both().map(|ip| ip.to_string()))
                .chain(addresses::cluster_ip(addresses::API).both().map(|ip| ip.to_string()))
                .collect(),
        )?;
        access::write_tokens(&directory)?;
        let kubeconfig = access::write_kubeconfig(&directory, access::ADMIN, &pki.authority)?;
        let agents_kubeconfig = access::write_agents_kubeconfig(&directory, &pki.authority)?;
        let etcd = etcd(&place, &directory)?;
        let server = api_server(&place, &directory, &pki)?;
        let controllers = controllers(&place, &directory, &kubeconfig)?;
        let api = Api::open(&place.netns, &kubeconfig)?;
        let agents_api = Api::open(&place.netns, &agents_kubeconfig)?;
        let control_plane = Self {
            api,
            agents_api,
            kubeconfig,
            agents_kubeconfig,
            place,
            directory,
            _controllers: controllers,
            server: Some(server),
            _etcd: etcd,
            pki,
        };
        control_plane.wait_ready(Duration::from_secs(60))?;
        access::grant(&control_plane.api, &control_plane.agents_api)?;
        Ok(control_plane)
    }

    pub fn api(&self) -> &Api {
        &self.api
    }

    /// A client with the rights of Ferrogate's agents.
    pub fn agents_api(&self) -> &Api {
        &self.agents_api
    }

    /// An administrator's kubeconfig, with the server's address on the LAN.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The kubeconfig of Ferrogate's agents, who may do no more than they need.
    pub fn agents_kubeconfig(&self) -> &Path {
        &self.agents_kubeconfig
    }

    /// The certificate authority of the API server.
    pub fn authority(&self) -> &Path {
        &self.pki.authority
    }

    /// Where the control plane runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Kills the API server, as an outage of it would look to the proxies.
    pub fn stop_api_server(&mut self) {
        self.server = None;
    }

    /// Makes etcd forget every revision but the last one, so that no watch can go on from before.
    pub fn forget_history(&self) -> Result<()> {
        let ask = |path: &str, body: &str| {
            let url = format!("{ETCD}/v3/{path}");
            self.place.run("curl", ["-sSf", "-X", "POST", "-d", body, &url])
        };
        // "Zm9v" is a key that nobody has: any answer has the revision in its header.
        let range: Value = serde_json::from_str(&ask("kv/range", r#"{"key": "Zm9v"}"#)?)?;
        let Some(revision) = range["header"]["revision"].as_str() else {
            bail!("etcd says no revision: {range}");
        };
        let body = format!(r#"{{"revision": "{revision}", "physical": true}}"#);
        ask("kv/compaction", &body).map(drop)
    }

    /// Puts objects into etcd behind the API server's back, which is there for thousands of them: it decodes and serves them as its
    /// own, but checks, allocates and defaults nothing. Each with its key (`/registry/services/specs/default/web`).
    pub fn seed(&self, objects: &[(String, Value)]) -> Result<()> {
        /// Fewer than etcd takes at once (128).
        const AT_ONCE: usize = 100;
        let file = self.directory.join("seed.json");
        for some in objects.chunks(AT_ONCE) {
            let put = |(key, object): &(String, Value)| {
                let value = BASE64.encode(object.to_string());
                json!({"requestPut": {"key": BASE64.encode(key), "value": value}})
            };
            let puts: Vec<_> = some.iter().map(put).collect();
            fs::write(&file, json!({"success": puts}).to_string())?;
            let (url, body) = (format!("{ETCD}/v3/kv/txn"), format!("@{}", file.display()));
            let answer = self
                .place
                .run("curl", ["-sSf", "-X", "POST", "--data-binary", &body, &url])?;
            ensure!(answer.contains("\"succeeded\":true"), "etcd: {answer}");
        }
        Ok(fs::remove_file(file)?)
    }

    /// Starts the API server again, on the same etcd, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        self.server = Some(api_server(&self.place, &self.directory, &self.pki)?);
        self.wait_ready(Duration::from_secs(60))
    }

    fn wait_ready(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let ready = self
                .api
                .get("/readyz")
                .and_then(|_| self.api.get("/api/v1/namespaces/default"));
            match ready {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.directory.join("kube-apiserver.log")).unwrap_or_default();
                    let last: Vec<_> = log.lines().rev().take(5).collect();
                    bail!("the API server is not ready: {error:#}\n{}", last.join("\n"));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn etcd(place: &Place, directory: &Path) -> Result<Process> {
    let mut command = place.command(binaries::system("etcd")?)?;
    command.arg("--data-dir").arg(directory.join("etcd")).args([
        "--listen-client-urls",
        ETCD,
        "--advertise-client-urls",
        ETCD,
        "--listen-peer-urls",
        ETCD_PEERS,
        "--initial-advertise-peer-urls",
        ETCD_PEERS,
        "--initial-cluster",
        &format!("default={ETCD_PEERS}"),
        "--unsafe-no-fsync",
    ]);
    place.spawn("etcd", command, &directory.join("etcd.log"))
}

fn api_server(place: &Place, directory: &Path, pki: &Pki) -> Result<Process> {
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let [v4, v6] = addresses::service_ranges();
    let mut command = place.command(binaries::peer("kube-apiserver")?)?;
    command.args([
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={v4},{v6}"),
        format!("--advertise-address={}", lan(CONTROL_PLANE).get(Family::V4)),
        file("cert-dir", &directory.join("generated")),
        file("tls-cert-file", &pki.certificate),
        file("tls-private-key-file", &pki.key),
        file("service-account-key-file", &pki.accounts_public),
        file("service-account-signing-key-file", &pki.accounts_key),
        file("token-auth-file", &directory.join("tokens.csv")),
    ]);
    command.args([
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=RBAC",
        // Pods of the rig have no service account.
        "--disable-admission-plugins=ServiceAccount",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        "--allow-privileged=true",
        "--max-requests-inflight=1000",
        "--max-mutating-requests-inflight=500",
    ]);
    place.spawn("kube-apiserver", command, &directory.join("kube-apiserver.log"))
}

fn controllers(place: &Place, directory: &Path, kubeconfig: &Path) -> Result<Process> {
    let mut command = place.command(binaries::peer("kube-controller-manager")?)?;
    command.arg("--kubeconfig").arg(kubeconfig);
    // No other controller: nobody reports the nodes' health, and evictions are not wanted.
    command.args([
        "--controllers=endpointslice-controller,endpointslice-mirroring-controller",
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]);
    let log = directory.join("kube-controller-manager.log");
    place.spawn("kube-controller-manager", command, &log)
}
