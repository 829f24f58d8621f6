//! `manifest.json`: size and checksums of every other file of a checkpoint.

mod hash;
mod record;
mod stored;

use std::collections::BTreeMap;
use std::path::Path;

use crate::tensors::PositionedFile;
use crate::{Error, Result, StopFlag, json};

pub use hash::{Hasher, sha256, sha256_of, sha256_of_file};
pub use record::{FileRecord, Parts};
pub use stored::records;

/// Name of the manifest in a checkpoint.
pub const MANIFEST: &str = "manifest.json";

/// Returns `true` if `dir` has a manifest, of any version, and `path` is the manifest or has the name of a file in it.
pub(crate) fn lists(dir: &Path, path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let Ok(Some(bytes)) = json::read_optional(&dir.join(MANIFEST), json::SMALL) else { return false };
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    manifest["files"].as_object().is_some_and(|files| name == MANIFEST || files.contains_key(name))
}

/// Kind of a directory with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A model of slm, with its configuration.
    #[default]
    Checkpoint,
    /// A module of any kind.
    Module,
}

/// The manifest of a directory: records of all its other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Content of the directory.
    pub kind: Kind,
    /// Records of the files, by name.
    pub files: BTreeMap<String, FileRecord>,
}

impl Manifest {
    /// Describes the files `names` in `dir`, which contains a `kind`, unless `stop` is set.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Stopped`].
    pub fn of(dir: &Path, kind: Kind, names: &[String], stop: &StopFlag) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.clone(), FileRecord::of_path(&dir.join(name), stop)?);
        }
        Ok(Self { kind, files })
    }

    /// Creates the manifest of `dir` from records of its files.
    ///
    /// # Errors
    /// [`Error::Field`] for a name that is not the plain name of a file in `dir`.
    pub fn new(dir: &Path, kind: Kind, files: BTreeMap<String, FileRecord>) -> Result<Self> {
        match files.keys().find(|name| !is_plain_name(name)) {
            Some(name) => {
                Err(Error::field(&dir.join(MANIFEST), "files", "names of files in this directory", name))
            }
            None => Ok(Self { kind, files }),
        }
    }

    /// Reads the bytes of the manifest of `dir`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::TooLarge`], [`Error::Io`].
    pub fn read_bytes(dir: &Path) -> Result<Vec<u8>> {
        let remedy = "it holds the checksums of the checkpoint's files: restore it, or skip verification";
        json::read(&dir.join(MANIFEST), json::SMALL, remedy)
    }

    /// Parses `bytes` as the manifest of `dir`, of [`FORMAT_VERSION`](crate::FORMAT_VERSION), and checks that it names
    /// only files in `dir`.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`], [`Error::Checksum`].
    pub fn parse(dir: &Path, bytes: &[u8]) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let (kind, files) = stored::parse(&path, bytes)?.into_files(&path)?;
        Self::new(dir, kind, files)
    }

    /// Formats the manifest of `dir` for storage.
    ///
    /// # Errors
    /// [`Error::Write`] for a manifest that was read from an old version.
    pub fn to_bytes(&self, dir: &Path) -> Result<Vec<u8>> {
        let path = dir.join(MANIFEST);
        json::to_bytes(&path, &stored::Stored::of(&path, self.kind, &self.files)?)
    }

    /// Returns `bytes`, the content of a manifest of the current version, with its own checksum recomputed.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`].
    pub fn resealed(dir: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
        let path = dir.join(MANIFEST);
        json::to_bytes(&path, &stored::parse(&path, bytes)?.sealed(&path)?)
    }

    /// Compares `file`, which is `dir/name`, with its record.
    ///
    /// # Errors
    /// [`Error::Unlisted`], [`Error::Checksum`], [`Error::Io`].
    pub fn verify_file(&self, dir: &Path, name: &str, file: &PositionedFile) -> Result<()> {
        let path = dir.join(name);
        self.record(&path, name)?.verify(&path, file)
    }

    /// [`Manifest::verify_file`] for bytes in memory.
    ///
    /// # Errors
    /// [`Error::Unlisted`], [`Error::Checksum`].
    pub fn verify_bytes(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let path = dir.join(name);
        self.record(&path, name)?.verify_bytes(&path, bytes)
    }

    /// Returns the record of the file `name`, which is at `path`.
    ///
    /// # Errors
    /// [`Error::Unlisted`].
    pub fn record(&self, path: &Path, name: &str) -> Result<&FileRecord> {
        self.files.get(name).ok_or_else(|| Error::Unlisted { path: path.to_owned() })
    }
}

/// Returns `true` if `name` is a plain file name, without a directory.
pub fn is_plain_name(name: &str) -> bool {
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
        let manifest = Manifest::of(dir, Kind::Module, &names, &StopFlag::NEVER).unwrap();
        let stored = manifest.to_bytes(dir).unwrap();
        assert_eq!(Manifest::parse(dir, &stored).unwrap(), manifest);
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
            std::fs::write(dir.join(name), &bytes).unwrap();
            let file = PositionedFile::new(std::fs::File::open(dir.join(name)).unwrap());
            let error = manifest.verify_file(dir, name, &file).unwrap_err();
            assert!(matches!(&error, Error::Checksum { what, .. } if *what == named), "{error}");
        }
        // The checksum covers JSON with sorted names and without white space.
        let sorted = serde_json::to_vec(&stored["files"]).unwrap();
        assert_eq!(stored["files_blake3"], blake3::hash(&sorted).to_hex().as_str());
    }

    #[test]
    fn a_changed_manifest_is_refused_until_it_is_sealed_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        std::fs::write(dir.join("a"), "content").unwrap();
        let bytes = Manifest::of(dir, Kind::Module, &["a".to_owned()], &StopFlag::NEVER)
            .unwrap()
            .to_bytes(dir)
            .unwrap();
        let mut changed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        changed["files"]["a"]["sha256"] = sha256(b"other").into();
        let changed = serde_json::to_vec(&changed).unwrap();
        assert!(matches!(Manifest::parse(dir, &changed), Err(Error::Checksum { .. })));
        let sealed = Manifest::resealed(dir, &changed).unwrap();
        let manifest = Manifest::parse(dir, &sealed).unwrap();
        assert_eq!(manifest.files["a"].sha256, sha256(b"other"));
        assert_eq!(Manifest::resealed(dir, &bytes).unwrap(), bytes);
    }
}
