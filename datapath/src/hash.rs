//! Hashing of addresses and ports.

/// Mixes words (Fibonacci hashing, a multiplication a word).
#[inline(always)]
pub(crate) fn of<const N: usize>(words: [u32; N]) -> u32 {
    let mut sum = 0u32;
    for word in words {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15);
    }
    // A multiplication carries upwards only: two more rounds bring the last words down to the low bits.
    sum = (sum ^ (sum >> 16)).wrapping_mul(0x7feb_352d);
    sum = (sum ^ (sum >> 15)).wrapping_mul(0x846c_a68b);
    sum ^ (sum >> 16)
}
