//! Loops compiled for the vector registers that processors of today have.
//!
//! The program is built for any x86-64 processor, whose registers hold four floats. The same loops, compiled once more for
//! AVX2 and chosen at run time, handle eight at a time. Nothing is reordered or fused, so that results are the same bits.

/// Runs `op` with AVX2 where the processor has it. Only what is inlined into `op` is compiled for it.
#[inline(always)]
pub(crate) fn vectorize<T>(op: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(op);
    }
    op()
}

/// Runs an expression by [`vectorize`], inlined there for certain: a closure that gives something away can only be called
/// once, and is called itself, where others are called by way of a function that the compiler adds.
macro_rules! vectorized {
    ($expression:expr) => {{
        let once = $crate::vectorize::Once;
        $crate::vectorize::vectorize(
            #[inline(always)]
            || {
                let _given_away = once;
                $expression
            },
        )
    }};
}
pub(crate) use vectorized;

/// Results of the closures of [`vectorized`].
pub(crate) struct Once;
