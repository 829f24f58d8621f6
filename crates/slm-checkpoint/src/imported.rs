//! The quantized layers of a model that another program wrote.

use std::collections::BTreeSet;

use slm_model::TOKEN_TABLE;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, QuantScheme, QuantizationType, QuantizedMatrix,
};
use slm_store::{
    LayerMetadata, Lineage, MetadataBuilder, QuantizationMetadata, QuantizationMode, SkippedLayer,
    WeightError,
};

use crate::{CheckpointWriter, Result};

/// Collects the metadata of layers whose integers are copied from a file of another program.
///
/// The float weights and hence the quantization errors are unknown: errors are NaN.
#[derive(Debug)]
pub struct ImportedLayers {
    quantization_type: QuantizationType,
    granularity: ActivationGranularity,
    layers: Vec<LayerMetadata>,
    embedding: Option<LayerMetadata>,
    skipped: Vec<SkippedLayer>,
}

impl ImportedLayers {
    /// Starts with the quantization of inputs. `granularity` applies to dynamic inputs.
    pub fn new(quantization_type: QuantizationType, granularity: ActivationGranularity) -> Self {
        Self { quantization_type, granularity, layers: Vec::new(), embedding: None, skipped: Vec::new() }
    }

    /// Writes the weight of the layer `name`, or of the embedding, whose name is [`TOKEN_TABLE`].
    ///
    /// # Errors
    /// Same as [`CheckpointWriter::write_quantized`].
    pub fn write(
        &mut self,
        writer: &mut CheckpointWriter,
        name: &str,
        matrix: &QuantizedMatrix,
        activation: ActivationQuant,
    ) -> Result<()> {
        // Rows of a table are looked up, so it has no inputs.
        let activation = if name == TOKEN_TABLE { ActivationQuant::Float } else { activation };
        writer.write_quantized(name, matrix, activation.static_params())?;
        let unknown = f64::NAN;
        let error = WeightError { sqnr_db: unknown, max_abs_error: unknown, clipped_share: unknown };
        let record = LayerMetadata::new(name, matrix, self.quantization_type, activation, error);
        match name {
            TOKEN_TABLE => self.embedding = Some(record),
            _ => self.layers.push(record),
        }
        Ok(())
    }

    /// Records a linear layer that is float, and the reason.
    pub fn skip(&mut self, name: &str, shape: [usize; 2], reason: String) {
        self.skipped.push(SkippedLayer { name: name.to_owned(), shape, reason });
    }

    /// Number of quantized layers, including the embedding.
    pub fn len(&self) -> usize {
        self.layers.len() + usize::from(self.embedding.is_some())
    }

    /// Returns `true` if no layer is quantized.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Builds the metadata, in the order of a forward pass. Returns `None` if no layer is quantized. `method` is the
    /// rounding method of the weights.
    pub fn metadata(mut self, method: &str, lineage: Lineage) -> Option<QuantizationMetadata> {
        // A tied head, which was written as the embedding, comes last.
        if let Some(at) = self.layers.iter().position(|layer| layer.name == slm_model::LM_HEAD) {
            let head = self.layers.remove(at);
            self.layers.push(head);
        }
        let scheme = most_common(self.layers.iter().chain(&self.embedding))?;
        let builder = MetadataBuilder::new(scheme, self.quantization_type)
            .method(method)
            .activation_observer("unrecorded")
            .activation_granularity(self.granularity)
            .embedding(self.embedding)
            .skipped(self.skipped);
        Some(builder.build(QuantizationMode::Unrecorded, self.layers, lineage))
    }
}

/// Returns the name of the layer whose weight is the tensor `tensor`.
pub fn layer_of(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

/// Returns the first scheme with the code width that most values have.
fn most_common<'a>(layers: impl Iterator<Item = &'a LayerMetadata>) -> Option<QuantScheme> {
    let (mut four, mut eight) = (0, 0);
    let mut schemes = Vec::new();
    let mut seen = BTreeSet::new();
    for layer in layers {
        let values = layer.shape[0] * layer.shape[1];
        match layer.scheme.bits {
            Bits::Int4 => four += values,
            Bits::Int8 => eight += values,
        }
        if seen.insert(layer.scheme.to_string()) {
            schemes.push(layer.scheme);
        }
    }
    let bits = if four > eight { Bits::Int4 } else { Bits::Int8 };
    schemes.into_iter().find(|scheme| scheme.bits == bits)
}
