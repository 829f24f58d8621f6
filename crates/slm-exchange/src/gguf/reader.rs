//! An open GGUF file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use slm_checkpoint::hf;
use slm_store::manifest::sha256_of;
use slm_store::tensors::PositionedFile;
use slm_store::{Error as StoreError, StopFlag};

use super::{ALIGNMENT, ALIGNMENT_KEY, Array, MAGIC, TensorKind, Value};
use crate::{Error, Result};

/// Maximum number of dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// Maximum length in bytes of a key or of the name of a tensor.
const MAX_NAME: u64 = 65_535;
/// Minimum size in bytes of a tensor's entry: lengths of name and shape, type, offset.
const MIN_ENTRY: u64 = 8 + 4 + 4 + 8;
/// Minimum size in bytes of a metadata pair: length of the key, type, a value.
const MIN_PAIR: u64 = 8 + 4 + 1;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TensorKind,
    /// Its shape: rows before columns, which is the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Offset of its data in the file, in bytes.
    offset: u64,
    bytes: u64,
}

impl TensorEntry {
    /// Number of its values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file whose header was read and checked. The data of all tensors is inside the file, and every number in the header
/// was compared with the size of the file before use.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: PositionedFile,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens `path` and reads its header.
    ///
    /// # Errors
    /// [`Error::Damaged`] naming the part of the header; [`Error::Unsupported`] for another version, byte order or type;
    /// [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(StoreError::io(path, "open"))?;
        let size = file.metadata().map_err(StoreError::io(path, "read the size"))?.len();
        let input = BufReader::with_capacity(1 << 16, &file);
        let mut header = Header { path, input, left: size };
        let magic: Result<[u8; 4]> = header.bytes("magic");
        if !magic.as_ref().is_ok_and(|magic| *magic == MAGIC) {
            if let Some(error) = hf::explain_file(path) {
                return Err(error.into());
            }
            magic?;
            let problem = "the file does not begin with GGUF: it has another format";
            return Err(Error::damaged(path, "magic", problem));
        }
        let version = header.u32("version")?;
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => {
                let remedy = "convert it with gguf-py's gguf_convert_endian.py";
                return Err(Error::unsupported(path, "the file is big-endian", remedy));
            }
            _ => {
                let what = format!("GGUF version {version}; only versions 2 and 3 are supported");
                return Err(Error::unsupported(
                    path,
                    what,
                    "convert the model again with a current llama.cpp",
                ));
            }
        }
        let tensor_count = header.count("number of tensors", MIN_ENTRY)?;
        let pair_count = header.count("number of metadata pairs", MIN_PAIR)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pair_count {
            let key = header.string("a metadata key", MAX_NAME)?;
            let kind = header.u32(&key)?;
            let value = header.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Error::damaged(path, key, "the key is there twice"));
            }
        }
        let mut declared = Vec::new();
        for _ in 0..tensor_count {
            declared.push(header.tensor()?);
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(value) => match value.as_u64() {
                Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => alignment,
                _ => {
                    let problem = "is not a power of two up to 1048576";
                    return Err(Error::damaged(path, ALIGNMENT_KEY, problem));
                }
            },
        };
        let data_start = (size - header.left).next_multiple_of(alignment);
        let file = PositionedFile::new(file);
        let mut found =
            Self { path: path.to_owned(), file, metadata, tensors: Vec::new(), by_name: HashMap::new() };
        for tensor in declared {
            found.add(tensor, data_start, alignment, size)?;
        }
        found.check_overlap()?;
        Ok(found)
    }

    fn add(&mut self, mut tensor: TensorEntry, data_start: u64, alignment: u64, size: u64) -> Result<()> {
        let field = format!("tensor {:?}", tensor.name);
        let refuse = |problem: String| Err(Error::damaged(&self.path, &field, problem));
        if !tensor.offset.is_multiple_of(alignment) {
            return refuse(format!(
                "offset {} is not a multiple of the alignment {alignment}",
                tensor.offset
            ));
        }
        let end = data_start.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.bytes));
        match end {
            Some(end) if end <= size => tensor.offset += data_start,
            _ => {
                return refuse(format!(
                    "its {} bytes at offset {} lie beyond the file's {size} bytes: it is truncated or damaged",
                    tensor.bytes, tensor.offset
                ));
            }
        }
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            return refuse("the name is there twice".to_owned());
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// Rejects tensors that share bytes: reading all of them could take many times the size of the file.
    fn check_overlap(&self) -> Result<()> {
        let mut order: Vec<&TensorEntry> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
        match order.windows(2).find(|pair| pair[0].offset + pair[0].bytes > pair[1].offset) {
            Some(pair) => {
                let problem = format!("its data overlaps that of {:?}", pair[0].name);
                Err(Error::damaged(&self.path, format!("tensor {:?}", pair[1].name), problem))
            }
            None => Ok(()),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).and_then(|&index| self.tensors.get(index))
    }

    /// Makes all further reads fail once `stop` is set.
    pub fn stop_at(&mut self, stop: StopFlag) {
        self.file.stop_at(stop);
    }

    /// SHA-256 of the file, in lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Stopped`].
    pub fn sha256(&self) -> Result<String> {
        Ok(sha256_of(&self.path, &self.file)?)
    }

    /// The data of a tensor.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Stopped`].
    pub fn read(&self, tensor: &TensorEntry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor.bytes as usize];
        self.file.read_exact_at(&mut bytes, tensor.offset).map_err(StoreError::io(&self.path, "read"))?;
        Ok(bytes)
    }
}

/// A sequential reader of the part of a file before its data.
struct Header<'a> {
    path: &'a Path,
    input: BufReader<&'a File>,
    /// Number of bytes of the file that have not been read.
    left: u64,
}

impl Header<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::damaged(self.path, field, problem)
    }

    fn bytes<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(field, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, field: &str, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if len > self.left {
            return Err(self.error(field, "the file ends inside of it"));
        }
        self.left -= len;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.error(field, "the file ends inside of it"),
            _ => StoreError::io(self.path, "read")(error).into(),
        })
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(field)?))
    }

    /// Reads a number of items that take at least `size` bytes each.
    fn count(&mut self, field: &str, size: u64) -> Result<u64> {
        let count = self.u64(field)?;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.left => Ok(count),
            _ => Err(self.error(field, format!("is {count}, more than the file has room for"))),
        }
    }

    fn string(&mut self, field: &str, limit: u64) -> Result<String> {
        let len = self.count(field, 1)?;
        if len > limit {
            return Err(self.error(field, format!("has {len} bytes, more than {limit}")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(field, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.error(field, "is not UTF-8"))
    }

    fn value(&mut self, field: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.bytes(field)?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes(field)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(field)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(field)?)),
            4 => Value::U32(self.u32(field)?),
            5 => Value::I32(i32::from_le_bytes(self.bytes(field)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(field)?)),
            7 => Value::Bool(self.bool(field)?),
            8 => Value::String(self.string(field, u64::MAX)?),
            9 => Value::Array(self.array(field)?),
            10 => Value::U64(self.u64(field)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(field)?)),
            other => return Err(self.error(field, format!("its type is {other}, which GGUF does not have"))),
        })
    }

    fn bool(&mut self, field: &str) -> Result<bool> {
        match self.bytes::<1>(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.error(field, format!("is {other}, neither false nor true"))),
        }
    }

    fn array(&mut self, field: &str) -> Result<Array> {
        let kind = self.u32(field)?;
        // Minimum size of a value in bytes.
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.error(field, "is a list of lists, which a key of a model cannot be")),
            other => {
                return Err(
                    self.error(field, format!("is a list of the type {other}, which GGUF does not have"))
                );
            }
        };
        let len = self.count(field, size)?;
        let capacity = len as usize;
        Ok(match kind {
            4 => {
                let mut values = Vec::with_capacity(capacity);
                for _ in 0..len {
                    values.push(self.u32(field)?);
                }
                Array::U32(values)
            }
            5 => {
                let mut values = Vec::with_capacity(capacity);
                for _ in 0..len {
                    values.push(i32::from_le_bytes(self.bytes(field)?));
                }
                Array::I32(values)
            }
            6 => {
                let mut values = Vec::with_capacity(capacity);
                for _ in 0..len {
                    values.push(f32::from_le_bytes(self.bytes(field)?));
                }
                Array::F32(values)
            }
            7 => {
                let mut values = Vec::with_capacity(capacity);
                for _ in 0..len {
                    values.push(self.bool(field)?);
                }
                Array::Bool(values)
            }
            8 => {
                let mut values = Vec::new();
                for _ in 0..len {
                    values.push(self.string(field, u64::MAX)?);
                }
                Array::String(values)
            }
            _ => {
                let mut left = len * size;
                let mut chunk = [0; 4096];
                while left > 0 {
                    let part = left.min(chunk.len() as u64) as usize;
                    self.fill(field, &mut chunk[..part])?;
                    left -= part as u64;
                }
                Array::Skipped { len }
            }
        })
    }

    fn tensor(&mut self) -> Result<TensorEntry> {
        let name = self.string("the name of a tensor", MAX_NAME)?;
        let field = format!("tensor {name:?}");
        let dims = self.u32(&field)?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(self.error(&field, format!("has {dims} dimensions, not 1 to {MAX_DIMS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(self.u64(&field)?);
        }
        let id = self.u32(&field)?;
        let offset = self.u64(&field)?;
        let kind = TensorKind::from_id(id).ok_or_else(|| {
            let what = format!("{field} has ggml's type {id}, which is not supported");
            let remedy = format!(
                "import a file with types among {}, or quantize the float model with slm ptq",
                TensorKind::all_names()
            );
            Error::unsupported(self.path, what, remedy)
        })?;
        let columns = shape.first().copied().unwrap_or(1);
        let values = shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim));
        let bytes = values.filter(|&values| values > 0).and_then(|values| kind.bytes(values));
        // Rows must be whole blocks; then the tensor consists of whole blocks too.
        let bytes = bytes.filter(|_| columns.is_multiple_of(kind.block_len() as u64));
        let Some(bytes) = bytes else {
            return Err(
                self.error(&field, format!("a shape of {shape:?} is not possible for the type {kind}"))
            );
        };
        let shape = shape.into_iter().rev().map(|dim| dim as usize).collect();
        Ok(TensorEntry { name, kind, shape, offset, bytes })
    }
}
