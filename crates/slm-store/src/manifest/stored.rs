//! The stored form of `manifest.json` in the current version.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Kind;
use super::hash::{self, Hasher};
use super::record::{Algorithm, Checksums, FileRecord};
use crate::{Error, FORMAT_VERSION, OLDEST_SAME_FILES, Result, json};

/// The value of `kind` for a module.
const MODULE: &str = "module";

/// The content of `manifest.json`. Fields are declared in alphabetical order, so that JSON with sorted keys has the
/// same [`Stored::files_blake3`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    format_version: u32,
    /// Kind of the directory; omitted for a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    files: BTreeMap<String, StoredFile>,
    /// BLAKE3 of `files` as JSON without white space. It protects the records of files that are not read.
    files_blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFile {
    /// Checksum of the whole file.
    blake3: String,
    /// Checksums of the chunks, for a file with more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunks: Option<StoredChunks>,
    /// Checksum of the whole file.
    sha256: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredChunks {
    /// The chaining value of each chunk in BLAKE3's tree over the file.
    blake3: Vec<String>,
    /// Size in bytes of every chunk but the last, which has the rest.
    size: u64,
}

impl Stored {
    /// Converts `files` to their stored form, to be written to `path`.
    ///
    /// # Errors
    /// [`Error::Write`] for records without BLAKE3, which old versions have.
    pub(super) fn of(path: &Path, kind: Kind, files: &BTreeMap<String, FileRecord>) -> Result<Self> {
        let stored = |(name, record): (&String, &FileRecord)| match StoredFile::of(record) {
            Some(stored) => Ok((name.clone(), stored)),
            None => {
                let reason = format!("its record of {name} is of an old version");
                Err(Error::Write { path: path.to_owned(), reason })
            }
        };
        let files = files.iter().map(stored).collect::<Result<_>>()?;
        let kind = match kind {
            Kind::Checkpoint => None,
            Kind::Module => Some(MODULE.to_owned()),
        };
        Self { format_version: FORMAT_VERSION, kind, files, files_blake3: String::new() }.sealed(path)
    }

    /// Updates `files_blake3`.
    pub(super) fn sealed(self, path: &Path) -> Result<Self> {
        Ok(Self { files_blake3: self.seal(path)?, ..self })
    }

    fn seal(&self, path: &Path) -> Result<String> {
        let mut hasher = Hasher::blake3();
        hasher.update(&serde_json::to_vec(&self.files).map_err(Error::json(path))?);
        Ok(hasher.finish())
    }

    /// Verifies `files_blake3`, and returns the kind and the records.
    pub(super) fn into_files(self, path: &Path) -> Result<(Kind, BTreeMap<String, FileRecord>)> {
        if !(OLDEST_SAME_FILES..=FORMAT_VERSION).contains(&self.format_version) {
            return Err(Error::field(path, "format_version", FORMAT_VERSION, self.format_version));
        }
        let kind = match self.kind.as_deref() {
            None => Kind::Checkpoint,
            Some(MODULE) => Kind::Module,
            Some(other) => return Err(Error::field(path, "kind", format!("{MODULE:?} or nothing"), other)),
        };
        let found = self.seal(path)?;
        if found != self.files_blake3 {
            let (path, what) = (path.to_owned(), "BLAKE3 of \"files\"".to_owned());
            return Err(Error::Checksum { path, what, expected: self.files_blake3, found });
        }
        let files = records(path, self.files, |file| {
            let StoredFile { size, sha256, blake3, chunks } = file;
            FileRecord::with_blake3(size, sha256, blake3, chunks.map(|chunks| (chunks.size, chunks.blake3)))
        })?;
        Ok((kind, files))
    }
}

impl StoredFile {
    fn of(record: &FileRecord) -> Option<Self> {
        let (size, sha256) = (record.size, record.sha256.clone());
        let Checksums { algorithm: Algorithm::Blake3, part_bytes, parts } = &record.checksums else {
            return None;
        };
        Some(match &parts[..] {
            [whole] => Self { size, sha256, blake3: whole.clone(), chunks: None },
            parts => {
                let chunks = StoredChunks { size: *part_bytes, blake3: parts.to_vec() };
                Self { size, sha256, blake3: hash::merge(parts)?, chunks: Some(chunks) }
            }
        })
    }
}

/// Applies `record` to each entry of the manifest `path`, and fails with the name of the file for which it returns
/// `None`.
///
/// # Errors
/// [`Error::Field`].
pub fn records<T>(
    path: &Path,
    files: BTreeMap<String, T>,
    record: impl Fn(T) -> Option<FileRecord>,
) -> Result<BTreeMap<String, FileRecord>> {
    let one = |(name, file)| match record(file) {
        Some(record) => Ok((name, record)),
        None => Err(Error::field(
            path,
            format!("files.{name}.chunks"),
            "one checksum for each chunk of the file, which together are its own",
            "others",
        )),
    };
    files.into_iter().map(one).collect()
}

/// Parses `bytes` as the content of `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Stored> {
    json::parse(path, bytes)
}
