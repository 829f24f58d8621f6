//! A journal of the finished layers of a long run, kept on disk so that an interrupted run can be resumed.
//!
//! A journal is a directory with a file `run.json`, which identifies the run, and a file for each finished layer,
//! `LAYER.DIGITS.safetensors`: its codes, scales and zero points. DIGITS are the first hexadecimal digits of the SHA-256
//! of the file, so that damage is detected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use slm_quant_core::{QuantScheme, QuantizedMatrix};
use slm_store::layer::QuantizedForm;
use slm_store::{Error as StoreError, TensorFile, TensorFileWriter, is_litter, json, layer, sha256_of_file};

use crate::{Error, Result};

/// File that identifies the run.
const RUN: &str = "run.json";
/// Ending of the file of a layer.
const ENDING: &str = ".safetensors";
/// Beginning of the name of a file that is being written.
const WRITING: &str = ".writing-";
/// Digits of the checksum in the name of a file.
const DIGITS: usize = 16;
/// The facts that a run depends on, by name.
pub(super) type Facts = Map<String, Value>;

/// The finished layers of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// Files of the layers that existed when the journal was opened.
    layers: BTreeMap<String, PathBuf>,
}

impl Journal {
    /// Starts an empty journal at `dir`, which must not exist.
    pub(super) fn start(dir: &Path, facts: &Facts) -> Result<Self> {
        fs::create_dir(dir).map_err(StoreError::io(dir, "create")).map_err(store)?;
        json::write(&dir.join(RUN), facts).map_err(store)?;
        Ok(Self { dir: dir.to_owned(), layers: BTreeMap::new() })
    }

    /// Opens the journal at `dir` of a run with the same `facts`.
    pub(super) fn resume(dir: &Path, facts: &Facts) -> Result<Self> {
        check(dir, facts)?;
        let mut layers = BTreeMap::new();
        for path in files(dir)? {
            if let Some((layer, digits)) = path.file_name().and_then(|name| parts(name.to_str()?)) {
                if !sha256_of_file(&path).map_err(store)?.starts_with(digits) {
                    let reason = format!("{} is damaged", path.display());
                    return Err(Error::NotResumable { dir: dir.to_owned(), reason });
                }
                layers.insert(layer.to_owned(), path.clone());
            }
        }
        Ok(Self { dir: dir.to_owned(), layers })
    }

    /// Returns `true` if `layer` was finished before the journal was opened.
    pub(crate) fn has(&self, layer: &str) -> bool {
        self.layers.contains_key(layer)
    }

    /// Reads a layer that was finished before the journal was opened; `None` for any other layer.
    pub(crate) fn read(
        &self,
        name: &str,
        shape: [usize; 2],
        scheme: QuantScheme,
    ) -> Result<Option<QuantizedMatrix>> {
        let Some(path) = self.layers.get(name) else { return Ok(None) };
        let read = TensorFile::open(path).and_then(|file| layer::read(&file, name, shape, scheme));
        read.map(Some).map_err(store)
    }

    /// Keeps a finished layer. Its file appears complete or not at all.
    pub(super) fn keep(&self, name: &str, matrix: &QuantizedMatrix) -> Result<()> {
        let form = QuantizedForm::new([matrix.rows(), matrix.cols()], matrix.scheme(), false)
            .map_err(|error| Error::layer(name, error))?;
        let write = || {
            let unnamed = self.dir.join(format!("{WRITING}{name}"));
            if unnamed.exists() {
                // Left by a run that was killed while it wrote this layer.
                fs::remove_file(&unnamed).map_err(StoreError::io(&unnamed, "remove"))?;
            }
            let mut file = TensorFileWriter::create(&unnamed, &form.specs(name))?;
            layer::write(&mut file, name, matrix, None)?;
            file.finish()?;
            let digits = sha256_of_file(&unnamed)?;
            let named = self.dir.join(format!("{name}.{}{ENDING}", &digits[..DIGITS]));
            fs::rename(&unnamed, &named).map_err(StoreError::io(&named, "create"))
        };
        write().map_err(store)
    }

    /// Removes the journal of a run that is finished.
    pub(super) fn remove(self) -> Result<()> {
        remove(&self.dir)
    }
}

/// Compares the run whose layers are at `dir` with `facts`.
///
/// # Errors
/// [`Error::NotResumable`] for the first fact that differs, or a record of the run that cannot be read.
pub(super) fn check(dir: &Path, facts: &Facts) -> Result<()> {
    let fail = |reason: String| Error::NotResumable { dir: dir.to_owned(), reason };
    files(dir)?;
    let path = dir.join(RUN);
    let bytes = json::read(&path, json::SMALL, "without it the kept layers cannot be used: start a new run")
        .map_err(store)?;
    let found: Facts =
        serde_json::from_slice(&bytes).map_err(|error| fail(format!("{RUN} cannot be read ({error})")))?;
    match facts.iter().find(|(name, value)| found.get(*name) != Some(*value)) {
        Some((name, _)) => Err(fail(format!("the interrupted run had a different {name}"))),
        None => Ok(()),
    }
}

/// Number of finished layers of the journal at `dir`; `None` if nothing is there.
///
/// # Errors
/// [`Error::NotKeptLayers`] if `dir` is not a journal.
pub(super) fn finished_layers(dir: &Path) -> Result<Option<usize>> {
    if fs::symlink_metadata(dir).is_err() {
        return Ok(None);
    }
    let files = files(dir)?;
    let is_layer = |path: &&PathBuf| path.file_name().and_then(|name| parts(name.to_str()?)).is_some();
    Ok(Some(files.iter().filter(is_layer).count()))
}

/// Removes the journal at `dir`, but no foreign files.
///
/// # Errors
/// [`Error::NotKeptLayers`] if `dir` is not a journal, and an error if its files cannot be removed.
pub(super) fn remove(dir: &Path) -> Result<()> {
    for path in files(dir)? {
        fs::remove_file(&path).map_err(StoreError::io(&path, "remove")).map_err(store)?;
    }
    fs::remove_dir(dir).map_err(StoreError::io(dir, "remove")).map_err(store)
}

/// Files of the journal at `dir`, and those that file managers left there.
///
/// # Errors
/// [`Error::NotKeptLayers`] if `dir` contains other files.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let foreign = |path: &Path| Error::NotKeptLayers { dir: dir.to_owned(), path: path.to_owned() };
    let is_dir = fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir());
    if !is_dir {
        return Err(foreign(dir));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io(dir, "list")).map_err(store)? {
        let entry = entry.map_err(StoreError::io(dir, "list")).map_err(store)?;
        let path = entry.path();
        // Neither a directory, nor a pipe that would be waited for.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Err(foreign(&path));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == RUN || name.starts_with(WRITING) || parts(name).is_some() || is_litter(name) {
            files.push(path);
        } else {
            return Err(foreign(&path));
        }
    }
    Ok(files)
}

/// The layer and the digits in the name of a file.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (layer, digits) = name.strip_suffix(ENDING)?.rsplit_once('.')?;
    let is_digits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_digits && !layer.is_empty()).then_some((layer, digits))
}

fn store(error: StoreError) -> Error {
    Error::Checkpoint(error.into())
}
