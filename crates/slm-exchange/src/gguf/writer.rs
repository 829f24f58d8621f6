//! A GGUF file that is being written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use slm_store::Error as StoreError;

use super::{ALIGNMENT, Array, MAGIC, TensorKind, VERSION, Value};
use crate::{Error, Result};

/// A tensor that a file will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDecl {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TensorKind,
    /// Its shape, rows before columns. Files store it in reverse.
    pub shape: Vec<usize>,
}

impl TensorDecl {
    /// Size of its data in bytes; `None` if rows are not whole blocks.
    pub fn bytes(&self) -> Option<u64> {
        let columns = self.shape.last().copied().unwrap_or(1) as u64;
        let rows = self.shape.iter().rev().skip(1).try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64))?;
        self.kind.bytes(columns)?.checked_mul(rows)
    }
}

/// Writes a file whose metadata and tensors are declared first. The data follows one tensor at a time, in the order of
/// declaration, and is not kept in memory.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: BufWriter<File>,
    tensors: Vec<TensorDecl>,
    next: usize,
}

impl GgufWriter {
    /// Creates `path`, which must not exist, and writes everything up to the first tensor's data.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Write`] for a tensor whose rows are not whole blocks.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: Vec<TensorDecl>) -> Result<Self> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut header, key);
            header.extend(value.type_id().to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for tensor in &tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.kind.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let bytes = tensor.bytes().ok_or_else(|| {
                let reason = format!(
                    "tensor {:?} of shape {:?} is not made of whole {} blocks",
                    tensor.name, tensor.shape, tensor.kind
                );
                StoreError::Write { path: path.to_owned(), reason }
            })?;
            offset += bytes.next_multiple_of(ALIGNMENT);
        }
        let padding = padding_after(header.len() as u64);
        header.extend(std::iter::repeat_n(0, padding));
        let file = File::create_new(path).map_err(StoreError::io(path, "create"))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&header).map_err(StoreError::io(path, "write"))?;
        Ok(Self { path: path.to_owned(), file, tensors, next: 0 })
    }

    /// Writes the data of the next tensor, which must be `name`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Write`] for data that is out of order or does not have the declared size.
    pub fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let refuse = |reason: String| Error::from(StoreError::Write { path: self.path.clone(), reason });
        let Some(tensor) = self.tensors.get(self.next).filter(|tensor| tensor.name == name) else {
            return Err(refuse(format!("tensor {name:?} was not declared next")));
        };
        if tensor.bytes() != Some(data.len() as u64) {
            return Err(refuse(format!("tensor {name:?} has {} bytes, not those declared", data.len())));
        }
        self.next += 1;
        let padding = padding_after(data.len() as u64);
        let io = |error| StoreError::io(&self.path, "write")(error);
        self.file.write_all(data).map_err(io)?;
        Ok(self.file.write_all(&[0; ALIGNMENT as usize][..padding]).map_err(io)?)
    }

    /// Checks that all tensors were written.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Write`] naming the first tensor without data.
    pub fn finish(mut self) -> Result<()> {
        if let Some(tensor) = self.tensors.get(self.next) {
            let reason = format!("tensor {:?} was declared and not written", tensor.name);
            return Err(StoreError::Write { path: self.path, reason }.into());
        }
        Ok(self.file.flush().map_err(StoreError::io(&self.path, "write"))?)
    }
}

fn padding_after(length: u64) -> usize {
    (length.next_multiple_of(ALIGNMENT) - length) as usize
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => put_string(out, value),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(array) => {
            out.extend(array.type_id().to_le_bytes());
            // The values of a skipped list are unknown, so it is written as an empty list.
            let len = if matches!(array, Array::Skipped { .. }) { 0 } else { array.len() };
            out.extend(len.to_le_bytes());
            match array {
                Array::U32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                Array::I32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                Array::F32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                Array::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
                Array::String(values) => values.iter().for_each(|value| put_string(out, value)),
                Array::Skipped { .. } => {}
            }
        }
    }
}
