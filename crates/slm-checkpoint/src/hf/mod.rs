//! Import of models in the Hugging Face layout: `config.json`, `model.safetensors` or `pytorch_model.bin` (or several files
//! with an index), and if present a tokenizer and `generation_config.json`.
//!
//! Supported are the architectures of [`slm_model::arch`], with configs as transformers 4 and 5 write them. Weights in
//! F32, F16 and BF16 keep their type, F64 becomes F32, and integers of compressed-tensors, GPTQ or AWQ are kept. An
//! import fails, with the name of the option, if the model cannot be computed exactly like the original. Files and
//! fields that do not affect the model's output are ignored, with a warning if that may be surprising.
//!
//! A model whose config ties the head to the embedding may still have a head in its file: a copy of the embedding is
//! ignored, and a different head unties the two, as in transformers 5. A head without an embedding also serves as the
//! embedding.

mod chat;
mod documents;
mod end_tokens;
mod impostor;
mod names;
mod no_weights;
pub(crate) mod pickle;
mod place;
mod plan;
mod quantized;
mod tied;
mod tokenizer;
mod tokenizer_settings;
mod weight_file;
mod weight_naming;
mod weights;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use slm_model::arch::{self, Architecture};
use slm_model::{ModelConfig, SourceError, TensorSource, Transformer};
use slm_quant_core::{ActivationQuant, QuantizedMatrix};

pub use self::impostor::{explain_file, head};
pub(crate) use self::place::hub_id;
pub use self::place::is_unrecognized_bin;
use self::plan::TensorSources;
use self::quantized::Method;
use self::tokenizer_settings::TokenizerSettings;
use self::weights::Weights;
pub use self::write::{ImportOptions, ImportReport, import_to, import_with};
use crate::manifest::sha256_of;
use crate::tensors::PositionedFile;
use crate::{Error, Result, TokenizerInfo, json as json_file};
use slm_store::{Error as StoreError, StopFlag};

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Warnings of an import that succeeds. Each warning names its file.
#[derive(Debug, Default)]
struct Warnings(Vec<String>);

impl Warnings {
    fn add(&mut self, path: &Path, what: &str) {
        self.0.push(format!("{}: {what}", path.display()));
    }
}

/// An open Hugging Face model. Its tensors, under their canonical names and in slm's layout, are read one at a time: it
/// is a [`TensorSource`].
#[derive(Debug)]
pub struct Imported {
    config: ModelConfig,
    architecture: &'static Architecture,
    tokenizer: TokenizerInfo,
    tokenizer_json: Option<Vec<u8>>,
    unrecognized_fields: Vec<String>,
    warnings: Vec<String>,
    dir: PathBuf,
    weights: Weights,
    /// The program that quantized the model, if any.
    method: Option<Method>,
    /// Shape and source of every canonical tensor.
    tensor_sources: TensorSources,
}

/// Opens the model in `dir` and checks its configuration and the names, types and shapes of all tensors. The tokenizer
/// is loaded and tested.
///
/// `dir` may also be a repository in the Hugging Face cache, whose snapshot is then read.
///
/// # Errors
/// [`Error::Architecture`] and [`Error::Unsupported`] for a model that cannot be imported; [`Error::Unusable`] for a
/// directory or a file that is recognized as something other than expected; [`StoreError::Field`],
/// [`StoreError::TensorSet`], [`StoreError::Shape`] and [`StoreError::TensorType`] for an inconsistent model;
/// [`StoreError::Missing`], [`StoreError::Header`], [`StoreError::Truncated`], [`StoreError::Json`],
/// [`StoreError::Io`].
pub fn import(dir: impl AsRef<Path>) -> Result<Imported> {
    let mut warnings = Warnings::default();
    let result = open(dir.as_ref(), &mut warnings);
    for warning in &warnings.0 {
        tracing::warn!("{warning}");
    }
    Ok(Imported { warnings: warnings.0, ..result? })
}

fn open(path: &Path, warnings: &mut Warnings) -> Result<Imported> {
    let dir = place::find(path, warnings)?;
    let config_path = dir.join(CONFIG);
    let remedy = "name the directory of a Hugging Face model";
    let missing = || StoreError::Missing { path: config_path.clone(), remedy: remedy.to_owned() };
    let mut config_json: Map<String, Value> =
        documents::read(&config_path, json_file::SMALL)?.ok_or_else(missing)?;
    place::refuse_own(&dir, &config_json)?;
    let method = Method::take(&dir, &config_path, &mut config_json)?;
    let mut parsed = arch::read_config(&config_json).map_err(|error| refused(&config_path, error))?;
    for field in &parsed.unrecognized {
        warnings.add(&config_path, &format!("field {field:?} is not known and was ignored"));
    }
    for note in &parsed.notes {
        warnings.add(&config_path, note);
    }
    let vocab_size = parsed.model.vocab_size;
    let settings = TokenizerSettings::read(&dir)?;
    let tokenizer_json =
        tokenizer::read(&dir, &settings, parsed.architecture.model_type, vocab_size, warnings)?;
    let tokenizer = TokenizerInfo {
        chat: chat::read(&settings)?,
        ..special_tokens(&dir, &config_path, &config_json, vocab_size, warnings)?
    };
    let tokenizer = end_tokens::add(&settings, tokenizer_json.as_deref(), vocab_size, tokenizer);

    let mut weights = Weights::open(&dir, parsed.architecture, warnings)?;
    if let Some(method) = &method
        && weights.read_quantized(method)? == 0
    {
        let what = format!("it says that {} quantized the model, but no weight is quantized", method.name());
        warnings.add(&config_path, &what);
    }
    place::warn_of_adapter(&dir, warnings);
    tied::untie(&mut parsed, &weights, &config_path, warnings)?;
    let tensor_sources = plan::plan(&parsed, &weights, warnings)?;
    Ok(Imported {
        config: parsed.model,
        architecture: parsed.architecture,
        tokenizer,
        tokenizer_json,
        unrecognized_fields: parsed.unrecognized,
        warnings: Vec::new(),
        dir,
        weights,
        method,
        tensor_sources,
    })
}

impl Imported {
    /// Returns the model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the architecture's name at Hugging Face.
    pub fn architecture(&self) -> &'static str {
        self.architecture.name
    }

    /// Returns the special tokens, from `generation_config.json` or else `config.json`.
    pub fn tokenizer(&self) -> &TokenizerInfo {
        &self.tokenizer
    }

    /// Returns the content of `tokenizer.json`, if the model has a tokenizer.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer_json.as_deref()
    }

    /// Returns the unknown fields of `config.json`, which were ignored.
    pub fn unrecognized_fields(&self) -> &[String] {
        &self.unrecognized_fields
    }

    /// Returns the assumptions made and the parts ignored, one sentence each, with the file.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads the tensor with the canonical name `name` as F32, in row-major order. A quantized weight is dequantized.
    ///
    /// # Errors
    /// [`StoreError::NotFinite`], [`StoreError::Io`], [`StoreError::Truncated`]; [`StoreError::TensorSet`] for a name
    /// that the model does not have; [`Error::Unusable`] for an inconsistent quantized weight.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let Some((_, source)) = self.tensor_sources.get(name) else {
            return Err(Error::Store(StoreError::TensorSet {
                path: self.weights.path().to_owned(),
                missing: vec![name.to_owned()],
                unexpected: Vec::new(),
                remedy: "ask for a tensor that the model has".to_owned(),
            }));
        };
        match self.weights.quantized(&source.tensor) {
            Some(layer) => layer.values(&self.weights, source.file_rows().as_deref()),
            None => Ok(source.apply(self.weights.require(&source.tensor)?.read_f32(&source.tensor)?)),
        }
    }

    /// Returns the type that holds the values of the tensor with the canonical name `name` exactly: its type in the
    /// file, or F32 if the file has another type or the values are transformed.
    pub(crate) fn float_type(&self, name: &str) -> Dtype {
        let source = self.tensor_sources.get(name).map(|(_, source)| source);
        let kept = source
            .filter(|source| source.keeps_values() && self.weights.quantized(&source.tensor).is_none())
            .and_then(|source| self.weights.file_of(&source.tensor)?.dtype(&source.tensor));
        match kept {
            Some(dtype @ (Dtype::F16 | Dtype::BF16)) => dtype,
            _ => Dtype::F32,
        }
    }

    /// Reads the integers of the tensor with the canonical name `name`, and the quantization of its layer's inputs.
    /// Returns `None` if it is stored as floats.
    ///
    /// # Errors
    /// [`Error::Unusable`] with the layer's name if slm has no scheme for the integers, and the errors of
    /// [`Imported::read_f32`].
    pub fn read_quantized(&self, name: &str) -> Result<Option<(QuantizedMatrix, ActivationQuant)>> {
        let Some((_, source)) = self.tensor_sources.get(name) else { return Ok(None) };
        let Some(layer) = self.weights.quantized(&source.tensor) else { return Ok(None) };
        layer.matrix(&self.weights, source.file_rows().as_deref()).map(Some)
    }

    /// Returns the name of the program that quantized the model, from its config; `None` for a float model.
    pub fn quantization(&self) -> Option<&'static str> {
        self.method.as_ref().map(Method::name)
    }

    /// Reads the model onto `device`.
    ///
    /// # Errors
    /// Same as [`Imported::read_f32`].
    pub fn load_model(&mut self, device: &Device) -> Result<Transformer> {
        let config = self.config.clone();
        Transformer::from_tensors(&config, self, device).map_err(|error| Error::from_model(&self.dir, error))
    }

    /// Returns the record of the source for the checkpoint. Paths are omitted, because they are meaningless elsewhere.
    fn lineage(&self, stop: &StopFlag) -> Result<Value> {
        let mut names = vec![CONFIG.to_owned()];
        names.extend(self.weights.files().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
        let record = |name: String| {
            let path = self.dir.join(&name);
            let mut file = PositionedFile::new(File::open(&path).map_err(Error::io(&path, "open"))?);
            file.stop_at(stop.clone());
            let size = file.size().map_err(Error::io(&path, "read the size"))?;
            Ok((name, json!({ "size": size, "sha256": sha256_of(&path, &file)? })))
        };
        let files = names.into_iter().map(record).collect::<Result<BTreeMap<String, Value>>>()?;
        let mut lineage =
            json!({ "imported_from": "hugging-face", "architecture": self.architecture(), "files": files });
        if let Some(method) = self.quantization() {
            lineage["quant_method"] = method.into();
        }
        Ok(lineage)
    }
}

impl TensorSource for Imported {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensor_sources.get(name).map(|(shape, _)| shape.clone())
    }

    fn take_f32(&mut self, name: &str, _expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        Ok(self.read_f32(name)?)
    }
}

/// Converts an error of reading the config at `path`.
fn refused(path: &Path, error: slm_model::Error) -> Error {
    match error {
        slm_model::Error::HfField { field, expected, found } => Error::field(path, field, expected, found),
        slm_model::Error::HfUnsupported { field, found, supported } => {
            Error::Unsupported { path: path.to_owned(), field, found, supported }
        }
        slm_model::Error::HfArchitecture { found, supported } => {
            Error::Architecture { path: path.to_owned(), found, supported }
        }
        source => Error::Model { path: path.to_owned(), source },
    }
}

/// Returns the special tokens: each from `generation_config.json` if present, otherwise from `config.json`. An id
/// outside of the vocabulary, such as -1 for none or one of a larger model, is ignored.
fn special_tokens(
    dir: &Path,
    config_path: &Path,
    config: &Map<String, Value>,
    vocab_size: usize,
    warnings: &mut Warnings,
) -> Result<TokenizerInfo> {
    let generation_path = dir.join(GENERATION_CONFIG);
    let generation: Map<String, Value> =
        documents::read(&generation_path, json_file::SMALL)?.unwrap_or_default();
    let text = arch::NESTED.iter().find_map(|name| config.get(*name)?.as_object());
    let empty = Map::new();
    let sources =
        [(&*generation_path, &generation), (config_path, config), (config_path, text.unwrap_or(&empty))];
    let mut ids = |name: &str| -> Result<Vec<u32>> {
        for (path, map) in sources {
            let values = match map.get(name) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(values)) => values.as_slice(),
                Some(value) => std::slice::from_ref(value),
            };
            let mut found = Vec::new();
            let mut passed_over = Vec::new();
            for value in values {
                match value.as_i64() {
                    Some(id) if (0..vocab_size as i64).contains(&id) => found.push(id as u32),
                    Some(id) => passed_over.push(id.to_string()),
                    None if value.is_u64() => passed_over.push(value.to_string()),
                    None => {
                        return Err(Error::field(
                            path,
                            name,
                            format!("ids below vocab_size = {vocab_size}"),
                            value,
                        ));
                    }
                }
            }
            if !passed_over.is_empty() {
                let ids = passed_over.join(", ");
                let what =
                    format!("field {name:?}: {ids} is not below vocab_size = {vocab_size} and was ignored");
                warnings.add(path, &what);
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    };
    Ok(TokenizerInfo {
        bos_token_id: ids("bos_token_id")?.first().copied(),
        eos_token_ids: ids("eos_token_id")?,
        chat: None,
    })
}
