//! Instructions that all kernels for x86-64 use and the standard library has no function for.

use std::arch::asm;

/// Prefetches the cache line at `address`, which need not be valid, to be written.
#[inline(always)]
pub(crate) fn prefetch_for_write(address: *const u8) {
    // SAFETY: a prefetch of any address is allowed, and changes no register; processors without the instruction ignore it.
    unsafe { asm!("prefetchw byte ptr [{0}]", in(reg) address, options(readonly, nostack, preserves_flags)) }
}
