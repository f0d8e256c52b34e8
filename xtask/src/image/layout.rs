//! The OCI image layout (opencontainers/image-spec): blobs by their digests, and an index that names them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::digest;
use crate::cmd;

/// Where the program is in the image.
pub(super) const PROGRAM: &str = "/usr/bin/ferrogate";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes an image with `binary` as its program. The same binary makes the same image, byte by byte.
pub(super) fn write(binary: &Path, name: &str, output: &Path) -> Result<()> {
    let directory = output.with_extension("layout");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let root = directory.join("root");
    let program = root.join(PROGRAM.trim_start_matches('/'));
    fs::create_dir_all(program.parent().context("a directory")?)?;
    fs::copy(binary, &program).with_context(|| binary.display().to_string())?;
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let layer = directory.join("layer.tar");
    archive(&root, &layer, &["usr"])?;
    let contents = digest(&layer)?;
    // Without a name and a time in it.
    cmd::run(Command::new("gzip").args(["-9", "--no-name"]).arg(&layer))?;
    fs::remove_dir_all(&root)?;

    let layout = directory.join("oci");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = blob(&blobs, LAYER, &fs::read(directory.join("layer.tar.gz"))?)?;
    let config = blob(&blobs, CONFIG, &serde_json::to_vec(&config(&contents))?)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = blob(&blobs, MANIFEST, &serde_json::to_vec(&manifest)?)?;
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive(&layout, output, &["oci-layout", "index.json", "blobs"])?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}

fn config(contents: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": [PROGRAM], "Cmd": ["agent"], "Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{contents}")]},
        "history": [{"created_by": "cargo xtask image"}],
    })
}

/// Stores a blob, and describes it.
fn blob(blobs: &Path, kind: &str, bytes: &[u8]) -> Result<Value> {
    let file = blobs.join("new");
    fs::write(&file, bytes)?;
    let digest = digest(&file)?;
    fs::rename(&file, blobs.join(&digest))?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}

/// A tar archive of these entries of a directory, which says nothing of who made it and when.
fn archive(directory: &Path, output: &Path, entries: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=ustar",
    ]);
    tar.arg("--create")
        .arg("--file")
        .arg(output)
        .arg("--directory")
        .arg(directory);
    cmd::run(tar.args(entries))
}

/// Unpacks an image as an engine would, every digest compared; returns where its root file system is.
pub(super) fn unpack(image: &Path, directory: &Path) -> Result<PathBuf> {
    let extract = |archive: &Path, into: &Path| {
        fs::create_dir_all(into)?;
        cmd::run(
            Command::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(archive)
                .arg("--directory")
                .arg(into),
        )
    };
    let layout = directory.join("oci");
    extract(image, &layout)?;
    let open = |descriptor: &Value| -> Result<PathBuf> {
        let text = descriptor["digest"].as_str().context("a digest")?;
        let wanted = text.strip_prefix("sha256:").context("a sha256")?;
        let file = layout.join("blobs/sha256").join(wanted);
        let found = digest(&file)?;
        ensure!(found == wanted, "the blob {wanted} has the digest {found}");
        ensure!(descriptor["size"] == fs::metadata(&file)?.len(), "the size of {wanted}");
        Ok(file)
    };
    let read = |file: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&open(&index["manifests"][0])?)?;
    let config = read(&open(&manifest["config"])?)?;
    ensure!(
        config["config"]["Entrypoint"][0] == PROGRAM,
        "the entry point is {config}"
    );
    let root = directory.join("root");
    for layer in manifest["layers"].as_array().context("layers")? {
        extract(&open(layer)?, &root)?;
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("fg-image-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        directory
    }

    #[test]
    fn what_is_packed_comes_out_again_and_the_same_makes_the_same() {
        let directory = directory("packed");
        let binary = directory.join("program");
        fs::write(&binary, b"#!/bin/sh\n").expect("a file");
        let images = ["one.tar", "two.tar"].map(|name| directory.join(name));
        for image in &images {
            write(&binary, "docker.io/library/ferrogate:1", image).expect("an image");
        }
        let [one, two] = images.map(|image| fs::read(&image).expect("an image"));
        assert!(one == two, "the same binary makes the same image");
        let root = unpack(&directory.join("one.tar"), &directory.join("out")).expect("an image that hangs together");
        let program = root.join("usr/bin/ferrogate");
        assert_eq!(fs::read(&program).expect("the program"), b"#!/bin/sh\n");
        let mode = fs::metadata(&program).expect("the program").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::remove_dir_all(&directory).expect("clean-up");
    }

    #[test]
    fn a_blob_that_was_changed_is_found() {
        let directory = directory("changed");
        let binary = directory.join("program");
        fs::write(&binary, b"#!/bin/sh\n").expect("a file");
        let image = directory.join("image.tar");
        write(&binary, "docker.io/library/ferrogate:1", &image).expect("an image");
        let mut bytes = fs::read(&image).expect("an image");
        let place = bytes
            .windows(10)
            .position(|window| window == b"Entrypoint")
            .expect("the configuration");
        bytes[place] = b'e';
        fs::write(&image, bytes).expect("an image");
        let error = unpack(&image, &directory.join("out")).expect_err("another digest");
        assert!(format!("{error:#}").contains("has the digest"), "{error:#}");
        fs::remove_dir_all(&directory).expect("clean-up");
    }
}
