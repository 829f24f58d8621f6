//! The runtime that CPU kernels share: threads, work stealing and memory. No tensor framework, no numerics.
//!
//! | module | holds |
//! |---|---|
//! | `thread_pool` | a spinning thread pool for microsecond-scale parallel regions |
//! | `steal_queue` | ranges of work that threads take from each other |
//! | `shared_slice` | a mutable slice whose disjoint parts several threads write |
//! | `huge_vec` | vectors in huge pages |
//! | `advice` | huge pages for memory of other owners |

#![allow(unsafe_code)]

mod advice;
mod huge_vec;
mod shared_slice;
mod steal_queue;
mod thread_pool;

pub use advice::advise_huge_pages;
pub use huge_vec::{HugeVec, Plain};
pub use shared_slice::SharedSlice;
pub use steal_queue::StealQueue;
pub use thread_pool::{for_each_chunk, for_each_task};
