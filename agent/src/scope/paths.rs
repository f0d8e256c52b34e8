//! Where a kubelet puts its pods' cgroups (`pkg/kubelet/cm/pod_container_manager_linux.go`), by either driver.

use std::path::{Path, PathBuf};

/// A kubelet's own directory below the root of the hierarchy, and with systemd's driver the prefix of its slices' names: a
/// slice's name repeats those above it. The second pair is that of kubelets in containers (`--cgroup-root /kubelet`).
const KUBELETS: [(&str, Option<&str>); 4] = [
    ("kubepods.slice", Some("kubepods")),
    ("kubepods", None),
    ("kubelet.slice/kubelet-kubepods.slice", Some("kubelet-kubepods")),
    ("kubelet/kubepods", None),
];

/// Classes of quality of service that have a directory; the third, guaranteed, has none.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];

/// The directories below which all pods may be.
pub(super) fn kubelet(root: &Path) -> impl Iterator<Item = PathBuf> {
    KUBELETS.iter().map(|(directory, _)| root.join(directory))
}

/// The directories that the pod with this uid may have; none for what is no uid.
pub(super) fn pod(root: &Path, uid: &str) -> Vec<PathBuf> {
    let name = |character: char| character.is_ascii_alphanumeric() || character == '-';
    if uid.is_empty() || !uid.chars().all(name) {
        return vec![];
    }
    let mut all = Vec::new();
    for (directory, slices) in KUBELETS {
        let base = root.join(directory);
        match slices {
            Some(prefix) => {
                let uid = uid.replace('-', "_");
                all.push(base.join(format!("{prefix}-pod{uid}.slice")));
                all.extend(CLASSES.map(|class| {
                    let class = format!("{prefix}-{class}");
                    base.join(format!("{class}.slice/{class}-pod{uid}.slice"))
                }));
            }
            None => {
                all.push(base.join(format!("pod{uid}")));
                all.extend(CLASSES.map(|class| base.join(format!("{class}/pod{uid}"))));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_directory_is_looked_for_where_each_driver_puts_it() {
        let paths = pod(Path::new("/cg"), "0a-1b");
        for expected in [
            "/cg/kubepods.slice/kubepods-pod0a_1b.slice",
            "/cg/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a_1b.slice",
            "/cg/kubepods/pod0a-1b",
            "/cg/kubepods/burstable/pod0a-1b",
            "/cg/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a_1b.slice",
        ] {
            assert!(paths.contains(&PathBuf::from(expected)), "{expected}");
        }
        assert_eq!(paths.len(), 12);
    }

    #[test]
    fn what_is_no_uid_leads_nowhere() {
        for uid in ["", "../../x", "a/b", "a.b"] {
            assert!(pod(Path::new("/cg"), uid).is_empty(), "{uid:?}");
        }
    }
}
