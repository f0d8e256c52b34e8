//! `kubectl ferrogate`, by a real kubectl that asks a real API server. What a kubelet does, running a command in a pod, a script does here.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use ferrogate_tests::binaries;
use ferrogate_tests::rig::{FerrogateOptions, Options, PodSpec, Proxy, Rig, ServiceSpec, Source, objects};
use ferrogate_tests::wire::Protocol;
use serde_json::{Value, json};

use crate::common::eventually;

const AGENT: &str = include_str!("../../../deploy/daemonset.yaml");
const NAMESPACE: &str = "kube-system";

struct Cluster {
    rig: Rig,
    /// Where the `kubectl` is that stands in for kubelets.
    programs: PathBuf,
}

impl Cluster {
    fn boot() -> Result<Self> {
        let mut rig = Rig::boot(Options {
            source: Source::ControlPlane,
            proxy: Proxy::Ferrogate(FerrogateOptions::default()),
            ..Options::default()
        })?;
        rig.add_pod(PodSpec::new("web", 2))?;
        rig.add_service(ServiceSpec::new("web", "web", 910).port(Protocol::Tcp, 80, 8080, None))?;
        let programs = rig.node(1).directory.join("programs");
        fs::create_dir_all(&programs)?;
        let cluster = Self { rig, programs };
        cluster.write_kubectl()?;
        for (pod, node, phase) in [
            // The first by name has ended: it is not to be asked.
            ("ferrogate-aaaaa", "n1", "Failed"),
            ("ferrogate-bbbbb", "n1", "Running"),
            ("ferrogate-ccccc", "n2", "Running"),
        ] {
            cluster.add_agent(pod, node, phase)?;
        }
        Ok(cluster)
    }

    /// `kubectl exec POD ... -- ferrogate ARGUMENTS` runs it for the agent of the pod's node; all else is kubectl's.
    fn write_kubectl(&self) -> Result<()> {
        let kubectl = binaries::peer("kubectl")?;
        let ferrogate = binaries::workspace("ferrogate")?;
        let nodes = [1, 2].map(|number| {
            let node = self.rig.node(number);
            let pod = if number == 1 {
                "ferrogate-bbbbb"
            } else {
                "ferrogate-ccccc"
            };
            format!(
                "{pod}) export FERROGATE_RUN_DIR={} FERROGATE_STATE_DIR={}; exec ip netns exec {} {} \"$@\" ;;\n",
                node.directory.display(),
                node.bpffs.display(),
                node.place.netns.name(),
                ferrogate.display()
            )
        });
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' exec '*) ;; *) exec {} \"$@\" ;; esac\n\
             while [ \"$1\" != exec ]; do shift; done\nshift\n\
             while [ \"${{1#--}}\" != \"$1\" ]; do shift; done\npod=$1\n\
             while [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = ferrogate ] || exit 126\nshift 2\n\
             case $pod in\n{}*) echo \"no pod $pod\" >&2; exit 1 ;;\nesac\n",
            kubectl.display(),
            nodes.concat()
        );
        let file = self.programs.join("kubectl");
        fs::write(&file, script)?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
    }

    /// A pod as the DaemonSet makes it, as far as the plugin looks.
    fn add_agent(&self, name: &str, node: &str, phase: &str) -> Result<()> {
        let template = objects(AGENT)?.remove(0)["spec"]["template"].take();
        self.rig.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": template["metadata"]["labels"]},
            "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "ferrogate"}]},
        }))?;
        let status = json!({"status": {"phase": phase}}).to_string();
        let patch = [
            "patch",
            "pod",
            name,
            "--namespace",
            NAMESPACE,
            "--subresource",
            "status",
            "--patch",
            &status,
        ];
        let output = self.run(&self.programs.join("kubectl"), &patch)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let control_plane = self.rig.control_plane().context("a control plane")?;
        let path = std::env::var("PATH")?;
        let mut command = self.rig.node(1).place.command(program)?;
        command.args(arguments).env("KUBECONFIG", control_plane.kubeconfig());
        command.env("PATH", format!("{}:{path}", self.programs.display()));
        command.output().with_context(|| program.display().to_string())
    }

    /// `kubectl ferrogate ...`.
    fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        self.run(&deploy.join("kubectl-ferrogate"), arguments)
    }
}

/// What each of two nodes said.
fn page_of(output: &[u8]) -> Result<(String, String)> {
    let page = text(output);
    let (first, second) = page.split_once("== n2\n").context("two nodes")?;
    Ok((first.to_owned(), second.to_owned()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn kubectl_ferrogate_asks_the_agent_of_the_node_that_is_meant() -> Result<()> {
    let cluster = Cluster::boot()?;
    for (options, node) in [(&["--node", "n2"][..], "n2"), (&["--node=n1"], "n1"), (&[], "n1")] {
        eventually("the agent answers", || {
            Ok(cluster.ask(&[options, &["status"]].concat())?.status.success())
        })?;
        let output = cluster.ask(&[options, &["status", "--output", "json"]].concat())?;
        let status: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        assert_eq!(status["node"], node, "{options:?}");
        // Which node it chose is said where it chose.
        assert_eq!(text(&output.stderr), if options.is_empty() { "node n1\n" } else { "" });
    }
    eventually("the Service is explained", || {
        let output = cluster.ask(&["--node", "n1", "explain", "default/web", "--from", "node"])?;
        Ok(output.status.success() && text(&output.stdout).contains("default/web"))
    })?;
    Ok(())
}

#[test]
fn kubectl_ferrogate_asks_all_nodes_and_ends_as_the_worst_of_them() -> Result<()> {
    let cluster = Cluster::boot()?;
    let both = |command: &str| cluster.ask(&["--all-nodes", command]);
    eventually("both agents are well", || Ok(both("diff")?.status.success()))?;
    let output = both("diff")?;
    let page = text(&output.stdout);
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("== ")).collect();
    assert_eq!(headings, ["== n1", "== n2"], "{page}");

    let pin = cluster.rig.node(2).pin("maps/FRONTENDS");
    let mut frontends = HashMap::<_, [u8; 20], [u8; 8]>::try_from(Map::HashMap(MapData::from_pin(&pin)?))?;
    let key = frontends.keys().next().context("a frontend")??;
    frontends.remove(&key)?;
    let output = both("diff")?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (_, second) = page_of(&output.stdout)?;
    assert!(second.contains("FRONTENDS"), "{second}");
    Ok(())
}

#[test]
fn kubectl_ferrogate_says_what_it_cannot_do() -> Result<()> {
    let cluster = Cluster::boot()?;
    for (arguments, said) in [
        (&["--node", "n7", "status"][..], "no agent runs on the node n7"),
        (
            &["--namespace", "default", "status"],
            "no agent runs in the namespace default",
        ),
        (&["cleanup"], "cleanup is not for a cluster"),
        (&["--all-nodes", "trace"], "trace is asked of one node"),
        (&["--all-nodes", "--node", "n1", "status"], "exclude each other"),
        (&["--nodes", "n1", "status"], "unknown option --nodes"),
        (&["--node"], "--node needs a value"),
        (&[], "Usage: kubectl ferrogate"),
    ] {
        let output = cluster.ask(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            text(&output.stderr).contains(said),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    Ok(())
}
