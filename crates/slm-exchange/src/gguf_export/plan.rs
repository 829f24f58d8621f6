//! The tensors of a file, their types, and their fidelity to the checkpoint.

use slm_checkpoint::Checkpoint;
use slm_model::expected_tensors;
use slm_quant_core::{ActivationQuant, Bits, Granularity, QuantizedMatrix};

use super::encode::{BLOCK, f16_scale, minimum};
use crate::float::{FloatType, relative_change};
use crate::gguf::TensorKind;
use crate::llama_cpp::arch::Arch;
use crate::llama_cpp::{keys, names, rows};
use crate::report::{Fidelity, TensorReport, require_exact};
use crate::source::{HEAD, Source, Stored, dequantize_row};
use crate::{Error, Result};

/// A tensor of the file.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) kind: TensorKind,
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
    pub(super) fidelity: Fidelity,
}

/// The source of a tensor's values.
#[derive(Debug)]
pub(super) enum Content {
    /// The rows of tensors of the checkpoint, one after another.
    Rows(Vec<Part>),
    /// Values computed from the configuration.
    Values(Vec<f32>),
}

/// A tensor of the checkpoint that is part of a tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) name: String,
    /// For each row of the file, the row of the checkpoint; `None` if the order is the same.
    pub(super) order: Option<Vec<usize>>,
    /// A factor of the values. If it is not 1, they are written as floats.
    pub(super) factor: f32,
}

/// All contents of a file.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tensors: Vec<Planned>,
    pub(super) notes: Vec<String>,
    /// Notes on computations that differ.
    inexact: Vec<String>,
}

/// Consecutive tensors of the checkpoint that form one tensor.
struct Group {
    name: String,
    parts: Vec<Part>,
}

impl Plan {
    pub(super) fn new(source: &Source<'_>, arch: Arch, float_type: Option<FloatType>) -> Result<Self> {
        let mut plan = Self { tensors: Vec::new(), notes: Vec::new(), inexact: Vec::new() };
        let (mut static_inputs, mut dynamic_inputs) = (false, false);
        for group in groups(source, arch)? {
            let mut stored = Vec::new();
            for part in &group.parts {
                let tensor = source.read(&part.name)?;
                static_inputs |= matches!(&tensor, Stored::Quantized(_, ActivationQuant::Static(_)));
                dynamic_inputs |= matches!(&tensor, Stored::Quantized(_, ActivationQuant::Dynamic(_)));
                stored.push(tensor);
            }
            let mut shape = source.shape(&group.parts[0].name);
            shape[0] = group.parts.iter().map(|part| source.shape(&part.name)[0]).sum();
            let (kind, fidelity) = choose(&stored, &group.parts, shape.len(), float_type);
            plan.tensors.push(Planned {
                name: group.name,
                kind,
                shape,
                content: Content::Rows(group.parts),
                fidelity,
            });
        }
        for extra in keys::extras(arch, source.model()) {
            plan.tensors.push(Planned {
                name: extra.name,
                kind: TensorKind::F32,
                shape: vec![extra.values.len()],
                content: Content::Values(extra.values),
                fidelity: Fidelity::Exact,
            });
        }
        if static_inputs {
            plan.inexact.push(
                "static ranges of inputs are left out: llama.cpp computes its own for each 32 values"
                    .to_owned(),
            );
        }
        if source.has_long_rope() {
            plan.inexact.push(
                "llama.cpp chooses the factors of LongRoPE by the size of its context, the model by the length of the \
                 sequence"
                    .to_owned(),
            );
        }
        if dynamic_inputs {
            plan.notes.push(
                "llama.cpp rounds the inputs of quantized layers itself, in blocks of 32 values and not per token as the \
                 model does: results differ slightly"
                    .to_owned(),
            );
        }
        if arch == Arch::GptNeox {
            plan.inexact.push(
                "llama.cpp computes the GELU of GPT-NeoX by its tanh approximation, the model by the error function"
                    .to_owned(),
            );
        }
        if arch == Arch::GraniteSwa {
            plan.notes.push(
                "written as granite_swa, which has the windows and the layers without rotary embedding that the \
                 model's own architecture does not have in llama.cpp; releases before 2026 do not know it"
                    .to_owned(),
            );
        }
        if source.model().tie_word_embeddings && arch.needs_output() {
            plan.notes.push(format!("the tied head is stored twice, because {} asks for one", arch.name()));
        }
        plan.notes.extend(plan.inexact.iter().cloned());
        Ok(plan)
    }

    /// GGUF's number for the type of most weights.
    pub(super) fn file_type(&self) -> u32 {
        let weight = |kind: TensorKind| {
            let of_kind = self.tensors.iter().filter(|tensor| tensor.kind == kind && tensor.shape.len() == 2);
            of_kind.map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>()
        };
        let types = [
            (TensorKind::F32, 0),
            (TensorKind::F16, 1),
            (TensorKind::Q4_0, 2),
            (TensorKind::Q4_1, 3),
            (TensorKind::Q8_0, 7),
            (TensorKind::Bf16, 32),
        ];
        types.into_iter().max_by_key(|&(kind, _)| weight(kind)).map_or(0, |(_, number)| number)
    }

    /// Fails if anything is not exact.
    pub(super) fn refuse_inexact(&self, checkpoint: &Checkpoint) -> Result<()> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.fidelity));
        require_exact(checkpoint, tensors, &self.inexact)
    }
}

impl From<Planned> for TensorReport {
    fn from(planned: Planned) -> Self {
        let Planned { name, kind, shape, content: _, fidelity } = planned;
        Self { name, kind: kind.to_string(), shape, fidelity }
    }
}

/// The tensors of the checkpoint, grouped by tensor of the file, in the checkpoint's order.
fn groups(source: &Source<'_>, arch: Arch) -> Result<Vec<Group>> {
    let model = source.model();
    let mut groups: Vec<Group> = Vec::new();
    for tensor in expected_tensors(model) {
        let (mut name, mut order, mut factor) = (names::to_gguf(&tensor.name), None, 1.0);
        if let Some((index, part, kind)) = names::split(&tensor.name) {
            let layer = model.layer(index);
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            if arch.fuses_qkv() && qkv.contains(&part) {
                name = Some(names::in_layer(index, names::QKV, kind));
            }
            if arch.fuses_gate_up() && part == "mlp.gate_proj" {
                name = Some(names::in_layer(index, "ffn_up", kind));
            }
            if arch.interleaves_heads() && qkv[..2].contains(&part) {
                let dims = layer.rotary.as_ref().and_then(|rotary| rotary.dims).unwrap_or(model.head_dim);
                order = Some(rows::interleaved(tensor.shape[0], model.head_dim, dims));
            }
            if arch == Arch::StableLm && layer.parallel_residual && part == "post_attention_norm" {
                same_norm(source, index, kind)?;
                continue;
            }
            if let (Arch::Gemma3, "self_attn.q_norm", Some(scale)) = (arch, part, layer.attention_scale) {
                factor = (scale * (model.head_dim as f64).sqrt()) as f32;
            }
        }
        let Some(name) = name else {
            let what = format!("tensor {:?} has no name in llama.cpp", tensor.name);
            return Err(Error::not_in_format(source.checkpoint.dir(), what));
        };
        let part = Part { name: tensor.name, order, factor };
        match groups.iter_mut().rev().find(|group| group.name == name) {
            Some(group) => group.parts.push(part),
            None => groups.push(Group { name, parts: vec![part] }),
        }
    }
    if model.tie_word_embeddings && arch.needs_output() {
        let part = Part { name: HEAD.to_owned(), order: None, factor: 1.0 };
        groups.push(Group { name: names::OUTPUT.to_owned(), parts: vec![part] });
    }
    Ok(groups)
}

/// Checks that the two norms of a layer are equal. llama.cpp has only one if attention and MLP run in parallel.
fn same_norm(source: &Source<'_>, index: usize, kind: &str) -> Result<()> {
    let read = |part: &str| source.checkpoint.tensors().read_f32(&format!("layers.{index}.{part}.{kind}"));
    if read("input_norm")? == read("post_attention_norm")? {
        return Ok(());
    }
    let what = format!("layer {index} has two norms side by side, but llama.cpp's StableLM has one");
    Err(Error::not_in_format(source.checkpoint.dir(), what))
}

/// Chooses the type of a tensor made of `stored`, and returns its fidelity.
fn choose(
    stored: &[Stored],
    parts: &[Part],
    dims: usize,
    float_type: Option<FloatType>,
) -> (TensorKind, Fidelity) {
    let blocks: Vec<Result<(TensorKind, Fidelity), String>> = stored
        .iter()
        .map(|tensor| match tensor {
            Stored::Quantized(matrix, _) => block_kind(matrix),
            Stored::Float(_) => Err("it is stored as one tensor with floats".to_owned()),
        })
        .collect();
    if let Some(Ok((kind, _))) = blocks.first()
        && blocks.iter().all(|block| matches!(block, Ok((other, _)) if other == kind))
    {
        let fidelities = blocks.iter().flatten().map(|(_, fidelity)| fidelity.clone());
        return (*kind, fidelities.reduce(worse).unwrap_or(Fidelity::Exact));
    }
    let quantized = stored.iter().any(|tensor| matches!(tensor, Stored::Quantized(..)));
    let because = blocks.into_iter().find_map(Result::err);
    let because =
        because.unwrap_or_else(|| "it is one tensor, and its parts are of different types".to_owned());
    let mut values = Vec::new();
    for tensor in stored {
        match tensor {
            Stored::Float(floats) => values.extend_from_slice(floats),
            Stored::Quantized(matrix, _) => {
                (0..matrix.rows()).for_each(|row| dequantize_row(matrix, row, &mut values));
            }
        }
    }
    // Vectors are added and multiplied in F32, the type that ggml requires.
    let float = match dims {
        1 => FloatType::F32,
        _ => float_type.unwrap_or_else(|| FloatType::narrowest(&values)),
    };
    let max_relative_change = float.change(&values);
    let factor = parts.iter().map(|part| part.factor).find(|&factor| factor != 1.0);
    let fidelity = match (quantized, factor) {
        (true, _) => Fidelity::Dequantized { float_type: float.to_string(), max_relative_change, because },
        (false, Some(factor)) => Fidelity::Changed {
            how: format!("multiplied by {factor}, for the scale of attention that llama.cpp does not have"),
        },
        (false, None) if max_relative_change == 0.0 => Fidelity::Exact,
        (false, None) => Fidelity::FloatRounded { max_relative_change },
    };
    (float.kind(), fidelity)
}

/// The less faithful of two.
fn worse(a: Fidelity, b: Fidelity) -> Fidelity {
    match (&a, &b) {
        (
            Fidelity::ScaleRounded { max_relative_change: first },
            Fidelity::ScaleRounded { max_relative_change: second },
        ) => {
            if first >= second {
                a
            } else {
                b
            }
        }
        (
            Fidelity::OffsetRounded { max_change_in_steps: first },
            Fidelity::OffsetRounded { max_change_in_steps: second },
        ) => {
            if first >= second {
                a
            } else {
                b
            }
        }
        (Fidelity::OffsetRounded { .. }, _) | (_, Fidelity::Exact) => a,
        _ => b,
    }
}

/// The type that holds the codes of `matrix`, and its effect on scales; or the reason why there is none.
fn block_kind(matrix: &QuantizedMatrix) -> Result<(TensorKind, Fidelity), String> {
    let (scheme, cols) = (matrix.scheme(), matrix.cols());
    if !cols.is_multiple_of(BLOCK) {
        return Err(format!("its rows of {cols} values are not whole blocks of {BLOCK}"));
    }
    if let Granularity::PerGroup { .. } = scheme.granularity
        && matrix.group_width() < cols
        && !matrix.group_width().is_multiple_of(BLOCK)
    {
        return Err(format!("its groups of {} values are not whole blocks of {BLOCK}", matrix.group_width()));
    }
    let mut scale_change = 0.0_f64;
    for index in 0..matrix.scales().len() {
        let scale = matrix.scales().get(index);
        let rounded = f16_scale(matrix, index).to_f32();
        if rounded == 0.0 || !rounded.is_finite() {
            return Err(format!("its scale {scale:e} is outside of what F16 holds"));
        }
        scale_change = scale_change.max(relative_change(scale, rounded));
    }
    match (scheme.bits, scheme.mapping.is_symmetric()) {
        (Bits::Int8, false) => Err("GGUF has no 8-bit type with zero points".to_owned()),
        (Bits::Int8, true) => Ok((TensorKind::Q8_0, scale_fidelity(scale_change))),
        (Bits::Int4, true) => Ok((TensorKind::Q4_0, scale_fidelity(scale_change))),
        (Bits::Int4, false) => {
            // The change of the lowest and of the highest value of the grid, in steps.
            let mut change = 0.0_f64;
            for index in 0..matrix.scales().len() {
                let params = matrix.qparams(index);
                let (scale, rounded) = (f64::from(params.scale), f16_scale(matrix, index).to_f64());
                let minimum = minimum(matrix, index).to_f64();
                for code in [0.0, 15.0] {
                    let exact = scale * (code - 8.0 - f64::from(params.zero_point));
                    change = change.max((rounded * code + minimum - exact).abs() / scale);
                }
            }
            match change {
                0.0 => Ok((TensorKind::Q4_1, Fidelity::Exact)),
                change => Ok((TensorKind::Q4_1, Fidelity::OffsetRounded { max_change_in_steps: change })),
            }
        }
    }
}

fn scale_fidelity(change: f64) -> Fidelity {
    match change {
        0.0 => Fidelity::Exact,
        change => Fidelity::ScaleRounded { max_relative_change: change },
    }
}
