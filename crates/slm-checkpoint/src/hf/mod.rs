//! Import of models in the Hugging Face layout: `config.json`, `model.safetensors` (or several files with an
//! index), and if present `tokenizer.json` and `generation_config.json`.
//!
//! The architectures are those of [`slm_model::arch`]; configs as transformers 4 and 5 write them; weights in F32,
//! F16 or BF16, which become F32. What cannot be computed exactly as the original does is refused, by name.
//!
//! A model whose config ties the head to the embedding may still have a head in its file: the same bytes as the
//! embedding are passed over, others are refused.

mod chat;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use slm_model::arch::{self, Architecture, HfConfig, Origin};
use slm_model::{EMBED_TOKENS, ModelConfig, SourceError, TensorSource, Transformer, expected_tensors};

use self::shards::Shards;
use crate::manifest::sha256_of;
use crate::tensors::{PositionedFile, TensorFile};
use crate::{
    ChatInfo, CheckpointWriter, Error, Layout, Result, SaveRequest, TokenizerInfo, json as json_file,
    tokenizer,
};
use slm_store::Error as StoreError;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";

/// A Hugging Face model that is open for reading. Its tensors, under their canonical names and in our
/// layout, are read one at a time: it is a [`TensorSource`].
#[derive(Debug)]
pub struct Imported {
    config: ModelConfig,
    architecture: &'static Architecture,
    tokenizer: TokenizerInfo,
    tokenizer_json: Option<Vec<u8>>,
    unrecognized_fields: Vec<String>,
    dir: PathBuf,
    shards: Shards,
    /// Shape and origin of every canonical tensor.
    origins: Origins,
}

type Origins = BTreeMap<String, (Vec<usize>, Origin)>;

/// What [`import_to`] did.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// The checkpoint.
    pub path: PathBuf,
    /// Architecture as Hugging Face names it.
    pub architecture: &'static str,
    /// The model's configuration.
    pub config: ModelConfig,
    /// Whether the checkpoint has a tokenizer.
    pub has_tokenizer: bool,
    /// How the model takes a conversation, where it was trained for one.
    pub chat: Option<ChatInfo>,
    /// Fields of `config.json` that are not known to this program and were passed over.
    pub unrecognized_fields: Vec<String>,
}

/// Opens the model in `dir` and checks its configuration, and the names, types and shapes of all tensors.
///
/// # Errors
/// [`Error::Architecture`] and [`Error::Unsupported`] for a model that cannot be imported; [`StoreError::Field`],
/// [`StoreError::TensorSet`], [`StoreError::Shape`] and [`StoreError::TensorType`] for one that contradicts itself;
/// [`StoreError::Missing`], [`StoreError::Header`], [`StoreError::Truncated`], [`StoreError::Json`], [`StoreError::Io`].
pub fn import(dir: impl AsRef<Path>) -> Result<Imported> {
    let dir = dir.as_ref();
    let config_path = dir.join(CONFIG);
    let remedy = "name the directory of a Hugging Face model";
    let config_bytes = json_file::read(&config_path, json_file::SMALL, remedy)?;
    let config_json: Map<String, Value> = json_file::parse(&config_path, &config_bytes)?;
    let parsed = arch::read_config(&config_json).map_err(|error| refused(&config_path, error))?;
    for field in &parsed.unrecognized {
        tracing::warn!("{}: field {field:?} is not known and was passed over", config_path.display());
    }
    let vocab_size = parsed.model.vocab_size;
    let tokenizer_path = dir.join(TOKENIZER);
    let tokenizer_json = json_file::read_optional(&tokenizer_path, json_file::LARGE)?;
    if let Some(bytes) = &tokenizer_json {
        tokenizer::check(&tokenizer_path, bytes, vocab_size)?;
    }
    let tokenizer = special_tokens(dir, &config_path, &config_json, vocab_size)?;

    let shards = Shards::open(dir)?;
    let origins = plan(&parsed, &shards)?;
    let imported = Imported {
        config: parsed.model,
        architecture: parsed.architecture,
        tokenizer,
        tokenizer_json,
        unrecognized_fields: parsed.unrecognized,
        dir: dir.to_owned(),
        shards,
        origins,
    };
    imported.check_tied_head()?;
    Ok(imported)
}

/// Writes the model in `dir` as a checkpoint into `out`, one tensor at a time.
///
/// # Errors
/// As [`import`] and [`save`](crate::save).
pub fn import_to(dir: impl AsRef<Path>, out: impl AsRef<Path>, overwrite: bool) -> Result<ImportReport> {
    let imported = import(dir)?;
    let mut writer =
        CheckpointWriter::create(out, imported.config(), &Layout::new(imported.config()), overwrite)?;
    for tensor in expected_tensors(imported.config()) {
        writer.write_f32(&tensor.name, &imported.read_f32(&tensor.name)?)?;
    }
    let path = writer.finish(&SaveRequest {
        tokenizer_json: imported.tokenizer_json(),
        tokenizer: imported.tokenizer.clone(),
        lineage: Some(imported.lineage()?),
        ..SaveRequest::default()
    })?;
    Ok(ImportReport {
        path,
        architecture: imported.architecture(),
        has_tokenizer: imported.tokenizer_json.is_some(),
        chat: imported.tokenizer.chat,
        config: imported.config,
        unrecognized_fields: imported.unrecognized_fields,
    })
}

impl Imported {
    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Architecture as Hugging Face names it.
    pub fn architecture(&self) -> &'static str {
        self.architecture.name
    }

    /// Special tokens, from `generation_config.json` or else `config.json`.
    pub fn tokenizer(&self) -> &TokenizerInfo {
        &self.tokenizer
    }

    /// Content of `tokenizer.json`; none for a model without.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tokenizer_json.as_deref()
    }

    /// Fields of `config.json` that are not known to this program and were passed over.
    pub fn unrecognized_fields(&self) -> &[String] {
        &self.unrecognized_fields
    }

    /// Reads the tensor of canonical name `name` as F32, row-major.
    ///
    /// # Errors
    /// [`StoreError::NotFinite`], [`StoreError::Io`], [`StoreError::Truncated`]; [`StoreError::TensorSet`] for a name that the
    /// model does not have.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let source = self.origins.get(name).and_then(|(_, origin)| Some((origin, self.file_of(origin)?)));
        let Some((origin, file)) = source else {
            return Err(Error::Store(StoreError::TensorSet {
                path: self.shards.path().to_owned(),
                missing: vec![name.to_owned()],
                unexpected: Vec::new(),
                remedy: "ask for a tensor that the model has".to_owned(),
            }));
        };
        Ok(origin.apply(file.read_f32(&origin.tensor)?))
    }

    /// Reads the model onto `device`.
    ///
    /// # Errors
    /// As [`Imported::read_f32`].
    pub fn load_model(&mut self, device: &Device) -> Result<Transformer> {
        let config = self.config.clone();
        Transformer::from_tensors(&config, self, device).map_err(|error| Error::from_model(&self.dir, error))
    }

    fn file_of(&self, origin: &Origin) -> Option<&TensorFile> {
        self.shards.file_of(&origin.tensor)
    }

    /// Refuses a head that is stored beside an embedding it is tied to and differs from it.
    fn check_tied_head(&self) -> Result<()> {
        let name = self.architecture.head();
        let (Some(head), Some((_, embedding))) = (self.shards.file_of(&name), self.origins.get(EMBED_TOKENS))
        else {
            return Ok(());
        };
        if !self.config.tie_word_embeddings {
            return Ok(());
        }
        let Some(file) = self.file_of(embedding) else { return Ok(()) };
        if head.same_content(&name, file, &embedding.tensor)? {
            return Ok(());
        }
        Err(Error::field(
            &self.dir.join(CONFIG),
            "tie_word_embeddings",
            format!("false, because {name} is in the file and is not {}", embedding.tensor),
            "true",
        ))
    }

    /// What the checkpoint tells of its source. Paths are left out: they mean nothing elsewhere.
    fn lineage(&self) -> Result<Value> {
        let mut names = vec![CONFIG.to_owned()];
        names.extend(self.shards.files().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
        let record = |name: String| {
            let path = self.dir.join(&name);
            let file = PositionedFile::new(File::open(&path).map_err(Error::io(&path, "open"))?);
            let size = file.size().map_err(Error::io(&path, "read the size"))?;
            Ok((name, json!({ "size": size, "sha256": sha256_of(&path, &file)? })))
        };
        let files = names.into_iter().map(record).collect::<Result<BTreeMap<String, Value>>>()?;
        Ok(json!({ "imported_from": "hugging-face", "architecture": self.architecture(), "files": files }))
    }
}

impl TensorSource for Imported {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.origins.get(name).map(|(shape, _)| shape.clone())
    }

    fn take_f32(&mut self, name: &str, _expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        Ok(self.read_f32(name)?)
    }
}

/// Finds the origin of every tensor of the model and checks it. Every tensor of the files has a use, or is a
/// known constant.
fn plan(parsed: &HfConfig, shards: &Shards) -> Result<Origins> {
    let HfConfig { architecture, model, .. } = parsed;
    let names = shards.names();
    let prefixed = names.iter().any(|name| name.starts_with(architecture.prefix()));
    let origins: Origins = expected_tensors(model)
        .into_iter()
        .map(|tensor| {
            let origin = architecture.origin(model, &tensor, prefixed);
            (tensor.name, (tensor.shape, origin))
        })
        .collect();
    let wanted: BTreeSet<&str> = origins.values().map(|(_, origin)| origin.tensor.as_str()).collect();
    let missing: Vec<String> =
        wanted.iter().filter(|name| shards.file_of(name).is_none()).map(|&name| name.to_owned()).collect();
    let head = architecture.head();
    let passed_over =
        |name: &str| architecture.is_constant(name) || (model.tie_word_embeddings && name == head);
    let unexpected: Vec<String> =
        names.iter().filter(|name| !wanted.contains(name.as_str()) && !passed_over(name)).cloned().collect();
    if !missing.is_empty() || !unexpected.is_empty() {
        let remedy = if missing == [head] {
            "the file fits a model with \"tie_word_embeddings\": true in config.json"
        } else {
            "the weights and config.json do not belong together, or the architecture is a variant that is not \
             supported"
        };
        let (path, remedy) = (shards.path().to_owned(), remedy.to_owned());
        return Err(Error::Store(StoreError::TensorSet { path, missing, unexpected, remedy }));
    }
    for (_, origin) in origins.values() {
        if let Some(file) = shards.file_of(&origin.tensor) {
            file.check_dtype(&origin.tensor, &[Dtype::F32, Dtype::F16, Dtype::BF16])?;
            file.check_shape(&origin.tensor, &origin.shape)?;
        }
    }
    Ok(origins)
}

/// The error of reading the config at `path`.
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

/// Special tokens: each from `generation_config.json` if it is there, else from `config.json`.
fn special_tokens(
    dir: &Path,
    config_path: &Path,
    config: &Map<String, Value>,
    vocab_size: usize,
) -> Result<TokenizerInfo> {
    let generation_path = dir.join(GENERATION_CONFIG);
    let generation: Map<String, Value> = match json_file::read_optional(&generation_path, json_file::SMALL)? {
        Some(bytes) => json_file::parse(&generation_path, &bytes)?,
        None => Map::new(),
    };
    let ids = |name: &str| -> Result<Vec<u32>> {
        for (path, map) in [(&*generation_path, &generation), (config_path, config)] {
            let values = match map.get(name) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(values)) => values.as_slice(),
                Some(value) => std::slice::from_ref(value),
            };
            let id = |value: &Value| match value.as_u64().map(u32::try_from) {
                Some(Ok(id)) if (id as usize) < vocab_size => Ok(id),
                _ => Err(Error::field(path, name, format!("ids below vocab_size = {vocab_size}"), value)),
            };
            return values.iter().map(id).collect();
        }
        Ok(Vec::new())
    };
    Ok(TokenizerInfo {
        bos_token_id: ids("bos_token_id")?.first().copied(),
        eos_token_ids: ids("eos_token_id")?,
        chat: chat::read(dir)?,
    })
}
