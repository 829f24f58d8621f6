//! Reading and writing of safetensors files, one tensor at a time.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. A file is read by position, never mapped:
//! it may be truncated or replaced by another process while it is open, which a mapped file answers with a
//! signal and a positioned read with an error.

mod convert;
mod header;
mod reader;
mod writer;

pub use reader::TensorFile;
pub use writer::{TensorFileWriter, TensorSpec};

pub(crate) use convert::first_not_finite;
