//! The choice of the instruction set that an operation runs with.

use pulp::WithSimd;

/// Runs `op` with the widest instruction set that this processor has. Only code that is inlined into `op` is compiled
/// for that instruction set.
#[inline]
pub fn vectorize<Op: WithSimd>(op: Op) -> Op::Output {
    // Not `pulp::Arch`: it detects AVX2 only with a feature that the other users of pulp in this workspace do not
    // enable.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, op);
    }
    pulp::Arch::new().dispatch(op)
}

/// Runs statements through [`vectorize`] and guarantees that they are inlined there. If the compiler judged a closure
/// too long to inline, it would compile it for the baseline, where a fused multiply-add is a function call.
///
/// Moving a [`Once`] out of the closure makes it `FnOnce` only. Other closures are called once through a shim that the
/// compiler adds, and that shim is not guaranteed to be inlined.
#[macro_export]
macro_rules! vectorized {
    ($($statements:tt)*) => {{
        let once = $crate::dispatch::Once;
        $crate::dispatch::vectorize(#[inline(always)] || {
            let _moved = once;
            $($statements)*
        })
    }};
}

/// The value that the closures of [`vectorized`](crate::vectorized) consume.
#[derive(Debug)]
pub struct Once;
