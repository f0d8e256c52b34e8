//! What the agents say at the end, and that nothing is left.
use std::fs;

use anyhow::Result;

use super::Scenario;
use crate::agent;
use crate::cluster::Cluster;
use crate::report::Report;

/// The tables of `ferrogate services` and the counters of `ferrogate status`.
pub(super) fn tables(scenario: &mut Scenario) -> Result<()> {
    scenario.report.section("What the agents say")?;
    let rig = &scenario.cluster.rig;
    scenario.report.text("n1$ ferrogate services")?;
    scenario.report.text(&agent::table(rig, 1, &["services"])?)?;
    let mut unexpected = Vec::new();
    for node in 1..=rig.options.nodes {
        scenario
            .report
            .text(&format!("\nn{node}$ ferrogate status   (its counters)"))?;
        for reason in agent::status(rig, node)?
            .reasons
            .into_iter()
            .filter(|reason| reason.count > 0)
        {
            let mark = if reason.drop { "dropped" } else { "" };
            scenario.report.text(&format!(
                "  {:>9}  {:<20} {:<8} {}",
                reason.count, reason.reason, mark, reason.description
            ))?;
            // What the scenario provoked: no pods, and a ClusterIP asked from outside.
            let provoked = ["no_endpoints", "external_cluster_ip"].contains(&reason.reason.as_str());
            unexpected.extend((reason.drop && !provoked).then_some(reason.reason));
        }
    }
    scenario.report.check(
        unexpected.is_empty(),
        &format!(
            "nothing was dropped for a reason that was not provoked {}",
            unexpected.join(", ")
        )
        .trim_end(),
    )
}

/// Takes the cluster down and looks for what it may have left.
pub(super) fn nothing_left(cluster: Cluster, report: &mut Report) -> Result<()> {
    report.section("The cluster is taken down")?;
    let (id, bpffs) = (cluster.rig.lease.id().to_owned(), cluster.rig.lease.bpffs().to_owned());
    let cgroups: Vec<_> = cluster.rig.nodes.iter().map(|node| node.place.cgroup.clone()).collect();
    let directory = cluster.rig.lease.directory().to_owned();
    drop(cluster);
    let namespaces = fs::read_dir("/run/netns")?.flatten();
    let mut left: Vec<_> = namespaces
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(&format!("fg{id}-")))
        .collect();
    left.extend(
        cgroups
            .into_iter()
            .chain([bpffs, directory])
            .filter(|path| path.exists()),
    );
    report.check(
        left.is_empty(),
        &format!(
            "nothing is left: no namespaces, pins, cgroups, processes, files {}",
            list(&left)
        )
        .trim_end(),
    )
}

fn list(paths: &[std::path::PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" ")
}
