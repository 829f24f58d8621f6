//! Blocks of 256 values with two levels of scales ("K-quants"). Layouts as in ggml's `ggml-common.h`; the order of
//! operations is that of gguf-py's `quants.py`.

use super::blocks::half_at;

/// Number of values in a block.
const VALUES: usize = 256;

/// Q2_K: 16 scales and minima of 4 bits, 64 bytes of 2-bit codes, the scale of scales, that of minima.
pub(super) fn q2(out: &mut Vec<f32>, block: &[u8]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, d_min) = (half_at(block, 80), half_at(block, 82));
    for value in 0..VALUES {
        let code = (codes[value / 128 * 32 + value % 32] >> (value % 128 / 32 * 2)) & 3;
        let scale = scales[value / 16];
        let (scale, minimum) = (d * f32::from(scale & 0x0f), d_min * f32::from(scale >> 4));
        out.push(scale * f32::from(code) - minimum);
    }
}

/// Q3_K: 32 bytes of high bits, 64 bytes of 2-bit codes, 16 scales of 6 bits in 12 bytes, the scale of scales.
pub(super) fn q3(out: &mut Vec<f32>, block: &[u8]) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    let scale = |index: usize| {
        let low = (packed[index % 8] >> (index / 8 * 4)) & 0x0f;
        let high = (packed[8 + index % 4] >> (index / 4 * 2)) & 3;
        f32::from((low | (high << 4)).cast_signed() - 32)
    };
    for value in 0..VALUES {
        let low = (codes[value / 128 * 32 + value % 32] >> (value % 128 / 32 * 2)) & 3;
        // The offset is subtracted if the bit is 0.
        let offset = if (high[value % 32] >> (value / 32)) & 1 == 0 { 4 } else { 0 };
        out.push(d * scale(value / 16) * f32::from(low.cast_signed() - offset));
    }
}

/// Unpacks scale and minimum `index` of 8, which have 6 bits each in 12 bytes.
fn scale_and_minimum(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = match index {
        0..4 => (packed[index] & 0x3f, packed[index + 4] & 0x3f),
        _ => (
            (packed[index + 4] & 0x0f) | ((packed[index - 4] >> 2) & 0x30),
            (packed[index + 4] >> 4) | ((packed[index] >> 2) & 0x30),
        ),
    };
    (f32::from(scale), f32::from(minimum))
}

/// Q4_K: the scale of scales, that of minima, 8 of each, 128 bytes of 4-bit codes.
pub(super) fn q4(out: &mut Vec<f32>, block: &[u8]) {
    four_or_five(out, block, None, &block[16..144]);
}

/// Q5_K: as Q4_K, with 32 bytes of fifth bits before the codes.
pub(super) fn q5(out: &mut Vec<f32>, block: &[u8]) {
    four_or_five(out, block, Some(&block[16..48]), &block[48..176]);
}

fn four_or_five(out: &mut Vec<f32>, block: &[u8], fifth: Option<&[u8]>, codes: &[u8]) {
    let (d, d_min, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for part in 0..VALUES / 32 {
        let (scale, minimum) = scale_and_minimum(packed, part);
        let (scale, minimum) = (d * scale, d_min * minimum);
        for value in 0..32 {
            let code = (codes[part / 2 * 32 + value] >> (part % 2 * 4)) & 0x0f;
            let high = fifth.map_or(0, |fifth| ((fifth[value] >> part) & 1) << 4);
            out.push(scale * f32::from(code | high) - minimum);
        }
    }
}

/// Q6_K: 128 bytes of 4 low bits, 64 bytes of 2 high bits, 16 scales of 8 bits, the scale of scales.
pub(super) fn q6(out: &mut Vec<f32>, block: &[u8]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for value in 0..VALUES {
        let (half, inside) = (value / 128, value % 128);
        let low = (low[half * 64 + inside % 64] >> (inside / 64 * 4)) & 0x0f;
        let high = (high[half * 32 + inside % 32] >> (inside / 32 * 2)) & 3;
        let code = (low | (high << 4)).cast_signed() - 32;
        out.push(d * f32::from(scales[value / 16].cast_signed()) * f32::from(code));
    }
}
