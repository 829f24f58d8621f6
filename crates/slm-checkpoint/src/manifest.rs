//! `manifest.json`: size and SHA-256 of every file of a checkpoint.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tensors::PositionedFile;
use crate::{Error, FORMAT_VERSION, Result, json};

/// Name of the manifest in a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Bytes that have a checksum of their own in larger files, so that all processors check one together.
const CHUNK_BYTES: u64 = 8 << 20;
/// Bytes read at once.
const BUFFER_BYTES: u64 = 256 << 10;

/// Every other file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Version of the checkpoint. Version 1 did not write it.
    #[serde(default = "first_version")]
    format_version: u32,
    pub(crate) files: BTreeMap<String, FileRecord>,
}

fn first_version() -> u32 {
    1
}

/// What a file is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 in lower-case hexadecimal digits.
    pub(crate) sha256: String,
    /// SHA-256 of each chunk in turn; for files of more than one chunk, from version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunks: Option<Chunks>,
}

/// Checksums of the parts of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunks {
    /// Bytes of every chunk but the last, which has the rest.
    size: u64,
    sha256: Vec<String>,
}

impl Manifest {
    /// Describes the files `names` of `dir`.
    pub(crate) fn of(dir: &Path, names: &[String]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            files.insert(name.clone(), FileRecord::of_path(&dir.join(name))?);
        }
        Ok(Self { format_version: FORMAT_VERSION, files })
    }

    /// Reads the manifest of `dir` and makes sure that it names files of `dir` alone.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let remedy = "it holds the checksums of the checkpoint's files: restore it, or skip verification with \
                      --no-verify";
        Self::parse(dir, &json::read(&path, json::SMALL, remedy)?)
    }

    /// [`Manifest::read`] for the bytes of the manifest of `dir`.
    pub(crate) fn parse(dir: &Path, bytes: &[u8]) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let manifest: Self = json::parse(&path, bytes)?;
        for name in manifest.files.keys() {
            if !is_plain_name(name) {
                return Err(Error::field(&path, "files", "names of files in this directory", name));
            }
        }
        Ok(manifest)
    }

    /// Makes sure that the manifest is of a checkpoint of version `expected`.
    pub(crate) fn check_version(&self, dir: &Path, expected: u32) -> Result<()> {
        if self.format_version == expected {
            return Ok(());
        }
        let path = dir.join(MANIFEST);
        Err(Error::field(
            &path,
            "format_version",
            format!("{expected}, as in config.json"),
            self.format_version,
        ))
    }

    /// Compares `file`, which is `dir/name`, with its record.
    pub(crate) fn verify_file(&self, dir: &Path, name: &str, file: &PositionedFile) -> Result<()> {
        let path = dir.join(name);
        self.record(&path, name)?.verify(&path, file)
    }

    /// [`Manifest::verify_file`] for bytes that are in memory.
    pub(crate) fn verify_bytes(&self, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let path = dir.join(name);
        let record = self.record(&path, name)?;
        record.check_size(&path, bytes.len() as u64)?;
        record.check_digest(&path, &sha256(bytes))
    }

    /// The record of the file `name`, which is at `path`.
    pub(crate) fn record(&self, path: &Path, name: &str) -> Result<&FileRecord> {
        self.files.get(name).ok_or_else(|| Error::Unlisted { path: path.to_owned() })
    }
}

impl FileRecord {
    /// Describes the file `path`.
    pub(crate) fn of_path(path: &Path) -> Result<Self> {
        Self::of(path, &PositionedFile::new(File::open(path).map_err(Error::io(path, "open"))?))
    }

    /// Describes `file`, which `path` names in messages.
    pub(crate) fn of(path: &Path, file: &PositionedFile) -> Result<Self> {
        let size = file.size().map_err(Error::io(path, "read the size"))?;
        let (sha256, chunks) = rayon::join(
            || digest(path, file, 0, size),
            || (size > CHUNK_BYTES).then(|| Chunks::of(path, file, size)).transpose(),
        );
        Ok(Self { size, sha256: sha256?, chunks: chunks? })
    }

    /// Compares `file`, which is at `path`, with this record.
    pub(crate) fn verify(&self, path: &Path, file: &PositionedFile) -> Result<()> {
        let size = file.size().map_err(Error::io(path, "read the size"))?;
        let parts = self.parts(path, size)?;
        (0..parts.count()).into_par_iter().try_for_each(|part| {
            let Range { start, end } = parts.range(part);
            parts.check(part, hash(path, file, start, end - start)?)
        })
    }

    /// The parts of the file that have checksums, once its size, which costs nothing to look at, is right.
    pub(crate) fn parts<'a>(&'a self, path: &'a Path, size: u64) -> Result<Parts<'a>> {
        self.check_size(path, size)?;
        let parts = match &self.chunks {
            None => Parts { path, size, part_bytes: size, sha256: std::slice::from_ref(&self.sha256) },
            Some(chunks) => Parts { path, size, part_bytes: chunks.size, sha256: &chunks.sha256 },
        };
        if self.chunks.is_some()
            && (parts.part_bytes == 0 || parts.count() as u64 != size.div_ceil(parts.part_bytes))
        {
            let manifest = path.with_file_name(MANIFEST);
            let expected = format!("one checksum for each chunk of {size} bytes");
            let found = format!("{} of {} bytes", parts.count(), parts.part_bytes);
            return Err(Error::field(&manifest, "files.*.chunks", expected, found));
        }
        Ok(parts)
    }

    fn check_size(&self, path: &Path, found: u64) -> Result<()> {
        if self.size == found {
            return Ok(());
        }
        let (expected, found) = (self.size.to_string(), found.to_string());
        Err(Error::Checksum { path: path.to_owned(), what: "size".to_owned(), expected, found })
    }

    fn check_digest(&self, path: &Path, found: &str) -> Result<()> {
        check(path, "SHA-256".to_owned(), &self.sha256, found)
    }
}

impl Chunks {
    fn of(path: &Path, file: &PositionedFile, file_size: u64) -> Result<Self> {
        let count = file_size.div_ceil(CHUNK_BYTES);
        let sha256 = (0..count).into_par_iter().map(|chunk| {
            let start = chunk * CHUNK_BYTES;
            digest(path, file, start, CHUNK_BYTES.min(file_size - start))
        });
        Ok(Self { size: CHUNK_BYTES, sha256: sha256.collect::<Result<_>>()? })
    }
}

/// The parts of a file that have checksums, which together are all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    path: &'a Path,
    size: u64,
    part_bytes: u64,
    sha256: &'a [String],
}

impl Parts<'_> {
    /// Bytes of every part but the last, which has the rest.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    fn count(&self) -> usize {
        self.sha256.len()
    }

    /// Where part `part` lies in the file.
    pub(crate) fn range(&self, part: usize) -> Range<u64> {
        let start = part as u64 * self.part_bytes;
        start..self.size.min(start + self.part_bytes)
    }

    /// Compares part `part`, all of which `hasher` has been given.
    pub(crate) fn check(&self, part: usize, hasher: Sha256) -> Result<()> {
        let Range { start, end } = self.range(part);
        let what = match self.count() {
            1 => "SHA-256".to_owned(),
            _ => format!("SHA-256 of bytes {start} to {end}"),
        };
        check(self.path, what, &self.sha256[part], &hex(&hasher.finalize()))
    }
}

fn check(path: &Path, what: String, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(Error::Checksum { path: path.to_owned(), what, expected, found })
}

/// SHA-256 of `size` bytes of `file` from `start` on, in lower-case hexadecimal digits.
fn digest(path: &Path, file: &PositionedFile, start: u64, size: u64) -> Result<String> {
    Ok(hex(&hash(path, file, start, size)?.finalize()))
}

/// A hasher that has been given `size` bytes of `file` from `start` on.
fn hash(path: &Path, file: &PositionedFile, start: u64, size: u64) -> Result<Sha256> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES.min(size) as usize];
    let mut done = 0;
    while done < size {
        let part = &mut buffer[..BUFFER_BYTES.min(size - done) as usize];
        file.read_exact_at(part, start + done).map_err(Error::io(path, "read"))?;
        hasher.update(&*part);
        done += part.len() as u64;
    }
    Ok(hasher)
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
