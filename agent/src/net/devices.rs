//! What `ferrogate doctor` asks of interfaces, whatever they are to us.

use super::{Error, Result};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    pub mtu: u32,
    /// Id of its XDP program.
    pub xdp: Option<u32>,
}

/// All interfaces of this network namespace. Needs a runtime.
pub async fn devices() -> Result<Vec<Device>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let messages: std::result::Result<Vec<LinkMessage>, _> = handle.link().get().execute().try_collect().await;
    connection.abort();
    let messages = messages.map_err(|source| Error::Dump {
        what: "links",
        source: Box::new(source),
    })?;
    Ok(messages.iter().map(device).collect())
}

fn device(message: &LinkMessage) -> Device {
    let mut device = Device {
        ifindex: message.header.index,
        name: String::new(),
        mtu: 0,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Xdp(attributes) => {
                device.xdp = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_there() {
        let devices = devices().await.expect("a netlink socket");
        let loopback = devices.iter().find(|device| device.name == "lo").expect("lo");
        assert!(loopback.mtu > 1500 && loopback.xdp.is_none(), "{loopback:?}");
    }
}
