//! UDP_SOCKETS: connected sockets that the socket edge translated, and those of them whose backend has ended.

use super::error::{During as _, Result};
use super::tables::{Tables, reading, writing};
use ferrogate_common::{UdpSocket, address_roles, maps};
use std::collections::BTreeMap;

/// A connected UDP socket whose backend is no longer current. It may be closed long since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StuckSocket {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Cookie of its network namespace (SO_NETNS_COOKIE).
    pub netns: u64,
    noted: UdpSocket,
}

impl Tables {
    /// The sockets whose backend has ended.
    pub fn stuck_sockets(&self) -> Result<Vec<StuckSocket>> {
        let mut stuck = Vec::new();
        // Many sockets have one backend.
        let mut generations = BTreeMap::new();
        self.udp_sockets
            .for_each(|cookie, values| {
                let noted = values[0];
                let current = *generations
                    .entry(noted.backend)
                    .or_insert_with(|| self.backends.read(noted.backend).map(|backend| backend.generation));
                if current != Some(noted.generation) {
                    stuck.push(StuckSocket {
                        cookie: *cookie,
                        netns: noted.netns,
                        noted,
                    });
                }
                true
            })
            .during(|| reading(maps::UDP_SOCKETS))?;
        Ok(stuck)
    }

    /// Has the pod edge look at what is sent to where these sockets send.
    pub fn attend_stuck(&self, sockets: &[StuckSocket]) {
        for socket in sockets {
            self.add_role(&socket.noted.address, address_roles::DESTINATION);
        }
    }

    /// Takes their notes away, but of those that have another backend by now.
    pub fn forget_sockets(&self, sockets: &[StuckSocket]) -> Result<()> {
        for socket in sockets {
            let held = self
                .udp_sockets
                .get(&socket.cookie)
                .during(|| reading(maps::UDP_SOCKETS))?;
            if held.as_deref() == Some(&[socket.noted]) {
                self.udp_sockets
                    .delete(&socket.cookie)
                    .during(|| writing(maps::UDP_SOCKETS))?;
            }
        }
        Ok(())
    }
}
