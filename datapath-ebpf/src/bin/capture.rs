//! The programs of `ferrogate trace --pcap`: they run before and behind a packet program of ours (fentry and fexit, which the kernel
//! attaches to programs as to its own functions) and copy the packets that are wanted. An object of its own, loaded once for each
//! program that is looked at, while somebody captures.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{fentry, fexit, map};
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use core::mem::offset_of;
use ferrogate_common::{Address, CAPTURE_BYTES, CaptureKey, CaptureSettings, CapturedPacket, Port, Protocol};

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Written by user space before the programs are loaded, a constant to the verifier.
#[unsafe(no_mangle)]
static CAPTURE: CaptureSettings = CaptureSettings {
    hook: 0,
    link: 0,
    all: 0,
    xdp: 0,
    data: 0,
    data_end: 0,
    len: 0,
    data_len: 0,
    dev: 0,
    rxq: 0,
    ifindex: 0,
};

/// Shared by all loads of this object.
#[map]
static CAPTURED: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
#[map]
static WANTED: HashMap<CaptureKey, u8> = HashMap::with_max_entries(65_536, 1);
/// Packets that had no room.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Of each load its own: whether the packet was wanted that this CPU's program has begun with, ...
#[map]
static BEGUN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// ... and room for its headers.
#[map]
static HEADERS: PerCpuArray<[u8; ROOM]> = PerCpuArray::with_max_entries(1, 0);

/// Ethernet, IPv4 with all options, ports; a power of two.
const ROOM: usize = 128;

#[fentry]
fn capture_entry(context: FEntryContext) -> i32 {
    let packet = Packet::of(context.arg(0));
    let wanted = packet.is_wanted();
    if let Some(begun) = BEGUN.get_ptr_mut(0) {
        // SAFETY: this CPU's own element. A hook's program is not interrupted by itself.
        unsafe { *begun = u32::from(wanted) };
    }
    if wanted {
        packet.keep(0, 0);
    }
    0
}

#[fexit]
fn capture_exit(context: FExitContext) -> i32 {
    let packet = Packet::of(context.arg(0));
    // What was wanted as it came, and what is now: a reply is the Service's when it leaves.
    let begun = BEGUN.get(0).is_some_and(|begun| *begun != 0);
    if begun || packet.is_wanted() {
        packet.keep(1, context.arg(1));
    }
    0
}

/// A member of [`CAPTURE`]. Volatile: what is loaded is not what was compiled.
#[inline(always)]
fn setting(offset: usize) -> u32 {
    // SAFETY: read-only data of this object, at a member's offset.
    unsafe {
        (&raw const CAPTURE)
            .cast::<u8>()
            .add(offset)
            .cast::<u32>()
            .read_volatile()
    }
}

macro_rules! setting {
    ($member:ident) => {
        setting(offset_of!(CaptureSettings, $member))
    };
}

/// Kernel memory; zero where there is none.
#[inline(always)]
fn read<T: bytemuck::Pod>(address: u64) -> T {
    let mut value = T::zeroed();
    // SAFETY: room for a T. The helper checks the address.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    value
}

/// Less than `N`, a power of two, and in a way that the verifier of Linux 6.1 remembers: by a mask behind a load that the compiler
/// cannot look through.
#[inline(always)]
fn bounded<const N: usize>(size: u32) -> u32 {
    let most = N as u32 - 1;
    let size = size.min(most);
    // SAFETY: a local variable.
    unsafe { (&raw const size).read_volatile() & most }
}

/// A packet of the program that is looked at.
struct Packet {
    data: u64,
    /// Bytes there.
    linear: u32,
    /// Bytes of all of it.
    length: u32,
    ifindex: u32,
}

impl Packet {
    /// `context` is a kernel structure's address, which the verifier lets nobody load from but by constant offsets.
    #[inline(always)]
    fn of(context: u64) -> Self {
        let member = |offset: u32| context + u64::from(offset);
        let data: u64 = read(member(setting!(data)));
        let (length, linear, device) = if setting!(xdp) == 0 {
            let length: u32 = read(member(setting!(len)));
            let elsewhere: u32 = read(member(setting!(data_len)));
            (
                length,
                length.wrapping_sub(elsewhere),
                read::<u64>(member(setting!(dev))),
            )
        } else {
            let end: u64 = read(member(setting!(data_end)));
            let queue: u64 = read(member(setting!(rxq)));
            let length = end.wrapping_sub(data) as u32;
            (length, length, read::<u64>(queue + u64::from(setting!(dev))))
        };
        Self {
            data,
            linear,
            length,
            ifindex: read(device + u64::from(setting!(ifindex))),
        }
    }

    /// Whether somebody has asked for it.
    #[inline(always)]
    fn is_wanted(&self) -> bool {
        if setting!(all) != 0 {
            return true;
        }
        let Some(room) = HEADERS.get_ptr_mut(0) else {
            return false;
        };
        let size = bounded::<ROOM>(self.linear);
        // SAFETY: this CPU's own element, which has room for as much.
        let failed = unsafe { bpf_probe_read_kernel(room.cast(), size, self.data as *const _) } != 0;
        // SAFETY: as above; nobody writes while it is read.
        !failed && has_wanted_end(unsafe { &*room }, size)
    }

    /// Copies it for user space.
    #[inline(always)]
    fn keep(&self, left: u32, verdict: i32) {
        let Some(mut entry) = CAPTURED.reserve::<CapturedPacket>(0) else {
            if let Some(lost) = LOST.get_ptr_mut(0) {
                // SAFETY: this CPU's own element.
                unsafe { *lost += 1 };
            }
            return;
        };
        let kept = entry.as_mut_ptr();
        let size = bounded::<CAPTURE_BYTES>(self.linear);
        // SAFETY: memory of the ring buffer's own, of this size, and the helper writes within it.
        unsafe {
            (*kept).nanos = bpf_ktime_get_boot_ns();
            (*kept).ifindex = self.ifindex;
            (*kept).length = self.length;
            (*kept).verdict = verdict;
            (*kept).hook = setting!(hook);
            (*kept).left = left;
            let failed = bpf_probe_read_kernel((&raw mut (*kept).bytes).cast(), size, self.data as *const _) != 0;
            (*kept).captured = if failed { 0 } else { size };
        }
        entry.submit(0);
    }
}

/// Reads the ends of a packet of which `size` bytes are in `room`, and says whether either is wanted.
#[inline(always)]
fn has_wanted_end(room: &[u8; ROOM], size: u32) -> bool {
    let link = setting!(link) as usize & 31;
    let first = room[link];
    let (source, destination, protocol, header, part) = if first >> 4 == 4 {
        let header = usize::from(first & 15) * 4;
        // Not 0 for all fragments but the first one: behind the header there is something else.
        let part = room[link + 6] & 0x1f | room[link + 7];
        (v4(room, link + 12), v4(room, link + 16), room[link + 9], header, part)
    } else if first >> 4 == 6 {
        (v6(room, link + 8), v6(room, link + 24), room[link + 6], 40, 0)
    } else {
        return false;
    };
    let ports = link + header;
    let has_ports = [Protocol::Tcp as u8, Protocol::Udp as u8, Protocol::Sctp as u8].contains(&protocol)
        && part == 0
        && ports + 4 <= size as usize;
    if !has_ports {
        return is_key(&source, Port::ZERO, CaptureKey::PORTLESS)
            || is_key(&destination, Port::ZERO, CaptureKey::PORTLESS)
            || is_key(&source, Port::ZERO, CaptureKey::ALL)
            || is_key(&destination, Port::ZERO, CaptureKey::ALL);
    }
    is_wanted(&source, port(room, ports), protocol) || is_wanted(&destination, port(room, ports + 2), protocol)
}

/// One end: an endpoint or a frontend, a NodePort of any address, or an address with all that it does.
#[inline(always)]
fn is_wanted(address: &Address, port: Port, protocol: u8) -> bool {
    is_key(address, port, protocol)
        || is_key(&address.unspecified(), port, protocol)
        || is_key(address, Port::ZERO, CaptureKey::ALL)
}

#[inline(always)]
fn is_key(address: &Address, port: Port, protocol: u8) -> bool {
    let key = CaptureKey {
        address: *address,
        port,
        protocol,
        reserved: 0,
    };
    WANTED.get_ptr(key).is_some()
}

#[inline(always)]
fn port(room: &[u8; ROOM], at: usize) -> Port {
    Port::from_be(u16::from_ne_bytes([room[at & (ROOM - 1)], room[(at + 1) & (ROOM - 1)]]))
}

#[inline(always)]
fn v4(room: &[u8; ROOM], at: usize) -> Address {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&room[at..at + 4]);
    Address::from(core::net::Ipv4Addr::from(bytes))
}

#[inline(always)]
fn v6(room: &[u8; ROOM], at: usize) -> Address {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&room[at..at + 16]);
    Address::from(core::net::Ipv6Addr::from(bytes))
}
