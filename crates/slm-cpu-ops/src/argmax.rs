//! The index of the largest value.

use crate::dispatch::vectorized;
use crate::lanes;

/// Number of values that are searched at once.
const CHUNK: usize = 1024;

/// Index of the largest value, the first among equals. `None` if no choice is sound: there are no values, a NaN or
/// `+inf` is among them, or nothing is above `-inf`.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let (mut best, mut best_chunk, mut sound) = (f32::NEG_INFINITY, 0, true);
    vectorized! {
        for (index, chunk) in x.chunks(CHUNK).enumerate() {
            // Neither NaN nor +inf is below infinity.
            let unsound = lanes::reduce(
                chunk,
                0.0,
                |unsound, x| if x < f32::INFINITY { unsound } else { 1.0 },
                |a, b| a + b,
            );
            sound &= unsound == 0.0;
            let max = lanes::max(chunk);
            if max > best {
                (best, best_chunk) = (max, index);
            }
        }
    }
    if !sound || best == f32::NEG_INFINITY {
        return None;
    }
    let start = best_chunk * CHUNK;
    x[start..].iter().position(|&x| x == best).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_to_choose() {
        let inf = f32::INFINITY;
        for x in [&[][..], &[-inf, -inf], &[1.0, f32::NAN], &[f32::NAN, 1.0], &[0.0, inf, 1.0]] {
            assert_eq!(argmax(x), None, "{x:?}");
        }
        let mut many = vec![0.0; 5000];
        many[4999] = f32::NAN;
        assert_eq!(argmax(&many), None);
        many[4999] = 1.0;
        assert_eq!(argmax(&many), Some(4999));
        assert_eq!(argmax(&[-inf, -5.0, -inf]), Some(1));
    }

    proptest! {
        #[test]
        fn is_the_first_of_the_largest(x in prop::collection::vec((-20i8..20).prop_map(f32::from), 1..3000)) {
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(argmax(&x), x.iter().position(|&v| v == largest));
        }
    }
}
