//! Programs on interfaces of a kernel without tcx links (before 6.6): filters of the clsact qdisc, which stay until they are removed.

use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla as _, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A hook of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Clsact {
    pub(super) ifindex: u32,
    pub(super) egress: bool,
}

/// The filters of an interface run in the order of their priorities. Ours is the first at ingress, so that others see what is
/// translated, and the last at egress, so that they saw what is not translated back yet.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX;
/// Tells our filter from others of one priority.
const HANDLE: u32 = 0x000f_e660;
/// ETH_P_ALL as the network has it.
const ALL_PROTOCOLS: u32 = 0x0300;
/// enum in include/uapi/linux/pkt_cls.h: TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID.
const FD: u16 = 6;
const NAME: u16 = 7;
const FLAGS: u16 = 8;
const ID: u16 = 11;
/// TCA_BPF_FLAG_ACT_DIRECT: the program's result is what is done.
const DIRECT_ACTION: u32 = 1;
const KIND: &str = "bpf";
/// Bytes of a datagram with answers.
const ROOM: usize = 64 * 1024;

impl Clsact {
    /// Puts a program there, or in the place of ours that is there, with no moment between the two.
    ///
    /// # Errors
    /// Among others ENODEV for a device that is gone.
    pub(super) fn put(self, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut socket = open()?;
        let qdisc = RouteNetlinkMessage::NewQueueDiscipline(TcMessage::from_parts(
            TcHeader {
                index: self.ifindex.cast_signed(),
                handle: TcHandle {
                    major: u16::MAX,
                    minor: 0,
                },
                parent: TcHandle::CLSACT,
                ..TcHeader::default()
            },
            vec![TcAttribute::Kind("clsact".to_owned())],
        ));
        match ask(&mut socket, qdisc, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {}) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let descriptor = program.as_raw_fd().cast_unsigned();
        let filter = self.message(vec![
            option(FD, descriptor.to_ne_bytes().to_vec()),
            option(NAME, [name.as_bytes(), b"\0"].concat()),
            option(FLAGS, DIRECT_ACTION.to_ne_bytes().to_vec()),
        ]);
        let filter = RouteNetlinkMessage::NewTrafficFilter(filter);
        ask(&mut socket, filter, NLM_F_ACK | NLM_F_CREATE, |_| {})
    }

    /// Removes ours, if it is there. The qdisc stays: somebody else may be about to use it.
    pub(super) fn remove(self) -> io::Result<()> {
        let filter = RouteNetlinkMessage::DelTrafficFilter(self.message(vec![]));
        match ask(&mut open()?, filter, NLM_F_ACK, |_| {}) {
            Err(error) if is_nothing_there(&error) => Ok(()),
            result => result,
        }
    }

    /// The id of our program, if it is there.
    pub(super) fn ours(self) -> io::Result<Option<u32>> {
        let filters = self.filters()?;
        Ok(filters
            .into_iter()
            .find(|(handle, _)| *handle == HANDLE)
            .map(|(_, id)| id))
    }

    /// Ids of the programs there, in the order in which they run.
    pub(super) fn programs(self) -> io::Result<Vec<u32>> {
        Ok(self.filters()?.into_iter().map(|(_, id)| id).collect())
    }

    /// Handle and program of each filter.
    fn filters(self) -> io::Result<Vec<(u32, u32)>> {
        let mut header = self.header();
        // All priorities and handles.
        (header.handle, header.info) = (TcHandle::UNSPEC, 0);
        let question = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, vec![]));
        let mut found = Vec::new();
        let asked = ask(&mut open()?, question, NLM_F_DUMP, |message| {
            let id = message.attributes.iter().find_map(program_id);
            found.extend(id.map(|id| (u32::from(message.header.handle), id)));
        });
        match asked {
            Err(error) if is_nothing_there(&error) => Ok(vec![]),
            result => result.map(|()| found),
        }
    }

    fn header(self) -> TcHeader {
        let (minor, priority) = if self.egress {
            (TcHandle::MIN_EGRESS, LAST)
        } else {
            (TcHandle::MIN_INGRESS, FIRST)
        };
        TcHeader {
            index: self.ifindex.cast_signed(),
            handle: HANDLE.into(),
            parent: TcHandle { major: u16::MAX, minor },
            info: u32::from(priority) << 16 | ALL_PROTOCOLS,
            ..TcHeader::default()
        }
    }

    fn message(self, options: Vec<TcOption>) -> TcMessage {
        let mut attributes = vec![TcAttribute::Kind(KIND.to_owned())];
        if !options.is_empty() {
            attributes.push(TcAttribute::Options(options));
        }
        TcMessage::from_parts(self.header(), attributes)
    }
}

/// No filter, no qdisc, no device.
fn is_nothing_there(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP)
    )
}

fn option(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// The id of a filter's program, from its attribute TCA_OPTIONS: of this kind of filter that is parsed as one attribute, which has all
/// others in it.
fn program_id(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else {
        return None;
    };
    options.iter().find_map(|option| {
        let mut bytes = vec![0; option.value_len()];
        option.emit_value(&mut bytes);
        let id = NlasIterator::new(bytes.as_slice())
            .flatten()
            .find(|nested| nested.kind() == ID)?;
        Some(u32::from_ne_bytes(id.value().try_into().ok()?))
    })
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request and shows what is answered to `visit`.
fn ask(
    socket: &mut Socket,
    payload: RouteNetlinkMessage,
    flags: u16,
    mut visit: impl FnMut(&TcMessage),
) -> io::Result<()> {
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(payload));
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; ROOM];
    loop {
        let length = socket.recv(&mut buffer.as_mut_slice(), 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => visit(&filter),
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(1)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute of netlink: length, kind, value.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_filters_program_is_found_behind_its_other_attributes() {
        const NEW_FILTER: u16 = 44;
        const TCA_KIND: u16 = 1;
        const TCA_OPTIONS: u16 = 2;
        let options = [
            attribute(NAME, b"pod_ingress-4\0"),
            attribute(FLAGS, &DIRECT_ACTION.to_ne_bytes()),
            attribute(ID, &4711u32.to_ne_bytes()),
        ];
        // struct tcmsg, of which only the handle counts here.
        let mut body = vec![0; 20];
        body[8..12].copy_from_slice(&HANDLE.to_ne_bytes());
        body.extend(attribute(TCA_KIND, b"bpf\0"));
        body.extend(attribute(TCA_OPTIONS, &options.concat()));
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(NEW_FILTER.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend(body);
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) = message.payload else {
            panic!("{message:?}");
        };
        assert_eq!(u32::from(filter.header.handle), HANDLE);
        assert_eq!(filter.attributes.iter().find_map(program_id), Some(4711));
    }
}
