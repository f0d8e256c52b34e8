//! The addresses that cases give to their Services: load balancers' and external ones, some of each for every case.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::rig::Family;

/// Networks below 100.16.0.0/12 and fd00:100::/32, which stand for public ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    LoadBalancer,
    External,
    /// External addresses outside the allow-list of ours.
    Forbidden,
}

impl Public {
    pub const ALL: [Public; 3] = [Public::LoadBalancer, Public::External, Public::Forbidden];

    /// Each kind has two networks: one that is routed to node 1 from outside, one to node 2.
    fn network(self, node: u8) -> u16 {
        let base = match self {
            Public::LoadBalancer => 20,
            Public::External => 22,
            Public::Forbidden => 24,
        };
        base + u16::from(node) - 1
    }

    /// The networks that are routed to a node: /16 and /48.
    pub fn routed(self, node: u8) -> [String; 2] {
        let network = self.network(node);
        [format!("100.{network}.0.0/16"), format!("fd00:100:{network}::/48")]
    }

    /// Address `index` (1 to 4) of a case: odd ones belong to node 1, even ones to node 2.
    pub fn address(self, case: u16, index: u8, family: Family) -> IpAddr {
        let network = self.network(2 - index % 2);
        let host = case * 2 + u16::from(index.div_ceil(2));
        match family {
            Family::V4 => {
                let [high, low] = host.to_be_bytes();
                Ipv4Addr::new(100, network as u8, high, low).into()
            }
            // The digits of the network as they are written.
            Family::V6 => {
                let digits = ((network / 10) << 4) | (network % 10);
                Ipv6Addr::new(0xfd00, 0x100, digits, 0, 0, 0, 0, host).into()
            }
        }
    }
}

/// Replaces `$vip1.v4`, `$external2.v6`, `$forbidden1.v4` in every string of an object.
pub fn fill_in(value: &mut Value, case: u16) {
    match value {
        Value::String(text) if text.contains('$') => *text = filled(text, case),
        Value::Array(values) => values.iter_mut().for_each(|value| fill_in(value, case)),
        Value::Object(fields) => fields.values_mut().for_each(|value| fill_in(value, case)),
        _ => {}
    }
}

fn filled(text: &str, case: u16) -> String {
    let mut text = text.to_owned();
    let kinds = [
        ("vip", Public::LoadBalancer),
        ("external", Public::External),
        ("forbidden", Public::Forbidden),
    ];
    for (word, public) in kinds {
        for index in 1..=4 {
            for (suffix, family) in [("v4", Family::V4), ("v6", Family::V6)] {
                let address = public.address(case, index, family).to_string();
                text = text.replace(&format!("${word}{index}.{suffix}"), &address);
            }
        }
    }
    text
}
