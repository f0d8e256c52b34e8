//! One agent a node: two would translate every packet twice, whatever directories they are given.

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::socket_peercred;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// A name in the abstract namespace of Unix sockets, which belongs to a network namespace as the interfaces do, and ends with
/// the process that holds it.
const NAME: &[u8] = b"ferrogate-agent";

/// The right to serve this network namespace, until it is dropped.
pub(super) struct Only {
    answering: tokio::task::JoinHandle<()>,
}

impl Only {
    /// Needs a runtime.
    ///
    /// # Errors
    /// When another agent serves this network namespace.
    pub(super) fn of_this_node() -> Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Self::hold(listener).context("cannot keep other agents away"),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let pid = UnixStream::connect_addr(&name).and_then(|stream| Ok(socket_peercred(&stream)?.pid));
                let whose = pid.map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
                bail!(
                    "another agent{whose} serves the node of this network namespace; two would translate every packet twice: \
                     stop it first"
                )
            }
            Err(error) => Err(error).context("cannot see whether another agent serves this network namespace"),
        }
    }

    fn hold(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        // Whoever connects wants to know our process id only, which the kernel tells.
        let answering = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        Ok(Self { answering })
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        self.answering.abort();
    }
}
