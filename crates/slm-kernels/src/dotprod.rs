//! AArch64 with the dot product extension: 16 lanes as four registers of four.
//!
//! `sdot` multiplies 16 signed bytes with 16 signed bytes and adds groups of four products to a 32-bit lane, without
//! saturation. Its indexed form uses the same four bytes of one operand for all lanes, which is the role of an input.
//! Codes of inputs are unsigned. Less 128 they are signed, and so is the zero point of their row.
//!
//! The rest is NEON, which every AArch64 processor has.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::ops::Range;

use crate::macrokernel::{self, GemmArgs};
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;
use half::{bf16, f16};

/// Proof that the processor has the dot product instructions and is little-endian.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DotProd(());

impl DotProd {
    /// The kernel, if this processor can run it.
    pub(crate) fn new() -> Option<Self> {
        (cfg!(target_endian = "little") && is_aarch64_feature_detected!("dotprod")).then_some(Self(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
fn with_features<O: Op>(op: O) {
    op.run();
}

type Bytes = [uint8x16_t; 4];
type Ints = [int32x4_t; 4];
type Floats = [float32x4_t; 4];

/// Adds to each 32-bit lane the products of its four bytes with the first four of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, x: int32x2_t, w: uint8x16_t) -> int32x4_t {
    // SAFETY: this function's feature has the instruction, which reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[0]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Calls intrinsics that touch no memory.
macro_rules! simd {
    ($call:expr) => {
        // SAFETY: a `DotProd` exists only where the processor has these instructions.
        unsafe { $call }
    };
}

/// Evaluates an expression for each of the four registers.
macro_rules! four {
    ($i:ident => $call:expr) => {
        [
            {
                let $i = 0;
                $call
            },
            {
                let $i = 1;
                $call
            },
            {
                let $i = 2;
                $call
            },
            {
                let $i = 3;
                $call
            },
        ]
    };
}

impl Simd for DotProd {
    type Bytes = Bytes;
    type I32 = Ints;
    type F32 = Floats;
    type NibbleSums = Ints;

    const VECTORS: usize = 8;
    const TILE_ROWS: usize = 5;
    const WIDE_INPUT8: bool = false;
    const SIGNED_INPUT: bool = true;
    const SUMS_16_BITS: bool = false;
    const OFFSET8: i32 = 0;
    const TILE_PANELS: usize = 1;
    /// Not measured on hardware.
    const PREFETCH_BYTES: usize = 384;

    #[inline(always)]
    fn vectorize<O: Op>(self, op: O) {
        simd!(with_features(op))
    }

    /// Tiles of 5 rows by 1 panel: 20 accumulators, which leave 12 registers for two lines, inputs and constants. With
    /// several groups 3 rows: 12 accumulators and 12 results. With three sums to an output 2 rows: 24 accumulators.
    fn tiles<J: GemmArgs>(self, args: &J, rows: Range<usize>, panels: Range<usize>) {
        if J::SUMS > 1 {
            macrokernel::tiles::<Self, J, 2, 1>(self, args, rows, panels);
        } else if args.is_grouped() {
            macrokernel::tiles::<Self, J, 3, 1>(self, args, rows, panels);
        } else {
            macrokernel::tiles::<Self, J, { Self::TILE_ROWS }, 1>(self, args, rows, panels);
        }
    }

    #[inline(always)]
    unsafe fn load_line(self, line: *const u8) -> Bytes {
        // SAFETY: the caller's pointer is readable for 64 bytes.
        unsafe { four!(i => vld1q_u8(line.add(16 * i))) }
    }

    #[inline(always)]
    unsafe fn store_line(self, bytes: Bytes, line: *mut u8) {
        // SAFETY: the caller's pointer is writable for 64 bytes.
        unsafe { four!(i => vst1q_u8(line.add(16 * i), bytes[i])) };
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch of any address is allowed; it cannot fault.
        unsafe {
            asm!("prfm pldl1keep, [{0}]", in(reg) address, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn prefetch_for_write(self, address: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe {
            asm!("prfm pstl1keep, [{0}]", in(reg) address, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: Bytes) -> Bytes {
        simd!(four!(i => vandq_u8(bytes[i], vdupq_n_u8(0x0f))))
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: Bytes) -> Bytes {
        simd!(four!(i => vshrq_n_u8::<4>(bytes[i])))
    }

    #[inline(always)]
    fn zero_bytes(self) -> Bytes {
        [simd!(vdupq_n_u8(0)); 4]
    }

    #[inline(always)]
    fn sub_bytes(self, a: Bytes, b: Bytes) -> Bytes {
        simd!(four!(i => vsubq_u8(a[i], b[i])))
    }

    #[inline(always)]
    fn repeat_byte(self, values: Ints) -> Bytes {
        let repeated = self.mul_i32(values, self.splat_i32(0x0101_0101));
        simd!(four!(i => vreinterpretq_u8_s32(repeated[i])))
    }

    #[inline(always)]
    fn operand8(self, line: Bytes, _: usize) -> Bytes {
        line
    }

    #[inline(always)]
    unsafe fn dot8(self, acc: Ints, x: *const u8, w: Bytes) -> Ints {
        // SAFETY: the caller's pointer is readable for 4 bytes; a `DotProd` exists only where the processor has
        // these instructions.
        unsafe {
            let x = vset_lane_s32::<0>(x.cast::<i32>().read_unaligned(), vdup_n_s32(0));
            four!(i => sdot(acc[i], x, w[i]))
        }
    }

    #[inline(always)]
    unsafe fn dot4(self, acc: Ints, x: *const u8, w: Bytes) -> Ints {
        // SAFETY: the same contract.
        unsafe { self.dot8(acc, x, w) }
    }

    #[inline(always)]
    unsafe fn dot4_16(self, sums: Ints, x: *const u8, w: Bytes) -> Ints {
        // SAFETY: the same contract.
        unsafe { self.dot4(sums, x, w) }
    }

    #[inline(always)]
    fn signed_operand8(self, line: Bytes, _: usize) -> Bytes {
        line
    }

    #[inline(always)]
    unsafe fn signed_dot8(self, acc: Ints, x: *const u8, w: Bytes) -> Ints {
        // SAFETY: the same contract.
        unsafe { self.dot8(acc, x, w) }
    }

    #[inline(always)]
    fn start_nibbles(self, sums: Ints) -> Ints {
        sums
    }

    #[inline(always)]
    fn nibbles<const HIGH: bool>(self, line: Bytes) -> Bytes {
        if HIGH { self.high_nibbles(line) } else { self.low_nibbles(line) }
    }

    #[inline(always)]
    unsafe fn dot_nibbles<const HIGH: bool>(self, sums: Ints, x: *const u8, w: Bytes) -> Ints {
        // SAFETY: the same contract.
        unsafe { self.dot8(sums, x, w) }
    }

    #[inline(always)]
    fn end_nibbles(self, sums: Ints) -> Ints {
        sums
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Ints {
        [simd!(vdupq_n_s32(value)); 4]
    }

    #[inline(always)]
    fn add_i32(self, a: Ints, b: Ints) -> Ints {
        simd!(four!(i => vaddq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn sub_i32(self, a: Ints, b: Ints) -> Ints {
        simd!(four!(i => vsubq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn mul_i32(self, a: Ints, b: Ints) -> Ints {
        simd!(four!(i => vmulq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn widen_i8(self, values: &[i8; LANES]) -> Ints {
        // SAFETY: the reference is readable for 16 bytes; the features exist as above.
        unsafe {
            let bytes = vld1q_s8(values.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        }
    }

    #[inline(always)]
    fn load_i32(self, values: &[i32; LANES]) -> Ints {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe { four!(i => vld1q_s32(values.as_ptr().add(4 * i))) }
    }

    #[inline(always)]
    fn store_i32(self, values: Ints, out: &mut [i32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe { four!(i => vst1q_s32(out.as_mut_ptr().add(4 * i), values[i])) };
    }

    #[inline(always)]
    fn to_f32(self, values: Ints) -> Floats {
        simd!(four!(i => vcvtq_f32_s32(values[i])))
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> Floats {
        [simd!(vdupq_n_f32(value)); 4]
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> Floats {
        // SAFETY: the reference is readable for 64 bytes.
        unsafe { four!(i => vld1q_f32(values.as_ptr().add(4 * i))) }
    }

    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> Floats {
        let bits: *const u16 = values.as_ptr().cast();
        // SAFETY: the reference is readable for 32 bytes; an `f16` is its 16 bits.
        unsafe { four!(i => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits.add(4 * i))))) }
    }

    #[inline(always)]
    fn load_bf16(self, values: &[bf16; LANES]) -> Floats {
        let bits: *const u16 = values.as_ptr().cast();
        // SAFETY: the reference is readable for 32 bytes; a `bf16` is its 16 bits.
        unsafe { four!(i => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(bits.add(4 * i))))) }
    }

    #[inline(always)]
    fn transpose(self, v: [Floats; LANES]) -> [Floats; LANES] {
        let mut out = v;
        for rows in 0..4 {
            for columns in 0..4 {
                let square: [float32x4_t; 4] = four!(i => v[4 * rows + i][columns]);
                let pairs = simd!([
                    vtrn1q_f32(square[0], square[1]),
                    vtrn2q_f32(square[0], square[1]),
                    vtrn1q_f32(square[2], square[3]),
                    vtrn2q_f32(square[2], square[3]),
                ]);
                let wide: [float64x2_t; 4] = simd!(four!(i => vreinterpretq_f64_f32(pairs[i])));
                let square = simd!([
                    vreinterpretq_f32_f64(vzip1q_f64(wide[0], wide[2])),
                    vreinterpretq_f32_f64(vzip1q_f64(wide[1], wide[3])),
                    vreinterpretq_f32_f64(vzip2q_f64(wide[0], wide[2])),
                    vreinterpretq_f32_f64(vzip2q_f64(wide[1], wide[3])),
                ]);
                for i in 0..4 {
                    out[4 * columns + i][rows] = square[i];
                }
            }
        }
        out
    }

    #[inline(always)]
    fn store_f32(self, values: Floats, out: &mut [f32; LANES]) {
        // SAFETY: the reference is writable for 64 bytes.
        unsafe { four!(i => vst1q_f32(out.as_mut_ptr().add(4 * i), values[i])) };
    }

    #[inline(always)]
    fn add_f32(self, a: Floats, b: Floats) -> Floats {
        simd!(four!(i => vaddq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn fma_f32(self, a: Floats, b: Floats, c: Floats) -> Floats {
        simd!(four!(i => vfmaq_f32(c[i], a[i], b[i])))
    }
}
