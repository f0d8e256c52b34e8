//! A typed handle to a map: single and batch operations.

use super::{Command, bpf, object_info, raw};
use bytemuck::{Pod, Zeroable};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most elements one batch carries: bounds memory, and how long one call holds a bucket's lock.
const BATCH: u32 = 4_096;

/// ENOTSUPP of the kernel's own, which it returns for batch operations a map type does not have.
const ENOTSUPP: i32 = 524;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Value, or the next key.
    value: u64,
    flags: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The beginning of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MapInfo {
    /// An `enum bpf_map_type`.
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

impl MapInfo {
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        object_info(fd)
    }
}

/// Writes the one element of a map that has no more.
pub(super) fn put_only(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let info = MapInfo::of(map)?;
    if info.max_entries != 1 || info.key_size != 4 || info.value_size as usize != value.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let key = 0_u32;
    let mut attr = ElementAttr {
        map_fd: raw(map),
        padding: 0,
        key: (&raw const key).addr() as u64,
        value: value.as_ptr().addr() as u64,
        flags: 0,
    };
    // SAFETY: a key and a value of the map's sizes, which the kernel only reads.
    unsafe { bpf(Command::MapUpdateElem, &mut attr) }.map(drop)
}

/// A map whose keys are `K` and whose values are `copies` times `V` (one for each possible CPU in per-CPU maps, else 1).
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    copies: usize,
    entries: u32,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Takes a descriptor of a map.
    ///
    /// `copies` must be the number of possible CPUs for a per-CPU map, whose `V` has a multiple of 8 bytes, and else 1.
    ///
    /// # Errors
    /// EINVAL where the kernel's sizes are not those of `K` and `V`: every operation relies on them.
    pub(crate) fn new(fd: OwnedFd, copies: usize) -> io::Result<Self> {
        let info = MapInfo::of(fd.as_fd())?;
        let fits = info.key_size as usize == size_of::<K>()
            && info.value_size as usize == size_of::<V>()
            && copies > 0
            && (copies == 1 || size_of::<V>().is_multiple_of(8));
        if !fits {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self {
            fd,
            copies,
            entries: info.max_entries,
            types: PhantomData,
        })
    }

    /// Number of entries the map has room for.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    fn element(&self, key: &K, value: u64, flags: u64) -> ElementAttr {
        ElementAttr {
            map_fd: raw(self.fd.as_fd()),
            padding: 0,
            key: std::ptr::from_ref(key).addr() as u64,
            value,
            flags,
        }
    }

    /// The value of `key`: all its copies.
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<Vec<V>>> {
        let mut values = vec![V::zeroed(); self.copies];
        let mut attr = self.element(key, values.as_mut_ptr().addr() as u64, 0);
        // SAFETY: key and values are live and as large as the kernel's key and value, which `new` has checked.
        match unsafe { bpf(Command::MapLookupElem, &mut attr) } {
            Ok(_) => Ok(Some(values)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one element of a map that is not per-CPU.
    pub(crate) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.single()?;
        let mut attr = self.element(key, std::ptr::from_ref(value).addr() as u64, 0);
        // SAFETY: as in `get`; the kernel only reads both.
        unsafe { bpf(Command::MapUpdateElem, &mut attr) }.map(drop)
    }

    /// Writes one element that must not be there yet; whether it was not.
    pub(crate) fn put_new(&self, key: &K, value: &V) -> io::Result<bool> {
        /// BPF_NOEXIST.
        const NEW: u64 = 1;
        self.single()?;
        let mut attr = self.element(key, std::ptr::from_ref(value).addr() as u64, NEW);
        // SAFETY: as in `put`.
        match unsafe { bpf(Command::MapUpdateElem, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes one element, if there is room for it; whether there was.
    pub(crate) fn put_if_room(&self, key: &K, value: &V) -> io::Result<bool> {
        match self.put(key, value) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes one element; whether it was there.
    pub(crate) fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.element(key, 0, 0);
        // SAFETY: as in `get`.
        match unsafe { bpf(Command::MapDeleteElem, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets all copies of an element to zero.
    pub(crate) fn clear(&self, key: &K) -> io::Result<()> {
        let values = vec![V::zeroed(); self.copies];
        let mut attr = self.element(key, values.as_ptr().addr() as u64, 0);
        // SAFETY: as in `get`; the kernel only reads both.
        unsafe { bpf(Command::MapUpdateElem, &mut attr) }.map(drop)
    }

    /// Writes many elements; in batches where the kernel has them. Elements before one that fails are written.
    pub(crate) fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        self.single()?;
        if keys.len() != values.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut done = 0;
        while keys.len() - done > 1 {
            let count = (keys.len() - done).min(BATCH as usize);
            let mut attr = BatchAttr {
                keys: keys[done..].as_ptr().addr() as u64,
                values: values[done..].as_ptr().addr() as u64,
                ..self.batch(count)
            };
            // SAFETY: both slices hold at least count elements of the sizes that `new` has checked; they are only read.
            let result = unsafe { bpf(Command::MapUpdateBatch, &mut attr) };
            match result {
                Ok(_) => done += count,
                Err(error) if unsupported(&error) => break,
                Err(error) => return Err(error),
            }
        }
        for (key, value) in keys[done..].iter().zip(&values[done..]) {
            self.put(key, value)?;
        }
        Ok(())
    }

    /// Removes many elements; those that are not there are passed over.
    pub(crate) fn delete_all(&self, keys: &[K]) -> io::Result<()> {
        let mut done = 0;
        while keys.len() - done > 1 {
            let count = (keys.len() - done).min(BATCH as usize);
            let mut attr = BatchAttr {
                keys: keys[done..].as_ptr().addr() as u64,
                ..self.batch(count)
            };
            // SAFETY: the slice holds at least count keys of the size that `new` has checked; they are only read.
            match unsafe { bpf(Command::MapDeleteBatch, &mut attr) } {
                Ok(_) => done += count,
                // The kernel stops at the first key that is not there, and says how many it has removed before it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    done += (attr.count as usize).min(count) + 1;
                }
                Err(error) if unsupported(&error) => break,
                Err(error) => return Err(error),
            }
        }
        for key in keys.get(done..).unwrap_or_default() {
            self.delete(key)?;
        }
        Ok(())
    }

    /// Calls `visit` with every element and all copies of its value until it returns false. Elements that come or go
    /// meanwhile may be seen or not; none is seen twice unless the fallback without batches meets a concurrent removal.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&K, &[V]) -> bool) -> io::Result<()> {
        let mut count = BATCH.min(self.entries.max(1));
        // A hash map's position is a u32, an array's is a key.
        let mut position = vec![0_u64; size_of::<K>().div_ceil(8).max(1)];
        let mut next = position.clone();
        let mut first = true;
        loop {
            let mut keys = vec![K::zeroed(); count as usize];
            let mut values = vec![V::zeroed(); count as usize * self.copies];
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { position.as_ptr().addr() as u64 },
                out_batch: next.as_mut_ptr().addr() as u64,
                keys: keys.as_mut_ptr().addr() as u64,
                values: values.as_mut_ptr().addr() as u64,
                ..self.batch(count as usize)
            };
            // SAFETY: keys and values hold count elements of the checked sizes; both positions hold a key or a u32.
            let end = match unsafe { bpf(Command::MapLookupBatch, &mut attr) } {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket with more elements than asked for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < self.entries => {
                    count = count.saturating_mul(2).min(self.entries);
                    continue;
                }
                Err(error) if first && unsupported(&error) => return self.for_each_single(visit),
                Err(error) => return Err(error),
            };
            let found = (attr.count as usize).min(keys.len());
            for (key, value) in keys[..found].iter().zip(values.chunks_exact(self.copies)) {
                if !visit(key, value) {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
            first = false;
            std::mem::swap(&mut position, &mut next);
        }
    }

    /// [`Map::for_each`] for maps without batch operations.
    fn for_each_single(&self, mut visit: impl FnMut(&K, &[V]) -> bool) -> io::Result<()> {
        let mut key: Option<K> = None;
        // A removal behind the walk's back starts it again at the first key: bound it.
        for _ in 0..u64::from(self.entries) * 2 {
            let mut next = K::zeroed();
            let mut attr = ElementAttr {
                map_fd: raw(self.fd.as_fd()),
                padding: 0,
                key: key.as_ref().map_or(0, |key| std::ptr::from_ref(key).addr() as u64),
                value: (&raw mut next).addr() as u64,
                flags: 0,
            };
            // SAFETY: key is null or a live key, next is as large as one.
            match unsafe { bpf(Command::MapGetNextKey, &mut attr) } {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error),
            }
            if let Some(values) = self.get(&next)?
                && !visit(&next, &values)
            {
                break;
            }
            key = Some(next);
        }
        Ok(())
    }

    fn batch(&self, count: usize) -> BatchAttr {
        BatchAttr {
            count: u32::try_from(count).unwrap_or(BATCH),
            map_fd: raw(self.fd.as_fd()),
            ..BatchAttr::zeroed()
        }
    }

    /// Writing needs one copy to write from.
    fn single(&self) -> io::Result<()> {
        if self.copies == 1 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
}

/// Whether the error says that this kernel has no batch operations for this map.
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL))
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CreateAttr, create_map};
    use super::*;

    /// BPF_MAP_TYPE_HASH with BPF_F_NO_PREALLOC.
    fn hash(entries: u32) -> Option<Map<u64, u64>> {
        let created = create_map(CreateAttr {
            map_type: 1,
            key_size: 8,
            value_size: 8,
            max_entries: entries,
            map_flags: 1,
            inner_map_fd: 0,
        });
        match created {
            Ok(fd) => Map::new(fd, 1).ok(),
            Err(error) => {
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::EPERM),
                    "only a missing privilege excuses this"
                );
                eprintln!("skipped: creating a map needs CAP_BPF");
                None
            }
        }
    }

    #[test]
    fn many_elements_are_written_read_and_removed_in_batches() {
        let Some(map) = hash(20_000) else { return };
        let keys: Vec<u64> = (0..10_000).collect();
        let values: Vec<u64> = keys.iter().map(|key| key * 3).collect();
        map.put_all(&keys, &values).expect("batch update");
        let mut seen = std::collections::BTreeMap::new();
        map.for_each(|key, value| seen.insert(*key, value[0]).is_none())
            .expect("walk");
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().all(|(key, value)| *value == key * 3));
        // Every second key twice over, so that most batches meet keys that are gone.
        let even: Vec<u64> = keys
            .iter()
            .filter(|key| **key % 2 == 0)
            .flat_map(|key| [*key, *key])
            .collect();
        map.delete_all(&even).expect("batch delete");
        let mut left = 0;
        map.for_each(|key, _| {
            left += 1;
            key % 2 == 1
        })
        .expect("walk");
        assert_eq!(left, 5_000);
    }

    #[test]
    fn a_walk_without_batches_sees_every_element_once() {
        let Some(map) = hash(64) else { return };
        for key in 0..50 {
            map.put(&key, &(key + 1)).expect("update");
        }
        let mut seen = Vec::new();
        map.for_each_single(|key, value| {
            seen.push((*key, value[0]));
            true
        })
        .expect("walk");
        seen.sort_unstable();
        assert_eq!(seen, (0..50).map(|key| (key, key + 1)).collect::<Vec<_>>());
        assert_eq!(map.get(&7).expect("look-up"), Some(vec![8]));
        assert!(map.delete(&7).expect("delete"));
        assert!(!map.delete(&7).expect("delete"));
        assert_eq!(map.get(&7).expect("look-up"), None);
    }

    #[test]
    fn a_map_of_other_sizes_is_refused() {
        let Some(map) = hash(4) else { return };
        let fd = map.as_fd().try_clone_to_owned().expect("descriptor");
        assert!(Map::<u32, u64>::new(fd, 1).is_err());
    }
}
