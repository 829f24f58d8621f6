//! A safetensors file that is open for reading.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::convert::{extend_f32, first_not_finite, float_size, to_f16};
use super::header::{self, LENGTH_BYTES, MAX_HEADER_BYTES};
use crate::{Error, Result};

/// Bytes read at once while converting, so that a tensor is held once and not twice.
const CHUNK_BYTES: usize = 1 << 20;

/// An open safetensors file. Opening reads and checks the header alone; each tensor is read when asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: Mutex<File>,
    metadata: Metadata,
    names: Vec<String>,
    data_start: u64,
}

impl TensorFile {
    /// Opens `path` and checks its header: its length against the file and a limit of 100 MB, every tensor's
    /// bytes against its shape and type, all tensors together against the size of the file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Header`], [`Error::Truncated`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        Self::from_file(path, file)
    }

    /// [`TensorFile::open`] for a file that is open already; `path` is for messages.
    pub(crate) fn from_file(path: &Path, mut file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path, "read the size"))?.len();
        let mut length = [0; LENGTH_BYTES as usize];
        if size < LENGTH_BYTES {
            return Err(Error::Truncated { path: path.to_owned(), expected: LENGTH_BYTES, found: size });
        }
        file.seek(SeekFrom::Start(0)).map_err(Error::io(path, "seek"))?;
        file.read_exact(&mut length).map_err(Error::io(path, "read"))?;
        let length = u64::from_le_bytes(length);
        let refuse = |reason: String| Error::Header { path: path.to_owned(), reason };
        if length > MAX_HEADER_BYTES {
            return Err(refuse(format!("header length {length} is above the limit of {MAX_HEADER_BYTES}")));
        }
        let data_start = LENGTH_BYTES + length;
        if data_start > size {
            return Err(Error::Truncated { path: path.to_owned(), expected: data_start, found: size });
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(Error::io(path, "read"))?;
        let metadata = header::parse(&json).map_err(refuse)?;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != size {
            return Err(Error::Truncated { path: path.to_owned(), expected, found: size });
        }
        let names = metadata.offset_keys();
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), metadata, names, data_start })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in the order in which they lie in the file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Shape of a tensor; none where the file has no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Element type of a tensor; none where the file has no such tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.metadata.info(name).map(|info| info.dtype)
    }

    /// Bytes of a tensor; none where the file has no such tensor.
    pub fn byte_size(&self, name: &str) -> Option<u64> {
        self.metadata.info(name).map(|info| (info.data_offsets.1 - info.data_offsets.0) as u64)
    }

    /// Refuses a shape other than `expected`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::TensorSet`] for a tensor that is not there.
    pub fn check_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let info = self.info(name)?;
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

    /// Refuses a type other than those in `expected`.
    ///
    /// # Errors
    /// [`Error::TensorType`]; [`Error::TensorSet`] for a tensor that is not there.
    pub fn check_dtype(&self, name: &str, expected: &[Dtype]) -> Result<()> {
        let found = self.info(name)?.dtype;
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

    /// Reads an F32, F16 or BF16 tensor as F32, row-major. The memory taken is that of the result.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::TensorType`] for another type,
    /// [`Error::TensorSet`] for a tensor that is not there, [`Error::Io`] and [`Error::Truncated`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.check_dtype(name, &[Dtype::F32, Dtype::F16, Dtype::BF16])?;
        let info = self.info(name)?;
        let bytes = info.data_offsets.1 - info.data_offsets.0;
        let size = float_size(info.dtype).unwrap_or(4);
        let mut values = Vec::with_capacity(bytes / size);
        let mut buffer = vec![0; CHUNK_BYTES.min(bytes)];
        let mut done = 0;
        while done < bytes {
            let chunk = &mut buffer[..CHUNK_BYTES.min(bytes - done)];
            self.read_at(info.data_offsets.0 + done, chunk)?;
            extend_f32(&mut values, chunk, info.dtype);
            done += chunk.len();
        }
        if let Some((index, value)) = first_not_finite(&values) {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            return Err(Error::NotFinite { path, tensor, index, value });
        }
        Ok(values)
    }

    /// Reads the bytes of a tensor of any type.
    ///
    /// # Errors
    /// [`Error::TensorSet`] for a tensor that is not there, [`Error::Io`] and [`Error::Truncated`].
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (start, end) = self.info(name)?.data_offsets;
        let mut bytes = vec![0; end - start];
        self.read_at(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads an F16 tensor without widening it.
    ///
    /// # Errors
    /// [`Error::TensorType`] for another type, and as [`TensorFile::read_bytes`].
    pub fn read_f16(&self, name: &str) -> Result<Vec<f16>> {
        self.check_dtype(name, &[Dtype::F16])?;
        Ok(to_f16(&self.read_bytes(name)?))
    }

    /// Reads an I8 tensor.
    ///
    /// # Errors
    /// [`Error::TensorType`] for another type, and as [`TensorFile::read_bytes`].
    pub fn read_i8(&self, name: &str) -> Result<Vec<i8>> {
        self.check_dtype(name, &[Dtype::I8])?;
        Ok(self.read_bytes(name)?.into_iter().map(u8::cast_signed).collect())
    }

    /// Whether tensor `name` has the type, shape and bytes of tensor `other_name` of `other`.
    pub(crate) fn same_content(&self, name: &str, other: &Self, other_name: &str) -> Result<bool> {
        let (a, b) = (self.info(name)?, other.info(other_name)?);
        if a.dtype != b.dtype || a.shape != b.shape {
            return Ok(false);
        }
        let bytes = a.data_offsets.1 - a.data_offsets.0;
        let mut buffers = [vec![0; CHUNK_BYTES.min(bytes)], vec![0; CHUNK_BYTES.min(bytes)]];
        let mut done = 0;
        while done < bytes {
            let len = CHUNK_BYTES.min(bytes - done);
            let [ours, theirs] = &mut buffers;
            self.read_at(a.data_offsets.0 + done, &mut ours[..len])?;
            other.read_at(b.data_offsets.0 + done, &mut theirs[..len])?;
            if ours[..len] != theirs[..len] {
                return Ok(false);
            }
            done += len;
        }
        Ok(true)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata.info(name).ok_or_else(|| Error::TensorSet {
            path: self.path.clone(),
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
            remedy: "ask for a tensor that the file holds".to_owned(),
        })
    }

    /// Fills `buffer` from `offset` of the data section.
    fn read_at(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        let start = self.data_start + offset as u64;
        // A reader that panicked left no state behind but the cursor, which is set here.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start)).map_err(Error::io(&self.path, "seek"))?;
        file.read_exact(buffer).map_err(|source| match source.kind() {
            // The size was right when the file was opened.
            ErrorKind::UnexpectedEof => Error::Truncated {
                path: self.path.clone(),
                expected: self.data_start + self.metadata.data_len() as u64,
                found: file.metadata().map_or(start, |m| m.len()),
            },
            _ => Error::Io { path: self.path.clone(), action: "read", source },
        })
    }
}
