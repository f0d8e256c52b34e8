//! glibc's heap. Other C libraries' need none of this.

/// Has all threads share one heap. Each of glibc's own keeps what was freed in it, in pieces, and what was allocated by one thread here is
/// often freed by another. To be called before there is a second thread.
pub(crate) fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives free memory of the heap back to the system. glibc keeps what lies below something that is in use: after a plan for all Services
/// that is more than what is left of it.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::malloc_trim(0)
    };
}
