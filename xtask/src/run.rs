//! `cargo xtask run`: the main job, from nothing.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::build::{self, build};
use crate::{cmd, paths, setup};

#[derive(clap::Args)]
#[command(
    after_help = "Without a cluster this starts the playground: a small cluster of network namespaces, fed from examples/.\n\
                  With --kubeconfig or --manifests it starts the agent on this machine."
)]
pub(crate) struct Args {
    /// Playground: run the fixed scenario once, print and check its report, exit 0 or 1
    #[arg(long, conflicts_with_all = ["kubeconfig", "manifests"])]
    once: bool,
    /// Run the agent against the cluster of this kubeconfig
    #[arg(long, value_name = "FILE", requires = "node_name")]
    kubeconfig: Option<PathBuf>,
    /// The name of this machine's Node in the cluster
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Run the agent against a directory of manifests (Service, EndpointSlice, Node), watched for changes
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// Further arguments of the playground or the agent, after `--`
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<OsString>,
}

impl Args {
    /// The program in target/release and its arguments.
    fn program(&self) -> Result<(&'static str, Vec<OsString>)> {
        let mut args: Vec<OsString> = Vec::new();
        let agent = self.kubeconfig.is_some() || self.manifests.is_some();
        if agent {
            args.push("agent".into());
            for (option, path) in [("--kubeconfig", &self.kubeconfig), ("--manifests", &self.manifests)] {
                if let Some(path) = path {
                    let path = path
                        .canonicalize()
                        .with_context(|| format!("{option} {}", path.display()))?;
                    args.extend([option.into(), path.into()]);
                }
            }
            if let Some(name) = &self.node_name {
                args.extend(["--node-name".into(), name.into()]);
            }
        } else if self.node_name.is_some() {
            bail!("--node-name needs --kubeconfig or --manifests");
        } else if self.once {
            args.push("--once".into());
        }
        args.extend(self.rest.iter().cloned());
        Ok((if agent { "ferrogate" } else { "playground" }, args))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (name, rest) = args.program()?;
    setup::setup(&setup::Args { peers: false })?;
    build(&build::Args {
        release: true,
        bpf_only: false,
    })?;
    let program = paths::target().join("release").join(name);
    if !cmd::is_executable(&program) {
        bail!("the build left no {}", program.display());
    }
    let mut program = cmd::as_root(program)?;
    program.args(rest).current_dir(paths::root());
    // In place of this process: signals and the exit code are the program's own.
    let error = program.exec();
    bail!("cannot start `{}`: {error}", cmd::shown(&program));
}
