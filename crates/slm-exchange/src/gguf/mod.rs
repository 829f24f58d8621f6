//! GGUF version 3: the file format of ggml and llama.cpp.
//!
//! A file is a header (magic, version, number of tensors, number of metadata pairs), the metadata, the names, shapes,
//! types and offsets of the tensors, and their data, aligned. The specification is `docs/gguf.md` in ggml's
//! repository; the layouts of quantized blocks are those of `ggml-common.h`.

mod blocks;
mod k_quants;
mod kind;
mod reader;
mod value;
mod writer;

pub use blocks::dequantize;
pub(crate) use blocks::{half_at, nibbles, q4_1_minimum, write_q4_0, write_q4_1, write_q8_0};
pub use kind::TensorKind;
pub use reader::{GgufFile, TensorEntry};
pub use value::{Array, Value};
pub use writer::{GgufWriter, TensorDecl};

/// The first four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written. Version 2, which can also be read, has the same layout.
pub(crate) const VERSION: u32 = 3;
/// Alignment of tensor data in bytes, unless the metadata specifies another.
pub(crate) const ALIGNMENT: u64 = 32;
/// The metadata key of the alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
