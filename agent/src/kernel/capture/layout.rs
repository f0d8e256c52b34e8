//! Where this kernel's structures keep what a capture reads: from the types that the kernel tells of itself (BTF,
//! Documentation/bpf/btf.rst).

use ferrogate_common::CaptureSettings;
use std::collections::HashMap;
use std::fs;
use std::io;

/// The kernel's own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// `BTF_KIND_*`.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// How deep structures without names lie in each other at most.
const NESTED: u8 = 8;

/// Structure and member.
type Member = (&'static str, &'static str);

const WANTED: [Member; 9] = [
    ("sk_buff", "data"),
    ("sk_buff", "len"),
    ("sk_buff", "data_len"),
    ("sk_buff", "dev"),
    ("xdp_buff", "data"),
    ("xdp_buff", "data_end"),
    ("xdp_buff", "rxq"),
    ("xdp_rxq_info", "dev"),
    ("net_device", "ifindex"),
];

/// Offsets of members, in bytes.
#[derive(Debug)]
pub(super) struct Layout(HashMap<Member, u32>);

impl Layout {
    /// # Errors
    /// The kernel was built without its types, or has other structures.
    pub(super) fn of_kernel() -> io::Result<Self> {
        let types = fs::read(VMLINUX).map_err(|error| {
            let hint = "the kernel does not tell its types (CONFIG_DEBUG_INFO_BTF)";
            io::Error::new(error.kind(), format!("{VMLINUX}: {error}; {hint}"))
        })?;
        let found = members(&types).ok_or_else(|| io::Error::other(format!("{VMLINUX} is no valid BTF")))?;
        match WANTED.iter().find(|member| !found.contains_key(*member)) {
            None => Ok(Self(found)),
            Some((of, member)) => Err(io::Error::other(format!(
                "{VMLINUX} has no member {member} of struct {of}"
            ))),
        }
    }

    fn at(&self, of: &'static str, member: &'static str) -> u32 {
        self.0.get(&(of, member)).copied().unwrap_or_default()
    }

    /// For a program of tcx or XDP.
    pub(super) fn settings(&self, xdp: bool) -> CaptureSettings {
        let of = if xdp { "xdp_buff" } else { "sk_buff" };
        CaptureSettings {
            hook: 0,
            link: 0,
            all: 0,
            xdp: u32::from(xdp),
            data: self.at(of, "data"),
            data_end: self.at("xdp_buff", "data_end"),
            len: self.at("sk_buff", "len"),
            data_len: self.at("sk_buff", "data_len"),
            dev: self.at(if xdp { "xdp_rxq_info" } else { of }, "dev"),
            rxq: self.at("xdp_buff", "rxq"),
            ifindex: self.at("net_device", "ifindex"),
        }
    }
}

/// Reads words of this machine's order.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*word))
    }
}

/// A structure or union: bytes of its name and of its members, three words each.
struct Composed<'a> {
    name: &'a [u8],
    members: &'a [u8],
    /// Offsets have the size of a bit field in their first byte.
    fields: bool,
}

/// The types of a BTF by their numbers, as far as they have members.
struct Types<'a> {
    strings: &'a [u8],
    composed: HashMap<u32, Composed<'a>>,
}

/// The members that are wanted, as far as there are some; none if this is no BTF.
fn members(btf: &[u8]) -> Option<HashMap<Member, u32>> {
    let types = Types::parse(btf)?;
    let mut found = HashMap::new();
    for (number, composed) in &types.composed {
        let of_it = WANTED.iter().filter(|(of, _)| of.as_bytes() == composed.name);
        for wanted in of_it {
            if let Some(bits) = types.offset(*number, wanted.1, NESTED) {
                found.insert(*wanted, bits / 8);
            }
        }
    }
    Some(found)
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Self> {
        let (header, _) = btf.split_first_chunk::<24>()?;
        let word = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        if u16::from_ne_bytes([header[0], header[1]]) != MAGIC {
            return None;
        }
        let length = word(4)? as usize;
        let section = |at: usize| {
            let begin = length.checked_add(word(at)? as usize)?;
            btf.get(begin..)?.get(..word(at + 4)? as usize)
        };
        let mut types = Self {
            strings: section(16)?,
            composed: HashMap::new(),
        };
        let mut words = Words(section(8)?);
        // Number 0 is void.
        let mut number = 1;
        while !words.0.is_empty() {
            let (name, info, _) = (words.next()?, words.next()?, words.next()?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let more = match kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
                ENUM | FUNC_PROTO => 8 * count,
                _ => 0,
            };
            let members = words.0.get(..more)?;
            words.0 = &words.0[more..];
            if matches!(kind, STRUCT | UNION) {
                let composed = Composed {
                    name: types.text(name)?,
                    members,
                    fields: info >> 31 == 1,
                };
                types.composed.insert(number, composed);
            }
            number += 1;
        }
        Some(types)
    }

    fn text(&self, at: u32) -> Option<&'a [u8]> {
        let text = self.strings.get(at as usize..)?;
        text.get(..text.iter().position(|byte| *byte == 0)?)
    }

    /// The offset of a member in bits, also where it is in a structure or union without name.
    fn offset(&self, number: u32, wanted: &str, nested: u8) -> Option<u32> {
        let composed = self.composed.get(&number)?;
        let mut words = Words(composed.members);
        while let (Some(name), Some(of), Some(offset)) = (words.next(), words.next(), words.next()) {
            let bits = if composed.fields { offset & 0x00ff_ffff } else { offset };
            let name = self.text(name)?;
            if name == wanted.as_bytes() {
                return Some(bits);
            }
            let inside = (name.is_empty() && nested > 0).then(|| self.offset(of, wanted, nested - 1));
            if let Some(inside) = inside.flatten() {
                return bits.checked_add(inside);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells_where_its_structures_have_what_is_wanted() {
        let layout = Layout::of_kernel().expect("a kernel with BTF");
        let skb = layout.settings(false);
        assert!(
            skb.xdp == 0 && skb.data > skb.len && skb.data_len == skb.len + 4,
            "{skb:?}"
        );
        let xdp = layout.settings(true);
        assert_eq!((xdp.xdp, xdp.data, xdp.data_end), (1, 0, 8));
    }

    #[test]
    fn what_is_no_btf_is_refused_wherever_it_ends() {
        let types = fs::read(VMLINUX).expect("a kernel with BTF");
        assert!(members(&[]).is_none() && members(b"\x7fELF and so on and on and on").is_none());
        for end in [10, 24, 1_000, types.len() / 2, types.len() - 1] {
            assert!(members(&types[..end]).is_none(), "cut off at {end}");
        }
    }
}
