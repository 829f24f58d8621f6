//! New vectors that threads write part by part.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::advise_huge_pages;

/// A vector whose parts, one after the other, have the lengths `lens`, and what `write` returned for each part. On all
/// threads of the current rayon pool, `write` gets the number of a part and its values, which are zeros.
///
/// The thread that writes a part also zeroes it, immediately before, so that zeros are in its cache and new pages of memory
/// are cleared by all threads. `vec![0.0; n]` zeroes memory that was used before on one thread while the others wait,
/// which took a twentieth of a training step.
///
/// With one part everything runs on the calling thread.
pub fn written_by_parts<R: Send>(
    lens: &[usize],
    write: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    let count = lens.iter().sum();
    let mut values = Vec::with_capacity(count);
    let mut rest = &mut values.spare_capacity_mut()[..count];
    advise_huge_pages(rest);
    let mut parts = Vec::with_capacity(lens.len());
    for &len in lens {
        let (part, later) = rest.split_at_mut(len);
        parts.push(part);
        rest = later;
    }
    let write_part = |(index, part): (usize, &mut [MaybeUninit<f32>])| write(index, zeroed(part));
    let results = match parts.len() {
        0 | 1 => parts.into_iter().enumerate().map(write_part).collect(),
        _ => parts.into_par_iter().enumerate().map(write_part).collect(),
    };
    // SAFETY: the lengths of the parts add up to `count`, which is within the capacity, and every part was zeroed: a panic
    // in one of them would not have come here.
    unsafe { values.set_len(count) };
    (values, results)
}

/// `count` zeros, written by all threads.
pub fn zeros(count: usize) -> Vec<f32> {
    /// Values of a part.
    const PART: usize = 1 << 16;
    written_by_parts(&equal_parts(count, PART), |_, _| ()).0
}

/// The lengths of the parts of `count` values if all but the last have `len`.
pub fn equal_parts(count: usize, len: usize) -> Vec<usize> {
    (0..count).step_by(len.max(1)).map(|first| len.max(1).min(count - first)).collect()
}

/// Fills `part` with zeros.
fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: all values were just written.
    unsafe { part.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_written_once_and_in_its_place() {
        for lens in [vec![], vec![0], vec![5], vec![3, 0, 4], equal_parts(100_000, 777), equal_parts(5, 0)] {
            let (values, results) = written_by_parts(&lens, |index, part| {
                assert!(part.iter().all(|&value| value == 0.0));
                part.fill(index as f32);
                part.len()
            });
            assert_eq!(results, lens);
            let expected: Vec<f32> =
                lens.iter().enumerate().flat_map(|(index, &len)| vec![index as f32; len]).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn what_is_not_written_is_zero() {
        // Memory that held other values before.
        drop(vec![f32::NAN; 4096]);
        let (values, _) = written_by_parts(&equal_parts(4096, 1000), |_, part| part[0] = 1.0);
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
        let caught = std::panic::catch_unwind(|| written_by_parts(&lens, |index, _| assert_ne!(index, 7)));
        assert!(caught.is_err());
    }

    #[test]
    fn parts_of_equal_length_end_with_the_rest() {
        assert_eq!(equal_parts(0, 4), [0; 0]);
        assert_eq!(equal_parts(8, 4), [4, 4]);
        assert_eq!(equal_parts(9, 4), [4, 4, 1]);
    }
}
