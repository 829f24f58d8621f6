//! Checkpoints with weights in FP8 whose `quant_method` is `fp8`: DeepSeek's layout, which transformers and vLLM write, and
//! AutoFP8's.
//!
//! | tensor | type | shape | description |
//! |---|---|---|---|
//! | `weight` | F8_E4M3 | `[outputs, inputs]` | |
//! | `weight_scale_inv` | F32, F16, BF16 | `[ceil(outputs / height), ceil(inputs / width)]` | with `weight_block_size: [height, width]` |
//! | `weight_scale` or `weight_scale_inv` | F32, F16, BF16 | `[]`, `[1]`, `[outputs]` or `[outputs, 1]` | without `weight_block_size` |
//! | `input_scale`, `activation_scale` | | | scales of static inputs, which floats do not need |
//!
//! A value is `weight * scale`, under either name (`Fp8Dequantize` of transformers).

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::codes::{CodeType, Codes};
use super::grouping::Grouping;
use super::{FLOATS, Layer, Looking, Weights, describe, modules, parse, unsupported};
use crate::Result;

/// Names of the scales.
const SCALES: [&str; 2] = ["weight_scale_inv", "weight_scale"];

/// The fields of a quantization config that are needed for reading.
#[derive(Debug)]
pub(in super::super) struct Config {
    block: Option<[usize; 2]>,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    weight_block_size: Option<[usize; 2]>,
    #[serde(default)]
    fmt: Option<String>,
}

/// Storage format of a layer.
#[derive(Debug)]
pub(super) struct Form {
    grouping: Grouping,
    scale: &'static str,
}

impl Config {
    pub(super) fn read(path: &Path, field: &str, fields: Map<String, Value>) -> Result<Self> {
        let Fields { weight_block_size, fmt } = parse(path, field, fields)?;
        if let Some(fmt) = fmt.filter(|fmt| fmt != "e4m3") {
            let supported = "e4m3 (else import the float model)";
            return Err(unsupported(path, field, "fmt", format!("{fmt:?}"), supported));
        }
        if let Some(block) = weight_block_size.filter(|block| block.contains(&0)) {
            let supported = "blocks of at least 1 x 1";
            return Err(unsupported(path, field, "weight_block_size", format!("{block:?}"), supported));
        }
        Ok(Self { block: weight_block_size })
    }

    pub(super) fn layers(&self, weights: &Weights) -> Result<Vec<Layer>> {
        let named = SCALES
            .into_iter()
            .flat_map(|scale| modules(weights, scale).into_iter().map(move |module| (module, scale)));
        named.map(|(module, scale)| self.layer(weights, module, scale)).collect()
    }

    fn layer(&self, weights: &Weights, module: &str, scale: &'static str) -> Result<Layer> {
        let mut looking = Looking::new(weights, module);
        let shape = looking.matrix("weight", &[Dtype::F8_E4M3])?;
        let scales = looking.require(scale, &FLOATS)?;
        let grouping = Grouping::of_blocks(self.block, shape, scales).ok_or_else(|| {
            let [rows, cols] = shape;
            looking.wrong(format!(
                "its scales have shape {scales:?}, for {rows} x {cols} values and weight_block_size {:?}",
                self.block
            ))
        })?;
        for inputs in ["input_scale", "activation_scale"] {
            looking.optional(inputs, &FLOATS)?;
        }
        Ok(looking.layer(shape, super::Form::Fp8(Form { grouping, scale })))
    }
}

impl Form {
    pub(super) fn description(&self) -> String {
        describe("fp8", CodeType::Float8, self.grouping)
    }

    pub(super) fn read(&self, layer: &Layer, weights: &Weights) -> Result<Codes> {
        let name = |part: &str| format!("{}.{part}", layer.module);
        let codes = weights.require(&name("weight"))?.read_bytes(&name("weight"))?;
        let (scales, half_scales) = super::scales(weights, &name(self.scale))?;
        Ok(Codes {
            shape: layer.shape,
            code_type: CodeType::Float8,
            codes: codes.into_iter().map(u8::cast_signed).collect(),
            groups: self.grouping.groups(),
            scales: self.grouping.of_rows(scales, layer.shape),
            half_scales,
            zero_points: None,
        })
    }
}
