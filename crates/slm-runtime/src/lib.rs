//! The runtime that CPU kernels share: threads, work stealing and memory. No tensor framework, no numerics.
//!
//! | module | holds |
//! |---|---|
//! | `parallel` | parallel regions of this process, on one pool |
//! | `thread_pool` | a spinning thread pool for microsecond-scale parallel regions |
//! | `steal_queue` | ranges of work that threads take from each other |
//! | `shared_slice` | a mutable slice whose disjoint parts several threads write |
//! | `fresh` | new vectors that threads write part by part |
//! | `huge_vec` | vectors in huge pages |
//! | `advice` | huge pages for memory of other owners |
//! | `allocator` | settings of the system's allocator |

#![allow(unsafe_code)]

mod advice;
mod allocator;
mod fresh;
mod huge_vec;
#[cfg(not(loom))]
mod parallel;
mod shared_slice;
mod steal_queue;
mod sync;
mod thread_pool;

pub use advice::advise_huge_pages;
pub use allocator::{keep_freed_memory, release_freed_memory};
pub use fresh::{equal_parts, written_by_parts, zeros};
pub use huge_vec::{HugeVec, Plain};
#[cfg(not(loom))]
pub use parallel::{for_each_chunk, for_each_task};
pub use shared_slice::SharedSlice;
pub use steal_queue::StealQueue;
