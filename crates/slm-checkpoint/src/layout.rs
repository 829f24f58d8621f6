//! Names and types of the tensors in `model.safetensors`.

use safetensors::Dtype;
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, TOKEN_TABLE, expected_tensors};
use slm_quant_core::QuantScheme;
use slm_store::layer::{QuantizedForm, check_specs, names};

use crate::{Result, TensorFile, TensorSpec};

/// The tensors of a model's weight file, in canonical order.
///
/// Float tensors have the canonical names of [`expected_tensors`] and type F32, or F16 or BF16 if the model was
/// imported in that type. For a quantized linear layer `X`, the file contains the tensors of [`slm_store::layer`]
/// instead of `X.weight`.
///
/// A bias is stored as `X.bias`. A tied head has no tensor. There are two ways to quantize it: as a separate layer,
/// after which the configuration no longer sets `tie_word_embeddings`; or as a quantized table that serves both head
/// and embedding, which is stored as the layer `lm_head`, without `embed_tokens.weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
    tied: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Canonical name of the float tensor.
    name: String,
    shape: Vec<usize>,
    form: TensorForm,
}

/// A stored tensor of a model, float or quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored<'a> {
    /// The float tensor of this name.
    Float(&'a str),
    /// The quantized weight of this layer.
    Quantized(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TensorForm {
    /// A tensor that is always float, with its type.
    Float(Dtype),
    /// The token embedding, currently float with this type.
    Table(Dtype),
    /// A linear weight, currently float with this type.
    Linear(Dtype),
    /// A quantized linear weight.
    Quantized(QuantizedForm),
}

impl Layout {
    /// Creates the layout of a float model.
    pub fn new(config: &ModelConfig) -> Self {
        let entry = |tensor: slm_model::ExpectedTensor| Entry {
            form: match tensor.linear_weight {
                true => TensorForm::Linear(Dtype::F32),
                false if tensor.name == EMBED_TOKENS => TensorForm::Table(Dtype::F32),
                false => TensorForm::Float(Dtype::F32),
            },
            name: tensor.name,
            shape: tensor.shape,
        };
        let entries = expected_tensors(config).into_iter().map(entry).collect();
        Self { entries, tied: config.tie_word_embeddings }
    }

    /// Stores the linear layer `layer`, or the token embedding (whose path is [`TOKEN_TABLE`]), quantized. In a tied
    /// model only the head can be quantized, and the embedding with it. Returns `[rows, cols]`, or `None` if the model
    /// has no such layer or it is already quantized.
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
        let tied = self.tied;
        let found = self.entries.iter_mut().find(|entry| match entry.form {
            TensorForm::Linear(_) => entry.name == name,
            TensorForm::Table(_) => layer == if tied { LM_HEAD } else { TOKEN_TABLE },
            TensorForm::Float(_) | TensorForm::Quantized(_) => false,
        });
        let Some(entry) = found else { return Ok(None) };
        let [rows, cols] = entry.shape[..] else { return Ok(None) };
        entry.form = TensorForm::Quantized(QuantizedForm::new([rows, cols], scheme, static_input)?);
        entry.name = name;
        Ok(Some([rows, cols]))
    }

    /// Returns the names of the tensors that are stored as floats.
    pub fn float_names(&self) -> Vec<String> {
        let floats = self.entries.iter().filter(|entry| !matches!(entry.form, TensorForm::Quantized(_)));
        floats.map(|entry| entry.name.clone()).collect()
    }

    /// Sets the type of each float tensor to that which `dtype_of` returns for its name: F32, F16 or BF16. For any
    /// other result, the type does not change.
    pub fn store_floats_as(&mut self, mut dtype_of: impl FnMut(&str) -> Option<Dtype>) {
        for entry in &mut self.entries {
            let (TensorForm::Float(dtype) | TensorForm::Table(dtype) | TensorForm::Linear(dtype)) =
                &mut entry.form
            else {
                continue;
            };
            if let Some(found @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) = dtype_of(&entry.name) {
                *dtype = found;
            }
        }
    }

    /// Returns the tensors and quantized layers, in canonical order.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        self.entries.iter().map(|entry| match entry.form {
            TensorForm::Quantized(_) => Stored::Quantized(entry.layer()),
            TensorForm::Float(_) | TensorForm::Linear(_) | TensorForm::Table(_) => Stored::Float(&entry.name),
        })
    }

    /// Returns the stored tensors.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.entries.iter().flat_map(Entry::specs).collect()
    }

    /// Checks that `file` contains exactly these tensors, with these shapes and types. No tensor is read.
    pub(crate) fn check(&self, file: &TensorFile, remedy: &str) -> Result<()> {
        Ok(check_specs(file, &self.specs(), remedy)?)
    }
}

impl Entry {
    /// Returns the name of the layer that the tensor is the weight of.
    fn layer(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    fn specs(&self) -> Vec<TensorSpec> {
        let float = |dtype| vec![TensorSpec::new(&self.name, dtype, self.shape.as_slice())];
        match self.form {
            TensorForm::Quantized(form) => form.specs(self.layer()),
            TensorForm::Float(dtype) | TensorForm::Table(dtype) | TensorForm::Linear(dtype) => float(dtype),
        }
    }
}
