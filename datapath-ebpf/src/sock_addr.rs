//! The cgroup socket-address hooks.

use crate::maps::{CGROUPS, SOCKET_PAIRS, SOCKETS, UDP_SOCKETS};
use crate::tables::{config, tables_are_maps};
use crate::trace;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ferrogate_common::{Address, Direction, Port, Reason, SocketPair, SocketPairKey, SocketState, UdpSocket};
use ferrogate_datapath::{SocketCall, SocketMemory, SocketVerdict, connect, restore_peer, sendmsg};

const ECONNREFUSED: i32 = 111;

/// Return values of the hooks.
const PROCEED: i32 = 1;
const REFUSE: i32 = 0;

/// A call whose address is an IPv6 one, or an IPv4 one.
struct Call<'a, const V6: bool> {
    context: &'a SockAddrContext,
    /// For `Opaque`.
    zero: u32,
}

impl<'a, const V6: bool> Call<'a, V6> {
    #[inline(always)]
    fn new(context: &'a SockAddrContext) -> Self {
        Self {
            context,
            zero: config().zero,
        }
    }
}

impl<const V6: bool> Call<'_, V6> {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.context.sock_addr
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a live context.
        unsafe { bpf_get_socket_cookie(self.raw().cast()) }
    }

    #[inline(always)]
    fn key(&self, address: &Address, port: Port, direction: Direction) -> SocketPairKey {
        SocketPairKey {
            cookie: self.cookie(),
            address: *address,
            port,
            direction: direction as u8,
            protocol: self.protocol(),
            reserved: 0,
        }
    }
}

tables_are_maps!(Call<'_, V6>, const V6: bool);

impl<const V6: bool> SocketCall for Call<'_, V6> {
    #[inline(always)]
    fn address(&self) -> Address {
        // SAFETY: a live context.
        unsafe {
            if V6 {
                let words = &raw const (*self.raw()).user_ip6;
                let word = |i: usize| words.cast::<u32>().add(i).read_volatile();
                Address::from_words([word(0), word(1), word(2), word(3)])
            } else {
                Address::from_v4_word((&raw const (*self.raw()).user_ip4).read_volatile())
            }
        }
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: a live context. The field holds the two bytes of the port in network order.
        Port::from_be(unsafe { (&raw const (*self.raw()).user_port).read_volatile() } as u16)
    }

    #[inline(always)]
    fn set(&mut self, address: &Address, port: Port) {
        // SAFETY: a live context; volatile, because the verifier wants exactly these four-byte stores.
        unsafe {
            if V6 {
                let words = (&raw mut (*self.raw()).user_ip6).cast::<u32>();
                let [a, b, c, d] = address.words();
                words.write_volatile(a);
                words.add(1).write_volatile(b);
                words.add(2).write_volatile(c);
                words.add(3).write_volatile(d);
            } else {
                (&raw mut (*self.raw()).user_ip4).write_volatile(address.v4_word());
            }
            (&raw mut (*self.raw()).user_port).write_volatile(port.be().into());
        }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: a live context.
        unsafe { (&raw const (*self.raw()).protocol).read_volatile() as u8 }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: a live context.
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }

    #[inline(always)]
    fn is_bound(&self) -> bool {
        // SAFETY: a live context, whose socket the kernel holds.
        unsafe {
            let socket = (*self.raw()).__bindgen_anon_1.sk;
            !socket.is_null() && (&raw const (*socket).src_port).read_volatile() != 0
        }
    }

    #[inline(always)]
    fn cgroup_scope(&self, level: u32) -> u32 {
        // SAFETY: no pointers.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        // SAFETY: copied at once.
        unsafe { CGROUPS.get(id) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn tell(&mut self, address: &Address, port: Port, backend: (u32, u32), reason: Reason) {
        if trace::is_on() {
            let what = u32::from(port.be()) << 16 | u32::from(self.protocol()) << 8 | reason as u32;
            trace::trace_call(address, self.netns(), what, backend.0, backend.1);
        }
    }
}

impl<const V6: bool> SocketMemory for Call<'_, V6> {
    #[inline(always)]
    fn pair(&self, index: usize) -> Option<SocketPair> {
        // SAFETY: the context is live, and so the storage of its socket, if there is one.
        unsafe {
            let state = SOCKETS.get_ptr_mut(self.context);
            if state.is_null() {
                return None;
            }
            Some((*state).pairs[if index == 0 { 0 } else { 1 }])
        }
    }

    #[inline(always)]
    fn set_pair(&mut self, index: usize, pair: &SocketPair) -> bool {
        // SAFETY: as above; only this socket's calls touch its storage.
        unsafe {
            let state: *mut SocketState = SOCKETS.get_or_insert_ptr_mut(self.context, None);
            if state.is_null() {
                return false;
            }
            (*state).pairs[if index == 0 { 0 } else { 1 }] = *pair;
            true
        }
    }

    #[inline(always)]
    fn more_by_frontend(&self, address: &Address, port: Port) -> Option<SocketPair> {
        // SAFETY: copied at once.
        unsafe { SOCKET_PAIRS.get(self.key(address, port, Direction::Forward)) }.copied()
    }

    #[inline(always)]
    fn more_by_backend(&self, address: &Address, port: Port) -> Option<SocketPair> {
        // SAFETY: copied at once.
        unsafe { SOCKET_PAIRS.get(self.key(address, port, Direction::Reply)) }.copied()
    }

    #[inline(always)]
    fn put_more(&mut self, pair: &SocketPair) -> bool {
        let forward = self.key(&pair.frontend, pair.frontend_port, Direction::Forward);
        let reply = self.key(&pair.backend, pair.backend_port, Direction::Reply);
        SOCKET_PAIRS.insert(reply, pair, BPF_ANY.into()).is_ok()
            && SOCKET_PAIRS.insert(forward, pair, BPF_ANY.into()).is_ok()
    }

    #[inline(always)]
    fn remove_more(&mut self, pair: &SocketPair) {
        // Gone already is as good.
        let _ = SOCKET_PAIRS.remove(self.key(&pair.backend, pair.backend_port, Direction::Reply));
        let _ = SOCKET_PAIRS.remove(self.key(&pair.frontend, pair.frontend_port, Direction::Forward));
    }

    #[inline(always)]
    fn note_connected(&mut self, pair: &SocketPair) {
        let socket = UdpSocket::new(self.netns(), pair);
        // What does not fit is not told when its backend ends.
        let _ = UDP_SOCKETS.insert(self.cookie(), socket, BPF_ANY.into());
    }

    #[inline(always)]
    fn forget_connected(&mut self) {
        // Not there is as good.
        let _ = UDP_SOCKETS.remove(self.cookie());
    }
}

#[inline(always)]
fn finish(verdict: SocketVerdict) -> i32 {
    match verdict {
        SocketVerdict::Proceed(_) => PROCEED,
        SocketVerdict::Refuse(_) => {
            // SAFETY: no pointers.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            REFUSE
        }
    }
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    finish(connect(&mut Call::<false>::new(&context)))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    finish(connect(&mut Call::<true>::new(&context)))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    finish(sendmsg(&mut Call::<false>::new(&context)))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    finish(sendmsg(&mut Call::<true>::new(&context)))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    restore_peer(&mut Call::<false>::new(&context));
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    restore_peer(&mut Call::<true>::new(&context));
    PROCEED
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    restore_peer(&mut Call::<false>::new(&context));
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    restore_peer(&mut Call::<true>::new(&context));
    PROCEED
}
