//! Whether packets go past the host's stack.

/// [`ferrogate_common::Redirect::WANTED`]; written by the agent before the programs are loaded, a constant to the verifier.
#[unsafe(no_mangle)]
static REDIRECT: u32 = 0;

#[inline(always)]
pub(crate) fn is_redirect() -> bool {
    // SAFETY: read-only data of this object; volatile, since what is loaded is not what was compiled.
    unsafe { core::ptr::read_volatile(&raw const REDIRECT) != 0 }
}
