//! Helpers for the tests of several crates. Only tests depend on this crate.
#![forbid(unsafe_code)]

mod peers;
mod random;
#[cfg(feature = "schema")]
mod schema;
mod shared;
#[cfg(feature = "tensors")]
mod tensors;

pub use peers::{llama_cpp, peer_python};
pub use random::Random;
#[cfg(feature = "schema")]
pub use schema::violations;
pub use shared::{shared, shared_dir};
#[cfg(feature = "tensors")]
pub use tensors::{ramp, read, tensor};
