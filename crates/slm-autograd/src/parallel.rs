//! Parallel loops that run small amounts of work on the calling thread.

use rayon::prelude::*;

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
