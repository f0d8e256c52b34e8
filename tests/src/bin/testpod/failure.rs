//! From an error of the socket calls to a [`Failure`].
use std::io::{self, ErrorKind};

use ferrogate_tests::wire::{Failure, FailureKind};
use rustix::io::Errno;

/// Gives an error the stage it happened in.
pub(crate) trait At<T> {
    fn at(self, stage: &str) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, stage: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage: stage.to_owned(),
            kind: kind(&error),
            text: error.to_string(),
        })
    }
}

fn kind(error: &io::Error) -> FailureKind {
    // The other end knows no such protocol: ICMP "protocol unreachable", ICMPv6 "unrecognized next header".
    const NO_SUCH_PROTOCOL: [Errno; 2] = [Errno::NOPROTOOPT, Errno::PROTO];
    if Errno::from_io_error(error).is_some_and(|errno| NO_SUCH_PROTOCOL.contains(&errno)) {
        return FailureKind::Unreachable;
    }
    // A connected UDP socket that was destroyed has no address to send to any more.
    if error.raw_os_error() == Some(Errno::DESTADDRREQ.raw_os_error()) {
        return FailureKind::Refused;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
            FailureKind::Refused
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => FailureKind::Silence,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::PermissionDenied => {
            FailureKind::Unreachable
        }
        _ => FailureKind::Other,
    }
}
