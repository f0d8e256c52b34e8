//! From an error of the socket calls to a [`Failure`].
use std::io::{self, ErrorKind};

use ferrogate_tests::wire::{Failure, FailureKind};

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
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => FailureKind::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => FailureKind::Silence,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::PermissionDenied => {
            FailureKind::Unreachable
        }
        _ => FailureKind::Other,
    }
}
