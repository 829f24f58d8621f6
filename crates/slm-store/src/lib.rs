//! File formats of models: tensors, manifests, quantization metadata, and directories that appear complete or not at
//! all. They store modules of any kind, and the checkpoints of slm's own models.
//!
//! | item | description |
//! |---|---|
//! | [`save_module`], [`load_module`] | any Burn module that names its linears, as a directory |
//! | [`TensorFile`], [`TensorFileWriter`] | a safetensors file, read and written one tensor at a time |
//! | [`manifest`] | size, SHA-256 and BLAKE3 of every file of a directory, and the kind of its content |
//! | [`OutputDir`], [`OutputLock`] | a directory that replaces another in one step; one writer at a time |
//! | [`QuantizationMetadata`] | how a model was quantized |
//! | [`StopFlag`] | a request to stop reading and copying |
//! | [`layer`], [`LoadedTensors`] | quantized layers as tensors, and back as packed weights |
//!
//! No input is trusted: sizes are checked against the file before anything is allocated, floats must be finite, and an
//! [`Error`] names the file and the remedy.
#![forbid(unsafe_code)]

mod error;
pub mod json;
pub mod layer;
mod litter;
mod loaded;
mod lock;
pub mod manifest;
mod metadata;
mod metadata_builder;
mod module;
mod new_dirs;
mod output;
mod output_file;
mod shell;
mod shown_as;
mod stop;
pub mod tensors;

pub use error::{Error, Result, remedy_of_writing};
pub use litter::is_litter;
pub use loaded::{LoadedTensors, read_quantized, read_static_params};
pub use lock::OutputLock;
pub use manifest::{Kind, Manifest, sha256, sha256_of_file};
pub use metadata::{
    CalibrationRecord, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode, ScaleRecord,
    SkippedLayer, TrainingRecord, TransformRecord, WeightError, WeightParams, ZeroPointRecord,
};
pub use metadata_builder::MetadataBuilder;
pub use module::{LoadOptions, LoadReport, SaveOptions, is_module, load_module, save_module, stored_dtype};
pub use new_dirs::NewDirs;
pub use output::{OutputDir, Replaceable, reserve};
pub use output_file::OutputFile;
pub use shell::shell_word;
pub use stop::StopFlag;
pub use tensors::{TensorFile, TensorFileWriter, TensorSpec};

/// The format version that is written.
pub const FORMAT_VERSION: u32 = 5;

/// The oldest version with the same manifest and tensors as [`FORMAT_VERSION`]. Only the metadata differs.
pub const OLDEST_SAME_FILES: u32 = 3;

/// Name of the file of tensors.
pub const WEIGHTS: &str = "model.safetensors";
/// Name of the file of [`QuantizationMetadata`].
pub const METADATA: &str = "quantization_metadata.json";
