//! INT4 codes, two to a byte: the even column in the low nibble, two's complement, an odd row ending in a
//! zero nibble.

use crate::scan::check_len;
use crate::{Bits, Error, Result};

/// Packs one row of INT4 codes into `Bits::Int4.row_bytes(codes.len())` bytes.
///
/// # Errors
/// [`Error::Length`] for an output of another length, [`Error::Parameter`] for a code outside `[-8, 7]`.
pub fn pack_int4(codes: &[i8], packed: &mut [u8]) -> Result<()> {
    check_len("packed codes", Bits::Int4.row_bytes(codes.len()), packed.len())?;
    if let Some((index, code)) = codes.iter().enumerate().find(|(_, c)| !(-8..=7).contains(*c)) {
        return Err(Error::Parameter {
            what: "codes",
            detail: format!("{code} at index {index} is outside [-8, 7]"),
        });
    }
    pack_row(codes, packed);
    Ok(())
}

/// Unpacks one row of `codes.len()` INT4 codes.
///
/// # Errors
/// [`Error::Length`] if the lengths do not match.
pub fn unpack_int4(packed: &[u8], codes: &mut [i8]) -> Result<()> {
    check_len("packed codes", Bits::Int4.row_bytes(codes.len()), packed.len())?;
    unpack_row(packed, codes);
    Ok(())
}

/// [`pack_int4`] for callers that have checked the codes and lengths.
pub(crate) fn pack_row(codes: &[i8], packed: &mut [u8]) {
    for (byte, pair) in packed.iter_mut().zip(codes.chunks(2)) {
        let low = pair[0].cast_unsigned() & 0x0f;
        let high = pair.get(1).map_or(0, |code| code.cast_unsigned() << 4);
        *byte = high | low;
    }
}

/// [`unpack_int4`] for callers that have checked the lengths.
pub(crate) fn unpack_row(packed: &[u8], codes: &mut [i8]) {
    for (pair, &byte) in codes.chunks_mut(2).zip(packed) {
        pair[0] = low(byte);
        if let Some(code) = pair.get_mut(1) {
            *code = high(byte);
        }
    }
}

/// The code in the low nibble (an even column).
#[inline(always)]
pub(crate) fn low(byte: u8) -> i8 {
    (byte << 4).cast_signed() >> 4
}

/// The code in the high nibble (an odd column).
#[inline(always)]
pub(crate) fn high(byte: u8) -> i8 {
    byte.cast_signed() >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_as_documented() {
        let mut packed = [0xff; 2];
        pack_int4(&[1, -1, -8], &mut packed).unwrap();
        assert_eq!(packed, [0xf1, 0x08]);
        let mut codes = [0; 3];
        unpack_int4(&packed, &mut codes).unwrap();
        assert_eq!(codes, [1, -1, -8]);
    }

    #[test]
    fn refuses_codes_and_lengths() {
        assert!(matches!(pack_int4(&[8], &mut [0]), Err(Error::Parameter { .. })));
        assert!(matches!(pack_int4(&[-9], &mut [0]), Err(Error::Parameter { .. })));
        assert!(matches!(pack_int4(&[0; 3], &mut [0]), Err(Error::Length { expected: 2, found: 1, .. })));
        assert!(matches!(unpack_int4(&[0; 3], &mut [0; 3]), Err(Error::Length { .. })));
    }
}
