//! Exports as other programs read and compute them, and their models as they are imported. `.ci/peers` gets those programs; where
//! one is missing, its tests skip with a line that says so.
//!
//! One program of all tests: what they share is compiled once.

mod compressed;
mod compressed_import;
mod foreign;
mod gguf;
mod hugging_face;
mod llama_cpp;
mod llm_compressor;
mod mlx;
mod onnx;
mod rten;
mod support;
mod table;
mod transformers;
