//! `slm export`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_exchange::{ExportOptions, ExportReport, FloatType, Format, OnnxProfile, export};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::relative;
use crate::table::{TableArgs, bytes};

/// Write a checkpoint in the format of another program
///
/// Codes are copied, never computed anew: what runs elsewhere is what slm computed.
///
/// gguf: a file for llama.cpp, Ollama, LM Studio and others. INT8 symmetric becomes Q8_0 and INT4 symmetric Q4_0,
/// whatever the granularity. Scales are 16 bits wide there: a model quantized with `slm ptq --scale-dtype f16` is exported
/// exactly, and of another the report says how far scales were rounded.
/// hf: a Hugging Face directory of floats, which transformers and most other tools read.
/// compressed-tensors: a Hugging Face directory with quantized layers, for transformers and vLLM.
/// mlx: the same for mlx-lm, with codes of 4 and 8 bits in groups of 32, 64 or 128. Inputs are float there.
/// onnx: a directory with model.onnx (opset 21) and the tokenizer, for ONNX Runtime, TensorRT and others. Weights and static
/// inputs are written with QuantizeLinear and DequantizeLinear, keys and values are inputs and outputs. The report says
/// whether TensorRT's rules for quantized models hold. --profile ort-genai writes ONNX Runtime's own operators MatMulNBits
/// and GroupQueryAttention instead, with the settings that onnxruntime-genai loads.
///
/// What a format cannot hold is written as floats, and the report says why. --strict refuses all of that.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ExportArgs {
    /// Checkpoint directory, float or quantized
    dir: PathBuf,
    /// Format to write: gguf, hf, compressed-tensors, mlx or onnx
    #[arg(long)]
    format: Format,
    /// File or directory to write
    #[arg(long)]
    out: PathBuf,
    /// Type of float weights: f32, f16 or bf16 [default: the narrowest that holds each tensor exactly; f32 in onnx]
    #[arg(long)]
    dtype: Option<FloatType>,
    /// Operators of an ONNX model: standard or ort-genai [default: standard]
    #[arg(long)]
    profile: Option<OnnxProfile>,
    /// Refuse an export in which any number differs from the checkpoint's, or is computed with otherwise
    #[arg(long)]
    strict: bool,
    /// Replace what is at --out already
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Serialize)]
struct ExportResult {
    format: String,
    exact: bool,
    #[serde(flatten)]
    report: ExportReport,
}

pub(crate) fn run(args: &ExportArgs, context: &Context) -> Result<()> {
    if args.profile.is_some() && args.format != Format::Onnx {
        return Err(Error::Usage(format!("--profile is for --format onnx, not {}", args.format)));
    }
    let options = ExportOptions {
        float_type: args.dtype,
        onnx_profile: args.profile.unwrap_or_default(),
        strict: args.strict,
        overwrite: args.overwrite,
        open: context.open_options.clone(),
        ..ExportOptions::new(args.format)
    };
    let report = export(&args.dir, &args.out, &options)?;
    let mut summary: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for tensor in &report.tensors {
        *summary.entry((&tensor.kind, tensor.fidelity.to_string())).or_default() += 1;
    }
    let output = &context.output;
    let exact = report.is_exact();
    output.headline(format!(
        "wrote {} ({}, {}, {})",
        relative(&report.output).display(),
        report.architecture,
        bytes(report.bytes),
        if exact { "every number is the checkpoint's" } else { "not exact" }
    ))?;
    for ((kind, fidelity), count) in &summary {
        output.say(format!("- {count} tensors of {kind}: {fidelity}"))?;
    }
    for note in &report.notes {
        output.say(format!("note: {note}"))?;
    }
    let inexact: Vec<_> = report.tensors.iter().filter(|tensor| !tensor.fidelity.is_exact()).collect();
    let shown = args.tables.shown(inexact.len(), output);
    if shown > 0 {
        let more = if shown < inexact.len() { " (--all shows every one)" } else { "" };
        output.say(format!("\n{shown} of {} tensors that are not exact{more}:", inexact.len()))?;
    }
    for tensor in &inexact[..shown] {
        output.say(format!("- {} ({}): {}", tensor.name, tensor.kind, tensor.fidelity))?;
    }
    context.output.result(&ExportResult { format: args.format.to_string(), exact, report })
}
