//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read.

use anyhow::{Context, Result};
use ferrogate_common::{CAPTURE_BYTES, CapturedPacket};
use jiff::Timestamp;
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{PcapNgBlock as _, PcapNgWriter};
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

/// Time stamps are nanoseconds: ten to the minus ninth.
const NANOSECONDS: u8 = 9;
/// Of the flags of a packet: in, or out.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes packets. An interface of the file is an interface of the node, at one of its programs.
pub(super) struct Pcap<W: Write> {
    writer: PcapNgWriter<W>,
    /// Numbers in the file, by ifindex and program.
    interfaces: HashMap<(u32, String), u32>,
    /// Nanoseconds from the boot clock to Unix time.
    offset: i128,
    /// Packets so far, each as often as it was met.
    pub(super) written: u64,
}

impl<W: Write> Pcap<W> {
    /// Begins the file. `boot_nanos` and `now` are one moment.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn begin(file: W, boot_nanos: u64, now: Timestamp) -> Result<Self> {
        Ok(Self {
            writer: PcapNgWriter::new(file).context("cannot begin the file of packets")?,
            interfaces: HashMap::new(),
            offset: now.as_nanosecond() - i128::from(boot_nanos),
            written: 0,
        })
    }

    /// Writes a packet that came to this program, or left it. `name` is its interface's.
    pub(super) fn write(
        &mut self,
        packet: &CapturedPacket,
        program: &str,
        name: impl Fn(u32) -> Option<String>,
    ) -> Result<()> {
        let interface = self.interface(packet.ifindex, program, name)?;
        let nanos = i128::from(packet.nanos) + self.offset;
        let left = packet.left != 0;
        let what = if left {
            format!("left {program}: {}", verdict(program, packet.verdict))
        } else {
            format!("came to {program}")
        };
        let out = program.contains("egress");
        let kept = packet.bytes.get(..packet.captured as usize).unwrap_or(&packet.bytes);
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(u64::try_from(nanos).unwrap_or_default()),
            original_len: packet.length,
            data: kept.into(),
            options: vec![
                EnhancedPacketOption::Comment(what.into()),
                EnhancedPacketOption::Flags(if out { OUTBOUND } else { INBOUND }),
            ],
        };
        self.writer
            .write_block(&block.into_block())
            .context("cannot write a packet to its file")?;
        self.written += 1;
        Ok(())
    }
    /// The number of an interface in the file; a new one is described there.
    fn interface(&mut self, ifindex: u32, program: &str, name: impl Fn(u32) -> Option<String>) -> Result<u32> {
        let key = (ifindex, program.to_owned());
        if let Some(number) = self.interfaces.get(&key) {
            return Ok(*number);
        }
        let number = self.interfaces.len() as u32;
        let name = name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
        let block = InterfaceDescriptionBlock {
            linktype: if program.ends_with("_l3") {
                DataLink::RAW
            } else {
                DataLink::ETHERNET
            },
            snaplen: CAPTURE_BYTES as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(name.into()),
                InterfaceDescriptionOption::IfDescription(format!("at Ferrogate's program {program}").into()),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer
            .write_block(&block.into_block())
            .context("cannot write an interface to the file of packets")?;
        self.interfaces.insert(key, number);
        Ok(number)
    }

    /// Writes out what is kept back.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.writer
            .get_mut()
            .flush()
            .context("cannot write the file of packets")
    }
}

/// What a program's return value says (linux/pkt_cls.h and `enum xdp_action`).
fn verdict(program: &str, value: i32) -> &'static str {
    let xdp = program.ends_with("_xdp");
    match value {
        -1 | 0 if !xdp => "passed on",
        2 if !xdp => "dropped",
        7 if !xdp => "sent on",
        1 if xdp => "dropped",
        2 if xdp => "passed on",
        3 if xdp => "sent back",
        4 if xdp => "sent on",
        _ => "ended by an unknown verdict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_file_has_each_packet_with_its_interface_time_and_fate() {
        let mut file = Vec::new();
        let now = Timestamp::from_second(1_000).expect("a time");
        let mut pcap = Pcap::begin(&mut file, 7_000_000_000, now).expect("a file");
        let mut packet = CapturedPacket::zeroed();
        (packet.nanos, packet.ifindex, packet.length, packet.captured) = (6_000_000_001, 3, 1_500, 64);
        packet.bytes[..64].fill(0xab);
        let name = |ifindex: u32| (ifindex == 3).then(|| "eth0".to_owned());
        pcap.write(&packet, "uplink_xdp", name).expect("written");
        (packet.left, packet.verdict) = (1, 3);
        pcap.write(&packet, "uplink_xdp", name).expect("written");
        packet.ifindex = 4;
        pcap.write(&packet, "uplink_egress_l3", name).expect("written");
        assert_eq!(pcap.written, 3);
        let mut reader = PcapNgReader::new(&file[..]).expect("a pcapng file");
        let mut told = Vec::new();
        while let Some(block) = reader.next_block() {
            told.push(match block.expect("a valid block") {
                Block::InterfaceDescription(interface) => {
                    format!("{:?} {:?}", interface.linktype, interface.options[0])
                }
                Block::EnhancedPacket(packet) => {
                    assert_eq!((packet.original_len, &*packet.data), (1_500, &[0xab; 64][..]));
                    assert_eq!(packet.timestamp, Duration::new(999, 1));
                    format!("{} {:?}", packet.interface_id, packet.options)
                }
                other => format!("{other:?}"),
            });
        }
        let expected = [
            "ETHERNET IfName(\"eth0\")",
            "0 [Comment(\"came to uplink_xdp\"), Flags(1)]",
            "0 [Comment(\"left uplink_xdp: sent back\"), Flags(1)]",
            "RAW IfName(\"interface 4\")",
            "1 [Comment(\"left uplink_egress_l3: ended by an unknown verdict\"), Flags(2)]",
        ];
        assert_eq!(told, expected);
    }
}
