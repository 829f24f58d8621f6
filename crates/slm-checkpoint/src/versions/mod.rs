//! The versions of the checkpoint format.
//!
//! [`MIGRATIONS`] has one entry for each step from a version to the next. The files of an old checkpoint are parsed,
//! the migrations are applied in memory one after another, and the result is read as the current version. The rest of
//! the crate does not know old versions. Each version has a module that describes it.

mod open;
mod single_file;
mod v0;
mod v1;
mod v2;
mod v3;
mod v4;
mod v5;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use slm_model::ModelConfig;
use slm_store::manifest::{Kind, MANIFEST, Manifest};
use slm_store::{METADATA, OLDEST_SAME_FILES, Replaceable, WEIGHTS};

use crate::{Error, FORMAT_VERSION, QuantizationMetadata, Result, TensorFile, json};

pub(crate) use open::OpenFiles;
pub(crate) use v5::read as read_config;

/// Main file of a checkpoint.
pub(crate) const CONFIG: &str = "config.json";
/// Name of the tokenizer, in the format of Hugging Face's `tokenizers`.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// All files that any version writes, except the manifest.
pub(crate) const FILES: &[&str] = &[CONFIG, WEIGHTS, TOKENIZER, METADATA];

/// Value of the field `format`.
const FORMAT: &str = "slm-checkpoint";

/// The raw content of a checkpoint's files, which migrations change.
pub(crate) struct RawCheckpoint {
    pub(crate) dir: PathBuf,
    /// `config.json`.
    pub(crate) config: Map<String, Value>,
    /// `quantization_metadata.json`.
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) weights: TensorFile,
}

/// One step from a version of the format to the next.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The version that it reads.
    pub from: u32,
    /// The version that it produces.
    pub to: u32,
    /// Description of the changes, for users.
    pub changes: &'static str,
    /// Directory with files of the old version and the command that wrote them; a path in the sources of this crate.
    pub fixture: &'static str,
    apply: fn(&mut RawCheckpoint) -> Result<()>,
}

/// All migrations, oldest first. They cover every version from 0 to [`FORMAT_VERSION`].
pub const MIGRATIONS: &[Migration] =
    &[v0::MIGRATION, v1::MIGRATION, v2::MIGRATION, v3::MIGRATION, v4::MIGRATION];

/// Migrates `raw` from version `from` to the current version.
pub(crate) fn migrate(raw: &mut RawCheckpoint, from: u32) -> Result<()> {
    if let Some(metadata) = &raw.metadata {
        let found = metadata.get("format_version").unwrap_or(&Value::Null);
        QuantizationMetadata::check_version(&raw.dir.join(METADATA), found, from, CONFIG)?;
    }
    for migration in MIGRATIONS.iter().filter(|migration| migration.from >= from) {
        (migration.apply)(raw)?;
        let dir = raw.dir.display();
        tracing::info!(
            "{dir}: format version {} read as {}: {}",
            migration.from,
            migration.to,
            migration.changes
        );
    }
    Ok(())
}

/// The content of a checkpoint's `config.json`, independent of its version.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointConfig {
    /// Version of slm that wrote it.
    pub program_version: String,
    /// Configuration of the model.
    pub model: ModelConfig,
    /// Special tokens.
    pub tokenizer: TokenizerInfo,
    /// Origin of the weights, as free-form information.
    pub lineage: Option<Value>,
    /// Training of the weights, as free-form information.
    pub training: Option<Value>,
}

/// Special tokens of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// Id of the token that begins a sequence. The tokenizer adds it if the model was trained with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Ids of the tokens that end generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos_token_ids: Vec<u32>,
    /// Conversation format of the model, if it was trained for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatInfo>,
}

/// The chat template of a model, from its tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatInfo {
    /// A Jinja template that renders a conversation as text.
    pub template: String,
    /// Texts of the special tokens that the template uses, by name: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub special_tokens: BTreeMap<String, String>,
}

impl TokenizerInfo {
    /// Rejects ids that are not below `vocab_size`.
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

/// Returns the version in the `config.json` of `dir`; `None` if it does not contain one.
pub(crate) fn version_of(dir: &Path, config: &Map<String, Value>) -> Result<Option<u32>> {
    let path = dir.join(CONFIG);
    match config.get("format") {
        None => return Ok(None),
        Some(Value::String(format)) if format == FORMAT => {}
        Some(found) => {
            return Err(Error::NotACheckpoint {
                path: dir.to_owned(),
                reason: format!("the field \"format\" of its {CONFIG} is {found}, not \"{FORMAT}\""),
                remedy: "name the directory of a checkpoint".to_owned(),
            });
        }
    }
    let number = config.get("format_version").cloned().unwrap_or(Value::Null);
    let Some(found) = number.as_u64() else {
        return Err(Error::field(&path, "format_version", "a whole number", number));
    };
    let newest = u64::from(FORMAT_VERSION);
    if found > newest {
        let written_by = config.get("program_version").and_then(Value::as_str);
        let written_by = written_by.unwrap_or("of unknown version").to_owned();
        return Err(Error::NewerVersion { path, found, newest, written_by });
    }
    // Version 0 does not store its number.
    match u32::try_from(found) {
        Ok(version) if version > 0 => Ok(Some(version)),
        _ => Err(Error::UnknownVersion { path, found, known: format!("1 to {newest}") }),
    }
}

/// Reads the manifest of `dir` and checks that it names only files in `dir`. `expected` is its version, if known.
pub(crate) fn read_manifest(dir: &Path, expected: Option<u32>) -> Result<Manifest> {
    parse_manifest(dir, &Manifest::read_bytes(dir)?, expected)
}

/// [`read_manifest`] for the bytes of the manifest of `dir`.
pub(crate) fn parse_manifest(dir: &Path, bytes: &[u8], expected: Option<u32>) -> Result<Manifest> {
    /// Parsed first, to know the format of the rest.
    #[derive(Deserialize)]
    struct Header {
        /// Version of the checkpoint. Version 1 did not store it.
        #[serde(default = "first_version")]
        format_version: u32,
    }
    fn first_version() -> u32 {
        1
    }
    let path = dir.join(MANIFEST);
    let Header { format_version: found } = json::parse(&path, bytes)?;
    let refuse = |expected: String| Err(Error::field(&path, "format_version", expected, found));
    if let Some(expected) = expected.filter(|&expected| expected != found) {
        return refuse(format!("{expected}, as in config.json"));
    }
    match found {
        OLDEST_SAME_FILES..=FORMAT_VERSION => Ok(Manifest::parse(dir, bytes)?),
        1 | 2 => Ok(Manifest::new(dir, Kind::Checkpoint, v2::read_manifest(&path, bytes)?)?),
        _ => refuse(format!("1 to {FORMAT_VERSION}")),
    }
}

/// Formats a `config.json` of the current version.
pub(crate) fn config_bytes(path: &Path, config: &CheckpointConfig) -> Result<Vec<u8>> {
    Ok(json::to_bytes(path, &v5::Config::from(config.clone()))?)
}

/// Returns `true` if `dir` declares itself a checkpoint, of any version.
pub(crate) fn is_checkpoint(dir: &Path) -> bool {
    let Ok(Some(bytes)) = json::read_optional(&dir.join(CONFIG), json::SMALL) else { return false };
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return false };
    value.get("format").and_then(Value::as_str) == Some(FORMAT)
}

/// The kind of directory that saving a checkpoint may replace.
pub(crate) const CHECKPOINTS: Replaceable = Replaceable {
    what: "an slm checkpoint",
    files_of: |dir| {
        is_checkpoint(dir).then(|| {
            let listed = read_manifest(dir, None).map(|manifest| manifest.files).unwrap_or_default();
            let own = FILES.iter().copied().chain([MANIFEST]).map(str::to_owned);
            own.chain(listed.into_keys()).collect()
        })
    },
};
