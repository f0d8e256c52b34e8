//! Direct packet access, the same for XDP and tcx: every read and write is checked against the packet's end, as the verifier
//! demands and sees it.

use bytemuck::Pod;

/// Reads a `T` at `data + at`.
#[inline(always)]
pub(crate) fn load<T: Pod>(data: usize, data_end: usize, at: usize) -> Option<T> {
    let start = data + at;
    if start + size_of::<T>() > data_end {
        return None;
    }
    // SAFETY: within the packet, which the verifier proves; a `Pod` has no invalid bytes. The kernel builds BPF for machines
    // that can do unaligned packet access, or the verifier refuses.
    Some(unsafe { *(start as *const T) })
}

/// Writes a `T` at `data + at`.
#[inline(always)]
pub(crate) fn store<T: Pod>(data: usize, data_end: usize, at: usize, value: T) -> Option<()> {
    let start = data + at;
    if start + size_of::<T>() > data_end {
        return None;
    }
    // SAFETY: as in `load`.
    unsafe { *(start as *mut T) = value };
    Some(())
}
