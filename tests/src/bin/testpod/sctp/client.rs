//! The client's side: an association for each address, asked in turn.
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ferrogate_tests::wire::{Attempt, Failure, FailureKind, Identity, ProbeRequest};

use super::packet::{self, Chunk, Init, Packet};
use super::raw::RawSocket;
use crate::failure::At;
use crate::probe::fresh;

/// After this time without an answer a packet is sent again (RFC 9260 section 16, RTO.Initial).
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// Questions have lengths that differ by this, so that the checksum meets all kinds.
const LENGTH_STEP: usize = 179;

/// The longest question: with IPv6, VXLAN and WireGuard around it it still fits an MTU of 1,500.
const LONGEST: usize = 1300;

/// One association to each address of the request, at once; all are shut down after the last question.
pub(crate) fn round(request: &ProbeRequest, number: u32) -> Vec<Attempt> {
    let mut open = Vec::new();
    let mut attempts = Vec::new();
    for to in &request.to {
        let mut attempt = fresh(*to);
        let begin = Instant::now();
        match converse(request, number, &mut attempt) {
            Ok(association) => open.push(Some(association)),
            Err(failure) => {
                attempt.failure = Some(failure);
                open.push(None);
            }
        }
        attempt.micros = begin.elapsed().as_micros() as u64;
        attempts.push(attempt);
    }
    for (attempt, association) in attempts.iter_mut().zip(open) {
        attempt.failure = match association {
            Some(association) => association.close().err(),
            None => continue,
        };
    }
    attempts
}

fn converse(request: &ProbeRequest, number: u32, attempt: &mut Attempt) -> Result<Association, Failure> {
    if request.mapped || request.unconnected {
        return Err(misunderstood(
            "bind",
            "SCTP has neither v4-mapped nor unconnected probes".to_owned(),
        ));
    }
    let mut association = Association::open(request, attempt)?;
    for question in 0..request.questions {
        if question > 0 && request.pause_ms > 0 {
            thread::sleep(Duration::from_millis(request.pause_ms));
        }
        let mut text = b"who".to_vec();
        text.resize(3 + (question + number) as usize * LENGTH_STEP % LONGEST, b' ');
        let answer = association.ask(text)?;
        let identity: Identity = serde_json::from_slice(&answer)
            .map_err(|error| misunderstood("answer", format!("{error}: {:?}", String::from_utf8_lossy(&answer))))?;
        attempt.answers.push(identity);
    }
    Ok(association)
}

struct Association {
    socket: RawSocket,
    /// Keeps our port's number: no other probe of this namespace chooses it too.
    _port: Option<UdpSocket>,
    port: u16,
    to: SocketAddr,
    patience: Duration,
    ours: Init,
    theirs: Init,
    /// The TSN of our next message.
    tsn: u32,
    /// The last one of theirs.
    cumulative: u32,
}

/// What a packet that came means to who waits.
type Heard<T> = fn(&[Chunk]) -> Option<T>;

impl Association {
    /// The four-way handshake.
    fn open(request: &ProbeRequest, attempt: &mut Attempt) -> Result<Self, Failure> {
        let to = attempt.to;
        let socket = RawSocket::connect(request.source, to.ip()).at("bind")?;
        let reserved = match request.source_port {
            0 => Some(reserve(to).at("bind")?),
            _ => None,
        };
        let port = match &reserved {
            Some(reserved) => reserved.local_addr().at("bind")?.port(),
            None => request.source_port,
        };
        let ours = Init::random();
        let mut association = Self {
            socket,
            _port: reserved,
            port,
            to,
            patience: Duration::from_millis(request.timeout_ms),
            ours,
            theirs: Init { tag: 0, tsn: 0 },
            tsn: ours.tsn,
            cumulative: 0,
        };
        attempt.local = Some(SocketAddr::new(association.socket.local().at("bind")?, port));
        let (theirs, cookie) = association.exchange("connect", vec![Chunk::Init(ours)], |chunks| match chunks {
            [Chunk::InitAck(theirs, cookie)] => Some((*theirs, cookie.clone())),
            _ => None,
        })?;
        // Only packets from the address and port that were asked are taken.
        attempt.peer = Some(to);
        association.theirs = theirs;
        association.cumulative = theirs.tsn.wrapping_sub(1);
        association.exchange("connect", vec![Chunk::CookieEcho(cookie)], |chunks| {
            matches!(chunks, [Chunk::CookieAck, ..]).then_some(())
        })?;
        Ok(association)
    }

    /// Sends a message and returns the one that answers it.
    fn ask(&mut self, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let tsn = self.tsn;
        let question = Chunk::Data {
            tsn,
            sequence: tsn.wrapping_sub(self.ours.tsn) as u16,
            payload,
        };
        let (acknowledged, answered, payload) = self.exchange("receive", vec![question], |chunks| match chunks {
            [Chunk::Sack { cumulative }, Chunk::Data { tsn, payload, .. }] => {
                Some((*cumulative, *tsn, payload.clone()))
            }
            _ => None,
        })?;
        let expected = self.cumulative.wrapping_add(1);
        if acknowledged != tsn || answered != expected {
            return Err(misunderstood(
                "answer",
                format!("TSN {acknowledged} acknowledged, {answered} sent, instead of {tsn}, {expected}"),
            ));
        }
        self.tsn = tsn.wrapping_add(1);
        self.cumulative = answered;
        let cumulative = self.cumulative;
        self.send(vec![Chunk::Sack { cumulative }]).at("send")?;
        Ok(payload)
    }

    /// The shutdown, confirmed by the server.
    fn close(self) -> Result<(), Failure> {
        let cumulative = self.cumulative;
        self.exchange("close", vec![Chunk::Shutdown { cumulative }], |chunks| {
            matches!(chunks, [Chunk::ShutdownAck]).then_some(())
        })?;
        self.send(vec![Chunk::ShutdownComplete { reflected: false }])
            .at("close")
    }

    fn send(&self, chunks: Vec<Chunk>) -> io::Result<()> {
        let packet = Packet {
            source_port: self.port,
            destination_port: self.to.port(),
            tag: self.theirs.tag,
            chunks,
        };
        self.socket.send(self.to.ip(), &packet)
    }

    /// Sends chunks, again and again, until a packet comes that `heard` takes.
    fn exchange<T>(&self, stage: &str, chunks: Vec<Chunk>, heard: Heard<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + self.patience;
        loop {
            self.send(chunks.clone()).at(stage)?;
            let until = deadline.min(Instant::now() + RETRANSMISSION);
            if let Some(found) = self.wait(stage, until, heard)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::from(ErrorKind::TimedOut)).at(stage);
            }
        }
    }

    /// Waits for such a packet; `None`: time is up.
    fn wait<T>(&self, stage: &str, until: Instant, heard: Heard<T>) -> Result<Option<T>, Failure> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_patience(left).at(stage)?;
            let (from, bytes) = match self.socket.receive(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).at(stage),
            };
            // The socket sees the packets of everyone's ports.
            if from != self.to.ip() || packet::ports(bytes) != Some((self.to.port(), self.port)) {
                continue;
            }
            let packet = Packet::decode(bytes).map_err(|error| misunderstood(stage, error))?;
            if let [Chunk::Abort { reflected }, ..] = packet.chunks[..] {
                if packet.tag == if reflected { self.theirs.tag } else { self.ours.tag } {
                    return Err(io::Error::from(ErrorKind::ConnectionReset)).at(stage);
                }
                continue;
            }
            // One with another tag is of an association that was.
            if packet.tag == self.ours.tag
                && let Some(found) = heard(&packet.chunks)
            {
                return Ok(Some(found));
            }
        }
    }
}

/// A port number of nobody else's.
fn reserve(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0))
}

fn misunderstood(stage: &str, text: String) -> Failure {
    Failure {
        stage: stage.to_owned(),
        kind: FailureKind::Other,
        text,
    }
}
