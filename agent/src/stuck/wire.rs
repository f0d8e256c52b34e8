//! What agent and helper say to each other: one line of JSON each way.

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Longest line, in bytes: as many sockets as the map has entries, with room.
const LONGEST: u64 = 16 << 20;

/// A socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Target {
    /// By which the kernel knows it (SO_COOKIE).
    pub(super) cookie: u64,
    /// Cookie of its network namespace (SO_NETNS_COOKIE).
    pub(super) netns: u64,
}

/// Connected UDP sockets to be destroyed.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) sockets: Vec<Target>,
}

/// What became of them.
#[derive(PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Cookies of those that were there and connected.
    pub(super) destroyed: Vec<u64>,
    /// Cookies of the network namespaces that were searched, of those that were named.
    pub(super) searched: Vec<u64>,
    /// All network namespaces of the machine that have a process were seen.
    pub(super) is_complete: bool,
    /// The first thing that went wrong.
    pub(super) problem: Option<String>,
}

pub(super) fn write<T: Serialize>(mut to: impl Write, message: &T) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}

/// Reads one message; `None` at the end. Nothing is read beyond its line: the other side waits for an answer.
pub(super) fn read<T: DeserializeOwned>(from: impl Read) -> Result<Option<T>> {
    let mut line = Vec::new();
    let mut from = from.take(LONGEST);
    let mut chunk = [0; 4096];
    while !line.ends_with(b"\n") {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            ensure!(line.is_empty(), "a message cut short after {} bytes", line.len());
            return Ok(None);
        }
        line.extend_from_slice(&chunk[..count]);
    }
    serde_json::from_slice(&line)
        .map(Some)
        .context("not a message of this version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_the_end_is_told_from_a_message_cut_short() {
        let request = Request {
            sockets: vec![
                Target {
                    cookie: u64::MAX,
                    netns: 7
                };
                500
            ],
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &request).expect("written");
        assert_eq!(read::<Request>(bytes.as_slice()).expect("read"), Some(request));
        assert_eq!(read::<Request>(&[][..]).expect("the end"), None);
        assert!(read::<Request>(&bytes[..bytes.len() - 1]).is_err());
        assert!(read::<Request>(&b"{}\n"[..]).is_err());
    }
}
