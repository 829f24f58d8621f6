//! Parallel jobs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rayon::ThreadPoolBuilder;

use crate::error::Result;

/// Runs `job` for 0 to `jobs - 1` on up to `workers` threads, and returns the results in order.
///
/// Each job runs on a single thread, so its result does not depend on the number of threads, and small operations do
/// not wait for each other. After an error, no further job is started.
pub(crate) fn run<T: Send>(
    jobs: usize,
    workers: usize,
    job: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, T)>> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= jobs {
                return Ok(done);
            }
            match job(index) {
                Ok(result) => done.push((index, result)),
                Err(error) => {
                    next.store(jobs, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let pools = (0..workers.clamp(1, jobs.max(1)))
        .map(|_| ThreadPoolBuilder::new().num_threads(1).build())
        .collect::<Result<Vec<_>, _>>()?;
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for pool in &pools {
            let (sender, work) = (sender.clone(), &work);
            // The receiver outlives the scope.
            scope.spawn(move || sender.send(pool.install(work)).is_ok());
        }
    });
    drop(sender);
    let mut results = Vec::new();
    for done in receiver {
        results.extend(done?);
    }
    results.sort_unstable_by_key(|&(index, _)| index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_come_in_order_from_threads_with_nobody_beside_them() {
        for workers in [0, 1, 2, 5, 40] {
            let results = run(17, workers, |job| Ok((job * job, rayon::current_num_threads()))).unwrap();
            assert_eq!(results, (0..17).map(|job| (job * job, 1)).collect::<Vec<_>>(), "{workers} workers");
        }
        assert_eq!(run(0, 3, Ok).unwrap(), Vec::<usize>::new());
    }

    #[test]
    fn an_error_ends_it() {
        let begun = AtomicUsize::new(0);
        let result: Result<Vec<()>> = run(1000, 2, |job| {
            begun.fetch_add(1, Ordering::Relaxed);
            if job >= 3 { Err(Error::Usage(job.to_string())) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Error::Usage(_))));
        assert!(begun.into_inner() <= 5);
    }
}
