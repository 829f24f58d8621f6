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
//! Codes of 3 bits are packed without gaps: 32 of them fill three words.
//!
//! A value is `scale * (code - zero point)`. The first version of the format stores each zero point minus 1, and
//! readers compute `(stored + 1)` modulo the number of codes; `checkpoint_format: gptq_v2` stores them unchanged.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::codes::{CodeType, Codes, Groups};
use super::grouping::Grouping;
use super::words::{code, signed, unpack, words_of};
use super::{
    FLOATS, Layer, Looking, Weights, describe, modules, parse, read_bits, read_words, scales, transposed,
    unsupported,
};
use crate::Result;

/// The widths of codes that the programs write.
const BITS: [u32; 4] = [2, 3, 4, 8];

/// The fields of a quantization config that are needed for reading.
#[derive(Debug)]
pub(in super::super) struct Config {
    bits: u32,
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
    bits: u32,
    groups: usize,
    group_size: usize,
    zero_offset: u32,
    has_index: bool,
}

impl Config {
    pub(super) fn read(path: &Path, field: &str, fields: Map<String, Value>) -> Result<Self> {
        let Fields { bits, group_size, checkpoint_format, is_marlin_format } = parse(path, field, fields)?;
        let bits = read_bits(path, field, bits, &BITS)?;
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
            Some(inputs) => {
                let fits = |bits: &u32| words.checked_mul(32) == inputs.checked_mul(*bits as usize);
                BITS.into_iter().find(|bits| inputs > 0 && fits(bits)).ok_or_else(|| {
                    let bits = words as f64 * 32.0 / inputs as f64;
                    looking.refuse(
                        format!("it is quantized to {bits:.2} bits, but only 2, 3, 4 and 8 are supported"),
                        "import the float model",
                    )
                })?
            }
            None => self.bits,
        };
        let inputs = words
            .checked_mul(32)
            .filter(|count| count % bits as usize == 0)
            .map(|count| count / bits as usize)
            .ok_or_else(|| {
                looking
                    .wrong(format!("its {words} rows of words hold no whole number of codes of {bits} bits"))
            })?;
        let [groups, columns] = looking.matrix("scales", &FLOATS)?;
        looking.expect_shape("scales", &[groups, columns], &[groups, outputs])?;
        let zeros = looking.matrix("qzeros", &[Dtype::I32])?;
        looking.expect_shape("qzeros", &zeros, &[groups, words_of(outputs, bits)])?;
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
        let grouping = Grouping::of_columns(self.group_size, self.groups);
        describe("gptq", CodeType::Int(self.bits), grouping)
    }

    pub(super) fn read(&self, layer: &Layer, weights: &Weights) -> Result<Codes> {
        let [outputs, inputs] = layer.shape;
        let name = |part: &str| format!("{}.{part}", layer.module);
        let bits = self.bits;
        let packed = transposed(&read_words(weights, &name("qweight"))?, [words_of(inputs, bits), outputs]);
        let codes = unpack(&packed, [outputs, inputs], bits);
        let packed = read_words(weights, &name("qzeros"))?;
        let most = (1 << bits) - 1;
        let zero = |group: usize, output: usize| {
            let row = &packed[group * words_of(outputs, bits)..];
            signed((code(|word| row[word], output, bits) + self.zero_offset) & most, bits)
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
            code_type: CodeType::Int(bits),
            codes,
            groups,
            scales: transposed(&scales, [self.groups, outputs]),
            half_scales,
            zero_points: Some(zero_points),
        })
    }
}
