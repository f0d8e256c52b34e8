//! A directory of manifests as the source of truth.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// One file an object: `<kind>-<namespace>-<name>.yaml`, replaced by rename, so that no reader sees half a file.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    pub(crate) fn create(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn apply(&self, object: &Value) -> Result<()> {
        let path = self.path(object);
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_yaml_ng::to_string(object)?)?;
        fs::rename(&partial, &path).with_context(|| path.display().to_string())
    }

    pub(crate) fn delete(&self, object: &Value) -> Result<()> {
        let path = self.path(object);
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    fn path(&self, object: &Value) -> PathBuf {
        let word = |value: &Value| value.as_str().unwrap_or("cluster").to_lowercase();
        let (kind, metadata) = (word(&object["kind"]), &object["metadata"]);
        self.directory.join(format!(
            "{kind}-{}-{}.yaml",
            word(&metadata["namespace"]),
            word(&metadata["name"])
        ))
    }
}
