//! Floats of 8 bits in the format E4M3, without infinities (`float8_e4m3fn` in PyTorch, `F8_E4M3` in safetensors).

/// Converts the bits of a float to its value: a sign, 4 bits of exponent with a bias of 7, and 3 bits of mantissa. All ones
/// behind the sign are NaN.
pub(super) fn value(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 0xf), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (0xf, 7) => f32::NAN,
        (0, _) => mantissa * 2.0_f32.powi(-9),
        _ => (mantissa + 8.0) * 2.0_f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_format() {
        let cases = [
            (0x00, 0.0),
            (0x01, 2.0_f32.powi(-9)),
            (0x07, 7.0 * 2.0_f32.powi(-9)),
            (0x08, 2.0_f32.powi(-6)),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x78, 256.0),
            (0x7e, 448.0),
            (0xc0, -2.0),
            (0xfe, -448.0),
        ];
        for (bits, expected) in cases {
            assert_eq!(value(bits), expected, "{bits:#x}");
        }
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
        assert_eq!(value(0x80).to_bits(), (-0.0_f32).to_bits());
        // Positive values grow with their bits.
        assert!((0..0x7e).all(|bits| value(bits) < value(bits + 1)));
    }
}
