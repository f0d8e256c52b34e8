//! The server's side: answers each message with who we are.
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ferrogate_tests::wire::Identity;

use super::packet::{self, Chunk, Init, Packet};
use super::raw::RawSocket;

/// All associations at one address.
pub(crate) struct Server {
    name: String,
    local: IpAddr,
    ports: Vec<u16>,
    socket: RawSocket,
    /// By the client's address and our port.
    associations: HashMap<(SocketAddr, u16), Association>,
    /// What makes our cookies ours.
    secret: RandomState,
}

struct Association {
    ours: Init,
    theirs: Init,
    /// The last TSN that came in order.
    cumulative: u32,
    /// Our next.
    tsn: u32,
    questions: u64,
    /// What the client has not acknowledged yet.
    unacknowledged: Option<Chunk>,
}

impl Server {
    pub(crate) fn bind(name: &str, local: IpAddr, ports: &[u16]) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            local,
            ports: ports.to_vec(),
            socket: RawSocket::bind(local)?,
            associations: HashMap::new(),
            secret: RandomState::new(),
        })
    }

    /// Serves for ever.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            // An error here is an ICMP message about an earlier answer: that client is gone, others are not.
            let Ok((from, bytes)) = self.socket.receive(&mut buffer) else {
                continue;
            };
            if !packet::ports(bytes).is_some_and(|(_, port)| self.ports.contains(&port)) {
                continue;
            }
            match Packet::decode(bytes) {
                Ok(packet) => self.serve(from, &packet),
                // RFC 9260 section 6.8: discarded silently; that its client gets no answer shows it.
                Err(error) => eprintln!("from {from}: {error}"),
            }
        }
    }

    fn serve(&mut self, from: IpAddr, packet: &Packet) {
        let client = SocketAddr::new(from, packet.source_port);
        let key = (client, packet.destination_port);
        let answer = match packet.chunks.first() {
            Some(Chunk::Init(theirs)) => Some((theirs.tag, vec![self.greet(key, *theirs)])),
            Some(Chunk::CookieEcho(cookie)) => self.begin(key, packet, cookie),
            // Neither is answered, and the end is taken from whoever knows a tag.
            Some(Chunk::Abort { reflected } | Chunk::ShutdownComplete { reflected }) => {
                let tag = |a: &Association| if *reflected { a.theirs.tag } else { a.ours.tag };
                if self.associations.get(&key).is_some_and(|a| tag(a) == packet.tag) {
                    self.associations.remove(&key);
                }
                None
            }
            _ => self.go_on(key, packet),
        };
        if let Some((tag, chunks)) = answer {
            let answer = Packet {
                source_port: packet.destination_port,
                destination_port: packet.source_port,
                tag,
                chunks,
            };
            // A client that can't be reached any more gets no answer.
            let _ = self.socket.send(from, &answer);
        }
    }

    /// Answers an INIT; nothing is remembered but in the cookie.
    fn greet(&self, key: (SocketAddr, u16), theirs: Init) -> Chunk {
        let ours = Init::random();
        let words = [ours.tag, ours.tsn, theirs.tag, theirs.tsn];
        let mut cookie: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        cookie.extend(self.secret.hash_one((key, words)).to_be_bytes());
        Chunk::InitAck(ours, cookie)
    }

    /// Takes a cookie back: from here on there is an association. The packet may hold the first message already.
    fn begin(&mut self, key: (SocketAddr, u16), packet: &Packet, cookie: &[u8]) -> Option<(u32, Vec<Chunk>)> {
        let (words, seal) = cookie.split_at_checked(16)?;
        let word = |n: usize| Some(u32::from_be_bytes(words[4 * n..4 * n + 4].try_into().ok()?));
        let words = [word(0)?, word(1)?, word(2)?, word(3)?];
        if seal != self.secret.hash_one((key, words)).to_be_bytes() || packet.tag != words[0] {
            eprintln!("from {}: a cookie that is not ours", key.0);
            return None;
        }
        let [ours_tag, ours_tsn, theirs_tag, theirs_tsn] = words;
        let known = self.associations.get(&key).is_some_and(|a| a.ours.tag == ours_tag);
        if !known {
            let association = Association {
                ours: Init {
                    tag: ours_tag,
                    tsn: ours_tsn,
                },
                theirs: Init {
                    tag: theirs_tag,
                    tsn: theirs_tsn,
                },
                cumulative: theirs_tsn.wrapping_sub(1),
                tsn: ours_tsn,
                questions: 0,
                unacknowledged: None,
            };
            self.associations.insert(key, association);
        }
        let mut answer = vec![Chunk::CookieAck];
        answer.extend(self.hear(key, &packet.chunks[1..]));
        Some((theirs_tag, answer))
    }

    /// A packet of an association, or of none (RFC 9260 section 8.4).
    fn go_on(&mut self, key: (SocketAddr, u16), packet: &Packet) -> Option<(u32, Vec<Chunk>)> {
        let Some(association) = self.associations.get(&key) else {
            let reflected = true;
            let end = match packet.chunks.first() {
                Some(Chunk::ShutdownAck) => Chunk::ShutdownComplete { reflected },
                _ => Chunk::Abort { reflected },
            };
            return Some((packet.tag, vec![end]));
        };
        // One with a wrong tag is not of this association, and discarded.
        if association.ours.tag != packet.tag {
            return None;
        }
        let tag = association.theirs.tag;
        let answer = self.hear(key, &packet.chunks);
        (!answer.is_empty()).then_some((tag, answer))
    }

    /// What the chunks of an association are answered with.
    fn hear(&mut self, key: (SocketAddr, u16), chunks: &[Chunk]) -> Vec<Chunk> {
        let mut answer = Vec::new();
        let Some(association) = self.associations.get_mut(&key) else {
            return answer;
        };
        for chunk in chunks {
            match chunk {
                Chunk::Data { tsn, payload, .. } => {
                    if *tsn == association.cumulative.wrapping_add(1) {
                        association.cumulative = *tsn;
                        association.questions += 1;
                        let identity = Identity {
                            pod: self.name.clone(),
                            peer: key.0,
                            local: SocketAddr::new(self.local, key.1),
                            count: association.questions,
                        };
                        association.unacknowledged = Some(association.message(&identity, payload.len()));
                    }
                    answer.push(Chunk::Sack {
                        cumulative: association.cumulative,
                    });
                    // Sent again with a question that comes again.
                    answer.extend(association.unacknowledged.clone());
                }
                Chunk::Sack { cumulative } | Chunk::Shutdown { cumulative } => {
                    if *cumulative == association.tsn.wrapping_sub(1) {
                        association.unacknowledged = None;
                    }
                    if matches!(chunk, Chunk::Shutdown { .. }) {
                        answer.push(Chunk::ShutdownAck);
                    }
                }
                _ => {}
            }
        }
        answer
    }
}

impl Association {
    /// An answer of the question's length, or what it needs: packets of all lengths come this way.
    fn message(&mut self, identity: &Identity, length: usize) -> Chunk {
        let mut payload = serde_json::to_vec(identity).unwrap_or_default();
        payload.resize(payload.len().max(length), b' ');
        let tsn = self.tsn;
        self.tsn = tsn.wrapping_add(1);
        Chunk::Data {
            tsn,
            sequence: tsn.wrapping_sub(self.ours.tsn) as u16,
            payload,
        }
    }
}
