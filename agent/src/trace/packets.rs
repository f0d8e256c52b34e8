//! The packets of what is traced, before and behind the programs, into a file.

use super::events::interface;
use super::pcap::Pcap;
use crate::admin::ServiceRow;
use crate::kernel::{Capture, StateDir, boot_nanos};
use anyhow::{Context as _, Result};
use ferrogate_common::{CaptureKey, Port, Protocol};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Packets that are written at once, so that those who watch are not forgotten.
const TURN: usize = 10_000;

/// Packets on their way into a file, while this lives.
pub struct Packets {
    capture: Capture,
    pcap: Pcap<BufWriter<Box<dyn Write>>>,
    interfaces: HashMap<u32, Option<String>>,
}

impl Packets {
    /// `file`: `-` is standard output. `wanted`: see [`keys`]; all packets, where there is none.
    ///
    /// # Errors
    /// The file cannot be made; packets cannot be captured here.
    pub fn start(state: &StateDir, file: &Path, wanted: Option<BTreeSet<CaptureKey>>) -> Result<Self> {
        // First, so that where it cannot be there is no file either.
        let capture = Capture::start(state, wanted).context("cannot capture")?;
        let out: Box<dyn Write> = if file == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(file).with_context(|| format!("cannot make {}", file.display()))?)
        };
        let pcap = Pcap::begin(BufWriter::new(out), boot_nanos(), Timestamp::now())?;
        Ok(Self {
            capture,
            pcap,
            interfaces: HashMap::new(),
        })
    }

    /// Follows programs that are replaced, and Services whose endpoints change; to be called now and then.
    pub fn go_on(&mut self, state: &StateDir, wanted: Option<BTreeSet<CaptureKey>>) -> Result<()> {
        if let Some(wanted) = wanted {
            self.capture.want(wanted).context("cannot go on capturing")?;
        }
        self.capture.follow(state).context("cannot go on capturing")
    }

    /// Writes what has come.
    pub fn look(&mut self) -> Result<()> {
        for _ in 0..TURN {
            let Some((packet, program)) = self.capture.take() else {
                break;
            };
            let names = &mut self.interfaces;
            let index = packet.ifindex;
            let name = names.entry(index).or_insert_with(|| interface(index)).clone();
            self.pcap.write(&packet, program, |_| name.clone())?;
        }
        self.pcap.flush()
    }

    /// Packets in the file, and those that had no room on the way there.
    pub fn counts(&self) -> Result<(u64, u64)> {
        Ok((
            self.pcap.written,
            self.capture.lost().context("cannot count what was lost")?,
        ))
    }
}

/// Whose packets are of these addresses, with all that they do; and of these Services: their frontends and endpoints.
pub fn keys(addresses: &[IpAddr], services: &[ServiceRow]) -> BTreeSet<CaptureKey> {
    let key = |address: IpAddr, port: u16, protocol: u8| CaptureKey {
        address: address.into(),
        port: Port::new(port),
        protocol,
        reserved: 0,
    };
    let mut keys: BTreeSet<CaptureKey> = addresses.iter().map(|one| key(*one, 0, CaptureKey::ALL)).collect();
    for row in services {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let Some(protocol) = protocols.into_iter().find(|protocol| protocol.name() == row.protocol) else {
            continue;
        };
        let any: IpAddr = match row.family.as_str() {
            "IPv4" => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        };
        let frontends = row.frontends.iter().map(|frontend| (frontend.address, frontend.port));
        let endpoints = row
            .endpoints
            .iter()
            .map(|endpoint| (Some(endpoint.address.ip()), endpoint.address.port()));
        for (address, port) in frontends.chain(endpoints) {
            keys.insert(key(address.unwrap_or(any), port, protocol as u8));
            keys.extend(address.map(|address| key(address, 0, CaptureKey::PORTLESS)));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{EndpointRow, FrontendRow};

    #[test]
    fn a_service_is_its_frontends_and_endpoints_and_their_packets_without_ports() {
        let frontend = |kind: &str, address: Option<[u8; 4]>, port| FrontendRow {
            kind: kind.to_owned(),
            address: address.map(IpAddr::from),
            port,
        };
        let row = ServiceRow {
            protocol: "TCP".to_owned(),
            family: "IPv4".to_owned(),
            frontends: vec![
                frontend("ClusterIP", Some([10, 96, 0, 10]), 80),
                frontend("NodePort", None, 30_080),
            ],
            endpoints: vec![EndpointRow {
                address: ([10, 244, 1, 9], 8080).into(),
                local: true,
            }],
            ..ServiceRow::default()
        };
        let client = IpAddr::from([192, 0, 2, 7]);
        let told = keys(&[client], &[row]);
        let told: Vec<_> = told
            .iter()
            .map(|key| (key.address.ip(), key.port.get(), key.protocol))
            .collect();
        let v4 = |address: [u8; 4]| IpAddr::from(address);
        assert_eq!(told.len(), 6);
        for expected in [
            (v4([0; 4]), 30_080, 6),
            (v4([10, 96, 0, 10]), 80, 6),
            (v4([10, 96, 0, 10]), 0, CaptureKey::PORTLESS),
            (v4([10, 244, 1, 9]), 8080, 6),
            (v4([10, 244, 1, 9]), 0, CaptureKey::PORTLESS),
            (client, 0, CaptureKey::ALL),
        ] {
            assert!(told.contains(&expected), "{expected:?} in {told:?}");
        }
    }
}
