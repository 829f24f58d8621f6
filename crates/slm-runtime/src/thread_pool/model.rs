//! Model checks, with loom, of every interleaving of a pool of one or two workers.
//!
//! Loom's cells, and the drops of values that tasks borrow, reveal unordered accesses. A thread that sleeps forever, or
//! waits for such a thread, ends the exploration with an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::ThreadPool;

/// Explores `f` with at most `preemptions` switches away from a thread that could have continued.
fn explore(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

/// A cell for each task, which only that task writes, without any ordering.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: loom reports accesses that are not ordered.
unsafe impl Sync for Cells {}

impl Cells {
    fn new(tasks: usize) -> Self {
        Self((0..tasks).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, task: usize) {
        // SAFETY: loom reports accesses that are not ordered.
        self.0[task].with_mut(|cell| unsafe { *cell += 1 });
    }

    /// Checks that each task ran `times` times, and that this thread sees it.
    fn check(&self, times: usize) {
        for cell in &self.0 {
            // SAFETY: as above.
            cell.with(|cell| assert_eq!(unsafe { *cell }, times));
        }
    }
}

#[test]
fn a_region_runs_each_task_once_and_ends_after_all() {
    explore(3, || {
        let mut pool = ThreadPool::new();
        let cells = Cells::new(3);
        pool.run(2, 3, &|task| cells.add(task));
        cells.check(1);
    });
}

#[test]
fn a_region_follows_another_whether_or_not_the_worker_sleeps() {
    explore(3, || {
        let mut pool = ThreadPool::new();
        for tasks in [1, 2] {
            let cells = Cells::new(tasks);
            pool.run(2, tasks, &|task| cells.add(task));
            cells.check(1);
        }
    });
}

#[test]
fn two_workers_share_a_region_with_the_caller() {
    explore(2, || {
        let mut pool = ThreadPool::new();
        let cells = Cells::new(2);
        pool.run(3, 2, &|task| cells.add(task));
        cells.check(1);
    });
}

/// The tasks wait for each other, so that the region ends only if the worker takes one. If the worker slept through the
/// start of the region, the region would never end.
#[test]
fn a_sleeping_worker_wakes_for_a_region() {
    explore(3, || {
        let mut pool = ThreadPool::new();
        for _ in 0..2 {
            let begun = AtomicUsize::new(0);
            pool.run(2, 2, &|_| {
                begun.fetch_add(1, Ordering::SeqCst);
                while begun.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            });
        }
    });
}

#[test]
fn a_region_of_fewer_threads_leaves_the_others_out() {
    explore(2, || {
        let mut pool = ThreadPool::new();
        pool.run(3, 1, &|_| {});
        let caller = thread::current().id();
        let others = AtomicUsize::new(0);
        pool.run(1, 2, &|_| {
            others.fetch_add(usize::from(thread::current().id() != caller), Ordering::Relaxed);
        });
        assert_eq!(others.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_panic_ends_the_region_and_leaves_the_pool_usable() {
    explore(2, || {
        let mut pool = ThreadPool::new();
        let result =
            catch_unwind(AssertUnwindSafe(|| pool.run(2, 2, &|task| assert_ne!(task, 1, "this one"))));
        let message =
            *result.expect_err("the panic is the caller's").downcast::<String>().expect("a message");
        assert!(message.contains("this one"), "{message}");
        let cells = Cells::new(1);
        pool.run(2, 1, &|task| cells.add(task));
        cells.check(1);
    });
}
