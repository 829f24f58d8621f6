//! Checkpoint directories: writing, reading, verification, and import from Hugging Face.
//!
//! A checkpoint is a directory:
//!
//! | file | content |
//! |---|---|
//! | `config.json` | format version, [`CheckpointConfig`] |
//! | `model.safetensors` | the tensors, named and stored according to [`Layout`] |
//! | `tokenizer.json` | the tokenizer; optional |
//! | `quantization_metadata.json` | [`QuantizationMetadata`]; only for a quantized model |
//! | `manifest.json` | size, SHA-256 and BLAKE3 of every other file |
//!
//! [`MIGRATIONS`] convert older versions of the format, and Burn's own records, when they are read.
//!
//! Files, manifests and metadata are handled by [`slm_store`], which also saves modules of any other kind.
//!
//! [`save`] and [`CheckpointWriter`] write a checkpoint, [`Checkpoint`] reads it, and [`hf`] imports a Hugging Face
//! model. Tensors are read and written one at a time: neither direction holds a second copy of the file.
//!
//! No input is trusted. Sizes are checked against the files before anything is allocated, names, shapes and types of
//! tensors must match the configuration, weights must be finite, and an [`Error`] states the place and the remedy.
//!
//! ```
//! use burn::tensor::Device;
//! use slm_checkpoint::{Checkpoint, SaveRequest, save};
//! use slm_model::{ModelConfig, Transformer};
//!
//! let model = Transformer::new(&ModelConfig::new(100, 32, 64, 2, 4, 128), 0, &Device::flex())?;
//! let root = tempfile::tempdir()?;
//! let dir = save(root.path().join("model"), &model, &SaveRequest::default(), false)?;
//!
//! let checkpoint = Checkpoint::open(&dir)?;
//! assert!(!checkpoint.is_quantized());
//! let loaded = checkpoint.load_model(&Device::flex())?;
//! assert_eq!(loaded.config(), model.config());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod checkpoint;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod hf;
mod imported;
mod layout;
mod load;
mod migrate;
mod save;
mod source;
mod tokenizer;
mod versions;

pub use checkpoint::{Checkpoint, OpenOptions};
pub use error::{Error, Result};
pub use imported::{ImportedLayers, layer_of};
pub use layout::Layout;
pub use migrate::{MigrationReport, migrate};
pub use safetensors::Dtype as TensorType;
pub use save::{CheckpointWriter, SaveRequest, WriteFile, reserve_output, save};
pub use slm_store::tensors::holds_exactly;
pub use slm_store::{
    CalibrationRecord, Error as StoreError, FORMAT_VERSION, LayerMetadata, Lineage, MetadataBuilder,
    OutputLock, QuantizationMetadata, QuantizationMode, ScaleRecord, SkippedLayer, StopFlag, TensorFile,
    TensorFileWriter, TensorSpec, TrainingRecord, TransformRecord, WeightError, ZeroPointRecord, sha256,
    sha256_of_file,
};
pub use source::CheckpointSource;
pub use versions::{ChatInfo, CheckpointConfig, MIGRATIONS, Migration, TokenizerInfo};

use slm_store::{json, manifest, tensors};
