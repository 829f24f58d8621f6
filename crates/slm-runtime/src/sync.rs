//! Threads and atomics: the standard library's, or loom's where the pool is model-checked (`--cfg loom`).

#[cfg(loom)]
pub(crate) use loom::{
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence},
    },
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    hint,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence},
    },
    thread,
};
