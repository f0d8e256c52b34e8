//! The tables that no plan writes, beside what they should hold.

use super::error::Result;
use super::interfaces::NetworkTables;
use super::tables::Tables;
use ferrogate_common::{Config, config_flags};
use ferrogate_control::Difference;

/// Flags that have writers of their own.
const OTHERS: u32 = config_flags::CLUSTER_CIDRS
    | config_flags::BRIDGE_PORTS
    | config_flags::FILTER
    | config_flags::TAKE_OVER
    | config_flags::HAND_OVER;

/// Compares one entry; counts it.
fn compare<T: PartialEq>(
    all: &mut (u64, Vec<Difference>),
    (map, entry): (&'static str, String),
    (desired, found): (Option<T>, Option<T>),
    show: impl Fn(&T) -> String,
) {
    all.0 += 1;
    if desired != found {
        all.1.push(Difference {
            map,
            entry,
            port: None,
            desired: desired.as_ref().map(&show),
            found: found.as_ref().map(&show),
        });
    }
}

impl Tables {
    /// Compares `INTERFACES`, `SOURCES`, `NODE_ADDRESSES` and `CONFIG` with what they should hold; also how many entries that
    /// were.
    pub fn network_differences(&self, desired: &NetworkTables, config: &Config) -> Result<(u64, Vec<Difference>)> {
        let mut all = (0, Vec::new());
        let found = self.interfaces()?;
        let indexes = desired
            .interfaces
            .keys()
            .chain(found.keys().filter(|index| !desired.interfaces.contains_key(index)));
        for index in indexes {
            let values = (desired.interfaces.get(index), found.get(index));
            compare(
                &mut all,
                ("INTERFACES", format!("index {index}")),
                values,
                |interface| {
                    format!(
                        "flags {:#x}, sources {} and {}",
                        interface.flags, interface.source4, interface.source6
                    )
                },
            );
        }
        let found = self.sources()?;
        for (index, address) in &desired.sources {
            // Those that are in use no more stay for the flows that have them.
            let values = (Some(address), found.get(index));
            compare(&mut all, ("SOURCES", index.to_string()), values, ToString::to_string);
        }
        let found = self.node_addresses()?;
        for address in desired.node_addresses.union(&found) {
            let values = (desired.node_addresses.get(address), found.get(address));
            compare(
                &mut all,
                ("NODE_ADDRESSES", address.to_string()),
                values,
                ToString::to_string,
            );
        }
        let held = self.config()?;
        for (name, wanted, found) in [
            ("flags", config.flags & !OTHERS, held.flags & !OTHERS),
            (
                "first SNAT port",
                config.snat_port_base.into(),
                held.snat_port_base.into(),
            ),
            (
                "number of SNAT ports",
                config.snat_port_count.into(),
                held.snat_port_count.into(),
            ),
            ("UDP timeout", config.udp_timeout.into(), held.udp_timeout.into()),
            (
                "UDP stream timeout",
                config.udp_stream_timeout.into(),
                held.udp_stream_timeout.into(),
            ),
        ] {
            compare(
                &mut all,
                ("CONFIG", name.to_owned()),
                (Some(wanted), Some(found)),
                |value| format!("{value:#x}"),
            );
        }
        Ok(all)
    }
}
