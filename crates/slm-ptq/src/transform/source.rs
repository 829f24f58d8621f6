//! The tensors of a changed model.

use half::f16;
use slm_checkpoint::{Checkpoint, TensorType, holds_exactly};
use slm_model::{EMBED_POSITIONS, EMBED_TOKENS, LM_HEAD, SourceError, TensorSource};

use super::Transforms;
use super::apply::rotate_rows;
use crate::Result;

/// The largest value of F16.
const F16_MAX: f32 = 65_504.0;

/// Reads the tensors of a float checkpoint one at a time, as [`Transforms`] change them. Each may be read as often as
/// needed. Unchanged tensors are read exactly.
#[derive(Debug)]
pub struct TransformedSource<'a> {
    checkpoint: &'a Checkpoint,
    transforms: &'a Transforms,
    /// Rounds values to the type in which they are stored.
    rounds: bool,
}

impl<'a> TransformedSource<'a> {
    /// A source of the tensors of `checkpoint`, changed by `transforms`, which must be of this checkpoint.
    pub fn new(checkpoint: &'a Checkpoint, transforms: &'a Transforms) -> Self {
        Self { checkpoint, transforms, rounds: false }
    }

    /// The same source with the values that a checkpoint stores. A rotated embedding of a 16-bit model is rounded to F16: the
    /// model's own type rounds more than that, and in 32 bits the embedding would be twice as large.
    pub fn as_stored(self) -> Self {
        Self { rounds: true, ..self }
    }

    /// Name under which a tensor is stored: that of the embedding for a tied head.
    fn stored<'n>(&self, name: &'n str) -> &'n str {
        let is_head = name.strip_suffix(".weight") == Some(LM_HEAD);
        if is_head && self.checkpoint.config().model.tie_word_embeddings { EMBED_TOKENS } else { name }
    }

    /// Returns `true` if there is a tensor `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.checkpoint.tensors().shape(self.stored(name)).is_some()
    }

    /// Width of the residual stream.
    pub(super) fn hidden_size(&self) -> usize {
        self.checkpoint.config().model.hidden_size
    }

    /// Reads the tensor `name`, row-major.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a tensor that cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name);
        let tensors = self.checkpoint.tensors();
        let mut values = tensors.read_f32(stored).map_err(slm_checkpoint::Error::from)?;
        if !self.transforms.is_none() {
            let cols = tensors.shape(stored).and_then(<[usize]>::last).copied().unwrap_or(1);
            self.change(name, &mut values, cols);
        }
        if self.rounds && self.is_rotated_half(name) && values.iter().all(|value| value.abs() <= F16_MAX) {
            values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
        }
        Ok(values)
    }

    /// Reads the bias of the norm or linear layer `path`; `None` if it has none.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub(super) fn read_bias(&self, path: &str) -> Result<Option<Vec<f32>>> {
        let name = format!("{path}.bias");
        self.has(&name).then(|| self.read_f32(&name)).transpose()
    }

    /// The type that holds tensor `name` exactly: that of the file if nothing changes it, otherwise the smallest.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32), if the tensor must be read to find out.
    pub fn float_type(&self, name: &str) -> Result<TensorType> {
        let halves = [TensorType::BF16, TensorType::F16];
        match self.checkpoint.tensors().dtype(self.stored(name)) {
            Some(dtype) if self.transforms.is_none() && halves.contains(&dtype) => Ok(dtype),
            _ => {
                let values = self.read_f32(name)?;
                let small = halves.into_iter().find(|&dtype| holds_exactly(dtype, &values));
                Ok(small.unwrap_or(TensorType::F32))
            }
        }
    }

    /// Returns `true` for an embedding that is rotated, and that the file stores in 16 bits.
    fn is_rotated_half(&self, name: &str) -> bool {
        let dtype = self.checkpoint.tensors().dtype(self.stored(name));
        [EMBED_TOKENS, EMBED_POSITIONS].contains(&name)
            && self.transforms.residual.is_some()
            && dtype.is_some_and(|dtype| [TensorType::BF16, TensorType::F16].contains(&dtype))
    }

    fn change(&self, name: &str, values: &mut [f32], cols: usize) {
        let transforms = self.transforms;
        if [EMBED_TOKENS, EMBED_POSITIONS].contains(&name) {
            if let Some(rotation) = &transforms.residual {
                rotate_rows(values, cols, rotation);
            }
            return;
        }
        let Some((path, part)) = name.rsplit_once('.') else { return };
        if path.ends_with("norm") {
            self.change_norm(path, part, values);
            return;
        }
        let change = transforms.linear(path);
        match part {
            "weight" => change.weight(values, [values.len() / cols.max(1), cols]),
            _ => change.bias(values),
        }
    }

    fn change_norm(&self, path: &str, part: &str, values: &mut [f32]) {
        let transforms = self.transforms;
        if let Some(norm) = transforms.norms.get(path) {
            match (part, &norm.bias) {
                ("bias", Some(bias)) => {
                    values.iter_mut().zip(bias).for_each(|(value, &bias)| *value = bias as f32);
                    if let Some(rotation) = &transforms.residual {
                        rotate_rows(values, values.len(), rotation);
                    }
                }
                _ => values.fill(1.0),
            }
        }
        if let Some(factors) = transforms.smoothing.get(path) {
            let divide = |(value, factor): (&mut f32, &f64)| *value = (f64::from(*value) / factor) as f32;
            values.iter_mut().zip(factors).for_each(divide);
        }
    }
}

impl TensorSource for TransformedSource<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint.tensors().shape(self.stored(name)).map(<[usize]>::to_vec)
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.checkpoint.tensors().check_shape(self.stored(name), expected_shape)?;
        Ok(self.read_f32(name)?)
    }
}

impl Transforms {
    /// Finds and adds the factors of smoothing for the layers of `checkpoint` as changed so far, whose inputs have the
    /// maxima `maxima`. With `smooths_head` that includes the head, which becomes a separate layer.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for weights that cannot be read.
    pub(crate) fn smooth(
        &mut self,
        checkpoint: &Checkpoint,
        maxima: &super::ChannelMaxima,
        strength: f64,
        smooths_head: bool,
    ) -> Result<()> {
        use super::smoothing::{column_maxima, factors};

        let mut found = Vec::new();
        let source = TransformedSource::new(checkpoint, self);
        for (divided, readers) in smoothed(&self.model, smooths_head) {
            let Some(seen) = readers.first().and_then(|reader| maxima.get(reader)) else { continue };
            let mut activations: Vec<f64> = seen.iter().map(|&value| f64::from(value)).collect();
            let mut weights = vec![0.0; activations.len()];
            for reader in &readers {
                column_maxima(&source.read_f32(&format!("{reader}.weight"))?, &mut weights);
            }
            if divided.ends_with("v_proj") {
                activations = self.of_kv_heads(&activations);
                weights = self.of_kv_heads(&weights);
            }
            found.push((divided, factors(&activations, &weights, strength)));
        }
        self.smoothing.extend(found);
        self.strength = Some(strength);
        // The factors of a tied head do not apply to the embedding, so the head is untied.
        self.model.tie_word_embeddings &= !smooths_head;
        Ok(())
    }

    /// The largest value of each KV head among its query heads.
    fn of_kv_heads(&self, values: &[f64]) -> Vec<f64> {
        let (width, group) = (self.model.head_dim.max(1), self.model.heads_per_kv_head().max(1));
        let most =
            |heads: &[f64], at: usize| heads.chunks_exact(width).map(|head| head[at]).fold(0.0, f64::max);
        values
            .chunks_exact(width * group)
            .flat_map(|heads| (0..width).map(move |at| most(heads, at)))
            .collect()
    }
}

/// The norms and layers whose outputs can be divided by factors, and the layers that read them.
pub(super) fn smoothed(model: &slm_model::ModelConfig, head: bool) -> Vec<(String, Vec<String>)> {
    let mut pairs = Vec::new();
    for (index, layer) in model.layers().iter().enumerate() {
        let path = |part: &str| format!("layers.{index}.{part}");
        let gated = layer.mlp.is_gated();
        if layer.norm_placement.on_input() {
            let readers = ["q_proj", "k_proj", "v_proj"].map(|name| path(&format!("self_attn.{name}")));
            pairs.push((path("input_norm"), readers.to_vec()));
            let readers = gated.then(|| path("mlp.gate_proj")).into_iter().chain([path("mlp.up_proj")]);
            pairs.push((path("post_attention_norm"), readers.collect()));
        }
        pairs.push((path("self_attn.v_proj"), vec![path("self_attn.o_proj")]));
        // Without a gate the activation function is between the two.
        if gated {
            pairs.push((path("mlp.up_proj"), vec![path("mlp.down_proj")]));
        }
    }
    if head {
        pairs.push((slm_model::FINAL_NORM.to_owned(), vec![LM_HEAD.to_owned()]));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use slm_model::expected_tensors;

    #[test]
    fn every_tensor_of_a_model_is_known() {
        let model = slm_model::ModelConfig::new(10, 8, 16, 1, 2, 32);
        let paths: Vec<String> = smoothed(&model, true)
            .into_iter()
            .flat_map(|(path, readers)| [vec![path], readers].concat())
            .collect();
        let mut untied = model.clone();
        untied.tie_word_embeddings = false;
        let names: Vec<String> = expected_tensors(&untied).into_iter().map(|tensor| tensor.name).collect();
        for path in paths {
            assert!(names.contains(&format!("{path}.weight")), "{path}");
        }
    }
}
