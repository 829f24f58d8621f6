//! Parallel loops that run small amounts of work on the calling thread.

use std::ops::Range;

use rayon::prelude::*;
use slm_runtime::{equal_parts, written_by_parts};

/// Maximum number of values of a serial pass: it takes ten microseconds or less, too little to wake another thread.
const FEW: usize = 1 << 14;

/// Calls `f` with every item. `work` is the number of values that all items together touch.
pub(crate) fn for_each<T: Send>(work: usize, items: impl Iterator<Item = T>, f: impl Fn(T) + Send + Sync) {
    if work <= FEW {
        items.for_each(f);
    } else {
        items.collect::<Vec<_>>().into_par_iter().for_each(f);
    }
}

/// `N` vectors of `count` values: zeros that `write` got in tasks of `task` values, with the range of each task.
pub(crate) fn written<T: Default + Copy + Send, const N: usize>(
    count: usize,
    task: usize,
    write: impl Fn(Range<usize>, [&mut [T]; N]) + Sync,
) -> [Vec<T>; N] {
    let task = if count <= FEW { count } else { task };
    let write =
        |index: usize, parts: [&mut [T]; N]| write(index * task..((index + 1) * task).min(count), parts);
    written_by_parts(&equal_parts(count, task), write).0
}

/// Applies `f` to every item, in parallel, and returns the results in order.
pub(crate) fn map<T: Send, R: Send>(
    work: usize,
    items: impl Iterator<Item = T>,
    f: impl Fn(T) -> R + Send + Sync,
) -> Vec<R> {
    if work <= FEW {
        items.map(f).collect()
    } else {
        items.collect::<Vec<_>>().into_par_iter().map(f).collect()
    }
}
