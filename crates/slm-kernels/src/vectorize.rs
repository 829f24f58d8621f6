//! Plain loops, compiled for the instruction sets of vector kernels.

#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512vnni::Avx512Vnni, simd::Simd};

/// Work that is run with an instruction set enabled.
pub(crate) trait Op {
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled inside the
    /// function that enables the instructions.
    fn run(self);
}

/// Runs `op` with the widest vectors that this processor has. On AArch64 all code is compiled for them. The result does
/// not depend on the vectors: compilers neither reorder nor fuse float operations.
pub(crate) fn vectorize<O: Op>(op: O) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = Avx512Vnni::new() {
            return simd.vectorize(op);
        }
        if let Some(simd) = Avx2::new() {
            return simd.vectorize(op);
        }
    }
    op.run();
}
