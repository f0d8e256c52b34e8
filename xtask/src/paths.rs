//! Where things are: the checkout, its build outputs, and the cache that outlives `cargo clean`.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The root of the checkout, from the place this crate was compiled at.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `target/` of the checkout. A `CARGO_TARGET_DIR` of the caller is not followed: the README promises these paths.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// The eBPF object that the agent embeds.
pub(crate) fn bpf_object() -> PathBuf {
    target().join("bpf/ferrogate.o")
}

/// The programs of `ferrogate trace --pcap`.
pub(crate) fn capture_object() -> PathBuf {
    bpf_object().with_file_name("capture.o")
}

/// The target directory of the eBPF crate: its own, because another compiler builds it.
pub(crate) fn bpf_build() -> PathBuf {
    target().join("bpf-build")
}

/// Tools and test peers: `$FERROGATE_CACHE`, else `~/.cache/ferrogate`.
pub(crate) fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        if let Some(dir) = env::var_os("FERROGATE_CACHE").filter(|dir| !dir.is_empty()) {
            return PathBuf::from(dir);
        }
        let home = env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        home.join(".cache/ferrogate")
    })
}

/// bpf-linker, installed by `cargo xtask setup`.
pub(crate) fn bpf_linker() -> PathBuf {
    cache().join("tools/bin/bpf-linker")
}

/// The Go programs that the cluster tests run beside the agent.
pub(crate) fn peers_bin() -> PathBuf {
    cache().join("peers/bin")
}
