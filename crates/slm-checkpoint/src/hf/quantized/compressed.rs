//! Checkpoints of the package compressed-tensors, as llm-compressor writes them.
//!
//! | format | tensors of a layer of `outputs x inputs` |
//! |---|---|
//! | `int-quantized`, `naive-quantized` | `weight` I8 |
//! | `float-quantized`, `naive-quantized` | `weight` F8_E4M3 |
//! | `pack-quantized` | `weight_packed` I32 `[outputs, ceil(inputs * bits / 32)]`, codes of 1 to 8 bits plus half their range, without gaps, the first in the lowest bits; `weight_shape` I64 |
//!
//! All formats have `weight_scale`; `weight_zero_point` for affine codes, packed along the outputs if the weight is
//! packed; `weight_g_idx`, the group of each input; `input_scale` and `input_zero_point` for static inputs. A value is
//! `(code - zero point) * scale` (`compressors` and `quantization/lifecycle/forward.py` of the package).

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};
use slm_quant_core::{ActivationGranularity, ActivationQuant, QParams};

use super::codes::{CodeType, Codes, Groups};
use super::grouping::Grouping;
use super::targets::Targets;
use super::words::{unpack, words_of};
use super::{
    FLOATS, Layer, Looking, Weights, describe, modules, parse, read_words, scales, transposed, unsupported,
};
use crate::Result;

/// The fields of a quantization config that are needed for reading.
#[derive(Debug)]
pub(in super::super) struct Config {
    groups: Vec<(String, Targets, Scheme)>,
    ignore: Targets,
}

#[derive(Deserialize)]
struct Fields {
    config_groups: BTreeMap<String, Value>,
    #[serde(default)]
    ignore: Option<Vec<String>>,
    #[serde(default)]
    sparsity_config: Option<Map<String, Value>>,
    #[serde(default)]
    transform_config: Option<Map<String, Value>>,
}

/// Settings of a group of layers.
#[derive(Debug, Deserialize)]
struct Scheme {
    targets: Vec<String>,
    #[serde(default)]
    weights: Option<Args>,
    #[serde(default)]
    input_activations: Option<Args>,
    #[serde(default)]
    output_activations: Option<Args>,
}

#[derive(Debug, Clone, Deserialize)]
struct Args {
    #[serde(default = "eight")]
    num_bits: u64,
    #[serde(rename = "type", default = "int")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    #[serde(default)]
    strategy: Option<String>,
    #[serde(default)]
    group_size: Option<i64>,
    #[serde(default)]
    block_structure: Option<[usize; 2]>,
    #[serde(default)]
    dynamic: Value,
}

fn eight() -> u64 {
    8
}

fn int() -> String {
    "int".to_owned()
}

fn yes() -> bool {
    true
}

/// Storage format of a layer.
#[derive(Debug)]
pub(super) struct Form {
    code_type: CodeType,
    packed: bool,
    grouping: Grouping,
    zero_points: Option<ZeroPoints>,
    has_index: bool,
    inputs: Option<Args>,
    outputs: bool,
    has_input_zero: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZeroPoints {
    Plain,
    Packed,
}

impl Config {
    pub(super) fn read(path: &Path, field: &str, fields: Map<String, Value>) -> Result<Self> {
        let fields: Fields = parse(path, field, fields)?;
        let unsupported =
            |name: &str, found: String, supported: &str| unsupported(path, field, name, found, supported);
        if let Some(format) = fields.sparsity_config.as_ref().and_then(|sparsity| sparsity.get("format"))
            && format != "dense"
        {
            let supported = "dense weights (save the model without sparse compression)";
            return Err(unsupported("sparsity_config.format", format.to_string(), supported));
        }
        let transforms =
            fields.transform_config.as_ref().and_then(|transform| transform.get("config_groups"));
        if transforms.and_then(Value::as_object).is_some_and(|groups| !groups.is_empty()) {
            let supported =
                "none: transforms of inputs at run time are not computed here; import the float model";
            return Err(unsupported("transform_config", "not empty".to_owned(), supported));
        }
        let ignore = fields.ignore.unwrap_or_default();
        let ignore = Targets::read(path, &format!("{field}.ignore"), &ignore)?;
        let mut groups = Vec::new();
        for (name, group) in fields.config_groups {
            let at = format!("{field}.config_groups.{name}");
            let Value::Object(group) = group else {
                let supported = "groups written out (save the model again with llm-compressor)";
                return Err(unsupported(&format!("config_groups.{name}"), group.to_string(), supported));
            };
            let scheme: Scheme = parse(path, &at, group)?;
            groups.push((name, Targets::read(path, &format!("{at}.targets"), &scheme.targets)?, scheme));
        }
        Ok(Self { groups, ignore })
    }

    pub(super) fn layers(&self, weights: &Weights) -> Result<Vec<Layer>> {
        let mut found = modules(weights, "weight_packed");
        found.extend(modules(weights, "weight_scale"));
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|module| self.layer(weights, module)).collect()
    }

    /// Returns the group of a layer, by the layer's name in the file.
    fn group(&self, module: &str) -> Option<(&str, &Scheme)> {
        let class = if module.rsplit('.').next().is_some_and(is_embedding) { "Embedding" } else { "Linear" };
        let matches = self.groups.iter().filter_map(|(name, targets, scheme)| {
            Some((targets.find(module, class)?, name.as_str(), scheme))
        });
        let (_, name, scheme) = matches.max_by_key(|(closeness, ..)| *closeness)?;
        Some((name, scheme))
    }

    fn layer(&self, weights: &Weights, module: &str) -> Result<Layer> {
        let mut looking = Looking::new(weights, module);
        let packed = weights.file_of(&looking.name("weight_packed")).is_some();
        let stored = if packed { "weight_packed" } else { "weight" };
        let original = weights.original(&looking.name(stored)).to_owned();
        let original = original.strip_suffix(stored).unwrap_or(&original).trim_end_matches('.').to_owned();
        if self.ignore.find(&original, "").is_some() {
            return Err(looking.wrong("it is stored quantized, but the config lists it under ignore"));
        }
        let Some((group, scheme)) = self.group(&original) else {
            return Err(looking.wrong("it is stored quantized, but no group of the config is for it"));
        };
        let Some(args) = &scheme.weights else {
            return Err(
                looking.wrong(format!("{group} of the config does not say how its weight is quantized"))
            );
        };
        let code_type = match (args.kind.as_str(), u32::try_from(args.num_bits)) {
            ("int", Ok(bits @ 1..=8)) => CodeType::Int(bits),
            ("float", Ok(8)) if !packed => CodeType::Float8,
            (kind, _) => {
                let what = format!(
                    "{group} of the config quantizes its weight to {kind}{}, but only int1 to int8 and float8 are supported",
                    args.num_bits
                );
                return Err(looking.refuse(what, "import the float model"));
            }
        };
        let shape = match packed {
            true => self.packed_shape(&mut looking, code_type)?,
            false => {
                if let Some(dtype) = weights
                    .file_of(&looking.name("weight"))
                    .and_then(|file| file.dtype(&looking.name("weight")))
                    && FLOATS.contains(&dtype)
                {
                    let what = "its weight is float, next to scales: the model was saved without compression";
                    return Err(
                        looking.refuse(what, "save it with save_compressed=True, or import the float model")
                    );
                }
                let stored = if code_type == CodeType::Float8 { Dtype::F8_E4M3 } else { Dtype::I8 };
                looking.matrix("weight", &[stored])?
            }
        };
        let grouping = self.grouping(&mut looking, group, args, shape)?;
        let packed_bits = packed.then_some(code_type.width());
        let zero_points = self.zero_points(&mut looking, args, shape, grouping, packed_bits)?;
        let has_index = looking.optional("weight_g_idx", &[Dtype::I32, Dtype::I64])?.is_some();
        looking.optional("input_scale", &FLOATS)?;
        let has_input_zero = looking.optional("input_zero_point", &[Dtype::I8])?.is_some();
        let form = Form {
            code_type,
            packed,
            grouping,
            zero_points,
            has_index,
            inputs: scheme.input_activations.clone(),
            outputs: scheme.output_activations.is_some(),
            has_input_zero,
        };
        Ok(looking.layer(shape, super::Form::Compressed(form)))
    }

    /// Finds out which values share a scale, from the strategy of the group `group` and the shape of the scales.
    fn grouping(
        &self,
        looking: &mut Looking<'_>,
        group: &str,
        args: &Args,
        shape: [usize; 2],
    ) -> Result<Grouping> {
        let [rows, cols] = shape;
        let strategy = args.strategy.as_deref().unwrap_or(match args.group_size {
            None => "tensor",
            Some(size) if size > 0 => "group",
            Some(_) => "channel",
        });
        let scales = looking.require("weight_scale", &FLOATS)?;
        let wrong_shape = || {
            looking.wrong(format!("its scales have shape {scales:?}, for a {strategy} of {rows} x {cols}"))
        };
        match strategy {
            "tensor" | "channel" => {
                let expected = if strategy == "tensor" { Grouping::Tensor } else { Grouping::Channel };
                let found = Grouping::of_blocks(None, shape, scales);
                // One row has the same scales either way.
                found
                    .filter(|found| *found == expected || rows == 1)
                    .map(|_| expected)
                    .ok_or_else(wrong_shape)
            }
            "group" => {
                let [count, groups] = scales else { return Err(wrong_shape()) };
                if *count != rows || *groups == 0 {
                    return Err(wrong_shape());
                }
                let size =
                    args.group_size.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
                let size = size.unwrap_or(cols);
                if cols.div_ceil(size) != *groups {
                    return Err(looking.wrong(format!(
                        "its rows of {cols} have {groups} groups, but the config says groups of {size}"
                    )));
                }
                Ok(Grouping::of_columns(size, *groups))
            }
            "block" => {
                let Some(block) = args.block_structure else {
                    return Err(
                        looking.wrong(format!("{group} of the config has blocks, but no block_structure"))
                    );
                };
                Grouping::of_blocks(Some(block), shape, scales).ok_or_else(|| {
                    let [height, width] = block;
                    looking.wrong(format!(
                        "its scales have shape {scales:?}, for blocks of {height} x {width} of {rows} x {cols} values"
                    ))
                })
            }
            other => {
                let what = format!(
                    "{group} of the config has the strategy {other:?}, but only tensor, channel, group and block are supported"
                );
                Err(looking.refuse(what, "import the float model"))
            }
        }
    }

    /// Reads the shape of a packed weight from its tensor `weight_shape`.
    fn packed_shape(&self, looking: &mut Looking<'_>, code_type: CodeType) -> Result<[usize; 2]> {
        let [rows, words] = looking.matrix("weight_packed", &[Dtype::I32])?;
        let said = looking.require("weight_shape", &[Dtype::I64, Dtype::I32])?;
        looking.expect_shape("weight_shape", said, &[2])?;
        let name = looking.name("weight_shape");
        let file = looking.weights.require(&name)?;
        let bytes = file.read_bytes(&name)?;
        let dims: Vec<i64> = match file.dtype(&name) {
            Some(Dtype::I64) => bytes.as_chunks().0.iter().map(|&dim| i64::from_le_bytes(dim)).collect(),
            _ => bytes.as_chunks().0.iter().map(|&dim| i64::from(i32::from_le_bytes(dim))).collect(),
        };
        let fits = |rows_said: i64, cols: i64| {
            let cols = usize::try_from(cols).ok().filter(|&cols| cols > 0)?;
            (usize::try_from(rows_said) == Ok(rows) && words_of(cols, code_type.width()) == words)
                .then_some([rows, cols])
        };
        match dims[..] {
            [rows_said, cols] => fits(rows_said, cols),
            _ => None,
        }
        .ok_or_else(|| {
            looking.wrong(format!("weight_shape says {dims:?}, but weight_packed is {rows} x {words} words"))
        })
    }

    /// Finds out how zero points are stored. A symmetric scheme may have them, if all are 0.
    fn zero_points(
        &self,
        looking: &mut Looking<'_>,
        args: &Args,
        shape: [usize; 2],
        grouping: Grouping,
        packed_bits: Option<u32>,
    ) -> Result<Option<ZeroPoints>> {
        let Some(found) = looking.optional("weight_zero_point", &[Dtype::I8, Dtype::I32])? else {
            return match args.symmetric {
                true => Ok(None),
                false => Err(looking.wrong("its scheme is not symmetric, but weight_zero_point is missing")),
            };
        };
        let name = looking.name("weight_zero_point");
        let is_packed = looking.weights.file_of(&name).and_then(|file| file.dtype(&name)) == Some(Dtype::I32);
        let count: Option<usize> = found.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim));
        match (is_packed, packed_bits, grouping.per_row()) {
            (true, Some(bits), Some(groups)) => {
                looking.expect_shape("weight_zero_point", found, &[words_of(shape[0], bits), groups])?;
                Ok(Some(ZeroPoints::Packed))
            }
            (false, ..) if count == grouping.count(shape) => Ok(Some(ZeroPoints::Plain)),
            _ => Err(looking
                .wrong(format!("its zero points have shape {found:?}, which is not that of its scales"))),
        }
    }
}

fn is_embedding(last: &str) -> bool {
    matches!(last, "embed_tokens" | "wte" | "embed_in")
}

impl Form {
    pub(super) fn description(&self) -> String {
        describe("compressed-tensors", self.code_type, self.grouping)
    }

    pub(super) fn read(&self, layer: &Layer, weights: &Weights) -> Result<Codes> {
        let [rows, _] = layer.shape;
        let name = |part: &str| format!("{}.{part}", layer.module);
        let bits = self.code_type.width();
        let bytes_of = |part: &str| -> Result<Vec<i8>> {
            let bytes = weights.require(&name(part))?.read_bytes(&name(part))?;
            Ok(bytes.into_iter().map(u8::cast_signed).collect())
        };
        let codes = match self.packed {
            true => unpack(&read_words(weights, &name("weight_packed"))?, layer.shape, bits),
            false => bytes_of("weight")?,
        };
        let zero_points = match self.zero_points {
            None => None,
            Some(ZeroPoints::Plain) => Some(bytes_of("weight_zero_point")?),
            // They are packed along the rows, so the transposed tensor has rows of words.
            Some(ZeroPoints::Packed) => {
                let words = read_words(weights, &name("weight_zero_point"))?;
                let groups = self.grouping.per_row().unwrap_or(1);
                let turned = transposed(&words, [words_of(rows, bits), groups]);
                Some(transposed(&unpack(&turned, [groups, rows], bits), [groups, rows]))
            }
        };
        let (scales, half_scales) = scales(weights, &name("weight_scale"))?;
        let groups = match (self.grouping, self.has_index) {
            (Grouping::Columns { size, count }, true) => {
                let name = name("weight_g_idx");
                let file = weights.require(&name)?;
                let bytes = file.read_bytes(&name)?;
                let index: Vec<i64> = match file.dtype(&name) {
                    Some(Dtype::I64) => {
                        bytes.as_chunks().0.iter().map(|&group| i64::from_le_bytes(group)).collect()
                    }
                    _ => bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&group| i64::from(i32::from_le_bytes(group)))
                        .collect(),
                };
                // An unset index is -1.
                match index.iter().all(|&group| group == -1) {
                    true => self.grouping.groups(),
                    false => {
                        let index =
                            index.into_iter().map(|group| usize::try_from(group).unwrap_or(usize::MAX));
                        Groups::indexed(index.collect(), count, size)
                    }
                }
            }
            (grouping, _) => grouping.groups(),
        };
        Ok(Codes {
            shape: layer.shape,
            code_type: self.code_type,
            codes,
            groups,
            scales: self.grouping.of_rows(scales, layer.shape),
            half_scales,
            zero_points: zero_points.map(|zeros| self.grouping.of_rows(zeros, layer.shape)),
        })
    }

    pub(super) fn has_symmetric_dynamic_inputs(&self) -> bool {
        self.inputs.as_ref().is_some_and(|args| args.symmetric && args.dynamic == Value::Bool(true))
    }

    /// Returns the quantization of inputs in the file, or the reason why slm does not support it.
    pub(super) fn inputs(
        &self,
        layer: &Layer,
        weights: &Weights,
    ) -> Result<std::result::Result<ActivationQuant, String>> {
        if self.outputs {
            return Ok(Err("its outputs are quantized too, which is not supported".to_owned()));
        }
        let Some(args) = &self.inputs else { return Ok(Ok(ActivationQuant::Float)) };
        let strategy = args.strategy.as_deref().unwrap_or("tensor");
        let is_int8 = (args.kind.as_str(), args.num_bits) == ("int", 8);
        match (&args.dynamic, strategy) {
            (Value::Bool(true), "token") if is_int8 => {
                Ok(Ok(ActivationQuant::Dynamic(ActivationGranularity::PerToken)))
            }
            (Value::Bool(true), "tensor") if is_int8 => {
                Ok(Ok(ActivationQuant::Dynamic(ActivationGranularity::PerTensor)))
            }
            (Value::Bool(false) | Value::Null, "tensor") if is_int8 => {
                let name = |part: &str| format!("{}.{part}", layer.module);
                let missing = || layer.wrong(weights, "its inputs are static, but input_scale is missing");
                let file = weights.file_of(&name("input_scale")).ok_or_else(missing)?;
                let scale = match file.read_f32(&name("input_scale"))?[..] {
                    [scale] if scale > 0.0 => scale,
                    ref other => return Err(layer.wrong(weights, format!("input_scale is {other:?}"))),
                };
                let zero = match self.has_input_zero {
                    false => 0,
                    true => match weights
                        .require(&name("input_zero_point"))?
                        .read_bytes(&name("input_zero_point"))?[..]
                    {
                        [zero] => i32::from(zero.cast_signed()),
                        ref other => {
                            return Err(
                                layer.wrong(weights, format!("input_zero_point has {} values", other.len()))
                            );
                        }
                    },
                };
                // Input codes are -128 to 127 in the file, and 0 to 255 in slm.
                Ok(Ok(ActivationQuant::Static(QParams { scale, zero_point: zero + 128 })))
            }
            (dynamic, strategy) => Ok(Err(format!(
                "its inputs are {}{}, per {strategy}, dynamic: {dynamic}, which is not supported",
                args.kind, args.num_bits
            ))),
        }
    }
}
