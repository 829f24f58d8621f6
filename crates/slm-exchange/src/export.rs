//! Exporting a checkpoint.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use slm_checkpoint::{Checkpoint, OpenOptions};

use crate::{ExportReport, FloatType, Result, compressed, gguf_export, hf_export};

/// A format of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A file for llama.cpp and what is built on it.
    Gguf,
    /// A directory of floats for transformers and whatever reads its layout.
    HuggingFace,
    /// A directory with quantized linear layers for transformers and vLLM.
    CompressedTensors,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hf",
            Self::CompressedTensors => "compressed-tensors",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gguf" => Ok(Self::Gguf),
            "hf" => Ok(Self::HuggingFace),
            "compressed-tensors" => Ok(Self::CompressedTensors),
            _ => Err(format!("must be gguf, hf or compressed-tensors, not {text:?}")),
        }
    }
}

/// Options of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The format.
    pub format: Format,
    /// The type of float matrices; the narrowest that holds each exactly where none is given.
    pub float_type: Option<FloatType>,
    /// Whether to refuse what would not be exact.
    pub strict: bool,
    /// Whether to replace an output that exists.
    pub overwrite: bool,
    /// How the checkpoint is opened.
    pub open: OpenOptions,
}

impl ExportOptions {
    /// Exports as `format`, with whatever the format cannot hold told in the report.
    pub fn new(format: Format) -> Self {
        Self { format, float_type: None, strict: false, overwrite: false, open: OpenOptions::default() }
    }
}

/// Writes the checkpoint in `dir` to `out` in the format of another program.
///
/// The output appears complete or not at all. Tensors are read and written one at a time.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for a model or a tokenizer that the other program does not compute;
/// [`Error::Inexact`](crate::Error::Inexact) with `strict`; those of opening a checkpoint and of writing files.
pub fn export(dir: &Path, out: &Path, options: &ExportOptions) -> Result<ExportReport> {
    let checkpoint = Checkpoint::open_with(dir, &options.open)?;
    match options.format {
        Format::Gguf => gguf_export::export(&checkpoint, out, options),
        Format::HuggingFace => hf_export::export(&checkpoint, out, options),
        Format::CompressedTensors => compressed::export(&checkpoint, out, options),
    }
}
