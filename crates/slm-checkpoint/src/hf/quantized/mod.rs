//! Quantized weights of a Hugging Face directory, stored by compressed-tensors, GPTQ or AWQ, or in FP8.
//!
//! Each weight replaces a float tensor, `X.weight`, and consists of several tensors in the file. If slm has a scheme
//! for the codes of a layer, the layer becomes a [`QuantizedMatrix`] with the same integers; any layer can be
//! dequantized.

mod awq;
mod codes;
mod compressed;
mod float8;
mod fp8;
mod gptq;
mod grouping;
mod targets;
mod words;

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use slm_quant_core::{ActivationQuant, QuantizedMatrix};

use self::codes::{CodeType, Codes};
use self::grouping::Grouping;
use super::weights::Weights;
use super::{documents, weight_file::WeightFile};
use crate::{Error, Result, json};

/// Config fields that describe the quantization; the second one is from old versions of compressed-tensors.
const FIELDS: [&str; 2] = ["quantization_config", "compression_config"];
/// File of AutoGPTQ with the fields of a `quantization_config`.
const FILE: &str = "quantize_config.json";
/// Types of scales.
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// The program that quantized a model.
#[derive(Debug)]
pub(super) enum Method {
    Compressed(Box<compressed::Config>),
    Gptq(gptq::Config),
    Awq(awq::Config),
    Fp8(fp8::Config),
}

impl Method {
    /// Removes a supported quantization config from the config at `path`, or reads it from the file next to it. Returns
    /// `None` if there is none, or if an unsupported one remains in the config, where it is rejected later.
    pub(super) fn take(dir: &Path, path: &Path, config: &mut Map<String, Value>) -> Result<Option<Self>> {
        let known = |name: &&&str| config.get(**name).is_some_and(Value::is_object);
        if let Some(field) = FIELDS.iter().find(known) {
            let Some(Value::Object(fields)) = config.get(*field) else { return Ok(None) };
            let method = fields.get("quant_method").and_then(Value::as_str);
            let method = match (method, *field) {
                (None, "compression_config") => "compressed-tensors",
                (method, _) => method.unwrap_or_default(),
            };
            let fields = fields.clone();
            let found = Self::read(path, field, method, fields)?;
            if found.is_some() {
                config.remove(*field);
            }
            return Ok(found);
        }
        let file = dir.join(FILE);
        let Some(fields) = documents::read::<Map<String, Value>>(&file, json::SMALL)? else {
            return Ok(None);
        };
        let method = fields.get("quant_method").and_then(Value::as_str).unwrap_or("gptq").to_owned();
        let found = Self::read(&file, "quantize_config", &method, fields)?;
        found
            .map(Some)
            .ok_or_else(|| Error::field(&file, "quant_method", "gptq or awq: import the float model", method))
    }

    fn read(path: &Path, field: &str, method: &str, fields: Map<String, Value>) -> Result<Option<Self>> {
        Ok(Some(match method {
            "compressed-tensors" => {
                Self::Compressed(Box::new(compressed::Config::read(path, field, fields)?))
            }
            "gptq" => Self::Gptq(gptq::Config::read(path, field, fields)?),
            "awq" => Self::Awq(awq::Config::read(path, field, fields)?),
            "fp8" => Self::Fp8(fp8::Config::read(path, field, fields)?),
            _ => return Ok(None),
        }))
    }

    /// Name of the method in a config.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Compressed(_) => "compressed-tensors",
            Self::Gptq(_) => "gptq",
            Self::Awq(_) => "awq",
            Self::Fp8(_) => "fp8",
        }
    }

    /// Returns the layers with quantized weights.
    pub(super) fn layers(&self, weights: &Weights) -> Result<Vec<Layer>> {
        match self {
            Self::Compressed(config) => config.layers(weights),
            Self::Gptq(config) => config.layers(weights),
            Self::Awq(config) => config.layers(weights),
            Self::Fp8(config) => config.layers(weights),
        }
    }
}

/// Parses the fields of a quantization config.
fn parse<T: DeserializeOwned>(path: &Path, field: &str, fields: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        Error::field(path, field, "the fields that the program which quantized the model writes", error)
    })
}

/// Returns the error for an unsupported value of the field `name` in the quantization config `field`.
fn unsupported(path: &Path, field: &str, name: &str, found: String, supported: &str) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        field: format!("{field}.{name}"),
        found,
        supported: supported.to_owned(),
    }
}

/// Checks that `bits` of a quantization config is one of the widths of codes that the method has.
fn read_bits(path: &Path, field: &str, bits: u64, known: &[u32]) -> Result<u32> {
    known.iter().copied().find(|&width| u64::from(width) == bits).ok_or_else(|| {
        let known: Vec<String> = known.iter().map(u32::to_string).collect();
        let supported = format!("{} (else import the float model)", known.join(", "));
        unsupported(path, field, "bits", bits.to_string(), &supported)
    })
}

/// Describes codes of `method` in a few words.
fn describe(method: &str, code_type: CodeType, grouping: Grouping) -> String {
    format!("{method}, {code_type} {grouping}")
}

/// A quantized weight in the file.
#[derive(Debug)]
pub(super) struct Layer {
    /// The name of the layer in the file, without wrappers.
    module: String,
    /// `[outputs, inputs]`.
    shape: [usize; 2],
    form: Form,
    /// Names of the tensors that it consists of.
    parts: Vec<String>,
}

/// Storage format of a layer.
#[derive(Debug)]
enum Form {
    Compressed(compressed::Form),
    Gptq(gptq::Form),
    Awq(awq::Form),
    Fp8(fp8::Form),
}

impl Layer {
    /// Name of the float tensor that it replaces.
    pub(super) fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(String::as_str)
    }

    /// Description in a few words.
    pub(super) fn description(&self) -> String {
        match &self.form {
            Form::Compressed(form) => form.description(),
            Form::Gptq(form) => form.description(),
            Form::Awq(form) => form.description(),
            Form::Fp8(form) => form.description(),
        }
    }

    /// Returns `true` if dynamic inputs have no zero points in the file. In slm they have zero points.
    pub(super) fn has_symmetric_dynamic_inputs(&self) -> bool {
        matches!(&self.form, Form::Compressed(form) if form.has_symmetric_dynamic_inputs())
    }

    /// Reads the codes.
    fn read(&self, weights: &Weights) -> Result<Codes> {
        let codes = match &self.form {
            Form::Compressed(form) => form.read(self, weights)?,
            Form::Gptq(form) => form.read(self, weights)?,
            Form::Awq(form) => form.read(self, weights)?,
            Form::Fp8(form) => form.read(self, weights)?,
        };
        codes.checked().map_err(|problem| self.wrong(weights, problem))
    }

    /// Dequantizes the rows `rows`, or all rows if it is `None`.
    pub(super) fn values(&self, weights: &Weights, rows: Option<&[usize]>) -> Result<Vec<f32>> {
        Ok(self.read(weights)?.select(rows).values())
    }

    /// Reads the rows `rows` as a matrix of slm with the same integers, and the quantization of inputs.
    ///
    /// # Errors
    /// [`Error::Unusable`] with the layer's name if slm has no scheme for them.
    pub(super) fn matrix(
        &self,
        weights: &Weights,
        rows: Option<&[usize]>,
    ) -> Result<(QuantizedMatrix, ActivationQuant)> {
        let inputs = match &self.form {
            Form::Compressed(form) => form.inputs(self, weights)?,
            Form::Gptq(_) | Form::Awq(_) | Form::Fp8(_) => Ok(ActivationQuant::Float),
        };
        let matrix = self.read(weights)?.select(rows).into_matrix();
        let matrix = matrix.map_err(|why| self.no_scheme(weights, &why))?;
        Ok((matrix, inputs.map_err(|why| self.no_scheme(weights, &why))?))
    }

    /// Returns the error for codes for which slm has no scheme.
    fn no_scheme(&self, weights: &Weights, why: &str) -> Error {
        Error::NeedsDequantizing { path: self.path(weights), problem: self.problem(why) }
    }

    /// Returns the error for contradictory tensors.
    fn wrong(&self, weights: &Weights, problem: impl AsRef<str>) -> Error {
        self.refused(weights, problem.as_ref(), "download the model again, or import the float model")
    }

    fn refused(&self, weights: &Weights, problem: &str, remedy: &str) -> Error {
        Error::Unusable {
            path: self.path(weights),
            problem: self.problem(problem),
            remedy: remedy.to_owned(),
        }
    }

    /// Returns the file with the layer.
    fn path(&self, weights: &Weights) -> PathBuf {
        let file = self.parts.iter().find_map(|part| weights.file_of(part));
        file.map_or(weights.path(), WeightFile::path).to_owned()
    }

    /// Returns a description of a problem with the layer.
    fn problem(&self, problem: &str) -> String {
        format!("layer {} ({}): {problem}", self.module, self.description())
    }
}

/// Lookup of the tensors of one layer.
struct Looking<'a> {
    weights: &'a Weights,
    module: &'a str,
    parts: Vec<String>,
}

impl<'a> Looking<'a> {
    fn new(weights: &'a Weights, module: &'a str) -> Self {
        Self { weights, module, parts: Vec::new() }
    }

    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    fn refuse(&self, problem: impl Into<String>, remedy: &str) -> Error {
        let path = self.parts.iter().find_map(|part| self.weights.file_of(part));
        Error::Unusable {
            path: path.map_or(self.weights.path(), WeightFile::path).to_owned(),
            problem: format!("layer {}: {}", self.module, problem.into()),
            remedy: remedy.to_owned(),
        }
    }

    fn wrong(&self, problem: impl Into<String>) -> Error {
        self.refuse(problem, "download the model again, or import the float model")
    }

    /// Returns the shape of a part that must exist and have one of `types`.
    fn require(&mut self, part: &str, types: &[Dtype]) -> Result<&'a [usize]> {
        match self.optional(part, types)? {
            Some(shape) => Ok(shape),
            None => Err(self.wrong(format!("tensor {:?} is missing", self.name(part)))),
        }
    }

    /// Returns the shape of a part, if it exists; it must have one of `types`.
    fn optional(&mut self, part: &str, types: &[Dtype]) -> Result<Option<&'a [usize]>> {
        let name = self.name(part);
        let Some(file) = self.weights.file_of(&name) else { return Ok(None) };
        file.check_dtype(&name, types)?;
        let shape = file.shape(&name);
        self.parts.push(name);
        Ok(shape)
    }

    /// [`Looking::require`] for a matrix.
    fn matrix(&mut self, part: &str, types: &[Dtype]) -> Result<[usize; 2]> {
        match *self.require(part, types)? {
            [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
            ref other => {
                Err(self
                    .wrong(format!("tensor {:?} has shape {other:?} and is not a matrix", self.name(part))))
            }
        }
    }

    /// Fails if the shape of a part differs from the shape that the other parts require.
    fn expect_shape(&self, part: &str, found: &[usize], expected: &[usize]) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let name = self.name(part);
        Err(self.wrong(format!(
            "tensor {name:?} has shape {found:?}, but the other tensors call for {expected:?}"
        )))
    }

    fn layer(self, shape: [usize; 2], form: Form) -> Layer {
        Layer { module: self.module.to_owned(), shape, form, parts: self.parts }
    }
}

/// Returns the modules of `weights` that have a tensor called `part`.
fn modules<'a>(weights: &'a Weights, part: &str) -> Vec<&'a str> {
    let end = format!(".{part}");
    weights.stored_names().into_iter().filter_map(|name| name.strip_suffix(end.as_str())).collect()
}

/// Reads a tensor of scales, and returns whether it has 16 bits.
fn scales(weights: &Weights, name: &str) -> Result<(Vec<f32>, bool)> {
    let file = weights.require(name)?;
    Ok((file.read_f32(name)?, file.dtype(name) == Some(Dtype::F16)))
}

/// Reads a tensor of 32-bit words.
fn read_words(weights: &Weights, name: &str) -> Result<Vec<u32>> {
    Ok(words::words(&weights.require(name)?.read_bytes(name)?))
}

/// Transposes a matrix.
fn transposed<T: Copy>(values: &[T], [rows, cols]: [usize; 2]) -> Vec<T> {
    (0..cols).flat_map(|column| (0..rows).map(move |row| values[row * cols + column])).collect()
}
