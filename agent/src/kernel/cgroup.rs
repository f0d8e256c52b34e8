//! Finding the root of the cgroup2 hierarchy, where the socket edge is attached so that it sees every process.

use super::error::{Error, Result};
use ferrogate_common::CGROUP_LEVELS;
use rustix::fs::statfs;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// CGROUP2_SUPER_MAGIC (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u32 = 0x6367_7270;
/// Inode number of the hierarchy's root directory. The root of a cgroup namespace or of a bind mount has another one, which
/// is how a container's own cgroup is told from the host's.
const ROOT_INODE: u64 = 1;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cgroup {
    Found(PathBuf),
    /// There is none to be seen from here; why.
    None(String),
}

/// The directory to attach the socket edge to: the one given, else the hierarchy's root wherever it is mounted (`hybrid`
/// layouts too); in a container, the host's mount in the container, or the one of process 1 through `/proc/1/root`.
///
/// # Errors
/// When the directory given is not one of cgroup2.
pub fn find_cgroup(given: Option<&Path>) -> Result<Cgroup> {
    if let Some(given) = given {
        return if is_cgroup2(given) {
            Ok(Cgroup::Found(given.to_owned()))
        } else {
            Err(Error::NotCgroup2(given.to_owned()))
        };
    }
    let mut seen = Vec::new();
    for (mounts, prefix) in [("/proc/self/mounts", "/"), ("/proc/1/mounts", "/proc/1/root")] {
        // Another process's mounts may not be ours to read.
        let mounts = fs::read_to_string(mounts).unwrap_or_default();
        for mount in cgroup2_mounts(&mounts) {
            let path = Path::new(prefix).join(mount.strip_prefix("/").unwrap_or(&mount));
            if is_root(&path) {
                return Ok(Cgroup::Found(path));
            }
            seen.push(path.display().to_string());
        }
    }
    Ok(Cgroup::None(if seen.is_empty() {
        "no cgroup2 file system is mounted".to_owned()
    } else {
        format!(
            "{} is not the root of the hierarchy: mount the host's, or share its process namespace",
            seen.join(", ")
        )
    }))
}

/// The number by which the kernel knows a cgroup: the inode number of its directory. `None` where there is none.
pub fn cgroup_id(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// The level of a cgroup in the hierarchy as a bit (the root is at level 0); all levels from 1 on where the root cannot be
/// seen from here, as in a cgroup namespace.
pub fn cgroup_levels(path: &Path) -> u32 {
    let all = (1 << CGROUP_LEVELS) - 2;
    let Ok(path) = fs::canonicalize(path) else { return all };
    match path.ancestors().position(is_root) {
        Some(level) => (1 << level.min(31)) & all,
        None => all,
    }
}

fn is_root(path: &Path) -> bool {
    cgroup_id(path) == Some(ROOT_INODE) && is_cgroup2(path)
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.f_type as u32 == CGROUP2_MAGIC)
}

/// Mount points of type cgroup2 in a file like /proc/mounts (`fstab(5)`: blanks are written as octal escapes).
fn cgroup2_mounts(mounts: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape(point)))
    };
    mounts.lines().filter_map(mount).collect()
}

fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (escape, character)| {
            text.replace(escape, character)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_points_of_cgroup2_are_found_in_any_layout() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                      none /mnt/a\\040b cgroup2 rw 0 0\n\
                      short\n";
        assert_eq!(
            cgroup2_mounts(mounts),
            [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/a b")]
        );
    }

    #[test]
    fn a_directory_that_is_not_of_cgroup2_is_refused() {
        let error = find_cgroup(Some(Path::new("/proc"))).expect_err("not a cgroup");
        assert!(error.to_string().contains("/proc"));
    }

    #[test]
    fn a_cgroup_s_level_counts_from_the_root_and_is_any_where_that_cannot_be_seen() {
        assert_eq!(cgroup_levels(Path::new("/proc")), 0x1fe, "not a cgroup");
        let Ok(Cgroup::Found(root)) = find_cgroup(None) else {
            panic!("no cgroup2 hierarchy is mounted");
        };
        assert_eq!(cgroup_levels(&root), 0, "the root needs no look-up");
        let below = fs::read_dir(&root)
            .expect("root")
            .flatten()
            .find(|entry| entry.path().is_dir());
        if let Some(entry) = below {
            assert_eq!(cgroup_levels(&entry.path()), 1 << 1);
        }
    }
}
