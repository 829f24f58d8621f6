//! Names and forms of the tensors in `model.safetensors`.

use safetensors::Dtype;
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, TOKEN_TABLE, expected_tensors};
use slm_quant_core::QuantScheme;
use slm_store::layer::{QuantizedForm, check_specs, names};

use crate::{Result, TensorFile, TensorSpec};

/// The tensors of a model's weight file, in canonical order.
///
/// Float tensors have the canonical names of [`expected_tensors`] and are F32, or F16 or BF16 where a model came in that
/// type. Of a quantized linear layer `X` the file holds, instead of `X.weight`, the tensors of [`slm_store::layer`].
///
/// A bias stays `X.bias`. A tied head has no tensor. Quantizing it makes it a layer of its own, and the
/// configuration no longer says `tie_word_embeddings`; or else one quantized table serves head and embedding, which
/// is stored as the layer `lm_head`, and there is no `embed_tokens.weight`.
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

/// One tensor of a model in the form in which it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored<'a> {
    /// The float tensor of that name.
    Float(&'a str),
    /// The quantized weight of that layer.
    Quantized(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TensorForm {
    /// A float tensor of this type that can only be float.
    Float(Dtype),
    /// The token embedding, as yet float and of this type.
    Table(Dtype),
    /// A linear weight, as yet float and of this type.
    Linear(Dtype),
    /// A linear weight, quantized.
    Quantized(QuantizedForm),
}

impl Layout {
    /// A float model.
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

    /// Stores the linear layer `layer` quantized, or the token embedding, whose path is [`TOKEN_TABLE`]. Of a tied
    /// model only the head can be quantized, and then the embedding with it. Returns the `[rows, cols]`; `None` if the
    /// model has no such layer, or it is quantized already.
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

    /// Names of the tensors that are stored as floats.
    pub fn float_names(&self) -> Vec<String> {
        let floats = self.entries.iter().filter(|entry| !matches!(entry.form, TensorForm::Quantized(_)));
        floats.map(|entry| entry.name.clone()).collect()
    }

    /// Stores each float tensor in the type that `dtype_of` gives for its name: F32, F16 or BF16. One for which it gives
    /// another or none stays as it is.
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

    /// The tensors and quantized layers, in canonical order.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        self.entries.iter().map(|entry| match entry.form {
            TensorForm::Quantized(_) => Stored::Quantized(entry.layer()),
            TensorForm::Float(_) | TensorForm::Linear(_) | TensorForm::Table(_) => Stored::Float(&entry.name),
        })
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
    /// The layer whose weight it is.
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
