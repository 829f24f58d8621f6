//! Report on a quantization.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_ptq::{LayerReport, PtqConfig, RoundingMethod, SkippedLayer, layer_metadata};
use slm_quant_core::{ActivationQuant, QuantizationType};
use slm_store::{Lineage, QuantizationMetadata, QuantizationMode, SaveOptions};

use crate::{Error, Result, save_with};

/// The name of the observer of activations in quantization-aware training.
const TRAINED_ACTIVATION_OBSERVER: &str = "moving-average";

/// Report on the quantization of each layer of a module. It displays as a table.
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
    pub(crate) fn ptq(
        layers: Vec<LayerReport>,
        skipped: Vec<SkippedLayer>,
        config: PtqConfig,
        calibrated: bool,
    ) -> Self {
        let observer = config.weight_observer(calibrated).to_string();
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

    /// Bytes of the quantized layers before (as floats) and after quantization.
    pub fn bytes(&self) -> (usize, usize) {
        let sum = |bytes: fn(&LayerReport) -> usize| self.layers.iter().map(bytes).sum();
        (sum(|layer| layer.bytes_before), sum(|layer| layer.bytes_after))
    }

    /// The metadata of `module`, which must be the module of this report, as it is saved.
    pub fn metadata<M: NamedLinears>(&self, module: &M) -> QuantizationMetadata {
        let mut layers = Vec::with_capacity(self.layers.len());
        module.for_each_linear(&mut |name, linear| {
            let report = self.layers.iter().find(|report| report.name == name);
            if let (Some(report), Some(packed)) = (report, linear.packed()) {
                let matrix = packed.matrix().unpack();
                layers.push(layer_metadata(report, &matrix, self.config.quantization_type));
            }
        });
        let builder = self.config.metadata(&self.skipped, false).weight_observer(&self.observer);
        let builder = match self.mode {
            QuantizationMode::Qat => {
                builder.method(RoundingMethod::Rtn).activation_observer(TRAINED_ACTIVATION_OBSERVER)
            }
            _ => builder,
        };
        builder.build(self.mode, layers, Lineage::default())
    }

    /// [`save`](crate::save) for `module`, which must be the module of this report. The metadata then records how it
    /// was quantized and the error of each weight.
    ///
    /// # Errors
    /// [`Error::OtherReport`] for a module that lacks a layer of the report, and the errors of [`save`](crate::save).
    pub fn save<M: Module + NamedLinears>(&self, module: &M, dir: impl AsRef<Path>) -> Result<PathBuf> {
        self.check_is_of(module)?;
        let metadata = self.metadata(module);
        save_with(module, dir, &SaveOptions { metadata: Some(&metadata), ..SaveOptions::default() })
    }

    /// Rejects a module whose layers differ from those of the report, such as the float module.
    fn check_is_of<M: NamedLinears>(&self, module: &M) -> Result<()> {
        let mut found = HashMap::new();
        module.for_each_linear(&mut |name, linear| {
            if let Some(packed) = linear.packed() {
                let layer = (linear.weight.dims(), packed.matrix().scheme(), packed.activation());
                found.insert(name.to_owned(), layer);
            }
        });
        let is_of = |layer: &&LayerReport| {
            found.get(&layer.name) == Some(&(layer.shape, layer.scheme, layer.activation))
        };
        match self.layers.iter().find(|layer| !is_of(layer)) {
            Some(layer) => Err(Error::OtherReport { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["layer", "shape", "scheme", "SQNR dB", "clipped", "input scale / zero point"];
        let mut rows = vec![heads.map(str::to_owned)];
        rows.extend(self.layers.iter().map(|layer| {
            let [outputs, inputs] = layer.shape;
            let input = match layer.activation {
                ActivationQuant::Static(params) => format!("{:.6} / {}", params.scale, params.zero_point),
                ActivationQuant::Dynamic(_) => QuantizationType::Dynamic.to_string(),
                ActivationQuant::Float => QuantizationType::WeightOnly.to_string(),
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
