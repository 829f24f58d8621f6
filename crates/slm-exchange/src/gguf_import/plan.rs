//! The mapping from tensors of a file to tensors of the model.

use std::collections::{BTreeMap, BTreeSet};

use slm_checkpoint::{Layout, TensorType, layer_of};
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, TOKEN_TABLE, expected_tensors};
use slm_quant_core::{QuantScheme, QuantizedMatrix};

use super::codes;
use crate::gguf::{GgufFile, TensorKind, Value, dequantize};
use crate::llama_cpp::arch::Arch;
use crate::llama_cpp::keys::OWN;
use crate::llama_cpp::{names, rows};
use crate::{Error, Result};

/// Attention sinks below this value have no weight.
const NO_SINK: f32 = -1e29;

/// A tensor of the model.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) is_linear: bool,
    /// The tensor of the file, and the first row that belongs to this tensor.
    source: String,
    first_row: usize,
    order: Option<Vec<usize>>,
    pub(super) kind: TensorKind,
    pub(super) form: StoredForm,
}

/// The form of a tensor in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredForm {
    Float,
    Codes(QuantScheme),
}

/// All tensors of a model.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tensors: Vec<Planned>,
    arch: Arch,
}

impl Plan {
    pub(super) fn new(file: &GgufFile, arch: Arch, model: &ModelConfig, dequantize: bool) -> Result<Self> {
        let mut plan = Self { tensors: Vec::new(), arch };
        for tensor in expected_tensors(model) {
            plan.add(file, model, tensor)?;
        }
        plan.refuse_others(file)?;
        if !dequantize {
            plan.choose_codes(file)?;
        }
        Ok(plan)
    }

    fn add(&mut self, file: &GgufFile, model: &ModelConfig, tensor: slm_model::ExpectedTensor) -> Result<()> {
        let arch = self.arch;
        let mut source = names::to_gguf(&tensor.name).unwrap_or_default();
        let (mut first_row, mut total, mut order) = (0, tensor.shape[0], None);
        if let Some((index, part, kind)) = names::split(&tensor.name) {
            let (q, kv) = (model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim);
            let fused = match part {
                "self_attn.q_proj" => Some(0),
                "self_attn.k_proj" => Some(q),
                "self_attn.v_proj" => Some(q + kv),
                _ => None,
            };
            // Some files store three tensors although their architecture fuses them.
            let separate = file.tensor(&names::in_layer(index, "attn_q", "weight")).is_some();
            if let (true, Some(row), false) = (arch.fuses_qkv(), fused, separate) {
                source = names::in_layer(index, names::QKV, kind);
                (first_row, total) = (row, q + 2 * kv);
            }
            if arch.fuses_gate_up() && matches!(part, "mlp.gate_proj" | "mlp.up_proj") {
                source = names::in_layer(index, "ffn_up", kind);
                first_row = if part == "mlp.up_proj" { model.intermediate_size } else { 0 };
                total = 2 * model.intermediate_size;
            }
            if arch.interleaves_heads() && matches!(part, "self_attn.q_proj" | "self_attn.k_proj") {
                let dims = model.layer(index).rotary.and_then(|rotary| rotary.dims).unwrap_or(model.head_dim);
                order = Some(rows::inverse(&rows::interleaved(tensor.shape[0], model.head_dim, dims)));
            }
            if arch == Arch::StableLm && model.parallel_residual && part == "post_attention_norm" {
                source = names::in_layer(index, "attn_norm", kind);
            }
        }
        let path = file.path();
        let Some(entry) = file.tensor(&source) else {
            let problem = format!("tensor {source:?} is missing, and the model is {}", self.arch.name());
            return Err(Error::damaged(path, tensor.name, problem));
        };
        let mut expected = tensor.shape.clone();
        expected[0] = total;
        if entry.shape != expected {
            let problem = format!("has shape {:?}, but the metadata asks for {expected:?}", entry.shape);
            return Err(Error::damaged(path, format!("tensor {source:?}"), problem));
        }
        self.tensors.push(Planned {
            name: tensor.name,
            shape: tensor.shape,
            is_linear: tensor.linear_weight,
            source,
            first_row,
            order,
            kind: entry.kind,
            form: StoredForm::Float,
        });
        Ok(())
    }

    /// Rejects tensors that the model does not use.
    fn refuse_others(&self, file: &GgufFile) -> Result<()> {
        let used: BTreeSet<&str> = self.tensors.iter().map(|tensor| tensor.source.as_str()).collect();
        let constants = [names::ROPE_FREQS, names::ROPE_LONG, names::ROPE_SHORT];
        for tensor in file.tensors() {
            let name = tensor.name.as_str();
            if used.contains(name) || constants.contains(&name) {
                continue;
            }
            let is_sink = name.ends_with(".attn_sinks.weight");
            if is_sink && dequantize(tensor.kind, &file.read(tensor)?).iter().all(|&sink| sink < NO_SINK) {
                continue;
            }
            let what = format!(
                "tensor {name:?} is not part of any known model of the architecture {}",
                self.arch.name()
            );
            return Err(Error::unsupported(
                file.path(),
                what,
                "import the model from its Hugging Face directory",
            ));
        }
        Ok(())
    }

    /// Keeps codes for which slm has a scheme.
    fn choose_codes(&mut self, file: &GgufFile) -> Result<()> {
        for tensor in &mut self.tensors {
            let can_be_codes = tensor.is_linear || tensor.name == EMBED_TOKENS;
            let Some(scheme) = codes::scheme(tensor.kind).filter(|_| can_be_codes) else { continue };
            if scheme.mapping.is_symmetric() || codes::are_codes(tensor.kind, &part(file, tensor)?) {
                tensor.form = StoredForm::Codes(scheme);
            }
        }
        Ok(())
    }

    /// The layout of the checkpoint.
    pub(super) fn layout(&self, file: &GgufFile, model: &ModelConfig) -> Result<Layout> {
        let mut layout = Layout::new(model);
        layout.store_floats_as(|name| match self.tensors.iter().find(|tensor| tensor.name == name)?.kind {
            TensorKind::F16 => Some(TensorType::F16),
            TensorKind::Bf16 => Some(TensorType::BF16),
            _ => None,
        });
        for tensor in &self.tensors {
            if let StoredForm::Codes(scheme) = tensor.form {
                let layer = match tensor.name.as_str() {
                    EMBED_TOKENS if model.tie_word_embeddings => LM_HEAD,
                    EMBED_TOKENS => TOKEN_TABLE,
                    name => layer_of(name),
                };
                let declared = layout.quantize(layer, scheme, false);
                declared.map_err(|error| Error::damaged(file.path(), &tensor.source, error.to_string()))?;
            }
        }
        Ok(layout)
    }

    /// The values of a float tensor.
    pub(super) fn floats(&self, file: &GgufFile, tensor: &Planned) -> Result<Vec<f32>> {
        let values = dequantize(tensor.kind, &part(file, tensor)?);
        let Some(order) = &tensor.order else { return Ok(values) };
        let width = if tensor.shape.len() > 1 { tensor.shape[1] } else { 1 };
        Ok(order.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect())
    }

    /// The codes and scales of a tensor.
    pub(super) fn matrix(
        &self,
        file: &GgufFile,
        tensor: &Planned,
        scheme: QuantScheme,
    ) -> Result<QuantizedMatrix> {
        let shape = [tensor.shape[0], tensor.shape[1]];
        let row = |row: usize| tensor.order.as_ref().map_or(row, |order| order[row]);
        let damaged =
            |problem: String| Error::damaged(file.path(), format!("tensor {:?}", tensor.source), problem);
        codes::matrix(tensor.kind, &part(file, tensor)?, shape, scheme, row)
            .map_err(|error| damaged(error.to_string()))?
            .ok_or_else(|| damaged("changed during the import".to_owned()))
    }

    /// A summary of the conversions, one line for each type of tensor.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for tensor in &self.tensors {
            let what = match (tensor.form, tensor.kind) {
                (StoredForm::Codes(scheme), kind) if scheme.mapping.is_symmetric() => {
                    format!("{kind}: the same codes and scales, INT{} in groups of 32", scheme.bits.count())
                }
                (StoredForm::Codes(_), kind) => format!(
                    "{kind}: the same codes and scales, INT4 in groups of 32, with zero points for offsets, all of                      which are multiples of the scale as F16 rounds them"
                ),
                (StoredForm::Float, kind) if kind.is_quantized() => {
                    format!("{kind}: dequantized to floats, as ggml computes them")
                }
                (StoredForm::Float, kind) => format!("{kind}: kept as floats"),
            };
            *counts.entry(what).or_default() += 1;
        }
        counts.into_iter().map(|(what, count)| format!("{count} tensors of {what}")).collect()
    }

    /// Returns Hugging Face's name of the architecture: the one that slm recorded, otherwise the first one that
    /// llama.cpp converts to this architecture.
    pub(super) fn hugging_face(&self, file: &GgufFile) -> String {
        let lineage = file.get(&format!("{OWN}.lineage")).and_then(Value::as_str);
        let mut lineage: Option<serde_json::Value> = lineage.and_then(|text| serde_json::from_str(text).ok());
        while let Some(value) = lineage {
            if let Some(name) = value["architecture"].as_str() {
                return name.to_owned();
            }
            lineage = value.get("source").cloned();
        }
        self.arch.hugging_face().to_owned()
    }
}

/// Reads the rows of the file's tensor that belong to this tensor, in file order.
fn part(file: &GgufFile, tensor: &Planned) -> Result<Vec<u8>> {
    let Some(entry) = file.tensor(&tensor.source) else {
        return Err(Error::damaged(file.path(), &tensor.source, "is missing"));
    };
    let data = file.read(entry)?;
    let row_bytes = data.len() / entry.shape[0];
    let start = tensor.first_row * row_bytes;
    match start == 0 && tensor.shape[0] == entry.shape[0] {
        true => Ok(data),
        false => Ok(data[start..start + tensor.shape[0] * row_bytes].to_vec()),
    }
}
