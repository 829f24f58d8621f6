//! Checks and bounds of values, each in one pass.

use crate::{Error, Result, vectorized};

const LANES: usize = 16;

/// Bit pattern of infinity; the magnitude bits of NaNs lie above it.
const INFINITY_BITS: u32 = f32::INFINITY.to_bits();

#[inline(always)]
fn magnitude_bits(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff).cast_signed()
}

#[cold]
fn first_not_finite(what: &'static str, values: &[f32]) -> Error {
    let found = values.iter().enumerate().find(|(_, v)| !v.is_finite());
    let (index, value) = found.map_or((0, f32::NAN), |(i, v)| (i, *v));
    Error::NotFinite { what, index, value }
}

/// Rejects NaN and infinities.
///
/// # Errors
/// [`Error::NotFinite`] with the position of the first; `what` names the values in the message.
pub fn check_finite(what: &'static str, values: &[f32]) -> Result<()> {
    let largest = vectorized!(values.iter().fold(0, |m, &x| magnitude_bits(x).max(m)));
    if largest.cast_unsigned() >= INFINITY_BITS { Err(first_not_finite(what, values)) } else { Ok(()) }
}

/// Least and greatest of `values`.
///
/// # Errors
/// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Empty`] for no values; `what` names them in the message.
#[inline(always)]
pub fn min_max(what: &'static str, values: &[f32]) -> Result<(f32, f32)> {
    let Some(&first) = values.first() else { return Err(Error::Empty { what }) };
    // Independent lanes, because a single running minimum of floats is not vectorized.
    let mut lo = [first; LANES];
    let mut hi = [first; LANES];
    let mut largest = [0_i32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            lo[lane] = if x < lo[lane] { x } else { lo[lane] };
            hi[lane] = if x > hi[lane] { x } else { hi[lane] };
            largest[lane] = largest[lane].max(magnitude_bits(x));
        }
    }
    for (lane, &x) in chunks.remainder().iter().enumerate() {
        lo[lane] = lo[lane].min(x);
        hi[lane] = hi[lane].max(x);
        largest[lane] = largest[lane].max(magnitude_bits(x));
    }
    let largest = largest.into_iter().fold(magnitude_bits(first), i32::max);
    if largest.cast_unsigned() >= INFINITY_BITS {
        return Err(first_not_finite(what, values));
    }
    Ok((lo.into_iter().fold(first, f32::min), hi.into_iter().fold(first, f32::max)))
}

/// Rejects a length other than `expected`.
///
/// # Errors
/// [`Error::Length`]; `what` names the values in the message.
pub fn check_len(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_at_every_position_and_length() {
        for len in 1..70 {
            for at in 0..len {
                let mut values: Vec<f32> = (0..len).map(|i| (i % 7) as f32 * 0.1).collect();
                values[at] = 9.0;
                assert_eq!(min_max("x", &values).unwrap().1, 9.0);
                values[at] = -9.0;
                assert_eq!(min_max("x", &values).unwrap().0, -9.0);
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                    values[at] = bad;
                    for error in [min_max("x", &values).unwrap_err(), check_finite("x", &values).unwrap_err()]
                    {
                        assert!(matches!(error, Error::NotFinite { index, .. } if index == at), "{error}");
                    }
                }
            }
        }
        assert_eq!(min_max("x", &[]), Err(Error::Empty { what: "x" }));
        assert_eq!(check_finite("x", &[f32::MAX, f32::MIN]), Ok(()));
    }
}
