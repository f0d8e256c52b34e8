//! Reading links, addresses and default routes.

use super::{Error, Link, Result, Role};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// RTA_NH_ID (include/uapi/linux/rtnetlink.h): the route has an object for its next hops, which may be several.
pub(super) const NEXT_HOP_ID: u16 = 30;

/// All links with their addresses and default routes, not classified; and whether where a packet goes may depend on its source.
pub(super) async fn links(handle: &Handle) -> Result<(Vec<Link>, bool)> {
    let mut links = BTreeMap::new();
    let messages: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| failed("links", source))?;
    for message in &messages {
        let link = parse_link(message);
        links.insert(link.ifindex, link);
    }
    add_addresses(handle, &mut links).await?;
    let mut by_source = false;
    for route in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = std::pin::pin!(handle.route().get(route).execute());
        while let Some(route) = routes.try_next().await.map_err(|source| failed("routes", source))? {
            by_source |= is_by_source(&route);
            add_default_route(&route, &mut links);
        }
    }
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut rules = std::pin::pin!(handle.rule().get(version).execute());
        while let Some(rule) = rules.try_next().await.map_err(|source| failed("rules", source))? {
            by_source |= rule.header.src_len != 0;
        }
    }
    Ok((links.into_values().collect(), by_source))
}

/// Whether a route is for some sources only, or one of its next hops is chosen by the source.
fn is_by_source(route: &RouteMessage) -> bool {
    let several = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::MultiPath(_) => true,
        RouteAttribute::Other(other) => other.kind() == NEXT_HOP_ID,
        _ => false,
    };
    route.header.source_prefix_length != 0 || route.attributes.iter().any(several)
}

fn failed(what: &'static str, source: rtnetlink::Error) -> Error {
    Error::Dump {
        what,
        source: Box::new(source),
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        kind: None,
        role: Role::Ignored,
        master: None,
        layer3: message.header.link_layer_type != LinkLayerType::Ether,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        addresses: Vec::new(),
        mac: None,
        peer_netns: None,
        default_route: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

async fn add_addresses(handle: &Handle, links: &mut BTreeMap<u32, Link>) -> Result<()> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| failed("addresses", source))?;
    // (ifindex, not preferred, order of the dump): a stable sort keeps the kernel's order within each.
    let mut found: Vec<(u32, bool, IpNet)> = messages.iter().filter_map(parse_address).collect();
    found.sort_by_key(|(ifindex, late, _)| (*ifindex, *late));
    for (ifindex, _, net) in found {
        if let Some(link) = links.get_mut(&ifindex) {
            link.addresses.push(net);
        }
    }
    Ok(())
}

/// Interface, whether other addresses are to be preferred (secondary, temporary, deprecated, tentative), and the address.
fn parse_address(message: &AddressMessage) -> Option<(u32, bool, IpNet)> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    let late = AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Tentative;
    let late = flags.intersects(AddressFlags::from_bits_retain(u32::from(late.bits())));
    // IFA_ADDRESS is the peer's on point-to-point links.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((message.header.index, late, net))
}

fn add_default_route(route: &RouteMessage, links: &mut BTreeMap<u32, Link>) {
    let header = &route.header;
    let known = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    if !known || header.destination_prefix_length != 0 || header.kind != RouteType::Unicast {
        return;
    }
    let mut metric = 0;
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => devices.push(*ifindex),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    for ifindex in devices {
        if let Some(link) = links.get_mut(&ifindex) {
            link.default_route = Some(link.default_route.map_or(metric, |best| best.min(metric)));
        }
    }
}
