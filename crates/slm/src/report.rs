//! The account of a quantization.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_ptq::{LayerReport, PtqConfig, SkippedLayer};
use slm_quant_core::QuantizationType;
use slm_store::{
    FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode, SaveOptions, WeightError,
};

use crate::{Result, save_with};

/// What was done to each layer of a module. Displayed, it is a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Quantized layers, in forward order.
    pub layers: Vec<LayerReport>,
    /// Layers that were left float, with the reason.
    pub skipped: Vec<SkippedLayer>,
    config: PtqConfig,
    mode: QuantizationMode,
    observer: String,
}

impl Report {
    pub(crate) fn ptq(layers: Vec<LayerReport>, skipped: Vec<SkippedLayer>, config: PtqConfig) -> Self {
        let observer = config.observer.to_string();
        Self { layers, skipped, config, mode: QuantizationMode::Ptq, observer }
    }

    pub(crate) fn qat(
        layers: Vec<LayerReport>,
        skipped: Vec<SkippedLayer>,
        config: PtqConfig,
        observer: String,
    ) -> Self {
        Self { layers, skipped, config, mode: QuantizationMode::Qat, observer }
    }

    /// Bytes of the quantized layers as floats, and as they are.
    pub fn bytes(&self) -> (usize, usize) {
        let sum = |bytes: fn(&LayerReport) -> usize| self.layers.iter().map(bytes).sum();
        (sum(|layer| layer.bytes_before), sum(|layer| layer.bytes_after))
    }

    /// The metadata of `module`, which this is the report of, as it is saved.
    pub fn metadata<M: NamedLinears>(&self, module: &M) -> QuantizationMetadata {
        let mut layers = Vec::with_capacity(self.layers.len());
        module.for_each_linear(&mut |name, linear| {
            let report = self.layers.iter().find(|report| report.name == name);
            if let (Some(report), Some(packed)) = (report, linear.packed()) {
                let error = WeightError {
                    sqnr_db: report.error.sqnr_db(),
                    max_abs_error: report.error.max_abs_error(),
                    clipped_share: report.error.clipped_share().unwrap_or(0.0),
                };
                layers.push(LayerMetadata::new(name, &packed.matrix().unpack(), report.activation, error));
            }
        });
        let skipped = self
            .skipped
            .iter()
            .cloned()
            .map(|SkippedLayer { name, shape, reason }| slm_store::SkippedLayer { name, shape, reason });
        let PtqConfig { scheme, quantization_type, .. } = self.config;
        let is = |wanted: QuantizationType| quantization_type == wanted;
        let activation_observer = match self.mode {
            QuantizationMode::Qat => "moving-average".to_owned(),
            _ => self.config.activation_observer.to_string(),
        };
        QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode,
            quantization_type,
            bits: scheme.bits,
            granularity: scheme.granularity,
            mapping: scheme.mapping,
            scale_dtype: scheme.scale_dtype,
            weight_observer: self.observer.clone(),
            activation_observer: is(QuantizationType::Static).then_some(activation_observer),
            activation_granularity: is(QuantizationType::Dynamic)
                .then_some(self.config.activation_granularity),
            embedding: None,
            layers,
            skipped: skipped.collect(),
            lineage: Lineage::default(),
        }
    }

    /// [`save`](crate::save) for `module`, which this is the report of: the metadata then says how it was quantized, and
    /// how far each weight is from the float one.
    ///
    /// # Errors
    /// As [`save`](crate::save).
    pub fn save<M: Module + NamedLinears>(&self, module: &M, dir: impl AsRef<Path>) -> Result<PathBuf> {
        let metadata = self.metadata(module);
        save_with(module, dir, &SaveOptions { metadata: Some(&metadata), ..SaveOptions::default() })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["layer", "shape", "scheme", "SQNR dB", "clipped", "input scale / zero point"];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.layers.iter().map(|layer| {
            let [outputs, inputs] = layer.shape;
            let input = match layer.activation {
                Some(params) => format!("{:.6} / {}", params.scale, params.zero_point),
                None => self.config.quantization_type.to_string(),
            };
            let clipped = layer.error.clipped_share().unwrap_or(0.0) * 100.0;
            [
                layer.name.clone(),
                format!("{outputs}x{inputs}"),
                layer.scheme.to_string(),
                format!("{:.2}", layer.error.sqnr_db()),
                format!("{clipped:.3} %"),
                input,
            ]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        for row in &rows {
            let [name, rest @ ..] = row;
            write!(f, "{name:<width$}", width = widths[0])?;
            for (cell, width) in rest.iter().zip(&widths[1..]) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        for SkippedLayer { name, reason, .. } in &self.skipped {
            writeln!(f, "{name}: left float ({reason})")?;
        }
        let (before, after) = self.bytes();
        write!(f, "linear layers: {before} -> {after} bytes ({:.3}x)", after as f64 / before.max(1) as f64)
    }
}
