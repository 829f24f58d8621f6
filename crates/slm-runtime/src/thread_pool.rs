//! A spinning thread pool for microsecond-scale parallel regions.
//!
//! A decode step is hundreds of parallel regions of a few microseconds with a little serial work between
//! them. Waking a sleeping thread takes longer than such a region, so workers watch for the next region for a
//! while after work, and only then sleep. They never hold up others: a worker that finds no work for a few microseconds
//! yields its core at every check, and a region waits only for workers that have begun one of its tasks, not for those
//! that the system has not scheduled.
//!
//! # One word decides
//! [`Shared::open`] holds the number of tasks of the current region that are left and, in the bits above, the number of
//! the region. Taking a task is a compare-and-swap of the whole word, so it succeeds only while the region that the
//! taker has read still has the same tasks left. A region does not end before every task that was taken has ended. All
//! other state of a region changes only while no task is left.
//!
//! `.ci/loom` checks start, park, finish and close in every interleaving of a few steps.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
#[cfg(not(loom))]
use std::time::Duration;

use crate::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, fence, hint,
    thread::{self, JoinHandle},
};

/// Spin iterations before a waiting thread starts to yield: a few microseconds.
const SPINS: u32 = if cfg!(loom) { 0 } else { 200 };

/// Time that a thread without work stays awake: longer than the serial work within a decode step.
#[cfg(not(loom))]
const AWAKE: Duration = Duration::from_micros(300);

/// Time for which the caller of a region sleeps between checks if its last tasks take longer than [`AWAKE`].
#[cfg(not(loom))]
const NAP: Duration = Duration::from_micros(30);

/// Bits of [`Shared::open`] that count the tasks left.
const TASK_BITS: u32 = 24;
const MAX_TASKS: usize = (1 << TASK_BITS) - 1;

/// Threads that run the tasks of one region at a time. They are started when a region first needs them.
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

/// A thread of the pool, as the caller of a region sees it.
struct Worker {
    /// `None` once it has been joined.
    handle: Option<JoinHandle<()>>,
    /// `true` if it sleeps or is about to.
    sleeps: Arc<AtomicBool>,
}

/// State that the threads share.
struct Shared {
    /// The number of the region and, in the [`TASK_BITS`] bits below it, the number of its tasks that are left.
    open: AtomicU64,
    /// The region's function.
    region: AtomicPtr<Region<'static>>,
    /// Number of tasks of the region.
    tasks: AtomicUsize,
    /// Number of threads that may work on the region, the caller included.
    threads: AtomicUsize,
    /// Number of tasks that have ended.
    ended: AtomicUsize,
    /// `true` if a task has panicked. The payload of the first panic is kept.
    panicked: AtomicBool,
    payload: Mutex<Option<Box<dyn Any + Send>>>,
    /// `true` if the workers must end.
    closing: AtomicBool,
}

/// The function of a region, behind a thin pointer.
struct Region<'a>(&'a (dyn Fn(usize) + Sync));

impl ThreadPool {
    /// A pool without threads.
    pub(crate) fn new() -> Self {
        let shared = Shared {
            open: AtomicU64::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            payload: Mutex::new(None),
            closing: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), workers: Vec::new() }
    }

    /// Calls `f(0)` to `f(tasks - 1)`, each once, on this thread and up to `threads - 1` workers.
    ///
    /// # Panics
    /// When `f` does, once the tasks that have begun have ended; tasks that have not begun by then are skipped.
    pub(crate) fn run(&mut self, threads: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        self.start_workers(threads - 1);
        for first in (0..tasks).step_by(MAX_TASKS) {
            let count = (tasks - first).min(MAX_TASKS);
            self.run_region(threads, count, &|task| f(first + task));
        }
    }

    /// Starts workers until there are `count`. If the system provides fewer, these run all tasks of a region.
    fn start_workers(&mut self, count: usize) {
        while self.workers.len() < count {
            // Number 0 is the caller.
            let number = self.workers.len() + 1;
            let (shared, sleeps) = (Arc::clone(&self.shared), Arc::new(AtomicBool::new(false)));
            let own = Arc::clone(&sleeps);
            let builder = thread::Builder::new().name(format!("slm-kernel-{number}"));
            match builder.spawn(move || shared.stay(number, &own)) {
                Ok(handle) => self.workers.push(Worker { handle: Some(handle), sleeps }),
                Err(_) => return,
            }
        }
    }

    /// Runs a region of at most [`MAX_TASKS`] tasks.
    fn run_region(&mut self, threads: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let region = Region(f);
        // No task is left, so no other thread reads the values written here before `open` announces tasks.
        shared.region.store((&raw const region).cast_mut().cast(), Ordering::Relaxed);
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.threads.store(threads, Ordering::Relaxed);
        shared.ended.store(0, Ordering::Relaxed);
        let number = (shared.open.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1);
        shared.open.store(number << TASK_BITS | tasks as u64, Ordering::Release);
        // A worker announces that it sleeps before it reads `open` for the last time. With a fence between the write
        // and the read on both sides, either the worker sees these tasks or this thread sees that it sleeps.
        fence(Ordering::SeqCst);
        for worker in self.workers.iter().take(threads - 1) {
            if worker.sleeps.load(Ordering::Relaxed) {
                worker.wake();
            }
        }
        shared.work(0);
        let mut wait = Wait::default();
        while shared.ended.load(Ordering::Acquire) < tasks {
            if !wait.stay_awake() {
                nap();
            }
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            let payload = shared.payload.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(payload.unwrap_or_else(|| Box::new("a task panicked")));
        }
    }
}

impl Drop for ThreadPool {
    /// Ends the workers and waits for them.
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        for worker in &mut self.workers {
            // A worker that is about to sleep finds the token and checks again.
            worker.wake();
            if let Some(handle) = worker.handle.take() {
                // Workers catch the panics of tasks and have none of their own.
                let _ = handle.join();
            }
        }
    }
}

impl Worker {
    fn wake(&self) {
        if let Some(handle) = &self.handle {
            handle.thread().unpark();
        }
    }
}

impl Shared {
    /// Takes tasks and runs them until none is left for thread `number`. Returns `true` if there was one.
    fn work(&self, number: usize) -> bool {
        let mut worked = false;
        loop {
            let open = self.open.load(Ordering::Acquire);
            let left = open as usize & MAX_TASKS;
            if left == 0 || number >= self.threads.load(Ordering::Relaxed) {
                return worked;
            }
            if self.open.compare_exchange(open, open - 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                hint::spin_loop();
                continue;
            }
            worked = true;
            let task = self.tasks.load(Ordering::Relaxed) - left;
            // SAFETY: this thread has taken a task, so the region cannot end before `ended` counts it, below.
            // Until then the pointer is that of this region, and `run` keeps what it points to alive.
            let Region(f) = unsafe { &*self.region.load(Ordering::Relaxed) };
            if !self.panicked.load(Ordering::Relaxed)
                && let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(task)))
            {
                let mut first = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.ended.fetch_add(1, Ordering::Release);
        }
    }

    /// The main loop of worker `number`.
    fn stay(&self, number: usize, sleeps: &AtomicBool) {
        let mut wait = Wait::default();
        while !self.closing.load(Ordering::Acquire) {
            if self.work(number) {
                wait = Wait::default();
            } else if !wait.stay_awake() {
                sleeps.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if !self.has_work(number) && !self.closing.load(Ordering::Acquire) {
                    thread::park();
                }
                sleeps.store(false, Ordering::Relaxed);
                wait = Wait::default();
            }
        }
    }

    /// Returns `true` if there is a task for thread `number`.
    fn has_work(&self, number: usize) -> bool {
        self.open.load(Ordering::Acquire) as usize & MAX_TASKS != 0
            && number < self.threads.load(Ordering::Relaxed)
    }
}

/// Sleeps for [`NAP`].
fn nap() {
    #[cfg(not(loom))]
    thread::sleep(NAP);
    // Time does not pass in a loom model; another thread gets its turn instead.
    #[cfg(loom)]
    thread::yield_now();
}

/// The waiting policy of a thread: spin, yield, then park.
#[derive(Default)]
struct Wait {
    spins: u32,
    #[cfg(not(loom))]
    yielding_since: Option<std::time::Instant>,
}

impl Wait {
    /// Spins or yields once. Returns `false` when the caller should park.
    fn stay_awake(&mut self) -> bool {
        if self.spins < SPINS {
            self.spins += 1;
            hint::spin_loop();
            return true;
        }
        #[cfg(not(loom))]
        {
            thread::yield_now();
            self.yielding_since.get_or_insert_with(std::time::Instant::now).elapsed() < AWAKE
        }
        #[cfg(loom)]
        false
    }
}

#[cfg(all(test, loom))]
mod model;
