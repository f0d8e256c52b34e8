//! Following the node's network.

use super::dump::{self, NEXT_HOP_ID};
use super::{NetOptions, Network, Result};
use futures::FutureExt as _;
use rtnetlink::Handle;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Events come in bursts (a pod is a dozen of them): wait so long after the first one before looking.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Look even without an event: an event that the socket had no room for is made good at the latest then.
const PERIOD: Duration = Duration::from_secs(60);
/// Wait after a socket error that is not an overrun, and after a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h): what devices are
/// known by.
const DEVICES: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// RTMGRP_NEIGH, and of enum rtnetlink_groups RTNLGRP_IPV4_RULE (8), RTNLGRP_IPV6_RULE (19) and RTNLGRP_NEXTHOP (32): what beside those
/// decides where packets go.
const WAYS: u32 = 0x4 | 1 << 7 | 1 << 18 | 1 << 31;
const RTA_MULTIPATH: u16 = 9;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// How packets may go other ways than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ways {
    Changed,
    /// By their source too, from now on, until a [`Network`] says otherwise.
    BySource,
}

/// Yields the node's network, and again whenever it may have changed.
///
/// Every event only says "look again": the whole state is read at each, so a lost event loses nothing for long, and no
/// queue grows. The looks are a task's of their own: however often the caller turns to other things, none is broken off
/// (the kernel would go on answering it, and refuse the next one as long: EBUSY) or put off.
pub struct Watcher {
    options: watch::Sender<NetOptions>,
    changed: Arc<Notify>,
    networks: mpsc::Receiver<Result<Network>>,
    tasks: [JoinHandle<()>; 3],
}

impl Watcher {
    /// Opens the netlink sockets, in the calling process's network namespace. Needs a tokio runtime.
    ///
    /// `ways_changed` is called whenever packets may go elsewhere than before: at once, and much more often than there is a new network.
    pub fn start(options: NetOptions, ways_changed: impl Fn(Ways) + Send + 'static) -> Result<Self> {
        let mut events = TokioSocket::new(NETLINK_ROUTE)?;
        events.socket_mut().bind(&SocketAddr::new(0, DEVICES | WAYS))?;
        // What changed before is not told.
        ways_changed(Ways::BySource);
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let changed = Arc::new(Notify::new());
        // The first look needs no event.
        changed.notify_one();
        let (options, latest) = watch::channel(options);
        // Of one network that waits and one that is looked at, at most the first is out of date.
        let (sender, networks) = mpsc::channel(1);
        let tasks = [
            tokio::spawn(connection),
            tokio::spawn(listen(events, changed.clone(), ways_changed)),
            tokio::spawn(look(handle, latest, changed.clone(), sender)),
        ];
        Ok(Self {
            options,
            changed,
            networks,
            tasks,
        })
    }

    /// Replaces the node's own addresses; [`Watcher::next`] yields a network by them if that makes a difference.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.options.send_modify(|options| options.node_addresses = addresses);
        self.changed.notify_one();
    }

    /// Waits for the next network that differs from the one yielded before; yields the first at once. After an error it
    /// is looked again by itself. Safe to cancel.
    pub async fn next(&mut self) -> Result<Network> {
        match self.networks.recv().await {
            Some(network) => network,
            // The task ends with the watcher.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Looks after each event, and sends what differs from the last look, until nobody receives it any more.
async fn look(
    handle: Handle,
    options: watch::Receiver<NetOptions>,
    changed: Arc<Notify>,
    networks: mpsc::Sender<Result<Network>>,
) {
    let mut last = None;
    loop {
        let event = timeout(PERIOD, changed.notified()).await.is_ok();
        if event && last.is_some() {
            sleep(DEBOUNCE).await;
            // What came meanwhile will be seen by this look.
            let _ = changed.notified().now_or_never();
        }
        let found = dump::links(&handle).await;
        let found = found.map(|(links, ways_by_source)| Network {
            ways_by_source,
            ..Network::new(links, &options.borrow())
        });
        let failed = found.is_err();
        if let Ok(network) = &found {
            // At its period it is sent changed or not: what was attached is looked at too.
            if event && last.as_ref() == Some(network) {
                continue;
            }
            last = Some(network.clone());
        }
        if networks.send(found).await.is_err() {
            return;
        }
        if failed {
            sleep(RETRY).await;
            changed.notify_one();
        }
    }
}

/// Turns netlink events into notifications. Not through rtnetlink's own connection: that one has no answer to an overrun.
async fn listen(socket: TokioSocket, changed: Arc<Notify>, ways_changed: impl Fn(Ways)) {
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        let received = socket.recv(&mut buffer).await;
        // Of an event that there was no room for too.
        let ways = match &received {
            Ok(()) => ways(&buffer),
            Err(_) => Ways::BySource,
        };
        ways_changed(ways);
        match received {
            Ok(()) if ways == Ways::BySource || is_of_interest(&buffer) => changed.notify_one(),
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed.notify_one(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot receive network events");
                changed.notify_one();
                sleep(RETRY).await;
            }
        }
    }
}

/// What an event says about ways: whether it is of a rule or route for some sources, or of one with several next hops.
fn ways(datagram: &[u8]) -> Ways {
    let (Some(header), attributes) = (datagram.get(..28), datagram.get(28..).unwrap_or_default()) else {
        return Ways::BySource;
    };
    // Behind the 16 bytes of struct nlmsghdr, struct rtmsg and struct fib_rule_hdr have the source's prefix length in their third
    // byte, and 12 bytes in all. Then attributes: their length, their kind.
    let by_source = match u16::from_ne_bytes([header[4], header[5]]) {
        RTM_NEWROUTE => header[18] != 0 || has_several_hops(attributes),
        RTM_NEWRULE => header[18] != 0,
        _ => false,
    };
    if by_source { Ways::BySource } else { Ways::Changed }
}

/// Whether a route's attributes name several next hops, or an object that may have several.
fn has_several_hops(mut attributes: &[u8]) -> bool {
    while let Some(&[a, b, c, d]) = attributes.first_chunk::<4>() {
        let (length, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        if matches!(kind, RTA_MULTIPATH | NEXT_HOP_ID) {
            return true;
        }
        // They begin at multiples of four bytes.
        let next = usize::from(length).next_multiple_of(4).max(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    false
}

/// Whether an event may be about devices. Routes other than default ones come and go with every pod and say nothing about them, and
/// neighbours, rules and next hops never do.
fn is_of_interest(datagram: &[u8]) -> bool {
    let Some(header) = datagram.get(..18) else {
        return true;
    };
    // struct nlmsghdr: the type at byte 4. Behind its 16 bytes struct rtmsg: family, then the destination's prefix length.
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    match kind {
        RTM_NEWROUTE | RTM_DELROUTE => header[17] == 0,
        RTM_NEWNEIGH | RTM_DELNEIGH | RTM_NEWRULE | RTM_DELRULE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_among_routes_are_of_interest() {
        let mut datagram = [0_u8; 28];
        datagram[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        assert!(is_of_interest(&datagram), "a default route");
        datagram[17] = 32;
        assert!(!is_of_interest(&datagram), "a pod's route");
        datagram[4..6].copy_from_slice(&16_u16.to_ne_bytes());
        assert!(is_of_interest(&datagram), "a link");
        datagram[4..6].copy_from_slice(&RTM_NEWNEIGH.to_ne_bytes());
        assert!(!is_of_interest(&datagram), "a neighbour");
    }

    #[test]
    fn rules_and_routes_by_source_are_told_from_others() {
        let datagram = |kind: u16, source: u8, attributes: &[(u16, &[u8])]| {
            let mut bytes = vec![0; 28];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[18] = source;
            for (kind, value) in attributes {
                bytes.extend((4 + value.len() as u16).to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(*value);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            ways(&bytes)
        };
        // RTA_DST and RTA_OIF, one of them with padding behind it.
        let plain: [(u16, &[u8]); 2] = [(1, &[10, 0, 0]), (4, &[1, 0, 0, 0])];
        assert_eq!(datagram(RTM_NEWROUTE, 0, &plain), Ways::Changed);
        assert_eq!(datagram(RTM_NEWNEIGH, 7, &plain), Ways::Changed);
        assert_eq!(datagram(RTM_NEWRULE, 0, &plain), Ways::Changed);
        assert_eq!(datagram(RTM_NEWRULE, 32, &plain), Ways::BySource);
        assert_eq!(datagram(RTM_NEWROUTE, 64, &plain), Ways::BySource);
        for several in [RTA_MULTIPATH, NEXT_HOP_ID] {
            let attributes = [plain[0], plain[1], (several, &[0; 8])];
            assert_eq!(datagram(RTM_NEWROUTE, 0, &attributes), Ways::BySource);
        }
        assert_eq!(ways(&[0; 20]), Ways::BySource, "cut off");
    }

    #[tokio::test]
    async fn the_first_network_comes_at_once_and_has_a_loopback() {
        let mut watcher = Watcher::start(NetOptions::default(), |_| {}).expect("netlink");
        let network = timeout(Duration::from_secs(5), watcher.next())
            .await
            .expect("in time")
            .expect("dump");
        assert!(network.interfaces.iter().any(|link| link.loopback));
        let again = timeout(Duration::from_millis(10), watcher.next()).await;
        assert!(again.is_err(), "nothing has changed");
    }

    #[tokio::test]
    async fn a_caller_that_turns_away_at_once_each_time_breaks_no_look_off() {
        let mut watcher = Watcher::start(NetOptions::default(), |_| {}).expect("netlink");
        for _ in 0..1000 {
            if let Some(network) = watcher.next().now_or_never() {
                assert!(network.expect("dump").interfaces.iter().any(|link| link.loopback));
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("never looked to the end");
    }
}
