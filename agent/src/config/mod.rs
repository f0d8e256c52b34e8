//! KubeProxyConfiguration files (`kubeproxy.config.k8s.io/v1alpha1`), as kube-proxy and kubeadm have them.
//!
//! A file is turned into options of `ferrogate agent`: what the command line or the environment says goes before it. Fields that
//! mean something here are mapped; all others that are set are named in one warning.

#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser as _};
use serde_yaml_ng::{Mapping, Value};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::Cli;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// A file as options.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Translated {
    /// Long names, without dashes, and values.
    pub options: BTreeMap<&'static str, String>,
    /// Fields that are set and mean nothing here, by their paths.
    pub ignored: Vec<String>,
}

/// Reads a command line. With `agent --config FILE` the file's options are added, where neither the command line nor the
/// environment has them.
///
/// # Errors
/// When the file cannot be read, is of another kind, or has a field of the wrong type. Errors of the command line itself end
/// the process, with clap's message.
pub fn parse_command_line(mut words: Vec<OsString>) -> Result<Cli> {
    let Some(file) = config_file(&words) else {
        return Ok(Cli::parse_from(words));
    };
    let translated = read(&file)?;
    words.extend(additions(&words, &translated, |variable| {
        std::env::var_os(variable).is_some()
    }));
    Ok(Cli::parse_from(words))
}

/// Reads and translates a file.
///
/// # Errors
/// See [`parse_command_line`].
pub fn read(file: &Path) -> Result<Translated> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the configuration {}", file.display()))?;
    translate(&text).with_context(|| format!("cannot use the configuration {}", file.display()))
}

/// The file that a command line of `agent` names, if it is one.
fn config_file(words: &[OsString]) -> Option<PathBuf> {
    let mut agent = false;
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        agent |= text == "agent";
        if !agent {
            continue;
        }
        if let Some(file) = text.strip_prefix("--config=") {
            return Some(file.into());
        }
        if text == "--config" {
            return words.next().map(PathBuf::from);
        }
    }
    std::env::var_os("FERROGATE_CONFIG")
        .filter(|_| agent)
        .map(PathBuf::from)
}

/// The options of a file that are given nowhere else.
fn additions(words: &[OsString], translated: &Translated, is_set: impl Fn(&str) -> bool) -> Vec<OsString> {
    let command = Cli::command();
    let given = |name: &str| {
        let option = format!("--{name}");
        let assigned = format!("{option}=");
        let on_line = words
            .iter()
            .map(|word| word.to_string_lossy())
            .any(|word| word == option || word.starts_with(&assigned));
        let variable = command
            .find_subcommand("agent")
            .and_then(|agent| agent.get_arguments().find(|one| one.get_long() == Some(name)))
            .and_then(|one| one.get_env());
        on_line || variable.is_some_and(|variable| is_set(&variable.to_string_lossy()))
    };
    let new = translated.options.iter().filter(|(name, _)| !given(name));
    new.map(|(name, value)| format!("--{name}={value}").into()).collect()
}

/// Translates the text of a file.
///
/// # Errors
/// See [`parse_command_line`].
pub fn translate(text: &str) -> Result<Translated> {
    let document: Value = serde_yaml_ng::from_str(text).context("not YAML")?;
    let Value::Mapping(fields) = document else {
        bail!("not an object: a {KIND} is expected");
    };
    let mut fields = Fields {
        fields,
        options: BTreeMap::new(),
    };
    let (version, kind) = (fields.text("apiVersion")?, fields.text("kind")?);
    if version.as_deref() != Some(API_VERSION) || kind.as_deref() != Some(KIND) {
        bail!(
            "it is {} {}, not {API_VERSION} {KIND}",
            version.as_deref().unwrap_or("without apiVersion"),
            kind.as_deref().unwrap_or("without kind")
        );
    }
    fields.map_all()?;
    let mut ignored = Vec::new();
    name_set("", &Value::Mapping(fields.fields), &mut ignored);
    ignored.sort();
    Ok(Translated {
        options: fields.options,
        ignored,
    })
}

/// What is left of a file, and the options that came of the rest.
struct Fields {
    fields: Mapping,
    options: BTreeMap<&'static str, String>,
}

impl Fields {
    fn map_all(&mut self) -> Result<()> {
        for (path, option) in [
            ("clientConnection.kubeconfig", "kubeconfig"),
            ("hostnameOverride", "node-name"),
            ("healthzBindAddress", "healthz-bind-address"),
            ("metricsBindAddress", "metrics-bind-address"),
        ] {
            if let Some(value) = self.text(path)? {
                self.options.insert(option, value);
            }
        }
        for (path, option) in [
            ("conntrack.tcpEstablishedTimeout", "tcp-established-timeout"),
            ("conntrack.tcpCloseWaitTimeout", "tcp-close-wait-timeout"),
            ("conntrack.udpTimeout", "udp-timeout"),
            ("conntrack.udpStreamTimeout", "udp-stream-timeout"),
        ] {
            // Zero: as it is, without this field.
            let set = |time: &String| time.chars().any(|digit| ('1'..='9').contains(&digit));
            if let Some(time) = self.text(path)?.filter(set) {
                self.options.insert(option, time);
            }
        }
        for (path, option) in [
            ("conntrack.maxPerCore", "conntrack-max-per-core"),
            ("conntrack.min", "conntrack-min"),
        ] {
            if let Some(value) = self.take(path) {
                let Some(number) = value.as_u64() else {
                    bail!("{path}: {value:?} is not a number");
                };
                self.options.insert(option, number.to_string());
            }
        }
        if let Some(networks) = self.list("nodePortAddresses")? {
            self.options.insert("node-port-addresses", networks);
        }
        self.local_clients()?;
        for path in ["iptables.masqueradeAll", "nftables.masqueradeAll"] {
            if self.flag(path)? {
                self.options.insert("snat", "always".to_owned());
            }
        }
        if self.text("logging.format")?.as_deref() == Some("json") {
            self.options.insert("log-format", "json".to_owned());
        }
        if let Some(verbosity) = self.take("logging.verbosity") {
            let Some(verbosity) = verbosity.as_u64() else {
                bail!("logging.verbosity: {verbosity:?} is not a number");
            };
            if verbosity >= 4 {
                self.options.insert("log-level", "debug".to_owned());
            }
        }
        Ok(())
    }

    /// Which clients count as the cluster's own: those in `clusterCIDR`, else the pods of this node alone, which are known by their
    /// interfaces.
    fn local_clients(&mut self) -> Result<()> {
        let networks = self.text("clusterCIDR")?;
        match self.text("detectLocalMode")?.as_deref() {
            None | Some("ClusterCIDR") => {
                if let Some(networks) = networks {
                    self.options.insert("cluster-cidr", networks);
                }
            }
            Some("NodeCIDR" | "BridgeInterface" | "InterfaceNamePrefix") => {
                // The agent finds the pods' interfaces by itself.
                self.take("detectLocal.bridgeInterface");
                self.take("detectLocal.interfaceNamePrefix");
            }
            Some(mode) => bail!(
                "detectLocalMode: {mode:?} is not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
            ),
        }
        Ok(())
    }

    /// Takes a field away by its path. `None` where it is not there or null.
    fn take(&mut self, path: &str) -> Option<Value> {
        let mut fields = &mut self.fields;
        let (parents, name) = path.rsplit_once('.').unwrap_or(("", path));
        for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
            fields = fields.get_mut(parent)?.as_mapping_mut()?;
        }
        fields.remove(name).filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    fn text(&mut self, path: &str) -> Result<Option<String>> {
        match self.take(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(other) => bail!("{path}: {other:?} is not a text"),
        }
    }

    fn flag(&mut self, path: &str) -> Result<bool> {
        match self.take(path) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => bail!("{path}: {other:?} is neither true nor false"),
        }
    }

    /// A list of texts, joined by commas; `None` where it is empty.
    fn list(&mut self, path: &str) -> Result<Option<String>> {
        let items = match self.take(path) {
            None => return Ok(None),
            Some(Value::Sequence(items)) => items,
            Some(other) => bail!("{path}: {other:?} is not a list"),
        };
        let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        match texts {
            Some(texts) => Ok(Some(texts.join(",")).filter(|texts| !texts.is_empty())),
            None => bail!("{path}: not all of it is text"),
        }
    }
}

/// Names every field below `value` that is set to something other than nothing.
fn name_set(path: &str, value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Mapping(fields) => {
            for (name, value) in fields {
                let name = name.as_str().unwrap_or("?");
                let path = if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                };
                name_set(&path, value, names);
            }
        }
        Value::Null | Value::Bool(false) => {}
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        Value::String(text) if text.is_empty() || text == "0s" => {}
        Value::Sequence(items) if items.is_empty() => {}
        _ => names.push(path.to_owned()),
    }
}
