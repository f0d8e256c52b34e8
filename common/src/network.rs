//! Networks (CIDRs): the cluster's few for Services in one element, sets of others in a trie.

use crate::Address;
use bytemuck::{Pod, Zeroable};

/// Bits of an [`Address`]'s prefix that say "IPv4": the length of an IPv4 prefix is this plus its own.
pub const V4_PREFIX: u32 = 96;

/// A network that an address is compared with in four words and without a branch. All zeros: no network, with nothing in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Network {
    /// The network's address, every bit inverted, so that all zeros match nothing.
    inverted: [u32; 4],
    /// Ones for the bits of the prefix.
    mask: [u32; 4],
}

impl Network {
    /// `prefix`: bits of the 128 of an [`Address`]; more count as 128. Host bits are cut off.
    pub fn new(address: Address, prefix: u32) -> Self {
        let bits = match 128u32.saturating_sub(prefix) {
            128 => 0,
            host => u128::MAX << host,
        };
        let octets = bits.to_be_bytes();
        let mut network = Self {
            inverted: address.words(),
            mask: [0; 4],
        };
        for (index, word) in network.mask.iter_mut().enumerate() {
            let at = index * 4;
            *word = u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
            network.inverted[index] = !(network.inverted[index] & *word);
        }
        network
    }

    /// Whether an address lies in the network.
    #[inline(always)]
    pub const fn contains(&self, address: &Address) -> bool {
        let [a, b, c, d] = address.words();
        let [i, j, k, l] = self.inverted;
        let [m, n, o, p] = self.mask;
        // Ones where prefix and network agree.
        ((a & m) ^ i) & ((b & n) ^ j) & ((c & o) ^ k) & ((d & p) ^ l) == u32::MAX
    }
}

/// The one element of the `SERVICE_CIDRS` array: an address in one of these networks that no Service has leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceCidrs {
    pub networks: [Network; ServiceCidrs::ROOM],
}

impl ServiceCidrs {
    /// How many there is room for.
    pub const ROOM: usize = 4;

    /// Whether an address is one that a ClusterIP could be.
    #[inline(always)]
    pub const fn contains(&self, address: &Address) -> bool {
        let [a, b, c, d] = &self.networks;
        a.contains(address) | b.contains(address) | c.contains(address) | d.contains(address)
    }
}

/// Key of the `NETWORKS` trie: a network as a member of a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NetworkKey {
    /// Bits of set and address that count, host order: 32 for the set, then the prefix of the 128 bits of the address.
    pub bits: u32,
    /// A service's index into `SERVICES`, for its loadBalancerSourceRanges; or one of the constants.
    pub set: u32,
    /// The network's address, host bits 0.
    pub address: Address,
}

impl NetworkKey {
    /// The set of the networks whose addresses count as inside the cluster wherever they come from (`--cluster-cidr`).
    pub const CLUSTER: u32 = u32::MAX;

    /// How many networks that set can have.
    pub const CLUSTER_ENTRIES: u32 = 64;

    /// A network of a set; `prefix` as in [`Network::new`].
    #[inline(always)]
    pub const fn new(set: u32, address: Address, prefix: u32) -> Self {
        Self {
            bits: 32 + prefix,
            set,
            address,
        }
    }

    /// The key that looks an address up in a set.
    #[inline(always)]
    pub const fn look_up(set: u32, address: &Address) -> Self {
        Self::new(set, *address, 128)
    }

    /// Bits of the address that count.
    pub const fn prefix(&self) -> u32 {
        self.bits.saturating_sub(32)
    }
}
