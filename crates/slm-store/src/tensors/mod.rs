//! Reading and writing of files of tensors, one tensor at a time.
//!
//! Formats: safetensors (<https://github.com/huggingface/safetensors#format>), read and written, and burnpack (the
//! documentation of the crate `burn-pack`), read. A file is read by position, never mapped: if another process
//! truncates or replaces it, a positioned read fails with an error, while access to a mapped file raises a signal.

mod burnpack;
mod convert;
mod destination;
mod header;
mod positioned;
mod reader;
mod streaming;
mod writer;

pub use reader::TensorFile;
pub use writer::{TensorFileWriter, TensorSpec};

pub(crate) use convert::widen;
pub use convert::{first_not_finite, holds_exactly, to_f16, to_f32};
pub use destination::Destination;
pub use positioned::PositionedFile;
