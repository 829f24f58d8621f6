//! The vector operations that kernels are written in, on 16 lanes.
//!
//! A lane is one output (one row of weights). Each instruction set implements these operations in its own file. The
//! kernels in `integer` and `float` are compiled once for each.

use crate::macrokernel::GemmArgs;
use crate::vectorize::Op;

/// Lanes of a panel: rows of weights that are multiplied together.
pub(crate) const LANES: usize = crate::kernel::NR;

/// Bytes of a line: 4 bytes for each of the 16 lanes, which hold 4 INT8 or 8 INT4 codes.
pub(crate) const LINE_BYTES: usize = 64;

/// Lines of INT4 codes that are multiplied before their sums are added in 32 bits.
pub(crate) const NIBBLE_LINES: usize = 4;

/// Operands of [`Simd::dot4_16`] that are multiplied before their sums are added in 32 bits.
pub(crate) const DOT4_OPERANDS: usize = 4;

/// An instruction set. A value exists only if the processor has the instructions; that makes the safe methods sound.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 64 bytes.
    type Bytes: Copy;
    /// 16 integers.
    type I32: Copy;
    /// 16 floats.
    type F32: Copy;
    /// Sums of products of INT4 codes that have not yet been added to 16 sums of 32 bits.
    type NibbleSums: Copy;

    /// Number of vectors of 16 floats that the registers hold.
    const VECTORS: usize;

    /// Rows of a tile of [`Simd::tiles`] if results need no separate registers.
    const TILE_ROWS: usize;

    /// `true` if INT8 products take inputs as 16-bit differences from an offset, `false` for 8-bit codes. INT4 products
    /// always take 8 bits.
    const WIDE_INPUT8: bool;

    /// `true` if products take 8-bit inputs as signed differences from
    /// [`ACTIVATION_OFFSET`](crate::kernel::ACTIVATION_OFFSET) for rows of one group too, `false` if they take unsigned
    /// codes there. For rows of several groups all instruction sets take differences.
    const SIGNED_INPUT: bool;

    /// `true` if products of INT4 codes are summed in 16 bits, in separate registers that leave none for sums in 32
    /// bits.
    const SUMS_16_BITS: bool;

    /// The offset that [`Simd::signed_operand8`] adds to a code.
    const OFFSET8: i32;

    /// Prefetch distance for weights. They are read in the order in which they are stored, so hardware does most of the
    /// fetching: too large a distance disturbs it, and too small a one comes too late.
    const PREFETCH_BYTES: usize;

    /// Runs `op` in a function that has the instructions enabled.
    fn vectorize<O: Op>(self, op: O);

    /// Multiplies `rows` of the input with `panels` of weights in the tile sizes that suit the register
    /// file.
    fn tiles<J: GemmArgs>(self, args: &J, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>);

    /// Minimum number of panels of weights for one call of [`Simd::tiles`].
    const TILE_PANELS: usize;

    /// Loads a line.
    ///
    /// # Safety
    /// `line` must point to 64 readable bytes, aligned to 64.
    unsafe fn load_line(self, line: *const u8) -> Self::Bytes;
    /// Stores a line.
    ///
    /// # Safety
    /// `line` must point to 64 writable bytes, aligned to 64.
    unsafe fn store_line(self, bytes: Self::Bytes, line: *mut u8);
    /// Prefetches the cache line at `address`, which need not be valid.
    fn prefetch(self, address: *const u8);
    /// Prefetches the cache line at `address`, which need not be valid, to be written.
    fn prefetch_for_write(self, address: *const u8);
    /// The low nibble of every byte.
    fn low_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// The high nibble of every byte.
    fn high_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// 64 zeros.
    fn zero_bytes(self) -> Self::Bytes;
    /// Subtracts bytes, wrapping.
    fn sub_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Copies the integer of each lane, which must be in `[0, 255]`, to each of the lane's bytes.
    fn repeat_byte(self, values: Self::I32) -> Self::Bytes;
    /// Prepares the INT8 codes that one 32-bit word of input multiplies for [`Simd::dot8`]: all 4 of each lane, or with
    /// [`Simd::WIDE_INPUT8`] the first 2 (`part` 0) or last 2 (`part` 1).
    fn operand8(self, line: Self::Bytes, part: usize) -> Self::Bytes;
    /// Adds to each lane the products of an operand with the inputs at `x`.
    ///
    /// # Safety
    /// `x` must point to 4 readable bytes: 2 `i16` if [`Simd::WIDE_INPUT8`], else 4 `i8` if
    /// [`Simd::SIGNED_INPUT`], 4 `u8` if not.
    unsafe fn dot8(self, acc: Self::I32, x: *const u8, w: Self::Bytes) -> Self::I32;
    /// Adds to each lane the products of its 4 signed bytes with the 4 inputs at `x`. The bytes must be at most 30 in
    /// magnitude.
    ///
    /// # Safety
    /// `x` must point to 4 readable bytes.
    unsafe fn dot4(self, acc: Self::I32, x: *const u8, w: Self::Bytes) -> Self::I32;

    /// [`Simd::dot4`] for sums that begin with [`Simd::start_nibbles`] and end with [`Simd::end_nibbles`], for at most
    /// [`DOT4_OPERANDS`] operands of at most 15 in magnitude.
    ///
    /// # Safety
    /// `x` must point to 4 readable bytes.
    unsafe fn dot4_16(self, sums: Self::NibbleSums, x: *const u8, w: Self::Bytes) -> Self::NibbleSums;

    /// Prepares codes for [`Simd::signed_dot8`] as [`Simd::operand8`] does for [`Simd::dot8`]. Codes may get an offset,
    /// [`Simd::OFFSET8`].
    fn signed_operand8(self, line: Self::Bytes, part: usize) -> Self::Bytes;
    /// Adds to each lane the products of an operand with the inputs at `x`.
    ///
    /// # Safety
    /// `x` must point to 4 readable bytes: 2 `i16` of at most 255 in magnitude if
    /// [`Simd::WIDE_INPUT8`], 4 `i8` if not.
    unsafe fn signed_dot8(self, acc: Self::I32, x: *const u8, w: Self::Bytes) -> Self::I32;

    /// The sums that the next products of nibbles are added to, given sums in 32 bits.
    fn start_nibbles(self, sums: Self::I32) -> Self::NibbleSums;
    /// The low or `HIGH` nibbles of a line in the form that [`Simd::dot_nibbles`] takes.
    fn nibbles<const HIGH: bool>(self, line: Self::Bytes) -> Self::Bytes;
    /// Adds the products of [`Simd::nibbles`] with the inputs at `x`, for at most [`NIBBLE_LINES`] lines. Results of
    /// [`Simd::low_nibbles`] and [`Simd::high_nibbles`] count as low nibbles.
    ///
    /// # Safety
    /// `x` must point to 4 readable `i8`.
    unsafe fn dot_nibbles<const HIGH: bool>(
        self,
        sums: Self::NibbleSums,
        x: *const u8,
        w: Self::Bytes,
    ) -> Self::NibbleSums;
    /// The sums in 32 bits, with the products that were added.
    fn end_nibbles(self, sums: Self::NibbleSums) -> Self::I32;

    /// The same integer in every lane.
    fn splat_i32(self, value: i32) -> Self::I32;
    /// Adds, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Subtracts, wrapping.
    fn sub_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Multiplies, wrapping.
    fn mul_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Widens 16 bytes.
    fn widen_i8(self, values: &[i8; LANES]) -> Self::I32;
    /// Loads 16 integers.
    fn load_i32(self, values: &[i32; LANES]) -> Self::I32;
    /// Stores 16 integers.
    fn store_i32(self, values: Self::I32, out: &mut [i32; LANES]);
    /// Converts, rounding to nearest even.
    fn to_f32(self, values: Self::I32) -> Self::F32;

    /// The same float in every lane.
    fn splat_f32(self, value: f32) -> Self::F32;
    /// Loads 16 floats.
    fn load_f32(self, values: &[f32; LANES]) -> Self::F32;
    /// Widens 16 half-precision floats.
    fn load_f16(self, values: &[half::f16; LANES]) -> Self::F32;
    /// Widens 16 `bf16` values, the upper halves of 32-bit floats.
    fn load_bf16(self, values: &[half::bf16; LANES]) -> Self::F32;
    /// Transposes: lane `i` of vector `j` becomes lane `j` of vector `i`.
    fn transpose(self, vectors: [Self::F32; LANES]) -> [Self::F32; LANES];
    /// Stores 16 floats.
    fn store_f32(self, values: Self::F32, out: &mut [f32; LANES]);
    /// Adds.
    fn add_f32(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn fma_f32(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
}
