//! Arrays with BPF_F_MMAPABLE, written through their mapping: an aligned store is atomic for the programs, and a plan
//! of ten thousand writes costs no system call.

use super::MapInfo;
use bytemuck::Pod;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// BPF_F_MMAPABLE (include/uapi/linux/bpf.h).
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// A mapped array of `T`.
///
/// Everything is read and written in words of 4 bytes (8 where it matters), never through references: the programs and
/// other processes change the same memory.
#[derive(Debug)]
pub(crate) struct Mapping<T> {
    fd: OwnedFd,
    base: NonNull<u8>,
    length: usize,
    /// Bytes from one element to the next: the kernel rounds values up to 8 bytes.
    stride: usize,
    entries: u32,
    elements: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that is only ever accessed by atomic operations; it belongs to no thread.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapping<T> {}

impl<T: Pod> Mapping<T> {
    /// Maps the array.
    ///
    /// # Errors
    /// EINVAL where the array's values are not as large as `T`, or `T` is not made of words of 4 bytes; EPERM where it
    /// was created without BPF_F_MMAPABLE.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = MapInfo::of(fd.as_fd())?;
        let fits = info.key_size == 4 && info.value_size as usize == size_of::<T>() && size_of::<T>().is_multiple_of(4);
        if !fits || size_of::<T>() == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if info.flags & MMAPABLE == 0 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let stride = size_of::<T>().next_multiple_of(8);
        let length = info.max_entries as usize * stride;
        // SAFETY: a new mapping at an address that the kernel chooses disturbs nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(Self {
            fd,
            base,
            length,
            stride,
            entries: info.max_entries,
            elements: PhantomData,
        })
    }

    /// Number of elements.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// The aligned word of 4 bytes at byte `offset` of element `index`; None outside of the array or the element.
    fn word(&self, index: u32, offset: usize) -> Option<&AtomicU32> {
        if index >= self.entries || offset + 4 > self.stride || !offset.is_multiple_of(4) {
            return None;
        }
        let position = index as usize * self.stride + offset;
        // SAFETY: position + 4 <= entries * stride <= length, so it is inside of the mapping, which lives as long as
        // self; base is page-aligned and stride and offset are multiples of 4; all access here is atomic.
        Some(unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(position).cast()) })
    }

    /// Reads an element word by word. A concurrent write may be seen in part, as the programs see it.
    pub(crate) fn read(&self, index: u32) -> Option<T> {
        let mut value = T::zeroed();
        for (number, chunk) in bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&self.word(index, number * 4)?.load(Ordering::Acquire).to_ne_bytes());
        }
        Some(value)
    }

    /// Writes an element word by word; whether it exists.
    pub(crate) fn write(&self, index: u32, value: &T) -> bool {
        for (number, chunk) in bytemuck::bytes_of(value).chunks_exact(4).enumerate() {
            let Some(word) = self.word(index, number * 4) else {
                return false;
            };
            let mut bytes = [0; 4];
            bytes.copy_from_slice(chunk);
            word.store(u32::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        true
    }

    /// Stores the aligned word of 4 bytes at byte `offset` of an element, after all earlier writes; whether it exists.
    pub(crate) fn publish(&self, index: u32, offset: usize, value: u32) -> bool {
        self.word(index, offset)
            .map(|word| word.store(value, Ordering::Release))
            .is_some()
    }

    /// Stores the aligned word of 8 bytes at byte `offset` of an element, after all earlier writes; whether it exists.
    pub(crate) fn publish_wide(&self, index: u32, offset: usize, value: u64) -> bool {
        self.wide(index, offset)
            .map(|word| word.store(value, Ordering::Release))
            .is_some()
    }

    /// The aligned word of 8 bytes at byte `offset` of an element; None outside of the array or the element.
    fn wide(&self, index: u32, offset: usize) -> Option<&AtomicU64> {
        if index >= self.entries || offset + 8 > self.stride || !offset.is_multiple_of(8) {
            return None;
        }
        let position = index as usize * self.stride + offset;
        // SAFETY: as in `word`, with 8 for 4.
        Some(unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(position).cast()) })
    }
}

impl Mapping<u64> {
    /// Sets bits of an element, beside programs that do the same; what it was before, None outside of the array.
    pub(crate) fn add_bits(&self, index: u32, bits: u64) -> Option<u64> {
        Some(self.wide(index, 0)?.fetch_or(bits, Ordering::AcqRel))
    }
}

impl<T> AsFd for Mapping<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives self. munmap of a whole mapping does not fail.
        let _ = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CreateAttr, Map, create_map};
    use super::*;
    use ferrogate_common::{Address, Backend, Port, Service, SlotRange};
    use std::mem::offset_of;

    /// BPF_MAP_TYPE_ARRAY.
    fn array(value_size: usize, entries: u32, map_flags: u32) -> Option<OwnedFd> {
        let created = create_map(CreateAttr {
            map_type: 2,
            key_size: 4,
            value_size: value_size as u32,
            max_entries: entries,
            map_flags,
            inner_map_fd: 0,
        });
        created
            .inspect_err(|error| {
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::EPERM),
                    "only a missing privilege excuses this"
                );
                eprintln!("skipped: creating a map needs CAP_BPF");
            })
            .ok()
    }

    #[test]
    fn what_is_published_through_the_mapping_is_what_the_kernel_holds() {
        let Some(fd) = array(size_of::<Service>(), 300, MMAPABLE) else {
            return;
        };
        let kernel = Map::<u32, Service>::new(fd.try_clone().expect("descriptor"), 1).expect("map");
        let mapping = Mapping::<Service>::new(fd).expect("mapping");
        let range = SlotRange {
            base: 7,
            cluster: 3,
            local: 1,
        };
        assert!(mapping.publish(299, offset_of!(Service, flags), 2));
        assert!(mapping.publish_wide(299, offset_of!(Service, range), range.pack()));
        let expected = Service {
            range: range.pack(),
            flags: 2,
            reserved: 0,
        };
        assert_eq!(kernel.get(&299).expect("look-up"), Some(vec![expected]));
        assert_eq!(mapping.read(299), Some(expected));
        assert!(!mapping.publish(300, 0, 1), "outside of the array");
        assert!(!mapping.publish_wide(299, 12, 1), "not aligned, and beyond the element");
        assert_eq!(mapping.read(300), None);
    }

    #[test]
    fn elements_of_four_bytes_stand_eight_apart() {
        let Some(fd) = array(4, 5_000, MMAPABLE) else { return };
        let kernel = Map::<u32, u32>::new(fd.try_clone().expect("descriptor"), 1).expect("map");
        let mapping = Mapping::<u32>::new(fd).expect("mapping");
        for index in 0..5_000 {
            assert!(mapping.write(index, &(index * 2)));
        }
        assert_eq!(kernel.get(&4_999).expect("look-up"), Some(vec![9_998]));
        assert_eq!(kernel.get(&1).expect("look-up"), Some(vec![2]));
    }

    #[test]
    fn a_backend_is_written_whole_and_then_published() {
        let Some(fd) = array(size_of::<Backend>(), 4, MMAPABLE) else {
            return;
        };
        let mapping = Mapping::<Backend>::new(fd).expect("mapping");
        let mut backend = Backend {
            address: Address::from_v4_word(0x0102_0304),
            port: Port::new(8080),
            flags: 1,
            generation: 0,
            service: 9,
            last_generation: 4,
        };
        assert!(mapping.write(2, &backend));
        assert_eq!(mapping.read(2), Some(backend));
        assert!(mapping.publish(2, offset_of!(Backend, generation), 5));
        backend.generation = 5;
        assert_eq!(mapping.read(2), Some(backend));
    }

    #[test]
    fn an_array_that_was_not_made_for_it_is_not_mapped() {
        let Some(fd) = array(4, 4, 0) else { return };
        let error = Mapping::<u32>::new(fd).expect_err("no BPF_F_MMAPABLE");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
