//! The cookie of a network namespace.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::AsRawFd as _;

/// The number by which the kernel knows the calling process's network namespace, for as long as it runs (SO_NETNS_COOKIE,
/// since Linux 5.14). What `bpf_get_netns_cookie` gives for this namespace's sockets.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, the size of `cookie`, to it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = netns_cookie().expect("Linux 5.14");
        assert_ne!(cookie, 0);
        assert_eq!(netns_cookie().expect("Linux 5.14"), cookie);
    }
}
