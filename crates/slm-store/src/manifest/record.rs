//! Size and checksums of a file, and their verification.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::hash::{self, Hasher, sha256_of};
use crate::tensors::PositionedFile;
use crate::{Error, Result, StopFlag};

/// Size in bytes of the parts of a file with their own checksums, which all processors verify in parallel. A smaller
/// file has one part.
pub(super) const CHUNK_BYTES: u64 = 8 << 20;

/// Size and checksums of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal digits, for users and lineage.
    pub sha256: String,
    /// Checksums that are verified when the file is read.
    pub(super) checksums: Checksums,
}

/// Checksums of the consecutive parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksums {
    pub(super) algorithm: Algorithm,
    /// Size in bytes of every part but the last, which has the rest.
    pub(super) part_bytes: u64,
    /// One for each part, in lower-case hexadecimal digits.
    pub(super) parts: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// SHA-256 of each part.
    Sha256,
    /// BLAKE3 of the file if it has one part, otherwise the chaining value of each part.
    Blake3,
}

impl FileRecord {
    /// Describes the file `path`, unless `stop` is set.
    pub(super) fn of_path(path: &Path, stop: &StopFlag) -> Result<Self> {
        let mut file = PositionedFile::new(File::open(path).map_err(Error::io(path, "open"))?);
        file.stop_at(stop.clone());
        let size = file.size().map_err(Error::io(path, "read the size"))?;
        let (sha256, checksums) =
            rayon::join(|| sha256_of(path, &file), || Checksums::blake3_of(path, &file, size));
        Ok(Self { size, sha256: sha256?, checksums: checksums? })
    }

    /// Creates a record with SHA-256 only, as before version 3: of the whole file, and of its parts of `chunks` bytes
    /// each. Returns `None` if the number of parts does not match the size.
    pub fn with_sha256(size: u64, sha256: String, chunks: Option<(u64, Vec<String>)>) -> Option<Self> {
        let (part_bytes, parts) = chunks.unwrap_or_else(|| (size, vec![sha256.clone()]));
        let checksums = Checksums { algorithm: Algorithm::Sha256, part_bytes, parts };
        checksums.fit(size).then_some(Self { size, sha256, checksums })
    }

    /// Creates a record with BLAKE3 of the whole file, and the chaining values of its parts of `chunks` bytes each.
    /// Returns `None` if the parts match neither the size nor the checksum of the whole file.
    pub fn with_blake3(
        size: u64,
        sha256: String,
        blake3: String,
        chunks: Option<(u64, Vec<String>)>,
    ) -> Option<Self> {
        let whole = match &chunks {
            None => true,
            Some((part_bytes, parts)) => {
                hash::is_subtree(*part_bytes) && hash::merge(parts).as_ref() == Some(&blake3)
            }
        };
        let (part_bytes, parts) = chunks.unwrap_or_else(|| (size, vec![blake3]));
        let checksums = Checksums { algorithm: Algorithm::Blake3, part_bytes, parts };
        (whole && checksums.fit(size)).then_some(Self { size, sha256, checksums })
    }

    /// Compares `file`, which is at `path`, with this record.
    pub fn verify(&self, path: &Path, file: &PositionedFile) -> Result<()> {
        let size = file.size().map_err(Error::io(path, "read the size"))?;
        self.parts(path, size)?
            .verify(|Range { start, end }, hasher| hasher.read(path, file, start, end - start))
    }

    /// [`FileRecord::verify`] for bytes in memory.
    pub(super) fn verify_bytes(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.parts(path, bytes.len() as u64)?.verify(|Range { start, end }, hasher| {
            hasher.update(&bytes[start as usize..end as usize]);
            Ok(())
        })
    }

    /// Returns the parts of the file that have checksums, after comparing its size.
    pub fn parts<'a>(&'a self, path: &'a Path, size: u64) -> Result<Parts<'a>> {
        if self.size == size {
            return Ok(Parts { path, size, checksums: &self.checksums });
        }
        let (expected, found) = (self.size.to_string(), size.to_string());
        Err(Error::Checksum { path: path.to_owned(), what: "size".to_owned(), expected, found })
    }
}

impl Checksums {
    /// Computes BLAKE3 of `file`, by parts if it is large.
    fn blake3_of(path: &Path, file: &PositionedFile, size: u64) -> Result<Self> {
        let part_bytes = CHUNK_BYTES.min(size);
        let empty = Self { algorithm: Algorithm::Blake3, part_bytes, parts: Vec::new() };
        let count = if size == 0 { 1 } else { size.div_ceil(part_bytes) };
        let parts = (0..count).into_par_iter().map(|part| {
            let start = part * part_bytes;
            let mut hasher = empty.hasher(start, count == 1);
            hasher.read(path, file, start, part_bytes.min(size - start))?;
            Ok(hasher.finish())
        });
        Ok(Self { parts: parts.collect::<Result<_>>()?, ..empty })
    }

    /// Returns `true` if the number of checksums matches a file of `size` bytes.
    fn fit(&self, size: u64) -> bool {
        match (size, self.part_bytes) {
            (0, 0) => self.parts.len() == 1,
            (_, 0) => false,
            (size, part_bytes) => self.parts.len() as u64 == size.div_ceil(part_bytes),
        }
    }

    /// Hasher for the part that begins at `start`.
    fn hasher(&self, start: u64, whole: bool) -> Hasher {
        match (self.algorithm, whole) {
            (Algorithm::Sha256, _) => Hasher::sha256(),
            (Algorithm::Blake3, true) => Hasher::blake3(),
            (Algorithm::Blake3, false) => Hasher::blake3_part(start),
        }
    }
}

/// The parts of a file that is being verified.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    path: &'a Path,
    size: u64,
    checksums: &'a Checksums,
}

impl Parts<'_> {
    /// Size in bytes of every part but the last, which has the rest.
    pub fn part_bytes(&self) -> u64 {
        self.checksums.part_bytes
    }

    fn count(&self) -> usize {
        self.checksums.parts.len()
    }

    /// Byte range of part `part` in the file.
    fn range(&self, part: usize) -> Range<u64> {
        let start = part as u64 * self.part_bytes();
        start..self.size.min(start + self.part_bytes())
    }

    /// Hasher for the bytes of part `part`.
    pub fn hasher(&self, part: usize) -> Hasher {
        self.checksums.hasher(self.range(part).start, self.count() == 1)
    }

    /// Compares part `part` with its checksum. `hasher` must have received all its bytes.
    pub fn check(&self, part: usize, hasher: Hasher) -> Result<()> {
        let name = hasher.name();
        let (expected, found) = (&self.checksums.parts[part], hasher.finish());
        if *expected == found {
            return Ok(());
        }
        let Range { start, end } = self.range(part);
        let what = match self.count() {
            1 => name.to_owned(),
            _ => format!("{name} of bytes {start} to {end}"),
        };
        Err(Error::Checksum { path: self.path.to_owned(), what, expected: expected.clone(), found })
    }

    /// Compares all parts, on all threads. `feed` passes the bytes of a range of the file to a hasher.
    fn verify(&self, feed: impl Fn(Range<u64>, &mut Hasher) -> Result<()> + Sync) -> Result<()> {
        (0..self.count()).into_par_iter().try_for_each(|part| {
            let mut hasher = self.hasher(part);
            feed(self.range(part), &mut hasher)?;
            self.check(part, hasher)
        })
    }
}
