//! An open file of tensors.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use half::f16;
use safetensors::Dtype;
use slm_quant_core::check_finite;
use slm_runtime::advise_huge_pages;

use super::convert::{fill_f32, first_half_not_finite, first_not_finite, float_size, to_f16};
use super::destination::Refused;
use super::header::{self, LENGTH_BYTES, MAX_HEADER_BYTES};
use super::{Destination, PositionedFile, burnpack, streaming};
use crate::layer::names;
use crate::manifest::{FileRecord, sha256_of};
use crate::{Error, Result, StopFlag};

/// Number of bytes read at once while converting, so that only one copy of a tensor is in memory.
const CHUNK_BYTES: usize = 1 << 20;

/// An open file of tensors. Opening it reads and checks only the header; tensors are read on request.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: PositionedFile,
    places: HashMap<String, Place>,
    /// Names of the tensors, in file order.
    names: Vec<String>,
    /// Size of the file in bytes when it was opened.
    size: u64,
    /// Time of the last modification before the file was opened; `None` if the system does not provide it.
    modified: Option<SystemTime>,
    /// Record with which the file must be compared before any of its tensors is used.
    unverified: Mutex<Option<FileRecord>>,
}

/// Type, shape and position of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte offset of the first byte in the file.
    pub(super) start: u64,
    /// Byte offset after the last byte.
    pub(super) end: u64,
}

impl Place {
    /// Returns `None` if the number of bytes does not match the shape and type.
    pub(super) fn new(dtype: Dtype, shape: Vec<usize>, start: u64, end: u64) -> Option<Self> {
        let elements = shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64))?;
        let bytes = elements.checked_mul(dtype.bitsize() as u64)?.div_ceil(8);
        (end.checked_sub(start) == Some(bytes)).then_some(Self { dtype, shape, start, end })
    }

    fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

impl TensorFile {
    /// Opens the safetensors file `path` and checks its header: the length of the header against the file and a limit
    /// of 100 MB, the bytes of every tensor against its shape and type, and all tensors against the size of the file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Header`], [`Error::Truncated`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        Self::safetensors(path, PositionedFile::new(file))
    }

    /// [`TensorFile::open`] for a file that is already open; `path` is used in messages.
    pub fn safetensors(path: &Path, file: PositionedFile) -> Result<Self> {
        let refuse = |reason: String| Error::Header { path: path.to_owned(), what: "safetensors", reason };
        let opening = Opening::new(path, &file)?;
        let length = u64::from_le_bytes(opening.read::<{ LENGTH_BYTES as usize }>(0)?);
        if length > MAX_HEADER_BYTES {
            return Err(refuse(format!("header length {length} is above the limit of {MAX_HEADER_BYTES}")));
        }
        let data_start = LENGTH_BYTES + length;
        let metadata = header::parse(&opening.read_vec(LENGTH_BYTES, length)?).map_err(refuse)?;
        opening.check_size(data_start.saturating_add(metadata.data_len() as u64))?;
        let place = |name: String| {
            let info = metadata.info(&name)?;
            let (start, end) = info.data_offsets;
            let place = Place::new(
                info.dtype,
                info.shape.clone(),
                data_start + start as u64,
                data_start + end as u64,
            )?;
            Some((name, place))
        };
        let tensors = metadata.offset_keys().into_iter().filter_map(place).collect();
        let size = opening.size;
        Ok(Self::new(path, file, tensors, size))
    }

    /// Returns the tensors that extend beyond the end of a truncated safetensors file: their names, the size that the
    /// file should have, and its actual size. `None` for a file that is as long as its header requires, or whose header
    /// cannot be read.
    pub(crate) fn beyond_the_end(file: &PositionedFile) -> Option<(Vec<String>, u64, u64)> {
        let opening = Opening::new(Path::new(""), file).ok()?;
        let length = u64::from_le_bytes(opening.read::<{ LENGTH_BYTES as usize }>(0).ok()?);
        let length = (length <= MAX_HEADER_BYTES).then_some(length)?;
        let metadata = header::parse(&opening.read_vec(LENGTH_BYTES, length).ok()?).ok()?;
        let data_start = LENGTH_BYTES + length;
        let expected = data_start + metadata.data_len() as u64;
        let lost = metadata.offset_keys().into_iter().filter(|name| {
            metadata.info(name).is_some_and(|info| data_start + info.data_offsets.1 as u64 > opening.size)
        });
        (opening.size < expected).then(|| (lost.collect(), expected, opening.size))
    }

    /// Opens a burnpack file, Burn's record format, with the same checks.
    pub fn burnpack(path: &Path, file: PositionedFile) -> Result<Self> {
        let refuse = |reason: String| Error::Header { path: path.to_owned(), what: "burnpack", reason };
        let opening = Opening::new(path, &file)?;
        let length = burnpack::header_length(opening.read(0)?).map_err(refuse)?;
        let cbor = opening.read_vec(burnpack::PREFIX_BYTES as u64, u64::from(length))?;
        let data_start = burnpack::data_start(length);
        let tensors = burnpack::parse(&cbor, data_start).map_err(refuse)?;
        opening.check_size(tensors.last().map_or(data_start, |(_, place)| place.end))?;
        let size = opening.size;
        Ok(Self::new(path, file, tensors, size))
    }

    fn new(path: &Path, file: PositionedFile, tensors: Vec<(String, Place)>, size: u64) -> Self {
        let names = tensors.iter().map(|(name, _)| name.clone()).collect();
        let modified = file.modified().ok();
        let (path, places) = (path.to_owned(), tensors.into_iter().collect());
        Self { path, file, places, names, size, modified, unverified: Mutex::new(None) }
    }

    /// Compares the file with `record` when a tensor is read for the first time: while reading if
    /// [`TensorFile::read_whole`] reads all of it, otherwise before.
    pub fn verify_when_read(&mut self, record: FileRecord) {
        self.unverified = Mutex::new(Some(record));
    }

    /// Reads the whole file once, and fills `targets`, by the names of their tensors. The size of each target must
    /// match its tensor. After an error, the contents of the targets are unspecified.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::NotFinite`], [`Error::Layer`] for invalid codes, [`Error::TensorSet`],
    /// [`Error::Io`] and [`Error::Truncated`].
    pub fn read_whole<'a>(
        &self,
        targets: impl IntoIterator<Item = (&'a str, &'a mut Destination)>,
    ) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, destination) in targets {
            let Place { start, end, .. } = *self.place(name)?;
            tensors.push(streaming::Tensor { name, place: start..end, destination });
        }
        tensors.sort_by_key(|tensor| tensor.place.start);
        let unverified = self.unverified();
        let checksums = unverified.as_ref().map(|record| record.parts(&self.path, self.size)).transpose()?;
        let input = streaming::Input {
            size: self.size,
            checksums,
            read: &|offset, buffer| self.read_unverified(offset, buffer),
            refuse: &|tensor, refused| self.refused(tensor, refused),
        };
        let result = streaming::run(&input, tensors);
        if let Some(record) = unverified {
            if result.is_err() {
                // A checksum error says more than the symptom of the damage.
                record.verify(&self.path, &self.file)?;
            }
            self.verified();
        }
        result
    }

    /// Returns the record with which the file must still be compared. No lock is held meanwhile, so two simultaneous
    /// first reads both compare.
    fn unverified(&self) -> Option<FileRecord> {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns `true` if there is nothing left to compare: [`TensorFile::verify_when_read`] was not called, or the
    /// comparison is done.
    pub fn is_verified(&self) -> bool {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn verified(&self) {
        *self.unverified.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn refused(&self, tensor: &str, refused: Refused) -> Error {
        let path = self.path.clone();
        match refused {
            Refused::NotFinite { index, value } => {
                Error::NotFinite { path, tensor: tensor.to_owned(), index, value }
            }
            Refused::Codes(source) => {
                Error::Layer { path, layer: names::layer_of_codes(tensor).to_owned(), source }
            }
        }
    }

    /// Makes all further reads fail once `stop` is set.
    pub fn stop_at(&mut self, stop: StopFlag) {
        self.file.stop_at(stop);
    }

    /// Flag that stops its reads.
    pub fn stop(&self) -> &StopFlag {
        self.file.stop()
    }

    /// Rejects a file that was modified since it was opened. Replacing the file by another does not count.
    pub fn check_unchanged(&self) -> Result<()> {
        let size = self.file.size().map_err(Error::io(&self.path, "read the size"))?;
        if size == self.size && self.file.modified().ok() == self.modified {
            return Ok(());
        }
        Err(Error::Changed { path: self.path.clone() })
    }

    /// SHA-256 of the current content, in lower-case hexadecimal digits.
    pub fn sha256(&self) -> Result<String> {
        sha256_of(&self.path, &self.file)
    }

    /// Renames every tensor with `rename`.
    pub fn rename(&mut self, rename: impl Fn(&str) -> String) -> Result<()> {
        let mut places = HashMap::with_capacity(self.places.len());
        for name in &mut self.names {
            let new = rename(name);
            if let Some(place) = self.places.remove(name)
                && places.insert(new.clone(), place).is_some()
            {
                let reason = format!("two tensors of it are called {new:?}");
                return Err(Error::Header { path: self.path.clone(), what: "record", reason });
            }
            *name = new;
        }
        self.places = places;
        Ok(())
    }

    /// Reinterprets a tensor of type `from` as one of type `to`, which must have the same width.
    pub fn reinterpret(&mut self, name: &str, from: Dtype, to: Dtype) -> Result<()> {
        self.check_dtype(name, &[from])?;
        if let Some(place) = self.places.get_mut(name).filter(|_| from.bitsize() == to.bitsize()) {
            place.dtype = to;
        }
        Ok(())
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in file order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Shape of a tensor; `None` if the file does not contain it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    /// Element type of a tensor; `None` if the file does not contain it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.places.get(name).map(|place| place.dtype)
    }

    /// Size of a tensor in bytes; `None` if the file does not contain it.
    pub fn byte_size(&self, name: &str) -> Option<u64> {
        self.places.get(name).map(Place::bytes)
    }

    /// Rejects a tensor with a shape other than `expected`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::TensorSet`] for a missing tensor.
    pub fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let info = self.place(name)?;
        if info.shape == expected {
            return Ok(());
        }
        Err(Error::Shape {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            found: info.shape.clone(),
        })
    }

    /// Rejects a tensor with a type that is not in `expected`.
    ///
    /// # Errors
    /// [`Error::TensorType`]; [`Error::TensorSet`] for a missing tensor.
    pub fn check_dtype(&self, name: &str, expected: &[Dtype]) -> Result<()> {
        let found = self.place(name)?.dtype;
        if expected.contains(&found) {
            return Ok(());
        }
        let expected: Vec<String> = expected.iter().map(Dtype::to_string).collect();
        Err(Error::TensorType {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: expected.join(" or "),
            found,
        })
    }

    /// Reads an F32, F16, BF16 or F64 tensor as F32, in row-major order. It needs no memory beyond the result.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN, an infinity or a number beyond the range of F32, [`Error::TensorType`] for
    /// another type, [`Error::TensorSet`] for a missing tensor, [`Error::Io`] and [`Error::Truncated`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.check_dtype(name, &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64])?;
        let place = self.place(name)?;
        let bytes = place.bytes() as usize;
        let size = float_size(place.dtype).unwrap_or(4);
        let mut values = vec![0.0; bytes / size];
        advise_huge_pages(&mut values);
        let mut buffer = vec![0; CHUNK_BYTES.min(bytes)];
        let mut done = 0;
        while done < bytes {
            let chunk = &mut buffer[..CHUNK_BYTES.min(bytes - done)];
            self.read_at(place.start + done as u64, chunk)?;
            let before = done / size;
            let part = &mut values[before..][..chunk.len() / size];
            fill_f32(part, chunk, place.dtype);
            // Checked while the values are in the cache.
            if check_finite("tensor", part).is_err()
                && let Some((index, value)) = first_not_finite(part)
            {
                let (path, tensor) = (self.path.clone(), name.to_owned());
                return Err(Error::NotFinite { path, tensor, index: before + index, value });
            }
            done += chunk.len();
        }
        Ok(values)
    }

    /// Rejects the bits of the F16 or BF16 tensor `name` if a value is not finite.
    pub(crate) fn check_halves(&self, name: &str, bits: &[u16], dtype: Dtype) -> Result<()> {
        match first_half_not_finite(bits, dtype) {
            Some((index, value)) => {
                Err(Error::NotFinite { path: self.path.clone(), tensor: name.to_owned(), index, value })
            }
            None => Ok(()),
        }
    }

    /// Reads the bytes of a tensor of any type.
    ///
    /// # Errors
    /// [`Error::TensorSet`] for a missing tensor, [`Error::Io`] and [`Error::Truncated`].
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let place = self.place(name)?;
        let mut bytes = vec![0; place.bytes() as usize];
        self.read_at(place.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads an F16 tensor without widening it.
    ///
    /// # Errors
    /// [`Error::TensorType`] for another type, and the errors of [`TensorFile::read_bytes`].
    pub fn read_f16(&self, name: &str) -> Result<Vec<f16>> {
        self.check_dtype(name, &[Dtype::F16])?;
        Ok(to_f16(&self.read_bytes(name)?))
    }

    /// Reads an I8 tensor.
    ///
    /// # Errors
    /// [`Error::TensorType`] for another type, and the errors of [`TensorFile::read_bytes`].
    pub fn read_i8(&self, name: &str) -> Result<Vec<i8>> {
        self.check_dtype(name, &[Dtype::I8])?;
        Ok(self.read_bytes(name)?.into_iter().map(u8::cast_signed).collect())
    }

    /// Returns `true` if tensor `name` has the type, shape and bytes of tensor `other_name` of `other`.
    pub fn same_content(&self, name: &str, other: &Self, other_name: &str) -> Result<bool> {
        let (a, b) = (self.place(name)?, other.place(other_name)?);
        if a.dtype != b.dtype || a.shape != b.shape {
            return Ok(false);
        }
        let bytes = a.bytes() as usize;
        let mut buffers = [vec![0; CHUNK_BYTES.min(bytes)], vec![0; CHUNK_BYTES.min(bytes)]];
        let mut done = 0;
        while done < bytes {
            let len = CHUNK_BYTES.min(bytes - done);
            let [ours, theirs] = &mut buffers;
            self.read_at(a.start + done as u64, &mut ours[..len])?;
            other.read_at(b.start + done as u64, &mut theirs[..len])?;
            if ours[..len] != theirs[..len] {
                return Ok(false);
            }
            done += len;
        }
        Ok(true)
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).ok_or_else(|| self.missing(name))
    }

    /// The error for a missing tensor.
    pub fn missing(&self, name: &str) -> Error {
        Error::TensorSet {
            path: self.path.clone(),
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
            remedy: "ask for a tensor that the file holds".to_owned(),
        }
    }

    /// Fills `buffer` from the byte offset `offset`. If the file is not verified yet, it is compared with its checksums
    /// first.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if let Some(record) = self.unverified() {
            record.verify(&self.path, &self.file)?;
            self.verified();
        }
        self.read_unverified(offset, buffer)
    }

    fn read_unverified(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
            // The size was checked when the file was opened, so the file has shrunk.
            ErrorKind::UnexpectedEof => Error::Truncated {
                path: self.path.clone(),
                expected: self.size,
                found: self.file.size().unwrap_or(offset),
            },
            _ => Error::io(&self.path, "read")(source),
        })
    }
}

/// A file whose header is being read. Its size bounds all reads and allocations.
struct Opening<'a> {
    path: &'a Path,
    file: &'a PositionedFile,
    size: u64,
}

impl<'a> Opening<'a> {
    fn new(path: &'a Path, file: &'a PositionedFile) -> Result<Self> {
        let size = file.size().map_err(Error::io(path, "read the size"))?;
        Ok(Self { path, file, size })
    }

    fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.check_holds(offset + N as u64)?;
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::io(self.path, "read"))?;
        Ok(bytes)
    }

    fn read_vec(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.check_holds(offset + length)?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::io(self.path, "read"))?;
        Ok(bytes)
    }

    fn check_holds(&self, expected: u64) -> Result<()> {
        if expected <= self.size {
            return Ok(());
        }
        Err(Error::Truncated { path: self.path.to_owned(), expected, found: self.size })
    }

    fn check_size(&self, expected: u64) -> Result<()> {
        if expected == self.size {
            return Ok(());
        }
        Err(Error::Truncated { path: self.path.to_owned(), expected, found: self.size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TensorFileWriter, TensorSpec};

    #[test]
    fn a_cut_file_names_the_tensors_that_it_lost() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("model.safetensors");
        let specs = ["a", "b"].map(|name| TensorSpec::new(name, Dtype::F32, [4]));
        let mut writer = TensorFileWriter::create(&path, &specs).unwrap();
        writer.write_f32("a", &[1.0; 4]).unwrap();
        writer.write_f32("b", &[2.0; 4]).unwrap();
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let lost = |length: usize| {
            std::fs::write(&path, &whole[..length]).unwrap();
            TensorFile::beyond_the_end(&PositionedFile::new(std::fs::File::open(&path).unwrap()))
        };
        let size = whole.len();
        assert_eq!(lost(size), None);
        for (missing, names) in [(1, vec!["b"]), (16, vec!["b"]), (17, vec!["a", "b"]), (32, vec!["a", "b"])]
        {
            let names = names.into_iter().map(str::to_owned).collect();
            assert_eq!(
                lost(size - missing),
                Some((names, size as u64, (size - missing) as u64)),
                "{missing}"
            );
        }
        assert_eq!(lost(size - 33), None, "the header is cut too");
    }
}
