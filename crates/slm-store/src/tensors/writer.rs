//! A safetensors file that is being written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::convert::{float_size, holds_exactly, narrow_into};
use super::header;
use crate::shown_as::shown;
use crate::{Error, Result};

/// Number of values converted at once.
const CHUNK_VALUES: usize = 1 << 16;

/// Name, type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name of the tensor.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Describes a tensor of type `dtype`.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// Size in bytes; `None` if it does not fit a `usize`.
    fn byte_size(&self) -> Option<usize> {
        let elements = self.shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim))?;
        Some(elements.checked_mul(self.dtype.bitsize())?.div_ceil(8))
    }

    /// Alignment of its position: a power of two, in bytes.
    fn alignment(&self) -> usize {
        match self.byte_size() {
            Some(0) | None => header::ALIGNMENT,
            Some(size) => header::ALIGNMENT.min(1 << size.trailing_zeros()),
        }
    }
}

/// Writes a safetensors file whose tensors are declared first and then written one at a time, in any order. It keeps no
/// tensor in memory.
///
/// Tensors are sorted by the highest power of two, up to 64, that divides their size, and otherwise in the order of
/// declaration. Each therefore begins at a multiple of that power and of its element size: a matrix whose rows are
/// whole cache lines begins at a cache line.
#[derive(Debug)]
pub struct TensorFileWriter {
    path: PathBuf,
    file: File,
    data_start: u64,
    /// Position of every tensor that is not written yet.
    pending: HashMap<String, TensorInfo>,
}

impl TensorFileWriter {
    /// Creates `path`, which must not exist, and writes the header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Write`] for a name declared twice or a file too large for the format.
    pub fn create(path: &Path, specs: &[TensorSpec]) -> Result<Self> {
        Self::create_as(path, specs, "slm-checkpoint")
    }

    /// [`TensorFileWriter::create`] with another `format` in the file's metadata, such as `pt`, which transformers
    /// requires.
    ///
    /// # Errors
    /// Same as [`TensorFileWriter::create`].
    pub fn create_as(path: &Path, specs: &[TensorSpec], format: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Write { path: path.to_owned(), reason };
        let mut ordered: Vec<&TensorSpec> = specs.iter().collect();
        ordered.sort_by_key(|spec| std::cmp::Reverse(spec.alignment()));
        let mut offset = 0_usize;
        let mut pending = HashMap::with_capacity(specs.len());
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in ordered {
            let end = spec.byte_size().and_then(|size| offset.checked_add(size));
            let end = end.ok_or_else(|| refuse(format!("tensor {:?} is too large", spec.name)))?;
            let (dtype, shape) = (spec.dtype, spec.shape.clone());
            let info = TensorInfo { dtype, shape, data_offsets: (offset, end) };
            offset = end;
            if pending.insert(spec.name.clone(), info.clone()).is_some() {
                return Err(refuse(format!("tensor {:?} is declared twice", spec.name)));
            }
            tensors.push((spec.name.clone(), info));
        }
        let header = header::build(tensors, format).map_err(refuse)?;
        let mut file = File::create_new(path).map_err(Error::io(path, "create"))?;
        file.write_all(&header).map_err(Error::io(path, "write"))?;
        let data_start = header.len() as u64;
        file.set_len(data_start + offset as u64).map_err(Error::io(path, "reserve the space"))?;
        Ok(Self { path: path.to_owned(), file, data_start, pending })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a float tensor in its declared type.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Write`] for a tensor that was not declared as F32, F16 or BF16, that was already
    /// written, or with a value that its type does not represent exactly; [`Error::NotFinite`] for a NaN or an
    /// infinity.
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<()> {
        if let Some((index, value)) = super::first_not_finite(values) {
            let (path, tensor) = (shown(&self.path), name.to_owned());
            return Err(Error::NotFinite { path, tensor, index, value });
        }
        let dtype = match self.pending.get(name).map(|info| info.dtype) {
            Some(dtype @ (Dtype::F16 | Dtype::BF16)) if !holds_exactly(dtype, values) => {
                let reason = format!("tensor {name:?} has values that {dtype} does not hold exactly");
                return Err(Error::Write { path: self.path.clone(), reason });
            }
            Some(dtype @ (Dtype::F16 | Dtype::BF16)) => dtype,
            _ => Dtype::F32,
        };
        self.begin(name, dtype, values.len() * float_size(dtype).unwrap_or(4))?;
        let mut bytes = Vec::with_capacity(CHUNK_VALUES.min(values.len()) * 4);
        for chunk in values.chunks(CHUNK_VALUES) {
            bytes.clear();
            narrow_into(&mut bytes, chunk, dtype);
            self.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Writes a tensor of any type from its little-endian bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Write`] for a tensor that was not declared with this type and size, or that was already
    /// written.
    pub fn write_bytes(&mut self, name: &str, dtype: Dtype, bytes: &[u8]) -> Result<()> {
        self.begin(name, dtype, bytes.len())?;
        self.write_all(bytes)
    }

    /// Checks that every declared tensor was written, and syncs the file to the disk.
    ///
    /// # Errors
    /// [`Error::Write`] naming the tensors that were not written; [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        self.check_complete()?;
        self.file.sync_all().map_err(Error::io(&self.path, "write to the disk"))
    }

    /// Checks that every declared tensor was written.
    ///
    /// # Errors
    /// [`Error::Write`] naming the tensors that were not written.
    pub fn check_complete(&self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = self.pending.keys().map(String::as_str).collect();
        names.sort_unstable();
        let reason = format!("declared but not written: {}", names.join(", "));
        Err(Error::Write { path: self.path.clone(), reason })
    }

    /// Seeks to the position of `name` and removes it from the pending tensors.
    fn begin(&mut self, name: &str, dtype: Dtype, bytes: usize) -> Result<()> {
        let refuse = |reason: String| Error::Write { path: self.path.clone(), reason };
        let info = self
            .pending
            .get(name)
            .ok_or_else(|| refuse(format!("tensor {name:?} was not declared, or is written twice")))?;
        let (start, end) = info.data_offsets;
        if info.dtype != dtype || end - start != bytes {
            return Err(refuse(format!(
                "tensor {name:?}: declared as {} {:?} of {} bytes, written as {dtype} of {bytes} bytes",
                info.dtype,
                info.shape,
                end - start
            )));
        }
        let position = SeekFrom::Start(self.data_start + start as u64);
        self.file.seek(position).map_err(Error::io(&self.path, "seek"))?;
        self.pending.remove(name);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
}
