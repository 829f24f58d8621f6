//! What this processor can do at most: the figures that speeds are compared with.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::simd::{LINE_BYTES, Op, Simd};
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512Vnni};
use super::{KernelKind, PREFETCH_BYTES};
use crate::Result;

/// Independent sums of the multiply loop: enough to hide a multiply's latency, few enough for registers.
const CHAINS: usize = 6;

/// Rounds of the multiply loop in one run, some 10 to 50 ms.
const ROUNDS: usize = 10_000_000;

/// Bytes that the read measurement goes over: far more than any cache.
const READ_BYTES: usize = 512 << 20;

/// Integer operations (a multiplication and an addition are two) per second that all threads of the
/// current rayon pool reach together with the kernel's INT8 multiply on registers alone; the best of
/// `repeats` short runs. None for the scalar kernel, which is not written in vector operations.
///
/// # Errors
/// [`crate::Error::KernelUnavailable`] when this processor cannot run the kernel.
pub fn measure_peak_ops(kernel: KernelKind, repeats: usize) -> Result<Option<f64>> {
    let peak = match kernel {
        KernelKind::Scalar => return Ok(None),
        #[cfg(target_arch = "x86_64")]
        KernelKind::Avx2 => Avx2::new().map(|simd| peak_ops(simd, repeats)),
        #[cfg(target_arch = "x86_64")]
        KernelKind::Avx512Vnni => Avx512Vnni::new().map(|simd| peak_ops(simd, repeats)),
        #[cfg(not(target_arch = "x86_64"))]
        KernelKind::Avx2 | KernelKind::Avx512Vnni => None,
    };
    peak.map(Some).ok_or_else(|| kernel.unavailable())
}

fn peak_ops<S: Simd>(simd: S, repeats: usize) -> f64 {
    let time = best_time(repeats, |_| simd.vectorize(Multiplies(simd)));
    (rayon::current_num_threads() * ROUNDS * CHAINS * LINE_BYTES * 2) as f64 / time.as_secs_f64()
}

/// The shortest of `repeats` runs of `f(thread)` on all threads at once.
fn best_time(repeats: usize, f: impl Fn(usize) + Sync) -> Duration {
    let times = (0..repeats.max(1)).map(|_| {
        let start = Instant::now();
        rayon::broadcast(|context| f(context.index()));
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

struct Multiplies<S>(S);

impl<S: Simd> Op for Multiplies<S> {
    #[inline(always)]
    fn run(self) {
        #[repr(align(64))]
        struct Line([u8; LINE_BYTES]);
        let simd = self.0;
        let (codes, x) = (black_box(Line([3; LINE_BYTES])), black_box([2u8; 8]));
        // SAFETY: the array is 64 bytes, aligned to 64.
        let line = unsafe { simd.load_line(codes.0.as_ptr()) };
        let parts = if S::CENTERED_INPUT8 { 2 } else { 1 };
        let operands = [simd.operand8(line, 0), simd.operand8(line, parts - 1)];
        let mut acc = [simd.splat_i32(0); CHAINS];
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                for part in 0..parts {
                    // SAFETY: `x` holds 8 bytes, the most that four inputs take.
                    *acc = unsafe { simd.dot8(*acc, x.as_ptr().add(4 * part), operands[part]) };
                }
            }
        }
        let sum = acc.into_iter().fold(simd.splat_i32(0), |a, b| simd.add_i32(a, b));
        let mut lanes = [0; 16];
        simd.store_i32(sum, &mut lanes);
        black_box(lanes);
    }
}

/// Bytes per second that all threads of the current rayon pool read together from memory, the best of
/// `repeats` passes over half a gibibyte for each of 1, 2, 4, 8 and 16 address streams a thread.
pub fn measure_read_bandwidth(repeats: usize) -> f64 {
    let words: Vec<u64> = (0..READ_BYTES as u64 / 8).collect();
    let threads = rayon::current_num_threads();
    let share = words.len() / threads;
    let passes = [1, 2, 4, 8, 16].map(|streams| {
        let time = best_time(repeats, |thread| {
            black_box(read(&words[thread * share..][..share], streams));
        });
        (threads * share * 8) as f64 / time.as_secs_f64()
    });
    passes.into_iter().fold(0.0, f64::max)
}

/// Reads words as `streams` runs side by side.
fn read(words: &[u64], streams: usize) -> u64 {
    /// Words that one stream reads before the next one's turn: two cache lines.
    const TURN: usize = 16;
    let length = words.len() / streams / TURN * TURN;
    let mut sums = [0u64; TURN];
    for at in (0..length).step_by(TURN) {
        for stream in 0..streams {
            let turn = &words[stream * length + at..][..TURN];
            prefetch(turn.as_ptr().wrapping_byte_add(PREFETCH_BYTES).cast());
            prefetch(turn.as_ptr().wrapping_byte_add(PREFETCH_BYTES + LINE_BYTES).cast());
            for (sum, word) in sums.iter_mut().zip(turn) {
                *sum ^= word;
            }
        }
    }
    sums.into_iter().fold(0, |a, b| a ^ b)
}

/// Asks for a cache line, where there is a portable way to.
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed; it cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
