//! Checksum algorithms.

use std::fmt::Write as _;
use std::path::Path;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use sha2::{Digest, Sha256};

use crate::tensors::PositionedFile;
use crate::{Error, Result};

/// Bytes read at once.
const BUFFER_BYTES: u64 = 256 << 10;

/// Computes the checksum of a file or of a part of one, from its bytes in order.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// BLAKE3 of a file, or the chaining value of a part.
    Blake3 {
        /// State of the hash.
        hasher: Box<blake3::Hasher>,
        /// True for a whole file, false for a part of one.
        whole: bool,
    },
}

impl Hasher {
    pub(super) fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    /// BLAKE3 of a whole file.
    pub(super) fn blake3() -> Self {
        Self::Blake3 { hasher: Box::default(), whole: true }
    }

    /// The chaining value, in BLAKE3's tree over a file, of the part that begins at `start`. `start` must be a multiple
    /// of the size of the parts, for which [`is_subtree`] must hold.
    pub(super) fn blake3_part(start: u64) -> Self {
        let mut hasher = Box::<blake3::Hasher>::default();
        hasher.set_input_offset(start);
        Self::Blake3 { hasher, whole: false }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Blake3 { hasher, .. } => drop(hasher.update(bytes)),
        }
    }

    /// Adds `size` bytes of `file`, starting at `start`.
    pub(super) fn read(&mut self, path: &Path, file: &PositionedFile, start: u64, size: u64) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES.min(size) as usize];
        let mut done = 0;
        while done < size {
            let part = &mut buffer[..BUFFER_BYTES.min(size - done) as usize];
            file.read_exact_at(part, start + done).map_err(Error::io(path, "read"))?;
            self.update(part);
            done += part.len() as u64;
        }
        Ok(())
    }

    /// Name in messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Blake3 { .. } => "BLAKE3",
        }
    }

    /// Returns the checksum in lower-case hexadecimal digits.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Blake3 { hasher, whole: true } => hex(hasher.finalize().as_bytes()),
            Self::Blake3 { hasher, whole: false } => hex(&hasher.finalize_non_root()),
        }
    }
}

/// Returns `true` if parts of `bytes` bytes are subtrees of BLAKE3's tree: a power of two of whole BLAKE3 chunks.
pub(super) fn is_subtree(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= blake3::CHUNK_LEN as u64
}

/// Computes BLAKE3 of a file from the chaining values of its parts. [`is_subtree`] must hold for the size of all parts
/// but the last, which may be smaller. Returns `None` for fewer than two parts or an invalid chaining value.
pub(super) fn merge(parts: &[String]) -> Option<String> {
    /// The largest power of two below `count`: the number of parts in the left subtree of a node.
    fn left(count: usize) -> usize {
        count.div_ceil(2).next_power_of_two()
    }
    fn value(parts: &[ChainingValue]) -> ChainingValue {
        match parts {
            [one] => *one,
            parts => {
                let (left, right) = parts.split_at(left(parts.len()));
                merge_subtrees_non_root(&value(left), &value(right), Mode::Hash)
            }
        }
    }
    let parts = parts.iter().map(|part| blake3::Hash::from_hex(part).map(Into::into));
    let parts: Vec<ChainingValue> = parts.collect::<Result<_, _>>().ok()?;
    if parts.len() < 2 {
        return None;
    }
    let (left, right) = parts.split_at(left(parts.len()));
    Some(hex(merge_subtrees_root(&value(left), &value(right), Mode::Hash).as_bytes()))
}

/// SHA-256 of all of `file`, in lower-case hexadecimal digits. `path` is used in messages.
pub fn sha256_of(path: &Path, file: &PositionedFile) -> Result<String> {
    let size = file.size().map_err(Error::io(path, "read the size"))?;
    let mut hasher = Hasher::sha256();
    hasher.read(path, file, 0, size)?;
    Ok(hasher.finish())
}

/// SHA-256 of a file, in lower-case hexadecimal digits. The file is read in pieces.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    sha256_of(path, &PositionedFile::new(file))
}

/// SHA-256 of `bytes` in lower-case hexadecimal digits, as in the lineage fields of a checkpoint.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_a_known_text() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn blake3_of_known_bytes() {
        // BLAKE3's test vectors for 0 bytes and for 2049 bytes that repeat 0 to 250.
        let of = |bytes: &[u8]| {
            let mut hasher = Hasher::blake3();
            hasher.update(bytes);
            hasher.finish()
        };
        assert_eq!(of(b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        let bytes: Vec<u8> = (0..2049_u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(of(&bytes), "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030");
    }

    #[test]
    fn the_parts_of_a_file_give_its_checksum() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|i| ((i * i) >> 7) as u8).collect();
        for size in [1025, 2048, 2049, 3000, 4096, 5 * 1024, 5 * 1024 + 1, 20_479, 32_768, 40_000] {
            let bytes = &bytes[..size];
            for part in [1024, 2048, 16_384].into_iter().filter(|&part| part < size) {
                assert!(is_subtree(part as u64));
                let parts = bytes.chunks(part).enumerate().map(|(index, bytes)| {
                    let mut hasher = Hasher::blake3_part((index * part) as u64);
                    // Pieces that are not whole blocks.
                    bytes.chunks(777).for_each(|piece| hasher.update(piece));
                    hasher.finish()
                });
                let whole = merge(&parts.collect::<Vec<_>>()).unwrap();
                assert_eq!(whole, blake3::hash(bytes).to_hex().as_str(), "{size} bytes in parts of {part}");
            }
        }
        assert!([0, 1, 512, 1023, 1025, 3072, u64::MAX].iter().all(|&bytes| !is_subtree(bytes)));
        assert_eq!(merge(&[]), None);
        let value = sha256(b"any");
        assert_eq!(merge(std::slice::from_ref(&value)), None);
        assert_eq!(merge(&[value, "0".to_owned()]), None);
    }
}
