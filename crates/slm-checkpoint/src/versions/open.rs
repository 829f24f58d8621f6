//! Opening of the files of a checkpoint, before their content is interpreted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CONFIG, RawCheckpoint, TOKENIZER, read_manifest, single_file, v0, version_of};
use crate::hf::hub_id;
use crate::manifest::{FileRecord, MANIFEST, Manifest};
use crate::tensors::{PositionedFile, TensorFile};
use crate::{Error, Result, json};
use slm_store::{Error as StoreError, METADATA, StopFlag, WEIGHTS, is_module};

/// Contents of all files except the weights, which are only opened.
pub(crate) struct OpenFiles {
    dir: PathBuf,
    /// Version of the format.
    pub(crate) version: u32,
    config: Map<String, Value>,
    config_bytes: Vec<u8>,
    /// `quantization_metadata.json`.
    pub(crate) metadata_bytes: Option<Vec<u8>>,
    /// `tokenizer.json`.
    pub(crate) tokenizer_bytes: Option<Vec<u8>>,
    weights: PositionedFile,
    weights_name: &'static str,
}

impl OpenFiles {
    /// Opens the files of `dir` and determines their version. The weights can be read until `stop` is set.
    pub(crate) fn open(dir: &Path, stop: &StopFlag) -> Result<Self> {
        check_is_dir(dir)?;
        let config_path = dir.join(CONFIG);
        let Some(config_bytes) = json::read_optional(&config_path, json::SMALL)? else {
            return Err(match v0::record_in(dir) {
                _ if is_module(dir) => StoreError::WrongKind {
                    path: dir.to_owned(),
                    found: "a module that was saved by `slm::save`".to_owned(),
                    expected: "a checkpoint of slm's own model",
                    remedy: "load it in Rust with `slm::load`",
                }
                .into(),
                Some(record) => v0::lacks_config(dir, record),
                None => Error::NotACheckpoint {
                    path: dir.to_owned(),
                    reason: format!("it has no {CONFIG}"),
                    remedy: "name the directory of a checkpoint".to_owned(),
                },
            });
        };
        let config: Map<String, Value> = json::parse(&config_path, &config_bytes)?;
        // Determined first, because a newer format may store everything else differently.
        let (version, weights_name) = match version_of(dir, &config)? {
            Some(version) => (version, WEIGHTS),
            None => (0, v0::recognize(dir, &config)?),
        };
        let weights_path = dir.join(weights_name);
        let weights = File::open(&weights_path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => lost(&weights_path),
            _ => Error::io(&weights_path, "open")(error),
        })?;
        let mut weights = PositionedFile::new(weights);
        weights.stop_at(stop.clone());
        let metadata_bytes = match version {
            0 => None,
            _ => json::read_optional(&dir.join(METADATA), json::LARGE)?,
        };
        Ok(Self {
            dir: dir.to_owned(),
            version,
            config,
            config_bytes,
            metadata_bytes,
            tokenizer_bytes: json::read_optional(&dir.join(TOKENIZER), json::LARGE)?,
            weights,
            weights_name,
        })
    }

    /// Compares all files except the weights with the manifest, and returns the manifest. Version 0 has none.
    pub(crate) fn verify_all_but_weights(&self) -> Result<Option<Manifest>> {
        let dir = &*self.dir;
        if self.version == 0 {
            tracing::info!("{}: a record without checksums, which cannot be verified", dir.display());
            return Ok(None);
        }
        let manifest = read_manifest(dir, Some(self.version))?;
        manifest.verify_bytes(dir, CONFIG, &self.config_bytes)?;
        for (name, bytes) in [(METADATA, &self.metadata_bytes), (TOKENIZER, &self.tokenizer_bytes)] {
            match bytes {
                Some(bytes) => manifest.verify_bytes(dir, name, bytes)?,
                None if manifest.files.contains_key(name) => return Err(lost(&dir.join(name))),
                None => {}
            }
        }
        for name in manifest.files.keys().filter(|name| !super::FILES.contains(&name.as_str())) {
            let path = dir.join(name);
            let mut file = PositionedFile::new(File::open(&path).map_err(|_| lost(&path))?);
            file.stop_at(self.weights.stop().clone());
            manifest.verify_file(dir, name, &file)?;
        }
        Ok(Some(manifest))
    }

    /// Returns the manifest's record of the weights.
    pub(crate) fn weights_record(&self, manifest: &Manifest) -> Result<FileRecord> {
        Ok(manifest.record(&self.dir.join(self.weights_name), self.weights_name)?.clone())
    }

    /// Compares the weights with their record.
    pub(crate) fn verify_weights(&self, record: &FileRecord) -> Result<()> {
        Ok(record.verify(&self.dir.join(self.weights_name), &self.weights)?)
    }

    /// Parses the header of the weights and the other files.
    pub(crate) fn into_raw(self) -> Result<RawCheckpoint> {
        let metadata = match &self.metadata_bytes {
            Some(bytes) => Some(json::parse(&self.dir.join(METADATA), bytes)?),
            None => None,
        };
        let path = self.dir.join(self.weights_name);
        let weights = match self.weights_name {
            v0::BURNPACK => TensorFile::burnpack(&path, self.weights)?,
            _ => TensorFile::safetensors(&path, self.weights)?,
        };
        Ok(RawCheckpoint { dir: self.dir, config: self.config, metadata, weights })
    }
}

fn check_is_dir(dir: &Path) -> Result<()> {
    let remedy = || "name the directory of a checkpoint".to_owned();
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(single_file::explain(dir)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let remedy = hub_id(dir).map_or_else(remedy, |id| {
                let name = id.rsplit('/').next().unwrap_or(&id);
                format!(
                    "name the directory of a checkpoint. A model of the Hugging Face Hub is downloaded and imported first: \
                     hf download {id} --local-dir {name}, and slm import {name} --out my-model"
                )
            });
            Err(Error::Store(StoreError::Missing { path: dir.to_owned(), remedy }))
        }
        Err(error) => Err(Error::io(dir, "look at")(error)),
    }
}

pub(super) fn lost(path: &Path) -> Error {
    let remedy =
        format!("{MANIFEST} and {CONFIG} call for it: restore it from a good copy of the checkpoint");
    Error::Store(StoreError::Missing { path: path.to_owned(), remedy })
}
