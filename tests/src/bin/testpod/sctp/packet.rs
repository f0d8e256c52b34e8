//! SCTP packets: the common header, and those chunks that a short association needs (RFC 9260 section 3).
use crc::{CRC_32_ISCSI, Crc};

/// Bytes of the common header.
const COMMON: usize = 12;

/// What peers are told of our buffer, in bytes.
const WINDOW: u32 = 1 << 16;

/// Flags of a DATA chunk that is a whole message: begin and end.
const WHOLE: u8 = 0b11;

/// "The verification tag is the one you sent": of ABORT and SHUTDOWN COMPLETE.
const REFLECTED: u8 = 1;

/// The parameter of an INIT ACK that holds the state cookie.
const STATE_COOKIE: u16 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// The verification tag, which its receiver chose.
    pub(super) tag: u32,
    pub(super) chunks: Vec<Chunk>,
}

/// What each side says of itself when an association begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Init {
    /// The verification tag that packets to it shall have, never 0.
    pub(super) tag: u32,
    /// Its first TSN.
    pub(super) tsn: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Data {
        tsn: u32,
        sequence: u16,
        payload: Vec<u8>,
    },
    Init(Init),
    InitAck(Init, Vec<u8>),
    Sack {
        cumulative: u32,
    },
    Abort {
        reflected: bool,
    },
    Shutdown {
        cumulative: u32,
    },
    ShutdownAck,
    CookieEcho(Vec<u8>),
    CookieAck,
    ShutdownComplete {
        reflected: bool,
    },
    /// One that means nothing here.
    Other(u8),
}

/// The ports of a packet, right or wrong.
pub(super) fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    Some((word16(bytes, 0)?, word16(bytes, 2)?))
}

impl Packet {
    /// The packet with its checksum.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            chunk.encode(&mut bytes);
        }
        let sum = checksum(&bytes);
        bytes[8..COMMON].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a packet; what is wrong with it otherwise.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("too short: {bytes:02x?}");
        let (source_port, destination_port) = ports(bytes).ok_or_else(short)?;
        let tag = word32(bytes, 4).ok_or_else(short)?;
        let sum = word32(bytes, 8).ok_or_else(short)?.swap_bytes();
        let mut zeroed = bytes.to_vec();
        zeroed[8..COMMON].fill(0);
        let right = checksum(&zeroed);
        if sum != right {
            return Err(format!("CRC32c {sum:08x} instead of {right:08x}: {bytes:02x?}"));
        }
        let mut chunks = Vec::new();
        let mut at = COMMON;
        while at < bytes.len() {
            let length = usize::from(word16(bytes, at + 2).ok_or_else(short)?);
            let value = bytes.get(at + 4..at + length).ok_or_else(short)?;
            chunks.push(Chunk::decode(bytes[at], bytes[at + 1], value).ok_or_else(short)?);
            at += length.next_multiple_of(4);
        }
        Ok(Self {
            source_port,
            destination_port,
            tag,
            chunks,
        })
    }
}

impl Chunk {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let reflection = |reflected: bool| if reflected { REFLECTED } else { 0 };
        let (kind, flags, value) = match self {
            Chunk::Data { tsn, sequence, payload } => {
                let mut value = tsn.to_be_bytes().to_vec();
                // Stream 0; its sequence number; no payload protocol.
                value.extend([0; 2]);
                value.extend(sequence.to_be_bytes());
                value.extend([0; 4]);
                value.extend(payload);
                (0, WHOLE, value)
            }
            Chunk::Init(init) => (1, 0, init.encode()),
            Chunk::InitAck(init, cookie) => {
                let mut value = init.encode();
                value.extend(STATE_COOKIE.to_be_bytes());
                value.extend((cookie.len() as u16 + 4).to_be_bytes());
                value.extend(cookie);
                (2, 0, value)
            }
            Chunk::Sack { cumulative } => {
                let mut value = cumulative.to_be_bytes().to_vec();
                value.extend(WINDOW.to_be_bytes());
                // No gaps, no duplicates.
                value.extend([0; 4]);
                (3, 0, value)
            }
            Chunk::Abort { reflected } => (6, reflection(*reflected), Vec::new()),
            Chunk::Shutdown { cumulative } => (7, 0, cumulative.to_be_bytes().to_vec()),
            Chunk::ShutdownAck => (8, 0, Vec::new()),
            Chunk::CookieEcho(cookie) => (10, 0, cookie.clone()),
            Chunk::CookieAck => (11, 0, Vec::new()),
            Chunk::ShutdownComplete { reflected } => (14, reflection(*reflected), Vec::new()),
            Chunk::Other(kind) => (*kind, 0, Vec::new()),
        };
        bytes.extend([kind, flags]);
        bytes.extend((value.len() as u16 + 4).to_be_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn decode(kind: u8, flags: u8, value: &[u8]) -> Option<Self> {
        let reflected = flags & REFLECTED != 0;
        Some(match kind {
            0 => Chunk::Data {
                tsn: word32(value, 0)?,
                sequence: word16(value, 6)?,
                payload: value.get(12..)?.to_vec(),
            },
            1 => Chunk::Init(Init::decode(value)?),
            2 => Chunk::InitAck(Init::decode(value)?, cookie(value.get(16..)?)?),
            3 => Chunk::Sack {
                cumulative: word32(value, 0)?,
            },
            6 => Chunk::Abort { reflected },
            7 => Chunk::Shutdown {
                cumulative: word32(value, 0)?,
            },
            8 => Chunk::ShutdownAck,
            10 => Chunk::CookieEcho(value.to_vec()),
            11 => Chunk::CookieAck,
            14 => Chunk::ShutdownComplete { reflected },
            other => Chunk::Other(other),
        })
    }
}

impl Init {
    pub(super) fn random() -> Self {
        Self {
            tag: fastrand::u32(1..),
            tsn: fastrand::u32(..),
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut value = self.tag.to_be_bytes().to_vec();
        value.extend(WINDOW.to_be_bytes());
        // One stream out, one in.
        value.extend([0, 1, 0, 1]);
        value.extend(self.tsn.to_be_bytes());
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        Some(Self {
            tag: word32(value, 0)?,
            tsn: word32(value, 12)?,
        })
    }
}

/// The state cookie among the parameters of an INIT ACK.
fn cookie(mut parameters: &[u8]) -> Option<Vec<u8>> {
    loop {
        let length = usize::from(word16(parameters, 2)?);
        let value = parameters.get(4..length)?;
        if word16(parameters, 0)? == STATE_COOKIE {
            return Some(value.to_vec());
        }
        parameters = parameters.get(length.next_multiple_of(4)..)?;
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC32C.checksum(bytes)
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Init, Packet};

    fn packet(chunks: Vec<Chunk>) -> Packet {
        Packet {
            source_port: 40_000,
            destination_port: 80,
            tag: 0x0102_0304,
            chunks,
        }
    }

    #[test]
    fn every_chunk_is_read_as_it_was_written() {
        let init = Init { tag: 5, tsn: 6 };
        let all = packet(vec![
            Chunk::Data {
                tsn: 7,
                sequence: 8,
                payload: b"who".to_vec(),
            },
            Chunk::Init(init),
            Chunk::InitAck(init, vec![9; 23]),
            Chunk::Sack { cumulative: 10 },
            Chunk::Abort { reflected: true },
            Chunk::Shutdown { cumulative: 11 },
            Chunk::ShutdownAck,
            Chunk::CookieEcho(vec![12; 5]),
            Chunk::CookieAck,
            Chunk::ShutdownComplete { reflected: false },
            Chunk::Other(4),
        ]);
        assert_eq!(Packet::decode(&all.encode()), Ok(all));
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        let bytes = packet(vec![Chunk::CookieEcho(vec![1; 40])]).encode();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            let error = Packet::decode(&wrong).unwrap_err();
            assert!(error.contains("CRC32c"), "{at}: {error}");
        }
    }

    #[test]
    fn packets_cut_short_are_errors() {
        let whole = packet(vec![Chunk::Data {
            tsn: 1,
            sequence: 0,
            payload: vec![2; 30],
        }]);
        let bytes = whole.encode();
        for length in 0..bytes.len() {
            assert!(Packet::decode(&bytes[..length]).is_err(), "{length}");
        }
    }
}
