//! Vectors in BF16, the upper halves of 32-bit floats.

use half::bf16;

use crate::dispatch::vectorized;

/// A float that operations read in 32 bits.
pub trait Float: Copy {
    /// The same value in 32 bits.
    fn wide(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
}

impl Float for bf16 {
    // Unlike `to_f32`, without a branch for NaN.
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Rounds `x` to BF16: to nearest, ties to even. A NaN stays a NaN.
///
/// # Panics
/// If the lengths differ.
pub fn round_to_bf16(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len(), "round_to_bf16: lengths differ");
    vectorized! {
        for (out, x) in out.iter_mut().zip(x) {
            let bits = x.to_bits();
            let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
            let quiet = bits >> 16 | 0x40;
            *out = bf16::from_bits(if x.is_nan() { quiet } else { nearest } as u16);
        }
    }
}

/// Copies `x` to `out` in 32 bits.
///
/// # Panics
/// If the lengths differ.
pub fn widen<T: Float>(x: &[T], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "widen: lengths differ");
    vectorized! {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.wide();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of floats around every tie and every exponent, and special values.
    fn floats() -> Vec<f32> {
        let ends = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
        (0..=u16::MAX)
            .step_by(7)
            .chain([0x7F7F, 0x7F80, 0x7FC0, 0xFF80])
            .flat_map(|high| ends.map(|low| f32::from_bits(u32::from(high) << 16 | low)))
            .collect()
    }

    #[test]
    fn rounding_is_that_of_the_library_half() {
        let x = floats();
        let mut rounded = vec![bf16::ZERO; x.len()];
        round_to_bf16(&x, &mut rounded);
        for (x, rounded) in x.iter().zip(&rounded) {
            assert_eq!(rounded.to_bits(), bf16::from_f32(*x).to_bits(), "{:#x}", x.to_bits());
        }
        let mut wide = vec![0.0; x.len()];
        widen(&rounded, &mut wide);
        for (wide, rounded) in wide.iter().zip(&rounded) {
            assert_eq!(wide.to_bits() >> 16, u32::from(rounded.to_bits()));
            assert_eq!(wide.to_bits() & 0xFFFF, 0);
        }
    }

    #[test]
    fn floats_in_32_bits_are_copied() {
        let x = floats();
        let mut copy = vec![0.0; x.len()];
        widen(&x, &mut copy);
        assert!(copy.iter().zip(&x).all(|(copy, x)| copy.to_bits() == x.to_bits()));
    }
}
