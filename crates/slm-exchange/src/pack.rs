//! Codes packed in 32-bit words, the layout of compressed-tensors' `pack_to_int32` and of MLX.

/// Packs the codes of a row in words, the first in the lowest bits. Each code gets an offset that makes it
/// non-negative. The last word is padded with zeros.
pub(crate) fn words(codes: &[i8], bits: u32) -> Vec<u32> {
    let per_word = (32 / bits) as usize;
    let offset = 1_i32 << (bits - 1);
    let word = |chunk: &[i8]| {
        chunk.iter().enumerate().fold(0_u32, |word, (place, &code)| {
            word | ((i32::from(code) + offset).cast_unsigned() << (place as u32 * bits))
        })
    };
    codes.chunks(per_word).map(word).collect()
}

/// Packs a matrix of zero points along its columns: word `i` of a column holds rows `8 i` to `8 i + 7` for 4 bits.
pub(crate) fn columns(zero_points: &[i8], width: usize, bits: u32) -> Vec<u32> {
    let height = zero_points.len() / width.max(1);
    let column = |at: usize| (0..height).map(|row| zero_points[row * width + at]).collect::<Vec<i8>>();
    let packed: Vec<Vec<u32>> = (0..width).map(|at| words(&column(at), bits)).collect();
    let rows = packed.first().map_or(0, Vec::len);
    (0..rows).flat_map(|row| packed.iter().map(move |column| column[row])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_code_is_in_the_lowest_bits() {
        assert_eq!(words(&[-8, -7, 0, 7, -8, -8, -8, 1, 2], 4), [0x9000_f810, 0x0000_000a]);
        assert_eq!(words(&[-128, 127, 0, 1], 8), [0x8180_ff00]);
        // Two columns of three rows.
        assert_eq!(columns(&[-8, 7, -7, 6, -6, 5], 2, 4), [0x210, 0xdef]);
    }
}
