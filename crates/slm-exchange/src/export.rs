//! Export of a checkpoint.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use slm_checkpoint::{Checkpoint, OpenOptions};
use slm_store::{OutputDir, OutputFile};

use crate::{ExportReport, FloatType, Result, compressed, gguf_export, hf_export, mlx, onnx};

/// A format of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A file for llama.cpp and programs built on it.
    Gguf,
    /// A directory of floats for transformers and other readers of its layout.
    HuggingFace,
    /// A directory with quantized linear layers for transformers and vLLM.
    CompressedTensors,
    /// A directory with quantized layers for mlx-lm.
    Mlx,
    /// A directory with an ONNX model for ONNX Runtime, TensorRT and others.
    Onnx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hf",
            Self::CompressedTensors => "compressed-tensors",
            Self::Mlx => "mlx",
            Self::Onnx => "onnx",
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
            "mlx" => Ok(Self::Mlx),
            "onnx" => Ok(Self::Onnx),
            _ => Err(format!("must be gguf, hf, compressed-tensors, mlx or onnx, not {text:?}")),
        }
    }
}

/// The operators of an ONNX model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnnxProfile {
    /// Standard operators, with explicit quantization.
    #[default]
    Standard,
    /// ONNX Runtime's own `MatMulNBits` and `GroupQueryAttention`, with the settings that onnxruntime-genai loads.
    OrtGenai,
}

impl FromStr for OnnxProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "standard" => Ok(Self::Standard),
            "ort-genai" => Ok(Self::OrtGenai),
            _ => Err(format!("must be standard or ort-genai, not {text:?}")),
        }
    }
}

/// Readers of protobuf reject messages of 2 GiB. The rest is reserved for the graph itself.
const EXTERNAL_DATA_ABOVE: u64 = (1 << 31) - (1 << 26);

/// Options of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The format.
    pub format: Format,
    /// The type of float matrices. The default is F32 in ONNX models, and elsewhere the narrowest type that holds each
    /// exactly.
    pub float_type: Option<FloatType>,
    /// `true` to fail instead of writing anything that is not exact.
    pub strict: bool,
    /// `true` to replace an existing output.
    pub overwrite: bool,
    /// The operators of an ONNX model.
    pub onnx_profile: OnnxProfile,
    /// Size in bytes above which the values of an ONNX model are written to a second file. At most 2 GiB, the limit of
    /// a protobuf message.
    pub external_data_above: u64,
    /// Options for opening the checkpoint.
    pub open: OpenOptions,
}

impl ExportOptions {
    /// Creates options for an export as `format`, which need not be exact: the report lists the differences.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            float_type: None,
            strict: false,
            overwrite: false,
            onnx_profile: OnnxProfile::Standard,
            external_data_above: EXTERNAL_DATA_ABOVE,
            open: OpenOptions::default(),
        }
    }
}

/// Writes the checkpoint in `dir` to `out` in the format of another program.
///
/// The output appears complete or not at all. Tensors are read and written one at a time.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for a model or a tokenizer that the other program cannot compute;
/// [`Error::Inexact`](crate::Error::Inexact) with `strict`; errors of opening a checkpoint and of writing files.
pub fn export(dir: &Path, out: &Path, options: &ExportOptions) -> Result<ExportReport> {
    let open = || Checkpoint::open_with(dir, &options.open);
    // The output comes first: it must be free before the checkpoint is read, which takes its time.
    let file = || OutputFile::create(out, options.overwrite);
    let dir = |replaceable| OutputDir::create(out, options.overwrite, replaceable);
    match options.format {
        Format::Gguf => gguf_export::export(file()?, &open()?, options),
        Format::HuggingFace => hf_export::export(dir(hf_export::DIRECTORIES)?, &open()?, options),
        Format::CompressedTensors => compressed::export(dir(hf_export::DIRECTORIES)?, &open()?, options),
        Format::Mlx => mlx::export(dir(hf_export::DIRECTORIES)?, &open()?, options),
        Format::Onnx => onnx::export(dir(onnx::DIRECTORIES)?, &open()?, options),
    }
}
