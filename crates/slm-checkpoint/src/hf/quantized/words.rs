//! Codes in 32-bit words.

/// Extracts the code at `index` of a row of words that are filled from the lowest bits, without gaps: a code may begin in one
/// word and end in the next. `bits` is at most 8.
pub(super) fn code(word: impl Fn(usize) -> u32, index: usize, bits: u32) -> u32 {
    let first = index * bits as usize;
    let (at, shift) = (first / 32, first as u32 % 32);
    let low = word(at) >> shift;
    let high = if shift + bits > 32 { word(at + 1) << (32 - shift) } else { 0 };
    (low | high) & ((1 << bits) - 1)
}

/// Number of words of a row of `count` codes.
pub(super) fn words_of(count: usize, bits: u32) -> usize {
    // Tensors are smaller than memory, so the number of bits overflows in no tensor that exists.
    count.saturating_mul(bits as usize).div_ceil(32)
}

/// Unpacks rows of words to rows of `cols` signed codes.
pub(super) fn unpack(words: &[u32], [rows, cols]: [usize; 2], bits: u32) -> Vec<i8> {
    let width = words_of(cols, bits).max(1);
    let mut codes = Vec::with_capacity(rows * cols);
    for row in words.chunks(width) {
        codes.extend((0..cols).map(|column| signed(code(|word| row[word], column, bits), bits)));
    }
    codes
}

/// Converts little-endian bytes to words.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

/// Converts an unsigned code to a signed one by subtracting half of the range.
pub(super) fn signed(code: u32, bits: u32) -> i8 {
    // The difference fits, since `bits` is at most 8.
    (code as i32 - (1 << (bits - 1))) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_from_the_lowest_bits() {
        let codes = |words: &[u32], count: usize, bits: u32| {
            (0..count).map(|index| code(|at| words[at], index, bits)).collect::<Vec<_>>()
        };
        assert_eq!(codes(&[0x8765_4321, 0xf], 9, 4), [1, 2, 3, 4, 5, 6, 7, 8, 15]);
        assert_eq!(codes(&[0xff80_7f00], 4, 8), [0, 0x7f, 0x80, 0xff]);
        assert_eq!(codes(&[0b11_10_01_00], 5, 2), [0, 1, 2, 3, 0]);
        assert_eq!([0, 7, 8, 15].map(|code| signed(code, 4)), [-8, -1, 0, 7]);
        assert_eq!([0, 128, 255].map(|code| signed(code, 8)), [-128, 0, 127]);
        assert_eq!([0, 3, 4, 7].map(|code| signed(code, 3)), [-4, -1, 0, 3]);
        assert_eq!(words(&[1, 2, 3, 4, 5, 0, 0, 0]), [0x0403_0201, 5]);
    }

    #[test]
    fn codes_cross_the_borders_of_words() {
        for bits in 1..=8 {
            let expected: Vec<u32> = (0..64).map(|index| (index * 37 + 11) % (1 << bits)).collect();
            let mut words = vec![0_u32; words_of(expected.len(), bits)];
            for (index, code) in expected.iter().enumerate() {
                for bit in 0..bits as usize {
                    let at = index * bits as usize + bit;
                    words[at / 32] |= (code >> bit & 1) << (at % 32);
                }
            }
            let found: Vec<u32> = (0..64).map(|index| code(|at| words[at], index, bits)).collect();
            assert_eq!(found, expected, "{bits} bits");
        }
    }
}
