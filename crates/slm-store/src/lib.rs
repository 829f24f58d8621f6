//! The files that models lie in: tensors, manifests, metadata of quantization, and directories that appear complete or
//! not at all. Modules of any kind are saved and loaded by them; checkpoints of slm's own models are built on them.
//!
//! | item | is |
//! |---|---|
//! | [`save_module`], [`load_module`] | any Burn module that names its linears, as a directory |
//! | [`TensorFile`], [`TensorFileWriter`] | a safetensors file, read and written one tensor at a time |
//! | [`manifest`] | size, SHA-256 and BLAKE3 of every file of a directory, and what the directory holds |
//! | [`OutputDir`], [`OutputLock`] | a directory that replaces another in one step; one writer at a time |
//! | [`QuantizationMetadata`] | what was done to a model when it was quantized |
//! | [`layer`], [`LoadedTensors`] | quantized layers as tensors, and back as packed weights |
//!
//! No input is trusted: sizes in files are checked against the files before anything is allocated, floats are finite,
//! and what does not fit is an [`Error`] that names the file and what to do.
#![forbid(unsafe_code)]

mod error;
pub mod json;
pub mod layer;
mod loaded;
mod lock;
pub mod manifest;
mod metadata;
mod metadata_builder;
mod module;
mod output;
mod output_file;
pub mod tensors;

pub use error::{Error, Result};
pub use loaded::{LoadedTensors, read_quantized, read_static_params};
pub use lock::OutputLock;
pub use manifest::{Kind, Manifest, sha256, sha256_of_file};
pub use metadata::{
    CalibrationRecord, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode, ScaleRecord,
    SkippedLayer, TrainingRecord, TransformRecord, WeightError, WeightParams, ZeroPointRecord,
};
pub use metadata_builder::MetadataBuilder;
pub use module::{LoadOptions, LoadReport, SaveOptions, is_module, load_module, save_module};
pub use output::{OutputDir, Replaceable, reserve};
pub use output_file::OutputFile;
pub use tensors::{TensorFile, TensorFileWriter, TensorSpec};

/// The version of the format that is written.
pub const FORMAT_VERSION: u32 = 5;

/// The oldest version whose manifest is that of [`FORMAT_VERSION`], and whose tensors are as they may be in it. The metadata
/// differs.
pub const OLDEST_SAME_FILES: u32 = 3;

/// File of the tensors.
pub const WEIGHTS: &str = "model.safetensors";
/// File of the [`QuantizationMetadata`].
pub const METADATA: &str = "quantization_metadata.json";
