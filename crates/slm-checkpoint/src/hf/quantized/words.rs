//! Codes in 32-bit words.

/// Extracts the code at index `place` of a word, counted from the lowest bits. `bits` is 4 or 8, so no code spans two
/// words.
pub(super) fn code(word: u32, place: usize, bits: u32) -> u32 {
    (word >> (place as u32 * bits)) & ((1 << bits) - 1)
}

/// Converts little-endian bytes to words.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

/// Converts an unsigned code to a signed one by subtracting half of the range.
pub(super) fn signed(code: u32, bits: u32) -> i8 {
    // The difference fits, since `bits` is 4 or 8.
    (code as i32 - (1 << (bits - 1))) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_from_the_lowest_bits() {
        assert_eq!(
            (0..8).map(|place| code(0x8765_4321, place, 4)).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            (0..4).map(|place| code(0xff80_7f00, place, 8)).collect::<Vec<_>>(),
            [0, 0x7f, 0x80, 0xff]
        );
        assert_eq!([0, 7, 8, 15].map(|code| signed(code, 4)), [-8, -1, 0, 7]);
        assert_eq!([0, 128, 255].map(|code| signed(code, 8)), [-128, 0, 127]);
        assert_eq!(words(&[1, 2, 3, 4, 5, 0, 0, 0]), [0x0403_0201, 5]);
    }
}
