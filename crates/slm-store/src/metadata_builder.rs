//! A builder for [`QuantizationMetadata`].

use slm_quant_core::{ActivationGranularity, QuantScheme, QuantizationType};

use crate::{FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode, SkippedLayer};

/// Builds the [`QuantizationMetadata`] of a checkpoint or a module.
///
/// It omits fields that do not apply to the type of quantization: the activation observer unless activations are
/// static, their granularity unless they are dynamic.
///
/// ```
/// use slm_quant_core::{Bits, QuantScheme, QuantizationType};
/// use slm_store::{Lineage, MetadataBuilder, QuantizationMode};
///
/// let metadata = MetadataBuilder::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::WeightOnly)
///     .weight_observer("min-max")
///     .activation_observer("min-max")
///     .build(QuantizationMode::Ptq, Vec::new(), Lineage::default());
/// assert_eq!((metadata.method.as_str(), metadata.activation_observer), ("rtn", None));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MetadataBuilder(QuantizationMetadata);

impl MetadataBuilder {
    /// Starts with the requested scheme and type, and with rounding to nearest.
    pub fn new(scheme: QuantScheme, quantization_type: QuantizationType) -> Self {
        Self(QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: QuantizationMode::Unrecorded,
            quantization_type,
            bits: scheme.bits,
            granularity: scheme.granularity,
            mapping: scheme.mapping,
            scale_dtype: scheme.scale_dtype,
            method: "rtn".to_owned(),
            weight_observer: "unrecorded".to_owned(),
            activation_observer: None,
            activation_granularity: None,
            embedding: None,
            layers: Vec::new(),
            skipped: Vec::new(),
            lineage: Lineage::default(),
        })
    }

    /// Starts with the settings requested for `source`, without its layers and lineage.
    pub fn from_source(source: &QuantizationMetadata) -> Self {
        Self(QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            embedding: None,
            layers: Vec::new(),
            lineage: Lineage::default(),
            ..source.clone()
        })
    }

    /// Sets the method that rounded the weights.
    pub fn method(mut self, method: impl ToString) -> Self {
        self.0.method = method.to_string();
        self
    }

    /// Sets the observer that chose the weight ranges.
    pub fn weight_observer(mut self, observer: impl ToString) -> Self {
        self.0.weight_observer = observer.to_string();
        self
    }

    /// Sets the observer that chose the ranges of static activations.
    pub fn activation_observer(mut self, observer: impl ToString) -> Self {
        if self.0.quantization_type == QuantizationType::Static {
            self.0.activation_observer = Some(observer.to_string());
        }
        self
    }

    /// Sets the granularity of dynamic activation scales.
    pub fn activation_granularity(mut self, granularity: ActivationGranularity) -> Self {
        if self.0.quantization_type == QuantizationType::Dynamic {
            self.0.activation_granularity = Some(granularity);
        }
        self
    }

    /// Adds the linear layers that were left float.
    pub fn skipped(mut self, layers: impl IntoIterator<Item = SkippedLayer>) -> Self {
        self.0.skipped = layers.into_iter().collect();
        self
    }

    /// Adds the quantized table of the embedding.
    pub fn embedding(mut self, embedding: Option<LayerMetadata>) -> Self {
        self.0.embedding = embedding;
        self
    }

    /// Completes the metadata with the quantized layers, in forward order, and their origin.
    pub fn build(
        mut self,
        mode: QuantizationMode,
        layers: Vec<LayerMetadata>,
        lineage: Lineage,
    ) -> QuantizationMetadata {
        self.0.mode = mode;
        self.0.layers = layers;
        self.0.lineage = lineage;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use slm_quant_core::Bits;

    use super::*;

    fn built(quantization_type: QuantizationType) -> QuantizationMetadata {
        let skipped = SkippedLayer { name: "head".into(), shape: [2, 3], reason: "asked".into() };
        MetadataBuilder::new(QuantScheme::per_tensor(Bits::Int4), quantization_type)
            .method("gptq")
            .weight_observer("mse")
            .activation_observer("min-max")
            .activation_granularity(ActivationGranularity::PerToken)
            .skipped([skipped])
            .build(QuantizationMode::Qat, Vec::new(), Lineage::default())
    }

    #[test]
    fn each_type_records_what_it_uses() {
        for (quantization_type, observer, granularity) in [
            (QuantizationType::WeightOnly, None, None),
            (QuantizationType::Static, Some("min-max"), None),
            (QuantizationType::Dynamic, None, Some(ActivationGranularity::PerToken)),
        ] {
            let metadata = built(quantization_type);
            assert_eq!(metadata.activation_observer.as_deref(), observer, "{quantization_type:?}");
            assert_eq!(metadata.activation_granularity, granularity, "{quantization_type:?}");
            assert_eq!((metadata.method.as_str(), metadata.weight_observer.as_str()), ("gptq", "mse"));
            assert_eq!((metadata.mode, metadata.bits), (QuantizationMode::Qat, Bits::Int4));
            assert_eq!(metadata.skipped.len(), 1);
        }
    }

    #[test]
    fn a_source_gives_what_was_asked_for_and_no_layers() {
        let mut source = built(QuantizationType::Static);
        source.format_version = 1;
        source.lineage.source_sha256 = Some("00".into());
        let metadata = MetadataBuilder::from_source(&source).build(
            QuantizationMode::Finetuned,
            Vec::new(),
            Lineage::default(),
        );
        assert_eq!(metadata.format_version, FORMAT_VERSION);
        assert_eq!(metadata.lineage, Lineage::default());
        assert_eq!((metadata.method, metadata.skipped), (source.method, source.skipped));
        assert_eq!(metadata.activation_observer, source.activation_observer);
    }
}
