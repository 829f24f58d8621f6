//! The versions of the checkpoint format.
//!
//! Each version has a module with its file structures, which do not change once a release has written them.
//! Reading dispatches on `format_version` here; a reader of an old version returns the present
//! [`CheckpointConfig`], so that nothing else in the crate knows of old versions.

mod v1;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use slm_model::ModelConfig;

use crate::{Error, Result, json};

/// The version that this release writes.
pub const FORMAT_VERSION: u32 = 1;

/// Main file of a checkpoint.
pub(crate) const CONFIG: &str = "config.json";
/// Weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Tokenizer, as Hugging Face's `tokenizers` writes it.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// Account of a quantization.
pub(crate) const METADATA: &str = "quantization_metadata.json";
/// Every file that any version writes beside the manifest.
pub(crate) const FILES: &[&str] = &[CONFIG, WEIGHTS, TOKENIZER, METADATA];

/// Value of the field `format`.
const FORMAT: &str = "slm-checkpoint";

/// A version that can be read.
struct Version {
    number: u32,
    read: fn(&Path, Value) -> Result<CheckpointConfig>,
}

/// One row per version, oldest first.
const VERSIONS: &[Version] = &[Version { number: 1, read: v1::read }];

/// The content of a checkpoint's `config.json`, whichever version it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    /// Version of slm that wrote it.
    pub program_version: String,
    /// The model.
    pub model: ModelConfig,
    /// Special tokens.
    pub tokenizer: TokenizerInfo,
    /// Where the weights come from: free information for people and tools.
    pub lineage: Option<Value>,
    /// How they were trained: free information for people and tools.
    pub training: Option<Value>,
}

/// Special tokens of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// Begins a sequence. The tokenizer adds it itself where the model was trained with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Any of these ends generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos_token_ids: Vec<u32>,
}

impl TokenizerInfo {
    /// Refuses ids that the model `vocab_size` rows wide does not have.
    pub(crate) fn check(&self, path: &Path, vocab_size: usize) -> Result<()> {
        let bos = self.bos_token_id.iter().map(|id| ("tokenizer.bos_token_id", id));
        let eos = self.eos_token_ids.iter().map(|id| ("tokenizer.eos_token_ids", id));
        match bos.chain(eos).find(|&(_, &id)| id as usize >= vocab_size) {
            Some((field, id)) => {
                Err(Error::field(path, field, format!("an id below vocab_size = {vocab_size}"), id))
            }
            None => Ok(()),
        }
    }
}

/// What every version of `config.json` has in common.
#[derive(Deserialize)]
struct Header {
    format: Option<Value>,
    format_version: Option<Value>,
    program_version: Option<Value>,
    /// A field of Hugging Face's configs.
    architectures: Option<Value>,
}

/// Parses the bytes of `dir/config.json` and brings it to the present version.
pub(crate) fn read_config(dir: &Path, bytes: &[u8]) -> Result<CheckpointConfig> {
    let path = dir.join(CONFIG);
    let value: Value = json::parse(&path, bytes)?;
    let header = Header::deserialize(&value).map_err(Error::json(&path))?;
    match header.format {
        Some(Value::String(format)) if format == FORMAT => {}
        None if header.architectures.is_some() => {
            return Err(Error::NotACheckpoint {
                path: dir.to_owned(),
                reason: "its config.json is Hugging Face's".to_owned(),
                remedy: "import it first with `slm import`".to_owned(),
            });
        }
        other => {
            let found = other.map_or("nothing".to_owned(), |value| value.to_string());
            return Err(Error::NotACheckpoint {
                path: dir.to_owned(),
                reason: format!("the field \"format\" of its config.json is {found}, not \"{FORMAT}\""),
                remedy: "name the directory of a checkpoint".to_owned(),
            });
        }
    }
    let number = header.format_version.unwrap_or(Value::Null);
    let Some(found) = number.as_u64() else {
        return Err(Error::field(&path, "format_version", "a whole number", number));
    };
    let written_by = match header.program_version {
        Some(Value::String(version)) => version,
        _ => "of unknown version".to_owned(),
    };
    check_version(&path, found, written_by)?;
    match VERSIONS.iter().find(|version| u64::from(version.number) == found) {
        Some(version) => (version.read)(&path, value),
        None => Err(unknown(&path, found)),
    }
}

/// Refuses a format version from the future, with what to do about it, and one that never was.
pub(crate) fn check_version(path: &Path, found: u64, written_by: String) -> Result<()> {
    if found > u64::from(FORMAT_VERSION) {
        let newest = u64::from(FORMAT_VERSION);
        return Err(Error::NewerVersion { path: path.to_owned(), found, newest, written_by });
    }
    if VERSIONS.iter().any(|version| u64::from(version.number) == found) {
        return Ok(());
    }
    Err(unknown(path, found))
}

fn unknown(path: &Path, found: u64) -> Error {
    let known: Vec<String> = VERSIONS.iter().map(|version| version.number.to_string()).collect();
    Error::UnknownVersion { path: path.to_owned(), found, known: known.join(", ") }
}

/// The bytes of a `config.json` of the present version.
pub(crate) fn config_bytes(path: &Path, config: &CheckpointConfig) -> Result<Vec<u8>> {
    json::to_bytes(path, &v1::Config::from(config.clone()))
}

/// Whether `dir` says that it is a checkpoint, of whatever version.
pub(crate) fn is_checkpoint(dir: &Path) -> bool {
    let Ok(Some(bytes)) = json::read_optional(&dir.join(CONFIG), json::SMALL) else { return false };
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return false };
    value.get("format").and_then(Value::as_str) == Some(FORMAT)
}
