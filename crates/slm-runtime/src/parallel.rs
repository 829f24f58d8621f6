//! The parallel regions of this process, on one pool of threads.

use std::cell::Cell;
use std::sync::{LazyLock, Mutex, TryLockError};

use rayon::prelude::*;

use crate::SharedSlice;
use crate::thread_pool::ThreadPool;

thread_local! {
    /// `true` while this thread is inside a task of a region.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// The threads of the process. The holder of the lock may use them.
static POOL: LazyLock<Mutex<ThreadPool>> = LazyLock::new(|| Mutex::new(ThreadPool::new()));

/// Calls `f(0)` to `f(tasks - 1)`, each once, on as many threads as the current rayon pool has: the calling thread and
/// threads of this crate, which stay awake for a fraction of a millisecond after work.
///
/// Such a region starts and ends in about a microsecond while the threads are awake. Threads take tasks in
/// ascending order as they become free. A region inside a task runs on the task's own thread. While one caller uses the
/// threads, regions of other callers run on their rayon pools.
///
/// # Panics
/// When `f` does, once the tasks that have begun have ended; tasks that have not begun by then are skipped.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let sum = AtomicUsize::new(0);
/// slm_runtime::for_each_task(10, |task| {
///     sum.fetch_add(task, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// ```
pub fn for_each_task(tasks: usize, f: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(tasks);
    if threads <= 1 || IN_TASK.get() {
        return (0..tasks).for_each(f);
    }
    let mut pool = match POOL.try_lock() {
        Ok(pool) => pool,
        // A panic leaves the pool without a region, as before the call.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
        }
    };
    pool.run(threads, tasks, &|task| {
        let _inside = InTask::enter();
        f(task);
    });
}

/// Marks this thread as inside a task, until it is dropped.
struct InTask;

impl InTask {
    fn enter() -> Self {
        IN_TASK.set(true);
        Self
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        IN_TASK.set(false);
    }
}

/// Calls `f(i, chunk)` for each chunk of `chunk_len` values of `data` (the last may be shorter), on the
/// threads of [`for_each_task`].
///
/// # Panics
/// When `f` does, or where `chunk_len` is 0.
pub fn for_each_chunk<T: Send>(data: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let chunks = data.len().div_ceil(chunk_len);
    let data = SharedSlice::new(data);
    for_each_task(chunks, |chunk| {
        let start = chunk * chunk_len;
        let end = data.len().min(start + chunk_len);
        // SAFETY: each chunk is one task's, and chunks do not overlap.
        f(chunk, unsafe { data.cells(start..end) });
    });
}
