//! `manifest.json`: size and checksums of every other file of a checkpoint.

mod hash;
mod record;
mod stored;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::tensors::PositionedFile;
use crate::{Error, FORMAT_VERSION, Result, json, versions};

pub(crate) use hash::{Hasher, sha256_of};
pub(crate) use record::{FileRecord, Parts};
pub(crate) use stored::records;

pub use hash::sha256;

/// Name of the manifest in a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Every other file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) files: BTreeMap<String, FileRecord>,
}

impl Manifest {
    /// Describes the files `names` of `dir`.
    pub(crate) fn of(dir: &Path, names: &[String]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.clone(), FileRecord::of_path(&dir.join(name))?);
        }
        Ok(Self { files })
    }

    /// Reads the manifest of `dir`, which is of the version `expected` where that is known, and makes sure that it
    /// names files of `dir` alone.
    pub(crate) fn read(dir: &Path, expected: Option<u32>) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let remedy = "it holds the checksums of the checkpoint's files: restore it, or skip verification with \
                      --no-verify";
        Self::parse(dir, &json::read(&path, json::SMALL, remedy)?, expected)
    }

    /// [`Manifest::read`] for the bytes of the manifest of `dir`.
    pub(crate) fn parse(dir: &Path, bytes: &[u8], expected: Option<u32>) -> Result<Self> {
        /// What is read first, to know how to read the rest.
        #[derive(Deserialize)]
        struct Header {
            /// Version of the checkpoint. Version 1 did not write it.
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
        let files = match found {
            FORMAT_VERSION => stored::parse(&path, bytes)?.into_files(&path)?,
            1 | 2 => versions::read_manifest_of_v2(&path, bytes)?,
            _ => return refuse(format!("1 to {FORMAT_VERSION}")),
        };
        for name in files.keys() {
            if !is_plain_name(name) {
                return Err(Error::field(&path, "files", "names of files in this directory", name));
            }
        }
        Ok(Self { files })
    }

    /// The content of the manifest of `dir`.
    ///
    /// # Errors
    /// [`Error::Write`] for one that was read from an old version.
    pub(crate) fn to_bytes(&self, dir: &Path) -> Result<Vec<u8>> {
        let path = dir.join(MANIFEST);
        json::to_bytes(&path, &stored::Stored::of(&path, &self.files)?)
    }

    /// `bytes` as the content of a manifest of the present version, with a checksum of its own that fits.
    pub(crate) fn resealed(dir: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
        let path = dir.join(MANIFEST);
        json::to_bytes(&path, &stored::parse(&path, bytes)?.sealed(&path)?)
    }

    /// Compares `file`, which is `dir/name`, with its record.
    pub(crate) fn verify_file(&self, dir: &Path, name: &str, file: &PositionedFile) -> Result<()> {
        let path = dir.join(name);
        self.record(&path, name)?.verify(&path, file)
    }

    /// [`Manifest::verify_file`] for bytes that are in memory.
    pub(crate) fn verify_bytes(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let path = dir.join(name);
        self.record(&path, name)?.verify_bytes(&path, bytes)
    }

    /// The record of the file `name`, which is at `path`.
    pub(crate) fn record(&self, path: &Path, name: &str) -> Result<&FileRecord> {
        self.files.get(name).ok_or_else(|| Error::Unlisted { path: path.to_owned() })
    }
}

/// Whether `name` is a file name and nothing else: no directory, no way out of one.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "../a", "a/b", "/a", "a\\b", "C:a", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
    }

    #[test]
    fn files_of_every_size_are_known_by_their_blake3() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        const CHUNK: usize = record::CHUNK_BYTES as usize;
        let sizes = [0, 1, 1024, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 70_000];
        let mut names = Vec::new();
        for size in sizes {
            let name = size.to_string();
            let bytes: Vec<u8> = (0..size).map(|i| ((i * 31) >> 5) as u8).collect();
            std::fs::write(dir.join(&name), bytes).unwrap();
            names.push(name);
        }
        let manifest = Manifest::of(dir, &names).unwrap();
        let stored = manifest.to_bytes(dir).unwrap();
        assert_eq!(Manifest::parse(dir, &stored, Some(FORMAT_VERSION)).unwrap(), manifest);
        let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        for (name, size) in names.iter().zip(sizes) {
            let mut bytes = std::fs::read(dir.join(name)).unwrap();
            let record = &stored["files"][name];
            assert_eq!(record["blake3"], blake3::hash(&bytes).to_hex().as_str(), "{size}");
            assert_eq!(record["sha256"], sha256(&bytes), "{size}");
            let chunks = record["chunks"]["blake3"].as_array().map_or(1, Vec::len);
            assert_eq!(chunks, size.div_ceil(CHUNK).max(1), "{size}");
            let file = PositionedFile::new(std::fs::File::open(dir.join(name)).unwrap());
            manifest.verify_file(dir, name, &file).unwrap();
            manifest.verify_bytes(dir, name, &bytes).unwrap();
            let Some(last) = bytes.last_mut() else { continue };
            *last ^= 1;
            let error = manifest.verify_bytes(dir, name, &bytes).unwrap_err();
            let named = match size.div_ceil(CHUNK) {
                1 => "BLAKE3".to_owned(),
                chunks => format!("BLAKE3 of bytes {} to {size}", (chunks - 1) * CHUNK),
            };
            assert!(matches!(&error, Error::Checksum { what, .. } if *what == named), "{error}");
        }
        // The seal is of what anybody gets who sorts the names and leaves out the blanks.
        let sorted = serde_json::to_vec(&stored["files"]).unwrap();
        assert_eq!(stored["files_blake3"], blake3::hash(&sorted).to_hex().as_str());
    }
}
