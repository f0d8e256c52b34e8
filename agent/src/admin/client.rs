//! The asking side, blocking: commands ask one question and end.

use super::{Error, MAX_RESPONSE, Request, Response, TIMEOUT};
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Asks the agent behind `socket` and waits for its answer.
///
/// [`Error::NotRunning`] means that nobody listens there; everything else is a real failure.
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, Error> {
    let io = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::NotRunning {
            socket: socket.to_owned(),
        },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Silent {
            socket: socket.to_owned(),
        },
        _ => Error::Io {
            socket: socket.to_owned(),
            source,
        },
    };
    let protocol = |source| Error::Protocol {
        socket: socket.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(io)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(io)?;
    let mut line = serde_json::to_vec(request).map_err(protocol)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(io)?;
    let mut answer = Vec::new();
    stream
        .take(MAX_RESPONSE as u64 + 1)
        .read_to_end(&mut answer)
        .map_err(io)?;
    if answer.len() > MAX_RESPONSE {
        return Err(Error::TooLong {
            socket: socket.to_owned(),
        });
    }
    match serde_json::from_slice(&answer).map_err(protocol)? {
        Response::Ok(value) => serde_json::from_value(value).map_err(protocol),
        Response::Error(why) => Err(Error::Refused(why)),
    }
}
