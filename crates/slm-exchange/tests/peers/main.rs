//! Exports as other programs read and compute them, and imports of their models. `.ci/peers` installs those programs;
//! if one is missing, its tests are skipped with a printed line.
//!
//! All tests are one program, so that shared code is compiled once.

mod compressed;
mod compressed_import;
mod foreign;
mod gguf;
mod hugging_face;
mod llama_cpp;
mod llm_compressor;
mod mlx;
mod notes;
mod onnx;
mod rten;
mod support;
mod table;
mod transformers;
