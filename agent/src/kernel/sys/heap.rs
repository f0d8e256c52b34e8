/// Gives free memory of the heap back to the system. glibc keeps what lies below something that is in use: after a plan for all Services
/// that is more than what is left of it.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::malloc_trim(0)
    };
}
