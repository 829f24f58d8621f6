//! The tensors of a checkpoint, float or quantized, one at a time.

use std::collections::BTreeMap;

use serde_json::Value;
use slm_checkpoint::Checkpoint;
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, RopeScaling, TOKEN_TABLE, expected_tensors};
use slm_quant_core::{ActivationQuant, QuantizedMatrix};

use crate::Result;

/// A checkpoint that is being exported.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// A tensor in its stored form.
#[derive(Debug)]
pub(crate) enum Stored {
    Float(Vec<f32>),
    Quantized(QuantizedMatrix, ActivationQuant),
}

impl<'a> Source<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Self {
        let tensors = expected_tensors(&checkpoint.config().model).into_iter();
        Self { checkpoint, shapes: tensors.map(|tensor| (tensor.name, tensor.shape)).collect() }
    }

    pub(crate) fn model(&self) -> &ModelConfig {
        &self.checkpoint.config().model
    }

    /// The shape of the checkpoint's tensor `name`, rows before columns. A tied head has the shape of the embedding.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let name = if name == HEAD && !self.shapes.contains_key(HEAD) { EMBED_TOKENS } else { name };
        self.shapes.get(name).cloned().unwrap_or_default()
    }

    /// Reads the checkpoint's tensor `name`.
    pub(crate) fn read(&self, name: &str) -> Result<Stored> {
        let tied = self.model().tie_word_embeddings;
        let layer = match name {
            EMBED_TOKENS | HEAD if tied => LM_HEAD,
            EMBED_TOKENS => TOKEN_TABLE,
            name => name.strip_suffix(".weight").unwrap_or(name),
        };
        if let Some((matrix, activation)) = self.checkpoint.read_quantized(layer)? {
            return Ok(Stored::Quantized(matrix, activation));
        }
        let name = if name == HEAD && tied { EMBED_TOKENS } else { name };
        Ok(Stored::Float(self.checkpoint.tensors().read_f32(name)?))
    }

    /// Returns `true` if a rotary embedding of the model changes where a sequence outgrows the context of pretraining.
    pub(crate) fn has_long_rope(&self) -> bool {
        let layers = self.model().layers();
        let mut scalings = layers.iter().filter_map(|layer| layer.rotary.as_ref()?.scaling.as_ref());
        scalings.any(|scaling| matches!(scaling, RopeScaling::LongRope { .. }))
    }

    /// Hugging Face's name of the architecture from which the model was imported, from anywhere in its lineage.
    pub(crate) fn hugging_face_architecture(&self) -> Option<&str> {
        let mut lineage = self.checkpoint.config().lineage.as_ref();
        while let Some(value) = lineage {
            if let Some(name) = value.get("architecture").and_then(Value::as_str) {
                return Some(name);
            }
            lineage = value.get("source");
        }
        None
    }
}

/// The checkpoint's name of the head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Dequantizes row `row` as `scale * (code - zero_point)` in f32, as slm does everywhere.
pub(crate) fn dequantize_row(matrix: &QuantizedMatrix, row: usize, out: &mut Vec<f32>) {
    let width = matrix.group_width();
    for column in 0..matrix.cols() {
        let params = matrix.qparams(matrix.scale_index(row, column / width));
        let code = i32::from(matrix.code(row, column));
        out.push((code - params.zero_point) as f32 * params.scale);
    }
}
