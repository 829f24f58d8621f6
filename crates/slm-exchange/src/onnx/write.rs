//! Writing of ONNX files, one initializer at a time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use slm_store::Error as StoreError;

use super::initializer::Initializer;
use super::proto::{
    GRAPH, GraphProto, INITIALIZER, ModelProto, RAW_DATA, StringStringEntryProto, TensorProto,
};
use crate::source::Source;
use crate::{Error, Result};

/// The file of the model.
pub(super) const MODEL: &str = "model.onnx";
/// The file of the values of large initializers, if they do not fit into the model.
pub(super) const DATA: &str = "model.onnx.data";
/// Size in bytes below which an initializer always stays in the model. Programs evaluate small ones while loading.
const KEPT_INSIDE: u64 = 1024;
/// Alignment in bytes of the values of initializers, so that they can be memory-mapped.
const ALIGNMENT: u64 = 4096;
/// Size in bytes that a protobuf message must stay below.
const MESSAGE_LIMIT: u64 = 1 << 31;

/// Writes a model into `dir`: `model` with its graph `graph` and `initializers`. If it would exceed `inside` bytes, the
/// values of large initializers are written to a file next to it.
pub(super) fn write(
    dir: &Path,
    model: &ModelProto,
    graph: &GraphProto,
    initializers: &[Initializer],
    source: &Source<'_>,
    inside: u64,
) -> Result<()> {
    let values: u64 = initializers.iter().map(Initializer::byte_len).sum();
    let external = values + graph.encoded_len() as u64 > inside;
    let mut offset = 0;
    let mut headers = Vec::with_capacity(initializers.len());
    for initializer in initializers {
        let place = (external && initializer.byte_len() >= KEPT_INSIDE).then_some(offset);
        if place.is_some() {
            offset = (offset + initializer.byte_len()).next_multiple_of(ALIGNMENT);
        }
        headers.push((header(initializer, place), place));
    }
    let graph_len = graph.encoded_len() as u64
        + headers
            .iter()
            .zip(initializers)
            .map(|((header, place), initializer)| {
                let len = tensor_len(header, place.is_none().then_some(initializer.byte_len()));
                field_len(INITIALIZER, len)
            })
            .sum::<u64>();
    if graph_len >= MESSAGE_LIMIT {
        let what = format!("{MODEL} would have {graph_len} bytes, more than protobuf allows");
        return Err(Error::unsupported(
            source.checkpoint.dir(),
            what,
            "lower the limit of values inside of it",
        ));
    }

    let mut file = Output::create(&dir.join(MODEL))?;
    file.put(&model.encode_to_vec())?;
    file.put(&key(GRAPH, graph_len))?;
    file.put(&graph.encode_to_vec())?;
    let mut data = external.then(|| Output::create(&dir.join(DATA))).transpose()?;
    for ((header, place), initializer) in headers.iter().zip(initializers) {
        let len = initializer.byte_len();
        file.put(&key(INITIALIZER, tensor_len(header, place.is_none().then_some(len))))?;
        file.put(&header.encode_to_vec())?;
        let values = initializer.read(source)?;
        match (place, &mut data) {
            (Some(place), Some(data)) => {
                data.fill_to(*place)?;
                data.put(&values)?;
            }
            _ => {
                file.put(&key(RAW_DATA, len))?;
                file.put(&values)?;
            }
        }
    }
    file.finish()?;
    data.map_or(Ok(()), Output::finish)
}

/// The message of an initializer without its values, which are at `place` in the other file if given.
fn header(initializer: &Initializer, place: Option<u64>) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
    let external_data = place.map_or_else(Vec::new, |place| {
        vec![
            entry("location", DATA.to_owned()),
            entry("offset", place.to_string()),
            entry("length", initializer.byte_len().to_string()),
        ]
    });
    TensorProto {
        dims: initializer.dims.iter().map(|&dim| dim as i64).collect(),
        data_type: initializer.data_type as i32,
        name: initializer.name.clone(),
        external_data,
        data_location: i32::from(place.is_some()),
    }
}

/// Encoded size in bytes of a tensor that contains `inside` bytes of values.
fn tensor_len(header: &TensorProto, inside: Option<u64>) -> u64 {
    header.encoded_len() as u64 + inside.map_or(0, |len| field_len(RAW_DATA, len))
}

/// Size in bytes of a field with `len` bytes of content, including its key.
fn field_len(number: u32, len: u64) -> u64 {
    (key_len(number) + encoded_len_varint(len)) as u64 + len
}

/// The key and the length prefix of a field with `len` bytes of content.
fn key(number: u32, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(len, &mut bytes);
    bytes
}

/// A file that is written sequentially.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    len: u64,
}

impl Output {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).map_err(StoreError::io(path, "create"))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), len: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(StoreError::io(&self.path, "write"))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to `offset`.
    fn fill_to(&mut self, offset: u64) -> Result<()> {
        let missing = offset.saturating_sub(self.len) as usize;
        self.put(&vec![0; missing])
    }

    /// Flushes everything to disk.
    fn finish(self) -> Result<()> {
        let failed = StoreError::io(&self.path, "write to the disk");
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        Ok(file.and_then(|file| file.sync_all()).map_err(failed)?)
    }
}
