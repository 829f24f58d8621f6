//! Options for the quantization scheme.

use clap::Args;
use slm_ptq::LayerRule;
use slm_quant_core::{Bits, Granularity, Mapping, QuantizationType, ScaleDtype};
use slm_train::QuantizationConfig;

use crate::words::bits;

/// Scheme options. Without an option, the config applies if the command has one, and otherwise the default in the help.
#[derive(Debug, Args)]
pub(super) struct SchemeArgs {
    #[command(flatten)]
    weights: WeightSchemeArgs,
    /// static (8-bit activations, ranges calibrated or learned in training), dynamic (8-bit, scales from each input) or
    /// weight-only [default: static]
    #[arg(long = "type", value_name = "TYPE")]
    quantization_type: Option<QuantizationType>,
}

/// Scheme options of commands that quantize a part of a model to measure the effect.
#[derive(Debug, Args)]
pub(super) struct MeasuredSchemeArgs {
    #[command(flatten)]
    weights: WeightSchemeArgs,
    /// weight-only, or dynamic (8-bit activations, scales from each input) [default: weight-only]
    #[arg(long = "type", value_name = "TYPE")]
    quantization_type: Option<QuantizationType>,
}

/// Options for the scheme of weights.
#[derive(Debug, Args)]
struct WeightSchemeArgs {
    /// Width of the weights: 8 or 4 [default: 8]
    #[arg(long, value_parser = bits)]
    bits: Option<Bits>,
    /// Weights that share a scale: tensor, channel or group:N [default: tensor]
    #[arg(long)]
    granularity: Option<Granularity>,
    /// symmetric, symmetric-torch or affine [default: symmetric]
    #[arg(long)]
    mapping: Option<Mapping>,
    /// Type of stored scales: f32 or f16 [default: f32]
    #[arg(long)]
    scale_dtype: Option<ScaleDtype>,
    /// Keep the layers float whose names match, such as lm_head or 'layers.0.*' (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    skip: Vec<String>,
    /// Scheme of the layers whose names match: float, or int8 or int4 and whatever else differs, such as
    /// 'lm_head=int8:channel' or 'layers.*.down_proj=int4:group:32:affine:f16' (may be repeated; the last that matches
    /// wins)
    #[arg(long = "layer", value_name = "PATTERN=SCHEME")]
    layers: Vec<LayerRule>,
}

impl SchemeArgs {
    /// Returns the first option that was given, as written on the command line.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let WeightSchemeArgs { bits, granularity, mapping, scale_dtype, skip, layers } = &self.weights;
        let given = [
            ("--bits", bits.is_some()),
            ("--type", self.quantization_type.is_some()),
            ("--granularity", granularity.is_some()),
            ("--mapping", mapping.is_some()),
            ("--scale-dtype", scale_dtype.is_some()),
            ("--skip", !skip.is_empty()),
            ("--layer", !layers.is_empty()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }

    /// Overrides `config` with the options that were given.
    pub(super) fn apply(&self, config: &mut QuantizationConfig) {
        config.quantization_type = self.quantization_type.unwrap_or(config.quantization_type);
        self.weights.apply(config);
    }
}

impl MeasuredSchemeArgs {
    /// Overrides `config` with the options that were given.
    pub(super) fn apply(&self, config: &mut QuantizationConfig) {
        config.quantization_type = self.quantization_type.unwrap_or(config.quantization_type);
        self.weights.apply(config);
    }
}

impl WeightSchemeArgs {
    fn apply(&self, config: &mut QuantizationConfig) {
        config.quantization_bits = self.bits.unwrap_or(config.quantization_bits);
        config.granularity = self.granularity.unwrap_or(config.granularity);
        config.mapping = self.mapping.unwrap_or(config.mapping);
        config.scale_dtype = self.scale_dtype.unwrap_or(config.scale_dtype);
        config.skip.extend_from_slice(&self.skip);
        config.layers.extend_from_slice(&self.layers);
    }
}
