//! The checksum of SCTP, CRC32c (RFC 9260 section 6.8 and appendix A), after a change of ports.
//!
//! A CRC is linear over GF(2): two packets of one length have checksums that differ by the CRC, with zero register, of how
//! the packets differ. Here that is the ports, then zeros up to the end, and feeding a zero byte multiplies the register by x^8
//! modulo the polynomial. So a change of ports costs two multiplications, however long the packet is, and the payload need
//! not be read (nor be in reach).

/// The Castagnoli polynomial, reflected: the highest bit is the coefficient of x^0, that of x^32 is left out.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// 1 as a reflected polynomial.
const ONE: u32 = 1 << 31;

/// x^(8 n) for each value n of a length's low byte, x^(8 * 256 n) for each of its high byte.
static ZEROS: [[u32; 256]; 2] = {
    let mut tables = [[ONE; 256]; 2];
    let mut step = ONE >> 8;
    let mut table = 0;
    while table < 2 {
        let mut n = 1;
        while n < 256 {
            tables[table][n] = multiply(tables[table][n - 1], step);
            n += 1;
        }
        step = multiply(tables[table][255], step);
        table += 1;
    }
    tables
};

/// A reflected polynomial times x. Without branches, of which the verifier would follow each.
#[inline(always)]
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg())
}

/// Product of two reflected polynomials.
#[inline(always)]
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & (a >> 31).wrapping_neg();
        a <<= 1;
        b = times_x(b);
        bit += 1;
    }
    product
}

/// The checksum field of an SCTP packet of `length` bytes, common header and all, after its ports (source, destination) were
/// changed. Ports and field are native words that hold the packet's bytes; unlike all else in IP the field is little-endian.
///
/// A field of 0 stays 0: the sender left the checksum to its device (Linux does that on a veth, too), which computes it over
/// what leaves. A computed checksum can be 0 as well, one in 2^32: such a packet is discarded by its receiver, and its
/// chunks are sent again.
#[inline(never)]
pub(crate) fn port_change(field: u32, before: [u16; 2], after: [u16; 2], length: u16) -> u32 {
    if field == 0 {
        return 0;
    }
    let words: [u16; 2] = [before[0] ^ after[0], before[1] ^ after[1]];
    let difference = u32::from_le(bytemuck::cast(words));
    let [low, high] = length.to_le_bytes();
    let difference = multiply(difference, ZEROS[0][low as usize]);
    let difference = multiply(difference, ZEROS[1][high as usize]);
    field ^ difference.to_le()
}

/// What the eight coefficients that a shift by a byte pushes out, x^31 to x^24, come back as.
static CARRIES: [u32; 256] = {
    let mut carries = [0; 256];
    let mut n = 0;
    while n < 256 {
        carries[n] = multiply(n as u32, ZEROS[0][1]);
        n += 1;
    }
    carries
};

/// The checksum field of an SCTP packet of these four words, its own field 0. Native words that hold the packet's bytes.
#[inline(never)]
pub(crate) fn of_words(words: &[u32; 4]) -> u32 {
    let mut register = u32::MAX;
    for word in words {
        register ^= u32::from_le(*word);
        for _ in 0..4 {
            register = (register >> 8) ^ CARRIES[(register & 0xff) as usize];
        }
    }
    (!register).to_le()
}

#[cfg(test)]
mod tests {
    use super::{of_words, port_change};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// The checksum field as another implementation computes it over the whole packet, the field taken as 0.
    fn field(packet: &[u8]) -> u32 {
        let mut packet = packet.to_vec();
        packet[8..12].fill(0);
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&packet);
        u32::from_ne_bytes(crc.to_le_bytes())
    }

    fn ports(packet: &[u8]) -> [u16; 2] {
        [0, 2].map(|at| u16::from_ne_bytes([packet[at], packet[at + 1]]))
    }

    fn with_ports(packet: &[u8], ports: [u16; 2]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[..4].copy_from_slice(bytemuck::bytes_of(&ports));
        packet
    }

    #[track_caller]
    fn holds(packet: &[u8], after: [u16; 2]) {
        let old = field(packet);
        let changed = port_change(old, ports(packet), after, packet.len() as u16);
        let right = if old == 0 { 0 } else { field(&with_ports(packet, after)) };
        assert_eq!(changed, right, "{} bytes to {after:?}", packet.len());
    }

    #[test]
    fn packets_of_all_lengths_get_the_checksum_that_another_implementation_computes() {
        let bytes: Vec<u8> = (0..u16::MAX).map(|n| (n.wrapping_mul(40_503) >> 8) as u8).collect();
        // All that fit a network's MTU, and then a sample of the longer ones, up to the longest.
        let lengths = (12..2000).chain((2000..65_535).step_by(331)).chain([65_535]);
        for length in lengths {
            holds(&bytes[..length.min(bytes.len())], [0x1234, 0xfedc]);
        }
    }

    #[test]
    fn each_bit_of_the_ports_counts() {
        let packet = vec![0x5a; 1500];
        for bit in 0..16 {
            let [source, destination] = ports(&packet);
            holds(&packet, [source ^ 1 << bit, destination]);
            holds(&packet, [source, destination ^ 1 << bit]);
        }
    }

    #[test]
    fn a_checksum_that_is_left_to_the_device_is_left_alone() {
        assert_eq!(port_change(0, [1, 2], [3, 4], 100), 0);
    }

    #[test]
    fn unchanged_ports_leave_the_checksum_as_it_is() {
        assert_eq!(port_change(0xdead_beef, [1, 2], [1, 2], 1480), 0xdead_beef);
    }

    proptest! {
        #[test]
        fn a_packet_of_any_content_and_length_gets_the_checksum_of_its_new_ports(
            packet in proptest::collection::vec(any::<u8>(), 12..5000),
            after in any::<[u16; 2]>(),
        ) {
            holds(&packet, after);
        }

        #[test]
        fn a_packet_of_four_words_gets_the_checksum_that_another_implementation_computes(words: [u32; 4]) {
            let words = [words[0], words[1], 0, words[3]];
            prop_assert_eq!(of_words(&words), field(bytemuck::bytes_of(&words)));
        }

        #[test]
        fn a_wrong_checksum_stays_as_wrong_as_it_was(
            packet in proptest::collection::vec(any::<u8>(), 12..200),
            after in any::<[u16; 2]>(),
            error in 1u32..,
        ) {
            let wrong = field(&packet) ^ error;
            prop_assume!(wrong != 0);
            let changed = port_change(wrong, ports(&packet), after, packet.len() as u16);
            prop_assert_eq!(changed ^ error, field(&with_ports(&packet, after)));
        }
    }
}
