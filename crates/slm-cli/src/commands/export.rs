//! `slm export`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_exchange::{ExportOptions, ExportReport, Fidelity, FloatType, Format, OnnxProfile, export};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::relative;
use crate::table::{TableArgs, bytes};

/// Write a checkpoint in the format of another program.
///
/// Codes are copied, not recomputed: other programs run the model that slm wrote.
///
/// gguf: a file for llama.cpp, Ollama, LM Studio and others. INT8 symmetric becomes Q8_0 and INT4 symmetric Q4_0, with
/// any granularity. Scales in the file have 16 bits: a model quantized with `slm ptq --scale-dtype f16` is exported
/// exactly; for other models the report states how much the scales were rounded.
///
/// hf: a Hugging Face directory of floats, which transformers and most other tools read.
///
/// compressed-tensors: a Hugging Face directory with quantized layers, for transformers and vLLM.
///
/// mlx: the same for mlx-lm, with codes of 4 and 8 bits in groups of 32, 64 or 128. Inputs are float there.
///
/// onnx: a directory with model.onnx (opset 21) and the tokenizer, for ONNX Runtime, TensorRT and others. Weights and static
/// inputs are written with QuantizeLinear and DequantizeLinear, keys and values are inputs and outputs. The report says
/// whether TensorRT's rules for quantized models hold. --profile ort-genai writes ONNX Runtime's own operators MatMulNBits
/// and GroupQueryAttention instead, with the settings that onnxruntime-genai loads.
///
/// Values that a format cannot hold are written as floats, and the report states why. --strict rejects such an export.
/// Notes say what else the other program does differently; --strict accepts those that leave all numbers as they are, such
/// as llama.cpp's own rounding of dynamic inputs or a tokenizer that does not normalize texts.
#[derive(Debug, Args)]
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
    /// Fail if a number would change, codes would become floats, or the other program computes by another formula
    #[arg(long)]
    strict: bool,
    /// Replace an existing file or directory at --out
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
    let spinner = context.progress.spinner("exporting");
    let report =
        export(&args.dir, &args.out, &options).map_err(|error| Error::from(error).unwritten(&args.out))?;
    drop(spinner);
    let output = &context.output;
    let exact = report.is_exact();
    output.headline(format!(
        "wrote {} ({}, {}, {})",
        relative(&report.output).display(),
        report.architecture,
        bytes(report.bytes),
        if exact { "every number is the checkpoint's" } else { "not exact" }
    ))?;
    for Group { kind, fidelity, count } in groups(&report) {
        let tensors = if count == 1 { "tensor" } else { "tensors" };
        output.say(format!("- {count} {tensors} of {kind}: {fidelity}"))?;
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
        output.say(format!("- {} ({}){}", tensor.name, tensor.kind, briefly(&tensor.fidelity)))?;
    }
    context.output.result(&ExportResult { format: args.format.to_string(), exact, report })
}

/// Tensors of one type with the same kind of change.
struct Group<'a> {
    kind: &'a str,
    /// The largest of their changes.
    fidelity: Fidelity,
    count: usize,
}

fn groups(report: &ExportReport) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for tensor in &report.tensors {
        let same =
            |group: &&mut Group<'_>| group.kind == tensor.kind && is_alike(&group.fidelity, &tensor.fidelity);
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.count += 1;
                widen(&mut group.fidelity, &tensor.fidelity);
            }
            None => {
                let (kind, fidelity) = (tensor.kind.as_str(), tensor.fidelity.clone());
                groups.push(Group { kind, fidelity, count: 1 });
            }
        }
    }
    groups.sort_by_key(|group| (group.kind, !group.fidelity.is_exact()));
    groups
}

/// Describes the change of one tensor briefly; its group gives the reason.
fn briefly(fidelity: &Fidelity) -> String {
    match fidelity {
        Fidelity::Changed { .. } => String::new(),
        Fidelity::Dequantized { max_relative_change: 0.0, .. } => ": same values".to_owned(),
        Fidelity::Dequantized { max_relative_change: change, .. } => {
            format!(": max relative change {change:.1e}")
        }
        other => format!(": {other}"),
    }
}

/// Returns `true` if two changes differ at most in size.
fn is_alike(a: &Fidelity, b: &Fidelity) -> bool {
    match (a, b) {
        (
            Fidelity::Dequantized { float_type: type_a, because: why_a, .. },
            Fidelity::Dequantized { float_type: type_b, because: why_b, .. },
        ) => (type_a, why_a) == (type_b, why_b),
        (Fidelity::Changed { how: a }, Fidelity::Changed { how: b }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Increases the size of change `a` to at least that of `b`, which must be of the same kind.
fn widen(a: &mut Fidelity, b: &Fidelity) {
    match (a, b) {
        (
            Fidelity::ScaleRounded { max_relative_change: a },
            Fidelity::ScaleRounded { max_relative_change: b },
        )
        | (
            Fidelity::FloatRounded { max_relative_change: a },
            Fidelity::FloatRounded { max_relative_change: b },
        )
        | (
            Fidelity::Dequantized { max_relative_change: a, .. },
            Fidelity::Dequantized { max_relative_change: b, .. },
        )
        | (
            Fidelity::OffsetRounded { max_change_in_steps: a },
            Fidelity::OffsetRounded { max_change_in_steps: b },
        ) => *a = a.max(*b),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_kind_are_alike_and_the_largest_counts() {
        let rounded = |change| Fidelity::ScaleRounded { max_relative_change: change };
        let mut found = rounded(1e-4);
        assert!(is_alike(&found, &rounded(3e-4)) && !is_alike(&found, &Fidelity::Exact));
        widen(&mut found, &rounded(3e-4));
        widen(&mut found, &rounded(2e-4));
        assert_eq!(found, rounded(3e-4));
        let floats = |why: &str| Fidelity::Dequantized {
            float_type: "f16".to_owned(),
            max_relative_change: 0.0,
            because: why.to_owned(),
        };
        assert!(is_alike(&floats("a"), &floats("a")) && !is_alike(&floats("a"), &floats("b")));
    }
}
