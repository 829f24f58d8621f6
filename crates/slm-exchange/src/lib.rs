//! Models to and from the formats of other programs.
//!
//! | item | does |
//! |---|---|
//! | [`export`] | writes a checkpoint as a GGUF file, a Hugging Face, compressed-tensors or MLX directory, or an ONNX model |
//! | [`import_gguf`] | makes a checkpoint of a GGUF file |
//! | [`import_llama2c`] | makes a checkpoint of a file of llama2.c |
//! | [`gguf`] | reads and writes GGUF files |
//!
//! Codes are copied and never computed anew. Where a format cannot hold what a checkpoint has, the [`ExportReport`] says
//! so for each tensor, and [`ExportOptions::strict`] refuses. `docs/interchange.md` has the table.
//!
//! No input is trusted: sizes in files are compared with the files before anything is allocated.
#![forbid(unsafe_code)]

mod compressed;
mod error;
mod export;
mod float;
#[doc(hidden)]
pub mod fuzzing;
pub mod gguf;
mod gguf_export;
mod gguf_import;
mod hf_export;
mod lineage;
mod llama2c;
mod llama_cpp;
mod mlx;
mod onnx;
mod pack;
mod report;
mod source;

pub use error::{Error, Result};
pub use export::{ExportOptions, Format, OnnxProfile, export};
pub use float::FloatType;
pub use gguf_import::import_gguf;
pub use llama2c::{import_llama2c, is_llama2c};
pub use report::{ExportReport, Fidelity, TensorReport};
pub use slm_checkpoint::hf::{ImportOptions, ImportReport};
