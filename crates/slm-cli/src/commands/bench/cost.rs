//! Size of a model, and the cost of processing a token.

use std::collections::BTreeSet;

use burn::tensor::{DType, Device};
use serde::Serialize;
use slm_kernels::{KernelKind, measure_peak_flops, measure_peak_ops};
use slm_model::{EMBED_TOKENS, LM_HEAD, Transformer, expected_tensors};
use slm_nn::NamedLinears;

use crate::error::Result;

/// A kernel and the number of layers that use it.
#[derive(Serialize)]
pub(super) struct KernelUse {
    pub(super) kernel: String,
    pub(super) layers: usize,
}

/// Number of bytes that one layer reads for a token, and its kernel.
#[derive(Serialize)]
pub(super) struct LayerCost {
    name: String,
    rows: usize,
    cols: usize,
    bytes: u64,
    kernel: String,
}

/// The arithmetic that a model's products use, whose peak limits the speed of prompts.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Arithmetic {
    Integer,
    Float,
}

impl Arithmetic {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Float => "float",
        }
    }

    /// Measures the peak of this machine in operations per second; `None` without vector instructions for it.
    pub(super) fn measure_peak(self, kernel: KernelKind, repeats: usize) -> Result<Option<f64>> {
        Ok(match self {
            Self::Integer => measure_peak_ops(kernel, repeats)?,
            Self::Float => measure_peak_flops(kernel, repeats)?,
        })
    }
}

/// Cost of processing a token.
pub(super) struct Cost {
    /// The scheme of the quantized layers and of a quantized embedding, or the type of float layers if nothing is
    /// quantized; `mixed` if there are several.
    pub(super) form: String,
    /// Integer if any layer is quantized.
    pub(super) arithmetic: Arithmetic,
    pub(super) layers: Vec<LayerCost>,
    /// Number of weight bytes read for a decoded token: every linear layer and the head once.
    pub(super) bytes_per_token: u64,
    /// Size in bytes of all weights, including embeddings and norms.
    pub(super) bytes_held: u64,
    pub(super) body_weights: u64,
    pub(super) head_weights: u64,
}

impl Cost {
    pub(super) fn of(model: &Transformer, device: &Device) -> Self {
        let mut cost = Self {
            form: String::new(),
            arithmetic: Arithmetic::Float,
            layers: Vec::new(),
            bytes_per_token: 0,
            bytes_held: 0,
            body_weights: 0,
            head_weights: 0,
        };
        let (mut schemes, mut types) = (BTreeSet::new(), BTreeSet::new());
        model.for_each_linear(&mut |name, linear| {
            let (rows, cols) = (linear.out_features(), linear.in_features());
            let weights = (rows * cols) as u64;
            let (bytes, kernel) = match linear.packed() {
                Some(packed) => {
                    cost.arithmetic = Arithmetic::Integer;
                    schemes.insert(packed.matrix().scheme().to_string());
                    (packed.matrix().byte_size() as u64, packed.execution(device).to_string())
                }
                None => {
                    let dtype = linear.float_dtype().unwrap_or(DType::F32);
                    types.insert(format!("{dtype:?}").to_lowercase());
                    (weights * dtype.size() as u64, "float".to_owned())
                }
            };
            cost.bytes_per_token += bytes;
            *if name == LM_HEAD { &mut cost.head_weights } else { &mut cost.body_weights } += weights;
            cost.layers.push(LayerCost { name: name.to_owned(), rows, cols, bytes, kernel });
        });
        // A quantized table is either among the layers or counted here.
        let table = model.packed_embedding().map(|table| table.matrix());
        schemes.extend(table.map(|table| table.scheme().to_string()));
        let table = table.map_or(0, |table| table.byte_size() as u64);
        let mut forms = if schemes.is_empty() { types } else { schemes };
        cost.form = match (forms.pop_first(), forms.is_empty()) {
            (None, _) => "f32".to_owned(),
            (Some(only), true) => only,
            (Some(_), false) => "mixed".to_owned(),
        };
        let others = expected_tensors(model.config()).into_iter().filter(|tensor| {
            !(tensor.linear_weight || tensor.name == EMBED_TOKENS && model.embedding_is_quantized())
        });
        let value_bytes = |name: &str| match name {
            EMBED_TOKENS => model.embedding_dtype().size() as u64,
            _ => 4,
        };
        let others =
            others.map(|tensor| value_bytes(&tensor.name) * tensor.shape.iter().product::<usize>() as u64);
        let others = others.sum::<u64>();
        cost.bytes_held = cost.bytes_per_token + others + table;
        if model.head_is_tied() {
            let config = model.config();
            cost.head_weights = (config.vocab_size * config.hidden_size) as u64;
            cost.bytes_per_token += cost.head_weights * value_bytes(EMBED_TOKENS);
        }
        cost
    }

    /// The kernels in use, in layer order.
    pub(super) fn kernels(&self) -> Vec<KernelUse> {
        let mut kernels: Vec<KernelUse> = Vec::new();
        for LayerCost { kernel, .. } in &self.layers {
            match kernels.iter_mut().find(|used| used.kernel == *kernel) {
                Some(used) => used.layers += 1,
                None => kernels.push(KernelUse { kernel: kernel.clone(), layers: 1 }),
            }
        }
        kernels
    }
}
