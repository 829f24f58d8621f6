//! Import and export of models in the formats of other programs.
//!
//! | item | description |
//! |---|---|
//! | [`export`] | writes a checkpoint as a GGUF file, a Hugging Face, compressed-tensors or MLX directory, or an ONNX model |
//! | [`import_gguf`] | imports a GGUF file as a checkpoint |
//! | [`import_llama2c`] | imports a file of llama2.c as a checkpoint |
//! | [`explain_bin`] | explains a `.bin` file that cannot be imported |
//! | [`gguf`] | reads and writes GGUF files |
//!
//! Codes are copied and never recomputed. If a format cannot hold a tensor exactly, the [`ExportReport`] lists it, and
//! with [`ExportOptions::strict`] the export fails. `docs/interchange.md` has a table of formats.
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
mod normalizer;
mod onnx;
mod pack;
mod report;
mod source;

pub use error::{Error, Result};
pub use export::{ExportOptions, Format, OnnxProfile, export};
pub use float::FloatType;
pub use gguf_import::{import_gguf, is_gguf};
pub use llama2c::{explain_bin, import_llama2c, is_llama2c};
pub use report::{ExportReport, Fidelity, TensorReport};
pub use slm_checkpoint::hf::{ImportOptions, ImportReport};
