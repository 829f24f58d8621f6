//! Measured peaks of this processor, with which speeds are compared.

use std::hint::black_box;
use std::time::{Duration, Instant};

use slm_quant_core::Result;
use slm_runtime::{HugeVec, StealQueue, for_each_chunk, for_each_task};

use crate::KernelKind;
use crate::isa::{Isa, with_isa};
use crate::simd::{LANES, LINE_BYTES, Simd};
use crate::vectorize::{Op, vectorize};

/// Bytes of a cache line, and the prefetch distance of the read measurement.
const CACHE_LINE: usize = 64;
const PREFETCH_BYTES: usize = 512;

/// Independent sums of the multiply loop: few enough for registers, or enough to hide the latency of a multiply. The
/// better of the two is the peak.
const FEW_CHAINS: usize = if cfg!(target_arch = "aarch64") { 3 } else { 6 };
const MANY_CHAINS: usize = 2 * FEW_CHAINS;

/// Number of inputs that the multiply loop cycles through.
const INPUTS: usize = 16;

/// Rounds of the multiply loop in one run: about a millisecond, so that some run is undisturbed.
const ROUNDS: usize = 1_000_000;

/// Minimum time for which a loop is repeated. Processors take milliseconds to raise their clock and to power wide
/// units.
const PEAK_TIME: Duration = Duration::from_millis(40);

/// Bytes that the read measurement covers: far more than any cache.
const READ_BYTES: usize = 192 << 20;

/// Calls of [`ReadMeter::pass`] that together read the memory once.
const PASSES: usize = 8;

/// Minimum number of words that a thread takes at once: 64 KiB.
const PIECE_WORDS: usize = 8 << 10;

/// Measures the peak of the kernel's INT8 multiply in registers: integer operations per second (a multiplication and an
/// addition are two) of all threads of the current rayon pool together. The result is the best of at least `repeats`
/// runs of a millisecond; `None` for the scalar kernel, which is not written in vector operations.
///
/// # Errors
/// [`slm_quant_core::Error::KernelUnavailable`] if this processor cannot run the kernel.
pub fn measure_peak_ops(kernel: KernelKind, repeats: usize) -> Result<Option<f64>> {
    if kernel == KernelKind::Scalar {
        return Ok(None);
    }
    let isa = Isa::new(kernel).ok_or_else(|| kernel.unavailable())?;
    Ok(Some(with_isa!(isa, simd => peak_ops(simd, repeats))))
}

/// Measures the peak of the kernel's fused multiply-add in registers: float operations per second (a multiplication and
/// an addition are two) of all threads of the current rayon pool together. The result is the best of at least `repeats`
/// runs of a millisecond; `None` for the scalar kernel.
///
/// # Errors
/// [`slm_quant_core::Error::KernelUnavailable`] if this processor cannot run the kernel.
pub fn measure_peak_flops(kernel: KernelKind, repeats: usize) -> Result<Option<f64>> {
    if kernel == KernelKind::Scalar {
        return Ok(None);
    }
    let isa = Isa::new(kernel).ok_or_else(|| kernel.unavailable())?;
    Ok(Some(with_isa!(isa, simd => peak_flops(simd, repeats))))
}

fn peak_flops<S: Simd>(simd: S, repeats: usize) -> f64 {
    let few = best_rate(repeats, || simd.vectorize(FloatMultiplies::<S, FEW_CHAINS>(simd)));
    let many = best_rate(repeats, || simd.vectorize(FloatMultiplies::<S, MANY_CHAINS>(simd)));
    peak_of(few, many, LANES * 2)
}

struct FloatMultiplies<S, const CHAINS: usize>(S);

impl<S: Simd, const CHAINS: usize> Op for FloatMultiplies<S, CHAINS> {
    #[inline(always)]
    fn run(self) {
        let simd = self.0;
        let factors: [f32; 2] = black_box([0.5, 0.25]);
        let (a, b) = (simd.splat_f32(factors[0]), simd.splat_f32(factors[1]));
        let mut acc = [simd.splat_f32(0.0); CHAINS];
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                // Values approach `b / (1 - a)`, so that none becomes a slow denormal.
                *acc = simd.fma_f32(*acc, a, b);
            }
        }
        let sum = acc.into_iter().fold(simd.splat_f32(0.0), |a, b| simd.add_f32(a, b));
        let mut lanes = [0.0; LANES];
        simd.store_f32(sum, &mut lanes);
        black_box(lanes);
    }
}

fn peak_ops<S: Simd>(simd: S, repeats: usize) -> f64 {
    let few = best_rate(repeats, || simd.vectorize(Multiplies::<S, FEW_CHAINS>(simd)));
    let many = best_rate(repeats, || simd.vectorize(Multiplies::<S, MANY_CHAINS>(simd)));
    peak_of(few, many, LINE_BYTES * 2)
}

/// Operations per second of the better of two loops, given their runs per second and the operations of one sum in a
/// round.
fn peak_of(few: f64, many: f64, operations: usize) -> f64 {
    (ROUNDS * operations) as f64 * (few * FEW_CHAINS as f64).max(many * MANY_CHAINS as f64)
}

/// Runs of `f` per second on all threads together: the best of at least `repeats` rounds in which all threads ran it at
/// once. The clock of each thread starts with its run, since waking it is not part of the work.
fn best_rate(repeats: usize, f: impl Fn() + Sync) -> f64 {
    let (mut best, mut runs, start) = (0.0, 0, Instant::now());
    while runs < repeats || start.elapsed() < PEAK_TIME {
        let rates = rayon::broadcast(|_| {
            let start = Instant::now();
            f();
            1.0 / start.elapsed().as_secs_f64()
        });
        best = f64::max(best, rates.into_iter().sum());
        runs += 1;
    }
    best
}

struct Multiplies<S, const CHAINS: usize>(S);

impl<S: Simd, const CHAINS: usize> Op for Multiplies<S, CHAINS> {
    #[inline(always)]
    fn run(self) {
        #[repr(align(64))]
        struct Line([u8; LINE_BYTES]);
        let simd = self.0;
        // Every chain has its own weights and every round its own input; otherwise a compiler would multiply only once.
        let lines: [Line; CHAINS] = black_box(std::array::from_fn(|i| Line([i as u8 + 1; LINE_BYTES])));
        let inputs: [[u8; 8]; INPUTS] = black_box(std::array::from_fn(|i| [i as u8 + 1; 8]));
        let parts = if S::WIDE_INPUT8 { 2 } else { 1 };
        let mut operands = [[simd.zero_bytes(); 2]; CHAINS];
        for (operands, line) in operands.iter_mut().zip(&lines) {
            // SAFETY: the array is 64 bytes, aligned to 64.
            let line = unsafe { simd.load_line(line.0.as_ptr()) };
            *operands = [simd.operand8(line, 0), simd.operand8(line, parts - 1)];
        }
        let mut acc = [simd.splat_i32(0); CHAINS];
        for round in 0..ROUNDS {
            let x = inputs[round % INPUTS].as_ptr();
            for (acc, operands) in acc.iter_mut().zip(&operands) {
                for (part, &operand) in operands.iter().enumerate().take(parts) {
                    // SAFETY: an input has 8 bytes, the most that two parts read.
                    *acc = unsafe { simd.dot8(*acc, x.add(4 * part), operand) };
                }
            }
        }
        let sum = acc.into_iter().fold(simd.splat_i32(0), |a, b| simd.add_i32(a, b));
        let mut lanes = [0; 16];
        simd.store_i32(sum, &mut lanes);
        black_box(lanes);
    }
}

/// Measures the bandwidth in bytes per second with which all threads of the current rayon pool read memory: the best of
/// `repeats` passes for each of several numbers of address streams per thread, with and without prefetching. The memory
/// is of the kind that holds weights (large pages where available).
pub fn measure_read_bandwidth(repeats: usize) -> f64 {
    ReadMeter::new(repeats).best_bytes_per_second()
}

/// A meter of read bandwidth for repeated measurements. On a shared machine the bandwidth changes from one moment to
/// the next, so measure it in turns with the speed that is compared with it.
#[derive(Debug)]
pub struct ReadMeter {
    words: HugeVec<u64>,
    way: Way,
    best: f64,
    /// Index of the part that the next pass reads.
    next: usize,
    queue: StealQueue,
}

/// A way to read a run of memory.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    /// Number of address streams that a thread reads side by side.
    streams: usize,
    /// `true` to prefetch lines.
    ask_ahead: bool,
}

impl ReadMeter {
    /// Finds the fastest way to read memory: makes `repeats` passes over all of the meter's memory in each of several
    /// ways, with all threads of the current rayon pool.
    pub fn new(repeats: usize) -> Self {
        let mut words = HugeVec::<u64>::zeroed(READ_BYTES / 8);
        for_each_chunk(&mut words, 1 << 18, |chunk, words| words.fill(chunk as u64 + 1));
        let mut meter = Self { words, way: Way::default(), best: 0.0, next: 0, queue: StealQueue::default() };
        let ways = [1, 2, 4, 8].into_iter().flat_map(|streams| [false, true].map(|ask| (streams, ask)));
        for (streams, ask_ahead) in ways {
            let way = Way { streams, ask_ahead };
            for _ in 0..repeats.max(1) {
                let rate = READ_BYTES as f64 / read(&meter.words, way, &mut meter.queue).as_secs_f64();
                if rate > meter.best {
                    (meter.best, meter.way) = (rate, way);
                }
            }
        }
        meter
    }

    /// Bytes per second of the fastest pass so far.
    pub fn best_bytes_per_second(&self) -> f64 {
        self.best
    }

    /// Bytes of memory that the meter holds.
    pub fn held_bytes(&self) -> usize {
        size_of_val::<[u64]>(&self.words)
    }

    /// Makes one short pass in the fastest way, over memory that has not been read for many passes. Returns the bytes
    /// read and the time taken.
    pub fn pass(&mut self) -> (usize, Duration) {
        let words = self.words.len() / PASSES;
        let part = &self.words[self.next * words..][..words];
        self.next = (self.next + 1) % PASSES;
        let (bytes, time) = (size_of_val(part), read(part, self.way, &mut self.queue));
        self.best = self.best.max(bytes as f64 / time.as_secs_f64());
        (bytes, time)
    }
}

/// Reads all words, with the same work stealing as products use for weights.
fn read(words: &[u64], way: Way, queue: &mut StealQueue) -> Duration {
    let (threads, chunks) = (rayon::current_num_threads(), words.len().div_ceil(PIECE_WORDS));
    let start = Instant::now();
    queue.restart((0..=threads).map(|thread| chunks * thread / threads), 1);
    let queue = &*queue;
    for_each_task(threads, |thread| {
        let mut sum = 0;
        while let Some(chunks) = queue.take(thread) {
            let words = &words[chunks.start * PIECE_WORDS..words.len().min(chunks.end * PIECE_WORDS)];
            vectorize(Read { words, way, sum: &mut sum });
        }
        black_box(sum);
    });
    start.elapsed()
}

/// Reads words in one way.
struct Read<'a> {
    words: &'a [u64],
    way: Way,
    sum: &'a mut u64,
}

impl Op for Read<'_> {
    #[inline(always)]
    fn run(self) {
        /// Words that a stream reads before the next stream's turn: two cache lines.
        const TURN: usize = 16;
        let Way { streams, ask_ahead } = self.way;
        let length = self.words.len() / streams / TURN * TURN;
        let mut sums = [0u64; TURN];
        for at in (0..length).step_by(TURN) {
            for stream in 0..streams {
                let turn = &self.words[stream * length + at..][..TURN];
                if ask_ahead {
                    prefetch(turn.as_ptr().wrapping_byte_add(PREFETCH_BYTES).cast());
                    prefetch(turn.as_ptr().wrapping_byte_add(PREFETCH_BYTES + CACHE_LINE).cast());
                }
                for (sum, word) in sums.iter_mut().zip(turn) {
                    *sum ^= word;
                }
            }
        }
        *self.sum = sums.into_iter().fold(*self.sum, |a, b| a ^ b);
    }
}

/// Prefetches a cache line, where a portable intrinsic exists.
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed; it cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_reads_its_part_and_no_pass_is_faster_than_the_best() {
        let mut meter = ReadMeter::new(1);
        for _ in 0..PASSES + 1 {
            let (bytes, time) = meter.pass();
            assert_eq!(bytes, meter.held_bytes() / PASSES);
            assert!(bytes as f64 / time.as_secs_f64() <= meter.best_bytes_per_second());
        }
    }

    #[test]
    fn every_word_is_read_once_whatever_the_way() {
        let words: Vec<u64> = (0..100_016).map(|i| 1u64.rotate_left(i % 61) ^ u64::from(i)).collect();
        let expected = words.iter().fold(0, |a, b| a ^ b);
        for streams in [1, 2, 4] {
            let mut sum = 0;
            // A multiple of the words that all streams read in a turn.
            let words = &words[..100_016 / 64 * 64];
            let rest =
                (100_016 / 64 * 64..100_016).fold(0, |a, i| a ^ 1u64.rotate_left(i as u32 % 61) ^ i as u64);
            vectorize(Read { words, way: Way { streams, ask_ahead: streams > 1 }, sum: &mut sum });
            assert_eq!(sum, expected ^ rest, "{streams} streams");
        }
    }
}
