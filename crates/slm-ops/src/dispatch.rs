//! Which instruction set an operation runs with.

use pulp::WithSimd;

/// Runs `op` with the widest instruction set that this processor has. Everything that is inlined into `op` is
/// compiled for it.
#[inline]
pub(crate) fn vectorize<Op: WithSimd>(op: Op) -> Op::Output {
    // Not `pulp::Arch`: it knows AVX2 only with a feature that this workspace's other users of pulp do without.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return pulp::Simd::vectorize(simd, op);
    }
    pulp::Arch::new().dispatch(op)
}
