//! `manifest.json`: size and SHA-256 of every file of a checkpoint.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, json};

/// Name of the manifest in a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Every other file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) files: BTreeMap<String, FileRecord>,
}

/// What a file is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 in lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

impl Manifest {
    /// Describes the files `names` of `dir`.
    pub(crate) fn of(dir: &Path, names: &[String]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            let path = dir.join(name);
            let mut file = File::open(&path).map_err(Error::io(&path, "open"))?;
            files.insert(name.clone(), FileRecord::of(&path, &mut file)?);
        }
        Ok(Self { files })
    }

    /// Reads the manifest of `dir` and makes sure that it names files of `dir` alone.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let remedy = "it holds the checksums of the checkpoint's files: restore it, or skip verification";
        let manifest: Self = json::parse(&path, &json::read(&path, json::SMALL, remedy)?)?;
        for name in manifest.files.keys() {
            if !is_plain_name(name) {
                return Err(Error::field(&path, "files", "names of files in this directory", name));
            }
        }
        Ok(manifest)
    }

    /// Compares `file`, which is `dir/name` and open, with its record.
    pub(crate) fn verify_open(&self, dir: &Path, name: &str, file: &mut File) -> Result<()> {
        let path = dir.join(name);
        let record = self.record(&path, name)?;
        // First the size, which costs nothing.
        let size = file.metadata().map_err(Error::io(&path, "read the size"))?.len();
        record.check_size(&path, size)?;
        record.check(&path, &FileRecord::of(&path, file)?)
    }

    /// [`Manifest::verify_open`] for bytes that are in memory.
    pub(crate) fn verify_bytes(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let path = dir.join(name);
        let found = FileRecord { size: bytes.len() as u64, sha256: sha256(bytes) };
        self.record(&path, name)?.check(&path, &found)
    }

    fn record(&self, path: &Path, name: &str) -> Result<&FileRecord> {
        self.files.get(name).ok_or_else(|| Error::Unlisted { path: path.to_owned() })
    }
}

impl FileRecord {
    fn check(&self, path: &Path, found: &Self) -> Result<()> {
        self.check_size(path, found.size)?;
        if self.sha256 == found.sha256 {
            return Ok(());
        }
        let (expected, found) = (self.sha256.clone(), found.sha256.clone());
        Err(Error::Checksum { path: path.to_owned(), what: "SHA-256", expected, found })
    }

    fn check_size(&self, path: &Path, found: u64) -> Result<()> {
        if self.size == found {
            return Ok(());
        }
        let (expected, found) = (self.size.to_string(), found.to_string());
        Err(Error::Checksum { path: path.to_owned(), what: "size", expected, found })
    }

    fn of(path: &Path, file: &mut File) -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(path, "seek"))?;
        loop {
            let read = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            size += read as u64;
        }
        Ok(Self { size, sha256: hex(&hasher.finalize()) })
    }
}

/// SHA-256 of `bytes` in lower-case hexadecimal digits, as the lineage fields of a checkpoint hold it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `name` is a file name and nothing else: no directory, no way out of one.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_a_known_text() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "../a", "a/b", "/a", "a\\b", "C:a", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
    }
}
