//! The manifests of `examples/`: read as they are, and the facts about them that the playground draws.
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrogate_tests::rig::Family;
use ferrogate_tests::wire::Protocol;
use serde::Deserialize;
use serde_json::Value;

/// The directories below `examples/` that the playground serves.
pub(crate) const DIRECTORIES: [&str; 2] = ["order-service", "order-events"];

/// Everything read from the examples.
#[derive(Debug)]
pub(crate) struct Examples {
    /// Every Service, as written.
    pub(crate) services: Vec<Value>,
    /// Every EndpointSlice, as written.
    pub(crate) slices: Vec<Value>,
    /// The Services by name.
    pub(crate) facts: BTreeMap<String, Service>,
}

/// What a Service's manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Its addresses inside the cluster.
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    /// The cloud load balancer's address.
    pub(crate) ingress: Option<IpAddr>,
}

impl Service {
    /// The ClusterIP of a family, with the Service's port.
    pub(crate) fn cluster_ip(&self, family: Family) -> Result<SocketAddr> {
        let mut found = self.cluster_ips.iter().filter(|ip| Family::of(**ip) == family);
        let ip = found
            .next()
            .with_context(|| format!("Service {} has no {family:?} clusterIP", self.name))?;
        Ok(SocketAddr::new(*ip, self.port))
    }

    /// Its node port.
    pub(crate) fn node_port(&self) -> Result<u16> {
        self.node_port.with_context(|| {
            format!(
                "Service {} has no nodePort: without an API server its manifest has to say it",
                self.name
            )
        })
    }

    fn of(object: &Value) -> Result<Self> {
        let name = name(object)?;
        let (spec, port) = (&object["spec"], &object["spec"]["ports"][0]);
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        let ingress = &object["status"]["loadBalancer"]["ingress"][0]["ip"];
        Ok(Self {
            cluster_ips: addresses
                .filter_map(Value::as_str)
                .map(|ip| ip.parse().with_context(|| format!("clusterIP {ip} of Service {name}")))
                .collect::<Result<_>>()?,
            protocol: match port["protocol"].as_str() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            port: number(&port["port"]).with_context(|| format!("Service {name} has no port"))?,
            node_port: number(&port["nodePort"]),
            ingress: ingress.as_str().map(str::parse).transpose()?,
            name,
        })
    }
}

impl Examples {
    /// Reads the YAML files of the directories that the playground serves.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut examples = Self {
            services: Vec::new(),
            slices: Vec::new(),
            facts: BTreeMap::new(),
        };
        for directory in DIRECTORIES {
            let directory = folder.join(directory);
            let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
            let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            files.sort();
            for file in files
                .iter()
                .filter(|file| file.extension().is_some_and(|end| end == "yaml"))
            {
                examples.add_file(file).with_context(|| file.display().to_string())?;
            }
        }
        Ok(examples)
    }

    /// A Service by its name.
    pub(crate) fn service(&self, name: &str) -> Result<&Service> {
        self.facts
            .get(name)
            .with_context(|| format!("the examples have no Service {name}"))
    }

    fn add_file(&mut self, file: &Path) -> Result<()> {
        for document in serde_yaml_ng::Deserializer::from_str(&fs::read_to_string(file)?) {
            let object = Value::deserialize(document)?;
            match object["kind"].as_str() {
                Some("Service") => {
                    let service = Service::of(&object)?;
                    self.facts.insert(service.name.clone(), service);
                    self.services.push(object);
                }
                Some("EndpointSlice") => self.slices.push(object),
                None if object.is_null() => {}
                other => bail!("neither a Service nor an EndpointSlice: {other:?}"),
            }
        }
        Ok(())
    }
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"].as_str();
    Ok(name.context("an object without a name")?.to_owned())
}

/// The folder of the examples: the one given, else beside the program's checkout or in the current directory.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder.to_owned());
    }
    let program = std::env::current_exe()?;
    let mut places = vec![PathBuf::from("examples")];
    // target/release/playground
    places.extend(program.ancestors().nth(3).map(|checkout| checkout.join("examples")));
    let found = places.iter().find(|folder| folder.join(DIRECTORIES[0]).is_dir());
    match found {
        Some(folder) => Ok(folder.clone()),
        None => bail!("no folder `examples` here: say where it is with --examples"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Examples {
        Examples::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")).expect("examples")
    }

    #[test]
    fn the_examples_say_every_address_that_an_api_server_would_have_chosen() {
        let examples = examples();
        for service in examples.facts.values() {
            for family in Family::BOTH {
                service.cluster_ip(family).expect("clusterIP");
            }
        }
        for name in ["order-service-nodeport", "order-service-loadbalancer", "order-events"] {
            examples.service(name).and_then(Service::node_port).expect("nodePort");
        }
        let balanced = examples.service("order-service-loadbalancer").expect("Service");
        assert_eq!(balanced.ingress, Some("203.0.113.80".parse().expect("address")));
    }

    #[test]
    fn every_service_has_a_slice_of_each_family() {
        let examples = examples();
        assert_eq!(examples.slices.len(), 2 * examples.services.len());
        for slice in &examples.slices {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
            examples.service(service.expect("label")).expect("Service");
        }
    }
}
