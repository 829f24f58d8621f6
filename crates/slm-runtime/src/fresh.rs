//! New vectors that threads write part by part.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::advise_huge_pages;

/// `N` vectors whose parts, one after the other, have the lengths `lens`, and what `write` returned for each part. On all
/// threads of the current rayon pool, `write` gets the number of a part and its values in each vector, which are zeros.
///
/// The thread that writes a part also zeroes it, immediately before, so that zeros are in its cache and new pages of memory
/// are cleared by all threads. `vec![0.0; n]` zeroes memory that was used before on one thread while the others wait,
/// which took a twentieth of a training step.
///
/// With one part everything runs on the calling thread.
pub fn written_by_parts<T: Default + Copy + Send, R: Send, const N: usize>(
    lens: &[usize],
    write: impl Fn(usize, [&mut [T]; N]) -> R + Sync,
) -> ([Vec<T>; N], Vec<R>) {
    let count = lens.iter().sum();
    let mut vectors: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(count));
    let mut rests = vectors.each_mut().map(|values| &mut values.spare_capacity_mut()[..count]);
    rests.iter_mut().for_each(|rest| advise_huge_pages(rest));
    let part = |&len: &usize| {
        rests.each_mut().map(|rest| {
            let (part, later) = std::mem::take(rest).split_at_mut(len);
            *rest = later;
            part
        })
    };
    let parts: Vec<[&mut [MaybeUninit<T>]; N]> = lens.iter().map(part).collect();
    let write_part = |(index, part): (usize, [&mut [MaybeUninit<T>]; N])| write(index, part.map(zeroed));
    let results = match parts.len() {
        0 | 1 => parts.into_iter().enumerate().map(write_part).collect(),
        _ => parts.into_par_iter().enumerate().map(write_part).collect(),
    };
    for values in &mut vectors {
        // SAFETY: the lengths of the parts add up to `count`, which is within the capacity, and every part was zeroed: a
        // panic in one of them would not have come here.
        unsafe { values.set_len(count) };
    }
    (vectors, results)
}

/// `count` zeros, written by all threads.
pub fn zeros(count: usize) -> Vec<f32> {
    /// Values of a part.
    const PART: usize = 1 << 16;
    let ([values], _) = written_by_parts(&equal_parts(count, PART), |_, [_]| ());
    values
}

/// The lengths of the parts of `count` values if all but the last have `len`.
pub fn equal_parts(count: usize, len: usize) -> Vec<usize> {
    (0..count).step_by(len.max(1)).map(|first| len.max(1).min(count - first)).collect()
}

/// Fills `part` with zeros.
fn zeroed<T: Default + Copy>(part: &mut [MaybeUninit<T>]) -> &mut [T] {
    part.fill(MaybeUninit::new(T::default()));
    // SAFETY: all values were just written.
    unsafe { part.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_written_once_and_in_its_place() {
        for lens in [vec![], vec![0], vec![5], vec![3, 0, 4], equal_parts(100_000, 777), equal_parts(5, 0)] {
            let ([values, others], results) =
                written_by_parts(&lens, |index, [part, other]: [&mut [f32]; 2]| {
                    assert!(part.iter().chain(&*other).all(|&value| value == 0.0));
                    part.fill(index as f32);
                    other.fill(index as f32 + 0.5);
                    part.len()
                });
            assert_eq!(results, lens);
            let expected: Vec<f32> =
                lens.iter().enumerate().flat_map(|(index, &len)| vec![index as f32; len]).collect();
            assert_eq!(values, expected);
            assert!(others.iter().zip(&expected).all(|(other, value)| *other == value + 0.5));
            assert_eq!(others.len(), expected.len());
        }
    }

    #[test]
    fn what_is_not_written_is_zero() {
        // Memory that held other values before.
        drop(vec![f32::NAN; 4096]);
        let ([values], _) = written_by_parts(&equal_parts(4096, 1000), |_, [part]| part[0] = 1.0);
        assert_eq!(values.iter().sum::<f32>(), 5.0);
    }

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        for count in [0, 1, 1 << 16, (1 << 17) + 5] {
            drop(vec![f32::NAN; count]);
            assert_eq!(zeros(count), vec![0.0; count]);
        }
    }

    #[test]
    fn a_panic_of_a_part_passes_through() {
        let lens = equal_parts(100, 10);
        let write = |index, [_]: [&mut [f32]; 1]| assert_ne!(index, 7);
        let caught = std::panic::catch_unwind(|| written_by_parts(&lens, write));
        assert!(caught.is_err());
    }

    #[test]
    fn parts_of_equal_length_end_with_the_rest() {
        assert_eq!(equal_parts(0, 4), [0; 0]);
        assert_eq!(equal_parts(8, 4), [4, 4]);
        assert_eq!(equal_parts(9, 4), [4, 4, 1]);
    }
}
