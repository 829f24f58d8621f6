//! Threads for work that lasts microseconds.
//!
//! A decode step is hundreds of parallel regions of a few microseconds with a little serial work between
//! them. Waking a sleeping thread takes longer than such a region, so the threads of the team watch for
//! work for a while after they have had some, and only then sleep. They never hold up others: a thread that
//! has watched in vain for a few microseconds offers its core at every look, and a region waits only for
//! threads that have begun one of its tasks, not for those that the system has not let run.
//!
//! # One word decides
//! [`Team::open`] holds how many tasks of the current region are left and, above that, the number of the
//! region. Taking a task is a compare-and-swap of the whole word, so it succeeds only while the region that
//! the taker has looked at still has the same tasks left; and a region does not end before every task that
//! was taken has ended. All else about a region is changed only while no task is left.

use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::SharedSlice;

/// Looks that a waiting thread takes before it offers its core at every further look: a few microseconds.
const SPINS: u32 = 200;

/// How long a thread without work stays awake: longer than the serial work within a decode step.
const AWAKE: Duration = Duration::from_micros(300);

/// How long the caller of a region sleeps at a time where its last tasks take longer than [`AWAKE`].
const NAP: Duration = Duration::from_micros(30);

/// Bits of [`Team::open`] that count the tasks left.
const TASK_BITS: u32 = 24;
const MAX_TASKS: usize = (1 << TASK_BITS) - 1;

thread_local! {
    /// Whether this thread is inside a task of the team.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

static TEAM: Team = Team::new();

/// The threads started so far. Whoever holds the lock has the team.
static MEMBERS: Mutex<Vec<Arc<Member>>> = Mutex::new(Vec::new());

/// Calls `f(0)` to `f(tasks - 1)`, each once, on as many threads as the current rayon pool has: this one and
/// threads of the crate's own, which stay awake for a fraction of a millisecond after work.
///
/// Such a region starts and ends in about a microsecond while the threads are awake. Threads take tasks in
/// ascending order as they become free. Within a task, a further region runs on the task's own thread. While
/// one caller has the threads, regions of other callers run on their rayon pools.
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
    let mut members = match MEMBERS.try_lock() {
        Ok(members) => members,
        // A panic leaves the list as it was, and the team without a region.
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
        }
    };
    start_members(&mut members, threads - 1);
    for first in (0..tasks).step_by(MAX_TASKS) {
        let count = (tasks - first).min(MAX_TASKS);
        TEAM.run(&members, threads, count, &|task| f(first + task));
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

/// Starts threads until there are `count`. Where the system gives no more, there are fewer, and a region's
/// tasks fall to those there are.
fn start_members(members: &mut Vec<Arc<Member>>, count: usize) {
    while members.len() < count {
        // Number 0 is the caller.
        let number = members.len() + 1;
        let sleeps = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&sleeps);
        let builder = thread::Builder::new().name(format!("slm-kernel-{number}"));
        match builder.spawn(move || TEAM.stay(number, &own)) {
            Ok(handle) => {
                members.push(Arc::new(Member { thread: handle.thread().clone(), sleeps }));
            }
            Err(_) => return,
        }
    }
}

/// A thread of the team, as the caller of a region sees it.
struct Member {
    thread: Thread,
    /// Whether it sleeps or is about to.
    sleeps: Arc<AtomicBool>,
}

/// What the threads share.
struct Team {
    /// Number of the region, and below it, in [`TASK_BITS`] bits, how many of its tasks are left.
    open: AtomicU64,
    /// The region's function.
    region: AtomicPtr<Region<'static>>,
    /// Tasks of the region.
    tasks: AtomicUsize,
    /// Threads that may work at the region, the caller included.
    threads: AtomicUsize,
    /// Tasks that have ended.
    ended: AtomicUsize,
    /// Whether a task has panicked, and with what the first one did.
    panicked: AtomicBool,
    payload: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The function of a region, behind a thin pointer.
struct Region<'a>(&'a (dyn Fn(usize) + Sync));

impl Team {
    const fn new() -> Self {
        Self {
            open: AtomicU64::new(0),
            region: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            payload: Mutex::new(None),
        }
    }

    /// Runs a region. The caller has the team, as holding the lock of `members` shows.
    fn run(&self, members: &[Arc<Member>], threads: usize, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let region = Region(f);
        // No task is left, so no other thread reads what is written here before `open` says that there are.
        self.region.store((&raw const region).cast_mut().cast(), Ordering::Relaxed);
        self.tasks.store(tasks, Ordering::Relaxed);
        self.threads.store(threads, Ordering::Relaxed);
        self.ended.store(0, Ordering::Relaxed);
        let number = (self.open.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1);
        self.open.store(number << TASK_BITS | tasks as u64, Ordering::Release);
        // A member says that it sleeps before it looks at `open` for the last time. With a fence between
        // the write and the read on both sides, either it sees these tasks or it is seen here.
        fence(Ordering::SeqCst);
        for member in members.iter().take(threads - 1) {
            if member.sleeps.load(Ordering::Relaxed) {
                member.thread.unpark();
            }
        }
        self.work(0);
        let mut wait = Wait::default();
        while self.ended.load(Ordering::Acquire) < tasks {
            if !wait.stay_awake() {
                thread::sleep(NAP);
            }
        }
        if self.panicked.swap(false, Ordering::Relaxed) {
            let payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(payload.unwrap_or_else(|| Box::new("a task panicked")));
        }
    }

    /// Takes tasks and runs them until none is left for thread `number`. Says whether there was one.
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
            if !self.panicked.load(Ordering::Relaxed) {
                IN_TASK.set(true);
                let result = catch_unwind(AssertUnwindSafe(|| f(task)));
                IN_TASK.set(false);
                if let Err(payload) = result {
                    let mut first = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(payload);
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.ended.fetch_add(1, Ordering::Release);
        }
    }

    /// The life of member `number`.
    fn stay(&self, number: usize, sleeps: &AtomicBool) {
        let mut wait = Wait::default();
        loop {
            if self.work(number) {
                wait = Wait::default();
            } else if !wait.stay_awake() {
                sleeps.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if !self.has_work(number) {
                    thread::park();
                }
                sleeps.store(false, Ordering::Relaxed);
                wait = Wait::default();
            }
        }
    }

    /// Whether there is a task for thread `number`.
    fn has_work(&self, number: usize) -> bool {
        self.open.load(Ordering::Acquire) as usize & MAX_TASKS != 0
            && number < self.threads.load(Ordering::Relaxed)
    }
}

/// The patience of a waiting thread.
#[derive(Default)]
struct Wait {
    spins: u32,
    yielding_since: Option<Instant>,
}

impl Wait {
    /// Passes a moment. False when it is time to sleep.
    fn stay_awake(&mut self) -> bool {
        if self.spins < SPINS {
            self.spins += 1;
            hint::spin_loop();
            return true;
        }
        thread::yield_now();
        self.yielding_since.get_or_insert_with(Instant::now).elapsed() < AWAKE
    }
}
