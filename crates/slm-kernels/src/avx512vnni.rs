//! AVX-512 with VNNI: `vpdpbusd` multiplies 64 unsigned with 64 signed bytes and adds groups of four products to a
//! 32-bit lane, without saturation.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::macrokernel::{self, GemmArgs};
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;
use crate::x86;
use half::{bf16, f16};

/// Proof that the processor has AVX-512 F, BW and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(());

impl Avx512Vnni {
    /// The kernel, if this processor can run it.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn with_features<O: Op>(op: O) {
    op.run();
}

/// Calls an intrinsic of the instruction sets above that touches no memory.
macro_rules! simd {
    ($call:expr) => {
        // SAFETY: an `Avx512Vnni` exists only where the processor has these instructions.
        unsafe { $call }
    };
}

impl Simd for Avx512Vnni {
    type Bytes = __m512i;
    type I32 = __m512i;
    type F32 = __m512;
    /// The sums of low nibbles, and sixteen times the sums of high nibbles.
    type NibbleSums = [__m512i; 2];

    const VECTORS: usize = 32;
    const TILE_ROWS: usize = 12;
    const WIDE_INPUT8: bool = false;
    const SIGNED_INPUT: bool = false;
    const SUMS_16_BITS: bool = false;
    const OFFSET8: i32 = 128;
    const TILE_PANELS: usize = 2;
    /// Measured with INT8 and a memory bandwidth of 55 GB/s: 256 bytes reach 96 % of it, 512 bytes 79 %.
    const PREFETCH_BYTES: usize = 256;

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) {
        simd!(with_features(op))
    }

    /// Tiles of 12 rows by 2 panels: 24 accumulators, which leave 8 registers for lines, inputs and constants. With
    /// several groups 6 by 2: 12 accumulators and 12 results; but 4 by 2 for 7 or 8 rows, of which two tiles of 6 would
    /// compute 12. With three sums to an output 4 by 2: 24 accumulators.
    fn tiles<J: GemmArgs>(self, args: &J, rows: Range<usize>, panels: Range<usize>) {
        if J::SUMS > 1 || (args.is_grouped() && matches!(rows.len(), 7 | 8)) {
            macrokernel::tiles::<Self, J, 4, 2>(self, args, rows, panels);
        } else if args.is_grouped() {
            macrokernel::tiles::<Self, J, 6, 2>(self, args, rows, panels);
        } else {
            macrokernel::tiles::<Self, J, { Self::TILE_ROWS }, 2>(self, args, rows, panels);
        }
    }

    #[inline(always)]
    unsafe fn load_line(self, line: *const u8) -> __m512i {
        // SAFETY: the caller's pointer is readable for 64 bytes.
        unsafe { _mm512_load_si512(line.cast()) }
    }

    #[inline(always)]
    unsafe fn store_line(self, bytes: __m512i, line: *mut u8) {
        // SAFETY: the caller's pointer is writable for 64 bytes and aligned.
        unsafe { _mm512_store_si512(line.cast(), bytes) }
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
    fn low_nibbles(self, bytes: __m512i) -> __m512i {
        simd!(_mm512_and_si512(bytes, _mm512_set1_epi8(0x0f)))
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m512i) -> __m512i {
        simd!(_mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(0x0f)))
    }

    #[inline(always)]
    fn zero_bytes(self) -> __m512i {
        simd!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_sub_epi8(a, b))
    }

    #[inline(always)]
    fn repeat_byte(self, values: __m512i) -> __m512i {
        self.mul_i32(values, self.splat_i32(0x0101_0101))
    }

    #[inline(always)]
    fn operand8(self, line: __m512i, _: usize) -> __m512i {
        line
    }

    #[inline(always)]
    unsafe fn dot8(self, acc: __m512i, x: *const u8, w: __m512i) -> __m512i {
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        unsafe { _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()), w) }
    }

    #[inline(always)]
    unsafe fn dot4(self, acc: __m512i, x: *const u8, w: __m512i) -> __m512i {
        // SAFETY: the same contract.
        unsafe { self.dot8(acc, x, w) }
    }

    #[inline(always)]
    unsafe fn dot4_16(self, sums: [__m512i; 2], x: *const u8, w: __m512i) -> [__m512i; 2] {
        // SAFETY: the same contract.
        unsafe { [self.dot4(sums[0], x, w), sums[1]] }
    }

    /// Codes plus 128 are unsigned, as the instruction's first operand must be.
    #[inline(always)]
    fn signed_operand8(self, line: __m512i, _: usize) -> __m512i {
        simd!(_mm512_xor_si512(line, _mm512_set1_epi8(-128)))
    }

    #[inline(always)]
    unsafe fn signed_dot8(self, acc: __m512i, x: *const u8, w: __m512i) -> __m512i {
        // SAFETY: the caller's pointer is readable for 4 bytes; the features exist as above.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    fn start_nibbles(self, sums: __m512i) -> [__m512i; 2] {
        [sums, self.zero_bytes()]
    }

    /// High nibbles stay in place: bytes of sixteen times their value, still unsigned.
    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, line: __m512i) -> __m512i {
        simd!(_mm512_and_si512(line, _mm512_set1_epi8(if HIGH { -16 } else { 15 })))
    }

    #[inline(always)]
    unsafe fn dot_nibbles<const HIGH: bool>(
        self,
        mut sums: [__m512i; 2],
        x: *const u8,
        w: __m512i,
    ) -> [__m512i; 2] {
        let sum = &mut sums[usize::from(HIGH)];
        // SAFETY: the same contract.
        *sum = unsafe { self.signed_dot8(*sum, x, w) };
        sums
    }

    /// Sums of high nibbles are multiples of 16, so the shift is exact.
    #[inline(always)]
    fn end_nibbles(self, sums: [__m512i; 2]) -> __m512i {
        self.add_i32(sums[0], simd!(_mm512_srai_epi32::<4>(sums[1])))
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        simd!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_i32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn mul_i32(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn widen_i8(self, values: &[i8; LANES]) -> __m512i {
        // SAFETY: the reference is readable for 16 bytes; the features exist as above.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i32(self, values: &[i32; LANES]) -> __m512i {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_i32(self, values: __m512i, out: &mut [i32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) }
    }

    #[inline(always)]
    fn to_f32(self, values: __m512i) -> __m512 {
        simd!(_mm512_cvtepi32_ps(values))
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> __m512 {
        simd!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> __m512 {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> __m512 {
        // SAFETY: the reference is readable for 32 bytes; an `f16` is its 16 bits.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, values: &[bf16; LANES]) -> __m512 {
        // SAFETY: the reference is readable for 32 bytes; a `bf16` is its 16 bits.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }

    /// Transposes squares of four within the quarters of vectors first, then the quarters.
    #[inline(always)]
    fn transpose(self, v: [__m512; LANES]) -> [__m512; LANES] {
        let mut quarters = v;
        for i in (0..LANES).step_by(4) {
            let [a, b, c, d] = [v[i], v[i + 1], v[i + 2], v[i + 3]];
            simd!({
                let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (low2, high2) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                quarters[i] = _mm512_shuffle_ps::<0x44>(low, low2);
                quarters[i + 1] = _mm512_shuffle_ps::<0xee>(low, low2);
                quarters[i + 2] = _mm512_shuffle_ps::<0x44>(high, high2);
                quarters[i + 3] = _mm512_shuffle_ps::<0xee>(high, high2);
            });
        }
        let mut out = quarters;
        for i in 0..4 {
            let [a, b, c, d] = [quarters[i], quarters[i + 4], quarters[i + 8], quarters[i + 12]];
            simd!({
                let (low, high) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
                let (low2, high2) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
                out[i] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                out[i + 4] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
                out[i + 8] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                out[i + 12] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
            });
        }
        out
    }

    #[inline(always)]
    fn store_f32(self, values: __m512, out: &mut [f32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn add_f32(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn fma_f32(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        simd!(_mm512_fmadd_ps(a, b, c))
    }
}
