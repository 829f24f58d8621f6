//! Checkpoints of AutoGPTQ, GPTQModel and other programs with the same format.
//!
//! For a layer of `outputs x inputs`, the file contains (`pack` in AutoGPTQ's `qlinear_cuda.py`):
//!
//! | tensor | type | shape | description |
//! |---|---|---|---|
//! | `qweight` | I32 | `[inputs * bits / 32, outputs]` | unsigned codes, along the inputs, the first in the lowest bits |
//! | `qzeros` | I32 | `[groups, outputs * bits / 32]` | zero points, along the outputs |
//! | `scales` | F16 | `[groups, outputs]` | |
//! | `g_idx` | I32 | `[inputs]` | the group of each input; optional if groups are runs of inputs |
//!
//! A value is `scale * (code - zero point)`. The first version of the format stores each zero point minus 1, and
//! readers compute `(stored + 1)` modulo the number of codes; `checkpoint_format: gptq_v2` stores them unchanged.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};
use slm_quant_core::Bits;

use super::codes::{Codes, Groups};
use super::words::{code, signed};
use super::{
    FLOATS, Layer, Looking, Weights, describe, modules, parse, read_bits, read_words, scales, transposed,
    unsupported,
};
use crate::Result;

/// The fields of a quantization config that are needed for reading.
#[derive(Debug)]
pub(in super::super) struct Config {
    bits: Bits,
    group_size: i64,
    /// Added to stored zero points.
    zero_offset: u32,
}

#[derive(Deserialize)]
struct Fields {
    bits: u64,
    #[serde(default = "whole_rows")]
    group_size: i64,
    #[serde(default)]
    checkpoint_format: Option<String>,
    #[serde(default)]
    is_marlin_format: Option<bool>,
}

fn whole_rows() -> i64 {
    -1
}

/// Storage format of a layer.
#[derive(Debug)]
pub(super) struct Form {
    bits: Bits,
    groups: usize,
    group_size: usize,
    zero_offset: u32,
    has_index: bool,
}

impl Config {
    pub(super) fn read(path: &Path, field: &str, fields: Map<String, Value>) -> Result<Self> {
        let Fields { bits, group_size, checkpoint_format, is_marlin_format } = parse(path, field, fields)?;
        let bits = read_bits(path, field, bits)?;
        let format = match (is_marlin_format, checkpoint_format.as_deref()) {
            (Some(true), _) => "marlin",
            (_, format) => format.unwrap_or("gptq"),
        };
        let zero_offset = match format {
            "gptq" => 1,
            "gptq_v2" => 0,
            other => {
                let supported = "gptq, gptq_v2 (save the model in one of them with GPTQModel)";
                return Err(unsupported(path, field, "checkpoint_format", format!("{other:?}"), supported));
            }
        };
        Ok(Self { bits, group_size, zero_offset })
    }

    pub(super) fn layers(&self, weights: &Weights) -> Result<Vec<Layer>> {
        modules(weights, "qweight").into_iter().map(|module| self.layer(weights, module)).collect()
    }

    fn layer(&self, weights: &Weights, module: &str) -> Result<Layer> {
        let mut looking = Looking::new(weights, module);
        let [words, outputs] = looking.matrix("qweight", &[Dtype::I32])?;
        let index_len = match looking.optional("g_idx", &[Dtype::I32])? {
            None => None,
            Some(&[inputs]) => Some(inputs),
            Some(other) => return Err(looking.wrong(format!("g_idx has shape {other:?}"))),
        };
        // A layer may have a different code width than the config states.
        let bits = match index_len {
            Some(inputs) if inputs > 0 && words.checked_mul(32) == inputs.checked_mul(4) => Bits::Int4,
            Some(inputs) if inputs > 0 && words.checked_mul(32) == inputs.checked_mul(8) => Bits::Int8,
            Some(inputs) => {
                let bits = words as f64 * 32.0 / inputs as f64;
                return Err(looking.refuse(
                    format!("it is quantized to {bits:.2} bits, but only 4 and 8 are supported"),
                    "import the float model",
                ));
            }
            None => self.bits,
        };
        let per_word = (32 / bits.count()) as usize;
        let inputs = words
            .checked_mul(per_word)
            .ok_or_else(|| looking.wrong("its number of inputs does not fit in memory"))?;
        let [groups, columns] = looking.matrix("scales", &FLOATS)?;
        looking.expect_shape("scales", &[groups, columns], &[groups, outputs])?;
        let zeros = looking.matrix("qzeros", &[Dtype::I32])?;
        looking.expect_shape("qzeros", &zeros, &[groups, outputs.div_ceil(per_word)])?;
        let group_size = match index_len {
            // The group size in the config, if it fits.
            _ if self.group_size > 0 && inputs.div_ceil(self.group_size as usize) == groups => {
                self.group_size as usize
            }
            Some(_) => inputs.div_ceil(groups),
            None if groups == 1 => inputs,
            None => {
                let size = self.group_size;
                return Err(looking.wrong(format!(
                    "its {inputs} inputs have {groups} groups, but the config says groups of {size}"
                )));
            }
        };
        let has_index = index_len.is_some();
        let form = Form { bits, groups, group_size, zero_offset: self.zero_offset, has_index };
        Ok(looking.layer([outputs, inputs], super::Form::Gptq(form)))
    }
}

impl Form {
    pub(super) fn description(&self) -> String {
        let groups = (self.groups > 1).then_some(self.group_size);
        describe("gptq", self.bits, groups)
    }

    pub(super) fn read(&self, layer: &Layer, weights: &Weights) -> Result<Codes> {
        let [outputs, inputs] = layer.shape;
        let name = |part: &str| format!("{}.{part}", layer.module);
        let (bits, per_word) = (u32::from(self.bits.count()), (32 / self.bits.count()) as usize);
        let packed = read_words(weights, &name("qweight"))?;
        let mut codes = vec![0; outputs * inputs];
        for (line, words) in packed.chunks(outputs).enumerate() {
            for (output, &word) in words.iter().enumerate() {
                for place in 0..per_word {
                    codes[output * inputs + line * per_word + place] = signed(code(word, place, bits), bits);
                }
            }
        }
        let packed = read_words(weights, &name("qzeros"))?;
        let most = (1 << bits) - 1;
        let zero = |group: usize, output: usize| {
            let word = packed[group * outputs.div_ceil(per_word) + output / per_word];
            signed((code(word, output % per_word, bits) + self.zero_offset) & most, bits)
        };
        let zero_points = (0..outputs).flat_map(|output| (0..self.groups).map(move |group| (group, output)));
        let zero_points = zero_points.map(|(group, output)| zero(group, output)).collect();
        let (scales, half_scales) = scales(weights, &name("scales"))?;
        let groups = match self.has_index {
            false => Groups::Columns(self.group_size),
            true => {
                let index = read_words(weights, &name("g_idx"))?;
                let index = index.into_iter().map(|group| group as usize).collect();
                Groups::indexed(index, self.groups, self.group_size)
            }
        };
        Ok(Codes {
            shape: layer.shape,
            bits: self.bits,
            codes,
            groups,
            scales: transposed(&scales, [self.groups, outputs]),
            half_scales,
            zero_points: Some(zero_points),
        })
    }
}
