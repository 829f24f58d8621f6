//! Work on disjoint parts of buffers, on several threads.

use std::sync::{Mutex, PoisonError};

use slm_runtime::for_each_task;

/// Values below which another thread costs more than it gains.
pub(super) const SERIAL_VALUES: usize = 1 << 15;

/// Calls `f` once with each of `parts`, on the threads of the current rayon pool.
pub(super) fn for_each_part<P: Send>(parts: impl Iterator<Item = P>, f: impl Fn(P) + Sync) {
    // A part is handed over exactly once, so that no thread ever waits for a lock.
    let parts: Vec<Mutex<Option<P>>> = parts.map(|part| Mutex::new(Some(part))).collect();
    for_each_task(parts.len(), |index| {
        let part = parts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            f(part);
        }
    });
}

/// Rows of `width` values for one part of a loop over `rows` rows: all of them where there is little to do, else
/// so many that every thread has a few parts.
pub(super) fn rows_per_part(rows: usize, width: usize) -> usize {
    match rows * width < SERIAL_VALUES {
        true => rows,
        false => rows.div_ceil(4 * rayon::current_num_threads()),
    }
}
