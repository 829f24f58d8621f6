//! Choice of the instruction set that an operation runs with.

use pulp::WithSimd;

/// Runs `op` with the widest instruction set that this processor has. Only what is inlined into `op` is compiled for
/// it.
#[inline]
pub fn vectorize<Op: WithSimd>(op: Op) -> Op::Output {
    // Not `pulp::Arch`: it knows AVX2 only with a feature that this workspace's other users of pulp do without.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, op);
    }
    pulp::Arch::new().dispatch(op)
}

/// Runs statements by [`vectorize`], inlined there for certain. A compiler that judged a closure too long to inline
/// would compile it for the baseline, where a fused multiply-add is a call.
///
/// Moving a [`Once`] makes the closure one that can only be called once. Others are called that way by way of a
/// function that the compiler adds, which is not inlined for certain.
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

/// The value that the closures of [`vectorized`](crate::vectorized) give away.
#[derive(Debug)]
pub struct Once;
