//! Which tensors `model.safetensors` holds, and in which form.

use safetensors::Dtype;
use slm_model::{ModelConfig, expected_tensors};
use slm_quant_core::QuantScheme;
use slm_store::layer::{QuantizedForm, check_specs, names};

use crate::{Result, TensorFile, TensorSpec};

/// The tensors of a model's weight file, in canonical order.
///
/// Float tensors have the canonical names of [`expected_tensors`] and are F32. Of a quantized linear layer
/// `X` the file holds, instead of `X.weight`, the tensors of [`slm_store::layer`].
///
/// A bias stays `X.bias`, F32. A tied head has no tensor. Quantizing it makes it a layer of its own, so that
/// the configuration no longer says `tie_word_embeddings`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Canonical name of the float tensor.
    name: String,
    shape: Vec<usize>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// A float tensor that can only be float.
    Float,
    /// A linear weight, as yet float.
    Linear,
    /// A linear weight, quantized.
    Quantized(QuantizedForm),
}

impl Layout {
    /// A float model.
    pub fn new(config: &ModelConfig) -> Self {
        let entry = |tensor: slm_model::ExpectedTensor| Entry {
            name: tensor.name,
            shape: tensor.shape,
            form: if tensor.linear_weight { Form::Linear } else { Form::Float },
        };
        Self { entries: expected_tensors(config).into_iter().map(entry).collect() }
    }

    /// Stores the linear layer `layer` quantized. Returns its `[rows, cols]`; none where the model has no
    /// such layer, or it is quantized already.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::GroupSize`] for a group size of zero or above the width.
    pub fn quantize(
        &mut self,
        layer: &str,
        scheme: QuantScheme,
        static_input: bool,
    ) -> Result<Option<[usize; 2]>, slm_quant_core::Error> {
        let name = names::weight(layer);
        let found = self.entries.iter_mut().find(|entry| entry.name == name && entry.form == Form::Linear);
        let Some(entry) = found else { return Ok(None) };
        let [rows, cols] = entry.shape[..] else { return Ok(None) };
        entry.form = Form::Quantized(QuantizedForm::new([rows, cols], scheme, static_input)?);
        Ok(Some([rows, cols]))
    }

    /// The tensors as they are stored.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.entries.iter().flat_map(Entry::specs).collect()
    }

    /// Makes sure that `file` holds these tensors and no others, with these shapes and types. No tensor is
    /// read.
    pub(crate) fn check(&self, file: &TensorFile, remedy: &str) -> Result<()> {
        Ok(check_specs(file, &self.specs(), remedy)?)
    }
}

impl Entry {
    fn specs(&self) -> Vec<TensorSpec> {
        match self.form {
            Form::Quantized(form) => form.specs(self.name.trim_end_matches(".weight")),
            Form::Float | Form::Linear => {
                vec![TensorSpec::new(&self.name, Dtype::F32, self.shape.as_slice())]
            }
        }
    }
}
