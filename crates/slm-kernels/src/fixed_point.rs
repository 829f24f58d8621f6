//! Fixed-point inputs: floats as exact integers that 8-bit instructions multiply.
//!
//! In products with quantized weights a row of floats is divided into blocks: runs of at most [`BLOCK`] columns of a
//! group of the weights. A block has a step, a power of two. Each of its values is rounded to a whole number of steps,
//! of which the largest has about `2^22` to `2^23`. That changes a value by at most 1.21e-7 (`2^-23` and one percent)
//! times the largest value of its block. Summing 32-bit floats makes errors of the same size.
//!
//! The integers have [`DIGITS`] digits in base 256, each a signed byte. Sums of their products with codes of weights
//! are exact.
//! A row is `[block][chunk][digit][CHUNK]`, so that kernels read it with one pointer.

#![allow(clippy::needless_range_loop, reason = "a sum has a digit on every side")]

use crate::vectorize::Op;

/// Number of digits of an integer. The first digit is the lowest.
pub(crate) const DIGITS: usize = 3;

/// Maximum number of columns of a block. It keeps sums of products of a digit with codes less zero points below `2^24`,
/// so that they are exact as floats too.
pub(crate) const BLOCK: usize = 64;

const _: () = assert!(BLOCK * 128 * 255 < 1 << 24);

/// Columns whose digits are stored side by side.
pub(crate) const CHUNK: usize = 32;

/// Number of digits of a block of a group of `width` columns, padding included.
pub(crate) const fn block_digits(width: usize) -> usize {
    let columns = if width < BLOCK { width } else { BLOCK };
    columns.div_ceil(CHUNK) * DIGITS * CHUNK
}

/// The parameters of a block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BlockParams {
    /// The value of a one in each digit.
    pub(crate) steps: [f32; DIGITS],
    /// The sum of each digit, times the factor of the layout.
    pub(crate) sums: [i32; DIGITS],
}

/// Bits of the mantissa of a 32-bit float.
const MANTISSA_BITS: u32 = 23;

/// The step of a block of finite values: a power of two, and at least the smallest normal number.
#[inline(always)]
pub(crate) fn step(values: &[f32]) -> f32 {
    let mut largest = [0u32; CHUNK];
    let (chunks, rest) = values.as_chunks::<CHUNK>();
    for chunk in chunks {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = (*largest).max(value.abs().to_bits());
        }
    }
    for (largest, value) in largest.iter_mut().zip(rest) {
        *largest = (*largest).max(value.abs().to_bits());
    }
    let mut width = CHUNK / 2;
    while width > 0 {
        for i in 0..width {
            largest[i] = largest[i].max(largest[i + width]);
        }
        width /= 2;
    }
    // Balanced digits do not reach 2^23: a value within 2^-6 of the next power of two counts as that.
    let exponent = (largest[0] + (1 << (MANTISSA_BITS - 6))) >> MANTISSA_BITS;
    f32::from_bits(exponent.saturating_sub(MANTISSA_BITS - 1).max(1) << MANTISSA_BITS)
}

/// The reciprocal of a [`step`].
#[inline(always)]
pub(crate) fn reciprocal(step: f32) -> f32 {
    f32::from_bits((254 << MANTISSA_BITS) - step.to_bits())
}

/// The value of a one in each digit.
#[inline(always)]
pub(crate) fn digit_steps(step: f32) -> [f32; DIGITS] {
    [step, step * 256.0, step * 65_536.0]
}

/// Rounding constant, 1.5 * 2^23. Added to a float below 2^22, it leaves the rounded integer in the lowest bits of the
/// sum.
const ROUND: f32 = 12_582_912.0;

/// The digits of a value as the lowest bytes of a word, given the reciprocal of its block's step. Unlike a conversion
/// to integers, compilers turn these operations into vector instructions.
#[inline(always)]
fn digit_bytes(value: f32, reciprocal: f32) -> u32 {
    let scaled = value * reciprocal;
    let high = scaled * (1.0 / 65_536.0) + ROUND;
    let low = scaled - (high - ROUND) * 65_536.0 + ROUND;
    let integer = |rounded: f32| rounded.to_bits().wrapping_sub(ROUND.to_bits());
    let integer = (integer(high) << 16).wrapping_add(integer(low));
    // Adding 128 in each place makes the digits non-negative; flipping the same bits takes it off again without a
    // carry.
    integer.wrapping_add(0x0080_8080) ^ 0x0080_8080
}

/// The digits of a value, given the reciprocal of its block's step.
pub(crate) fn digits(value: f32, reciprocal: f32) -> [i32; DIGITS] {
    let bytes = digit_bytes(value, reciprocal).to_le_bytes();
    [bytes[0], bytes[1], bytes[2]].map(|byte| byte.cast_signed().into())
}

/// The memory type of a digit.
pub(crate) trait Digit: Copy + Default + Send {
    /// Takes the digit in the lowest byte.
    fn lowest(bytes: u32) -> Self;
}

/// The digit is the byte itself.
impl Digit for u8 {
    #[inline(always)]
    fn lowest(bytes: u32) -> Self {
        bytes as Self
    }
}

impl Digit for i16 {
    #[inline(always)]
    fn lowest(bytes: u32) -> Self {
        (bytes as u8).cast_signed().into()
    }
}

/// Splits a row of floats into its digits.
pub(crate) struct SplitRow<'a, T> {
    pub(crate) row: &'a [f32],
    /// Columns of a group.
    pub(crate) width: usize,
    /// Factor that the sums of digits are multiplied by.
    pub(crate) factor: i32,
    /// [`block_digits`] values for each block.
    pub(crate) out: &'a mut [T],
    pub(crate) params: &'a mut [BlockParams],
}

impl<T: Digit> Op for SplitRow<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { row, width, factor, out, params } = self;
        let mut blocks = out.chunks_exact_mut(block_digits(width)).zip(params);
        for group in row.chunks(width) {
            for (values, (out, params)) in group.chunks(BLOCK).zip(&mut blocks) {
                *params = split_block(values, out, factor);
            }
        }
    }
}

/// Splits a block into digits. Its padding becomes zeros.
#[inline(always)]
fn split_block<T: Digit>(values: &[f32], out: &mut [T], factor: i32) -> BlockParams {
    let step = step(values);
    let mut params = BlockParams { steps: digit_steps(step), sums: [0; DIGITS] };
    for (index, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let values = &values[(index * CHUNK).min(values.len())..];
        let sums = match values.first_chunk() {
            Some(values) => split_chunk(values, reciprocal(step), out),
            None => {
                let mut chunk = [0.0; CHUNK];
                chunk[..values.len()].copy_from_slice(values);
                split_chunk(&chunk, reciprocal(step), out)
            }
        };
        for digit in 0..DIGITS {
            params.sums[digit] += sums[digit] * factor;
        }
    }
    params
}

/// Splits a chunk into digits and returns their sums.
#[inline(always)]
fn split_chunk<T: Digit>(
    values: &[f32; CHUNK],
    reciprocal: f32,
    out: &mut [T; DIGITS * CHUNK],
) -> [i32; DIGITS] {
    let mut bytes = [0; CHUNK];
    for (bytes, value) in bytes.iter_mut().zip(values) {
        *bytes = digit_bytes(*value, reciprocal);
    }
    let mut sums = [0; DIGITS];
    for (digit, out) in out.as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
        for (out, bytes) in out.iter_mut().zip(&bytes) {
            *out = T::lowest(bytes >> (8 * digit));
        }
        sums[digit] = bytes.iter().map(|bytes| i32::from(((bytes >> (8 * digit)) as u8).cast_signed())).sum();
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that digits represent.
    fn value(digits: [i32; DIGITS], steps: [f32; DIGITS]) -> f64 {
        digits.iter().zip(steps).map(|(&digit, step)| f64::from(digit) * f64::from(step)).sum()
    }

    #[test]
    fn values_change_by_little_of_the_largest_one() {
        for largest in [1.0f32, 1.5, 1.98, 1.984_375, 1.99, 1.999_999_9, 3.0e-30, 2.9e38, f32::MAX] {
            for sign in [1.0, -1.0] {
                let values = [largest * sign, largest / 3.0, -largest / 1000.0, 0.0];
                let step = step(&values);
                for x in values {
                    let digits = digits(x, reciprocal(step));
                    assert!(digits.iter().all(|digit| (-128..128).contains(digit)), "{x}: {digits:?}");
                    let error = (value(digits, digit_steps(step)) - f64::from(x)).abs();
                    assert!(error <= 1.21e-7 * f64::from(largest), "{x} of {largest}: {error}");
                }
            }
        }
    }

    #[test]
    fn whole_numbers_of_22_bits_are_exact() {
        for x in [0.0f32, 1.0, -1.0, 127.0, 128.0, -128.0, 32_767.0, 32_768.0, -4_194_303.0, 4_194_303.0] {
            let step = step(&[4_194_303.0, x]);
            assert_eq!(value(digits(x, reciprocal(step)), digit_steps(step)), f64::from(x));
        }
    }

    #[test]
    fn the_smallest_numbers_become_zero() {
        for x in [0.0, f32::MIN_POSITIVE / 4.0, -f32::from_bits(1)] {
            assert_eq!(step(&[x]), f32::MIN_POSITIVE);
            assert_eq!(digits(x, reciprocal(f32::MIN_POSITIVE)), [0; DIGITS]);
        }
    }

    #[test]
    fn rows_are_split_by_groups_and_blocks() {
        // A group of 70 columns in blocks of 64 and 6, then one of 10.
        let row: Vec<f32> = (0..80).map(|i| ((i * 37 % 41) as f32 - 20.0) * 1.1f32.powi(i % 29)).collect();
        let mut out = vec![99u8; 3 * block_digits(70)];
        let mut params = vec![BlockParams::default(); 3];
        SplitRow { row: &row, width: 70, factor: -3, out: &mut out, params: &mut params }.run();
        let blocks = out.chunks(block_digits(70)).zip([0..64, 64..70, 70..80]).zip(&params);
        for ((out, columns), params) in blocks {
            let values = &row[columns];
            let step = step(values);
            assert_eq!(params.steps, digit_steps(step));
            let mut sums = [0; DIGITS];
            for column in 0..BLOCK {
                let x = values.get(column).copied().unwrap_or(0.0);
                let expected = digits(x, reciprocal(step));
                for digit in 0..DIGITS {
                    let found = out[(column / CHUNK * DIGITS + digit) * CHUNK + column % CHUNK];
                    assert_eq!(i32::from(found.cast_signed()), expected[digit]);
                    sums[digit] += expected[digit] * -3;
                }
            }
            assert_eq!(params.sums, sums);
        }
    }
}
