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
    let counts = (1..=rig.options.nodes)
        .map(|node| Ok(agent::status(rig, node)?.reasons))
        .collect::<Result<Vec<_>>>()?;
    scenario
        .report
        .text("\nn1$ ferrogate status, n2$ ferrogate status   (their counters)")?;
    let mut unexpected = Vec::new();
    for (index, reason) in counts[0].iter().enumerate() {
        let of_nodes: Vec<_> = counts.iter().map(|reasons| reasons[index].count).collect();
        if of_nodes.iter().all(|count| *count == 0) {
            continue;
        }
        let columns: String = of_nodes.iter().map(|count| format!("{count:>8}")).collect();
        let what = reason.description.split(" (").next().unwrap_or_default();
        scenario
            .report
            .text(&format!("{columns}  {:<20} {what}", reason.reason))?;
        // What the scenario provoked: no pods, and a ClusterIP asked from outside.
        let provoked = ["no_endpoints", "external_cluster_ip"].contains(&reason.reason.as_str());
        unexpected.extend((reason.drop && !provoked).then_some(reason.reason.as_str()));
    }
    scenario.report.check(
        unexpected.is_empty(),
        format!(
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
        format!(
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
