//! Tests of parallel regions on any number of threads.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slm_runtime::{for_each_chunk, for_each_task};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Runs a region of `tasks` tasks and checks that each ran once.
fn check_region(tasks: usize) {
    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    for_each_task(tasks, |task| {
        runs[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks} tasks");
}

#[test]
fn each_task_runs_once_on_any_number_of_threads() {
    for threads in [1, 2, 3, 8, 2] {
        pool(threads).install(|| {
            for round in 0..300 {
                check_region(round % 41);
            }
        });
    }
    check_region(100_000);
}

#[test]
fn threads_that_have_gone_to_sleep_wake_up() {
    pool(3).install(|| {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(3));
            check_region(50);
        }
    });
}

/// Many long tasks, so that every thread gets some; no more threads than the pool has may run them.
#[test]
fn no_more_threads_work_than_the_pool_has() {
    for threads in [4, 2] {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool(threads).install(|| {
            for_each_task(24, |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
            });
        });
        let most = most.into_inner();
        assert!(most <= threads, "{most} threads of {threads}");
    }
}

#[test]
fn regions_of_several_callers_and_within_tasks() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pool(3).install(|| (0..100).for_each(check_region)));
        }
    });
    for_each_task(8, |_| check_region(9));
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_threads_usable() {
    pool(3).install(|| {
        for bad in [0, 7, 19] {
            let result = catch_unwind(|| {
                for_each_task(20, |task| assert_ne!(task, bad, "this one"));
            });
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains("this one"), "{message}");
            check_region(30);
        }
    });
}

#[test]
fn chunks_are_disjoint_and_complete() {
    for len in [0, 1, 5, 6, 100] {
        let mut values = vec![0; len];
        for_each_chunk(&mut values, 6, |chunk, values| {
            for (i, value) in values.iter_mut().enumerate() {
                *value += chunk * 6 + i;
            }
        });
        assert!(values.iter().enumerate().all(|(i, &value)| i == value), "{len}");
    }
}
