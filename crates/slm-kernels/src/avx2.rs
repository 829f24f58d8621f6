//! AVX2 with FMA and F16C: 16 lanes as two registers of eight.
//!
//! `vpmaddubsw` multiplies unsigned with signed bytes, and saturates the sum of two products to 16 bits. INT4 cannot
//! saturate: two products are at most 2 * 255 * 15 = 7,650 in magnitude. INT8 could. Its codes and inputs are widened
//! to 16 bits and multiplied by `vpmaddwd`, which adds two products in 32 bits.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use crate::macrokernel::{self, GemmArgs};
use crate::simd::{DOT4_OPERANDS, LANES, NIBBLE_LINES, Simd};
use crate::vectorize::Op;
use crate::x86;
use half::{bf16, f16};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The kernel, if this processor can run it.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_features<O: Op>(op: O) {
    op.run();
}

/// Calls an intrinsic of the instruction sets above that touches no memory.
macro_rules! simd {
    ($call:expr) => {
        // SAFETY: an `Avx2` exists only where the processor has these instructions.
        unsafe { $call }
    };
}

type Ints = [__m256i; 2];
type Floats = [__m256; 2];

/// Moves bytes 0 and 1 of each 32-bit lane to the high halves of its 16-bit halves; then bytes 2 and 3.
const PAIR_OF: [[i8; 16]; 2] = [
    [-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13],
    [-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15],
];

/// Returns the sums as they are, and keeps the compiler from adding products to each other before it adds them to the sums.
/// The compiler would do so to shorten chains of additions, and run out of registers.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(mut sums: __m256i) -> __m256i {
    // SAFETY: there is no instruction in it, and this function's feature has the registers.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sums, options(pure, nomem, nostack, preserves_flags)) }
    sums
}

/// The bytes of each lane, two at a time, as signed 16-bit numbers.
#[inline(always)]
fn pairs(bytes: __m256i, which: usize) -> __m256i {
    // SAFETY: an `Avx2`, which all callers have, exists only where the processor has these instructions;
    // the array is readable for 16 bytes.
    unsafe {
        let order = _mm256_broadcastsi128_si256(_mm_loadu_si128(PAIR_OF[which].as_ptr().cast()));
        _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(bytes, order))
    }
}

/// Widens eight `bf16` values, the upper halves of 32-bit floats.
#[inline(always)]
fn widen_bf16(halves: __m128i) -> __m256 {
    simd!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))))
}

/// Transposes: lane `i` of vector `j` becomes lane `j` of vector `i`. Squares of four within halves come first, then
/// the halves.
#[inline(always)]
fn transpose8(v: [__m256; 8]) -> [__m256; 8] {
    let mut halves = v;
    for i in [0, 4] {
        let [a, b, c, d] = [v[i], v[i + 1], v[i + 2], v[i + 3]];
        simd!({
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            halves[i] = _mm256_shuffle_ps::<0x44>(low, low2);
            halves[i + 1] = _mm256_shuffle_ps::<0xee>(low, low2);
            halves[i + 2] = _mm256_shuffle_ps::<0x44>(high, high2);
            halves[i + 3] = _mm256_shuffle_ps::<0xee>(high, high2);
        });
    }
    let mut out = halves;
    for i in 0..4 {
        simd!({
            out[i] = _mm256_permute2f128_ps::<0x20>(halves[i], halves[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(halves[i], halves[i + 4]);
        });
    }
    out
}

impl Simd for Avx2 {
    type Bytes = Ints;
    type I32 = Ints;
    type F32 = Floats;
    /// The 32-bit sums, and two 16-bit sums of products in each lane.
    type NibbleSums = [Ints; 2];

    const VECTORS: usize = 8;
    const TILE_ROWS: usize = 5;
    const WIDE_INPUT8: bool = true;
    const SIGNED_INPUT: bool = false;
    const SUMS_16_BITS: bool = true;
    const OFFSET8: i32 = 0;
    const TILE_PANELS: usize = 1;
    /// Measured: 256 bytes are 3 % slower, 512 bytes are equal.
    const PREFETCH_BYTES: usize = 384;

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) {
        simd!(with_features(op))
    }

    /// Tiles of 5 rows by 1 panel: 10 accumulators in 16 registers. With 6 rows no register is left for a line or an
    /// input that the compiler loads early, and spilling an accumulator takes longer than all products. With three sums
    /// to an output the tiles have 2 rows: 12 accumulators.
    fn tiles<J: GemmArgs>(self, args: &J, rows: Range<usize>, panels: Range<usize>) {
        if J::SUMS > 1 {
            macrokernel::tiles::<Self, J, 2, 1>(self, args, rows, panels);
        } else {
            macrokernel::tiles::<Self, J, { Self::TILE_ROWS }, 1>(self, args, rows, panels);
        }
    }

    #[inline(always)]
    unsafe fn load_line(self, line: *const u8) -> Ints {
        // SAFETY: the caller's pointer is readable for 64 bytes and aligned.
        unsafe { [_mm256_load_si256(line.cast()), _mm256_load_si256(line.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn store_line(self, bytes: Ints, line: *mut u8) {
        // SAFETY: the caller's pointer is writable for 64 bytes and aligned.
        unsafe {
            _mm256_store_si256(line.cast(), bytes[0]);
            _mm256_store_si256(line.add(32).cast(), bytes[1]);
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch of any address is allowed; it cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn prefetch_for_write(self, address: *const u8) {
        x86::prefetch_for_write(address);
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: Ints) -> Ints {
        let mask = simd!(_mm256_set1_epi8(0x0f));
        simd!([_mm256_and_si256(bytes[0], mask), _mm256_and_si256(bytes[1], mask)])
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: Ints) -> Ints {
        self.low_nibbles(simd!([_mm256_srli_epi16::<4>(bytes[0]), _mm256_srli_epi16::<4>(bytes[1])]))
    }

    #[inline(always)]
    fn zero_bytes(self) -> Ints {
        [simd!(_mm256_setzero_si256()); 2]
    }

    #[inline(always)]
    fn sub_bytes(self, a: Ints, b: Ints) -> Ints {
        simd!([_mm256_sub_epi8(a[0], b[0]), _mm256_sub_epi8(a[1], b[1])])
    }

    #[inline(always)]
    fn repeat_byte(self, values: Ints) -> Ints {
        self.mul_i32(values, self.splat_i32(0x0101_0101))
    }

    #[inline(always)]
    fn operand8(self, line: Ints, part: usize) -> Ints {
        [pairs(line[0], part), pairs(line[1], part)]
    }

    #[inline(always)]
    unsafe fn dot8(self, acc: Ints, x: *const u8, w: Ints) -> Ints {
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            [
                in_order(_mm256_add_epi32(acc[0], _mm256_madd_epi16(x, w[0]))),
                in_order(_mm256_add_epi32(acc[1], _mm256_madd_epi16(x, w[1]))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot4(self, acc: Ints, x: *const u8, w: Ints) -> Ints {
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w[0]), ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w[1]), ones)),
            ]
        }
    }

    /// Two products are at most 2 * 255 * 15 = 7,650 in magnitude, and those of four operands 30,600.
    #[inline(always)]
    unsafe fn dot4_16(self, [sums, pairs]: [Ints; 2], x: *const u8, w: Ints) -> [Ints; 2] {
        const { assert!(DOT4_OPERANDS * 2 * 255 * 15 <= i16::MAX as usize) }
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        let pairs = unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            [
                in_order(_mm256_add_epi16(pairs[0], _mm256_maddubs_epi16(x, w[0]))),
                in_order(_mm256_add_epi16(pairs[1], _mm256_maddubs_epi16(x, w[1]))),
            ]
        };
        [sums, pairs]
    }

    #[inline(always)]
    fn signed_operand8(self, line: Ints, part: usize) -> Ints {
        self.operand8(line, part)
    }

    #[inline(always)]
    unsafe fn signed_dot8(self, acc: Ints, x: *const u8, w: Ints) -> Ints {
        // SAFETY: the same contract.
        unsafe { self.dot8(acc, x, w) }
    }

    #[inline(always)]
    fn start_nibbles(self, sums: Ints) -> [Ints; 2] {
        [sums, self.zero_bytes()]
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, line: Ints) -> Ints {
        if HIGH { self.high_nibbles(line) } else { self.low_nibbles(line) }
    }

    /// Two products are at most 2 * 15 * 128 = 3,840 in magnitude, and those of four lines, two pairs to a line,
    /// 30,720: all fit in 16 bits.
    #[inline(always)]
    unsafe fn dot_nibbles<const HIGH: bool>(
        self,
        [sums, pairs]: [Ints; 2],
        x: *const u8,
        w: Ints,
    ) -> [Ints; 2] {
        const { assert!(2 * NIBBLE_LINES * 2 * 15 * 128 <= i16::MAX as usize) }
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        let pairs = unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            [
                in_order(_mm256_add_epi16(pairs[0], _mm256_maddubs_epi16(w[0], x))),
                in_order(_mm256_add_epi16(pairs[1], _mm256_maddubs_epi16(w[1], x))),
            ]
        };
        [sums, pairs]
    }

    #[inline(always)]
    fn end_nibbles(self, [sums, pairs]: [Ints; 2]) -> Ints {
        let ones = simd!(_mm256_set1_epi16(1));
        simd!([
            _mm256_add_epi32(sums[0], _mm256_madd_epi16(pairs[0], ones)),
            _mm256_add_epi32(sums[1], _mm256_madd_epi16(pairs[1], ones)),
        ])
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Ints {
        [simd!(_mm256_set1_epi32(value)); 2]
    }

    #[inline(always)]
    fn add_i32(self, a: Ints, b: Ints) -> Ints {
        simd!([_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn sub_i32(self, a: Ints, b: Ints) -> Ints {
        simd!([_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_i32(self, a: Ints, b: Ints) -> Ints {
        simd!([_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])])
    }

    #[inline(always)]
    fn widen_i8(self, values: &[i8; LANES]) -> Ints {
        // SAFETY: the reference is readable for 16 bytes; the features exist as above.
        unsafe {
            let bytes = _mm_loadu_si128(values.as_ptr().cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }

    #[inline(always)]
    fn load_i32(self, values: &[i32; LANES]) -> Ints {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe {
            let at = values.as_ptr();
            [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast())]
        }
    }

    #[inline(always)]
    fn store_i32(self, values: Ints, out: &mut [i32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe {
            let at = out.as_mut_ptr();
            _mm256_storeu_si256(at.cast(), values[0]);
            _mm256_storeu_si256(at.add(8).cast(), values[1]);
        }
    }

    #[inline(always)]
    fn to_f32(self, values: Ints) -> Floats {
        simd!([_mm256_cvtepi32_ps(values[0]), _mm256_cvtepi32_ps(values[1])])
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> Floats {
        [simd!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> Floats {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> Floats {
        // SAFETY: the reference is readable for 32 bytes; an `f16` is its 16 bits.
        unsafe {
            let at = values.as_ptr();
            [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast()))]
        }
    }

    #[inline(always)]
    fn load_bf16(self, values: &[bf16; LANES]) -> Floats {
        // SAFETY: the reference is readable for 32 bytes; a `bf16` is its 16 bits.
        unsafe {
            let at = values.as_ptr();
            [widen_bf16(_mm_loadu_si128(at.cast())), widen_bf16(_mm_loadu_si128(at.add(8).cast()))]
        }
    }

    #[inline(always)]
    fn transpose(self, v: [Floats; LANES]) -> [Floats; LANES] {
        let mut out = v;
        for rows in 0..2 {
            for columns in 0..2 {
                let mut square = [v[0][0]; 8];
                for i in 0..8 {
                    square[i] = v[8 * rows + i][columns];
                }
                let square = transpose8(square);
                for i in 0..8 {
                    out[8 * columns + i][rows] = square[i];
                }
            }
        }
        out
    }

    #[inline(always)]
    fn store_f32(self, values: Floats, out: &mut [f32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline(always)]
    fn add_f32(self, a: Floats, b: Floats) -> Floats {
        simd!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn fma_f32(self, a: Floats, b: Floats, c: Floats) -> Floats {
        simd!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
}
