//! Checkpoints of AutoAWQ in its `gemm` version.
//!
//! For a layer of `outputs x inputs`, the file contains (`WQLinear_GEMM.from_linear` in AutoAWQ's `gemm.py`):
//!
//! | tensor | type | shape | description |
//! |---|---|---|---|
//! | `qweight` | I32 | `[inputs, outputs * bits / 32]` | unsigned codes, along the outputs |
//! | `qzeros` | I32 | `[groups, outputs * bits / 32]` | zero points, along the outputs; optional |
//! | `scales` | F16 | `[groups, outputs]` | |
//!
//! The codes of a word are not in the order of the outputs: starting from the lowest bits, they belong to the outputs
//! 0, 2, 4, 6, 1, 3, 5, 7 for 4 bits, and 0, 2, 1, 3 for 8 bits (`undo_interleave` in vLLM's `marlin_utils.py`). A
//! value is `scale * (code - zero point)`.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::codes::{CodeType, Codes};
use super::grouping::Grouping;
use super::words::{code, signed};
use super::{
    FLOATS, Layer, Looking, Weights, describe, modules, parse, read_bits, read_words, scales, transposed,
    unsupported,
};
use crate::Result;

/// The output of each code of a word, starting from the lowest bits.
const ORDER_OF_4_BITS: &[usize] = &[0, 2, 4, 6, 1, 3, 5, 7];
const ORDER_OF_8_BITS: &[usize] = &[0, 2, 1, 3];

/// The fields of a quantization config that are needed for reading.
#[derive(Debug)]
pub(in super::super) struct Config {
    bits: u32,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(alias = "w_bit")]
    bits: u64,
    #[serde(default)]
    version: Option<String>,
}

/// Storage format of a layer.
#[derive(Debug)]
pub(super) struct Form {
    bits: u32,
    groups: usize,
    group_size: usize,
    has_zeros: bool,
}

impl Config {
    pub(super) fn read(path: &Path, field: &str, fields: Map<String, Value>) -> Result<Self> {
        let Fields { bits, version } = parse(path, field, fields)?;
        let bits = read_bits(path, field, bits, &[4, 8])?;
        match version.as_deref().unwrap_or("gemm") {
            version if version.eq_ignore_ascii_case("gemm") => Ok(Self { bits }),
            other => Err(unsupported(
                path,
                field,
                "version",
                format!("{other:?}"),
                "gemm (else import the float model)",
            )),
        }
    }

    pub(super) fn layers(&self, weights: &Weights) -> Result<Vec<Layer>> {
        modules(weights, "qweight").into_iter().map(|module| self.layer(weights, module)).collect()
    }

    fn layer(&self, weights: &Weights, module: &str) -> Result<Layer> {
        let mut looking = Looking::new(weights, module);
        let per_word = (32 / self.bits) as usize;
        let [inputs, words] = looking.matrix("qweight", &[Dtype::I32])?;
        let outputs = words
            .checked_mul(per_word)
            .ok_or_else(|| looking.wrong("its number of outputs does not fit in memory"))?;
        let [groups, columns] = looking.matrix("scales", &FLOATS)?;
        looking.expect_shape("scales", &[groups, columns], &[groups, outputs])?;
        let zeros = looking.optional("qzeros", &[Dtype::I32])?;
        if let Some(zeros) = zeros {
            looking.expect_shape("qzeros", zeros, &[groups, words])?;
        }
        let group_size = inputs / groups;
        if group_size == 0 || inputs % groups != 0 {
            return Err(looking
                .wrong(format!("its {inputs} inputs cannot be split into {groups} groups of one size")));
        }
        let form = Form { bits: self.bits, groups, group_size, has_zeros: zeros.is_some() };
        Ok(looking.layer([outputs, inputs], super::Form::Awq(form)))
    }
}

impl Form {
    pub(super) fn description(&self) -> String {
        describe("awq", CodeType::Int(self.bits), self.grouping())
    }

    fn grouping(&self) -> Grouping {
        Grouping::of_columns(self.group_size, self.groups)
    }

    pub(super) fn read(&self, layer: &Layer, weights: &Weights) -> Result<Codes> {
        let [outputs, inputs] = layer.shape;
        let name = |part: &str| format!("{}.{part}", layer.module);
        let codes = transposed(&self.unpack(&read_words(weights, &name("qweight"))?), [inputs, outputs]);
        let zero_points = match self.has_zeros {
            true => {
                let zeros = self.unpack(&read_words(weights, &name("qzeros"))?);
                Some(transposed(&zeros, [self.groups, outputs]))
            }
            false => None,
        };
        let (scales, half_scales) = scales(weights, &name("scales"))?;
        Ok(Codes {
            shape: layer.shape,
            code_type: CodeType::Int(self.bits),
            codes,
            groups: self.grouping().groups(),
            scales: transposed(&scales, [self.groups, outputs]),
            half_scales,
            zero_points,
        })
    }

    /// Returns the codes of words in the order of the outputs.
    fn unpack(&self, words: &[u32]) -> Vec<i8> {
        let order = if self.bits == 4 { ORDER_OF_4_BITS } else { ORDER_OF_8_BITS };
        let mut codes = vec![0; words.len() * order.len()];
        for (&word, codes) in words.iter().zip(codes.chunks_mut(order.len())) {
            for (place, &output) in order.iter().enumerate() {
                codes[output] = signed(code(|_| word, place, self.bits), self.bits);
            }
        }
        codes
    }
}
