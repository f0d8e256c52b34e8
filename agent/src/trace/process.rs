//! Who made a socket call: the programs know the process and the cookie of its network namespace, and /proc knows the namespace's
//! addresses, while it has a process.

use crate::kernel::netns_cookie;
use crate::stuck;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

/// What /proc/self/ns/pid is in the kernel's first process namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST: &str = "pid:[4026531836]";
/// Between two looks for namespaces that are new: each takes as long as /proc is large.
const LOOK: Duration = Duration::from_secs(1);

/// Addresses of network namespaces, by their cookies.
#[derive(Debug)]
pub struct Processes {
    namespaces: HashMap<u64, Vec<IpAddr>>,
    looked: Instant,
    /// Whether namespaces that are not known are looked for inside.
    search: bool,
    /// Whether the programs number processes as /proc does here.
    same_numbers: bool,
}

impl Processes {
    /// Finds the namespaces that there are. What this process may not enter has no address.
    pub fn find() -> Self {
        Self {
            namespaces: namespaces(),
            search: true,
            ..Self::of_the_living()
        }
    }

    /// For those who may enter no namespace: that of this process is known, and any other while the process that made the call,
    /// or an earlier one of the same namespace, lives when it is asked for.
    pub fn of_the_living() -> Self {
        let own = netns_cookie().ok().map(|cookie| (cookie, addresses("self")));
        Self {
            namespaces: own.into_iter().collect(),
            looked: Instant::now(),
            search: false,
            same_numbers: fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST),
        }
    }

    /// The first address of a namespace in that family. A process that has ended already had the address of its namespace.
    pub fn address(&mut self, process: u32, netns: u64, v4: bool) -> Option<IpAddr> {
        if let Entry::Vacant(place) = self.namespaces.entry(netns) {
            let found = if self.same_numbers {
                addresses(&process.to_string())
            } else {
                vec![]
            };
            if !found.is_empty() {
                place.insert(found);
            } else if self.search && self.looked.elapsed() >= LOOK {
                self.namespaces.extend(namespaces());
                self.looked = Instant::now();
            }
        }
        let addresses = self.namespaces.get(&netns)?;
        addresses.iter().copied().find(|address| address.is_ipv4() == v4)
    }
}

/// The namespaces of all processes, each looked at from inside, by a thread that ends with that.
fn namespaces() -> HashMap<u64, Vec<IpAddr>> {
    let look = || {
        let paths = stuck::namespaces().unwrap_or_default();
        let found = paths.iter().filter_map(|path| {
            let namespace = File::open(path).ok()?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
            Some((netns_cookie().ok()?, addresses("thread-self")))
        });
        found.collect()
    };
    thread::spawn(look).join().unwrap_or_default()
}

/// The addresses of a process's network namespace that others can reach; none when the process is gone.
fn addresses(process: &str) -> Vec<IpAddr> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/net/{file}")).unwrap_or_default();
    let v4 = own_v4(&read("fib_trie")).into_iter().map(IpAddr::V4);
    v4.chain(own_v6(&read("if_inet6")).into_iter().map(IpAddr::V6))
        .collect()
}

/// Of /proc/net/fib_trie: `|-- 10.0.0.1` with `/32 host LOCAL` in the line below.
fn own_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in table.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            leaf = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.trim() == "/32 host LOCAL"
            && let Some(address) = leaf.filter(|address| !address.is_loopback())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Of /proc/net/if_inet6: 32 hexadecimal digits, index, length, scope, flags, name. Scope 0 is global.
fn own_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let digits = words.next()?;
        let scope = words.nth(2)?;
        let address = u128::from_str_radix(digits, 16).ok()?;
        (scope == "00").then(|| Ipv6Addr::from(address))
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_s_own_addresses_are_read_and_loopback_is_left_out() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.244.1.0\n        /24 link UNICAST\n     |-- 10.244.1.10\n        /32 host LOCAL\n\
            Local:\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.244.1.10\n        /32 host LOCAL\n     |-- 10.244.1.255\n        /32 link BROADCAST\n";
        assert_eq!(own_v4(table), [Ipv4Addr::new(10, 244, 1, 10)]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fd00024400010000000000000000000a 02 40 00 80     eth0\nfe80000000000000f8a1c3fffe6f0f0a 02 40 20 80     eth0\n";
        assert_eq!(
            own_v6(table),
            ["fd00:244:1::a".parse::<Ipv6Addr>().expect("an address")]
        );
        assert!(own_v4("").is_empty() && own_v6("nonsense\n").is_empty());
    }

    #[test]
    fn this_namespace_is_found_by_its_cookie_also_after_its_process_has_ended() {
        let mut processes = Processes::find();
        let cookie = netns_cookie().expect("Linux 5.14");
        let own = addresses("self").into_iter().find(IpAddr::is_ipv4);
        assert_eq!(processes.address(u32::MAX, cookie, true), own);
        assert_eq!(
            processes.address(u32::MAX, 0, true),
            None,
            "no namespace has this cookie"
        );
    }
}
