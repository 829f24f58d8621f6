//! The header of a burnpack file, Burn's record format: ten bytes, then a CBOR map of tensors.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::reader::Place;

/// `BURN` in little-endian order.
const MAGIC: u32 = 0x4255_524e;
/// The supported version of the container.
const VERSION: u16 = 1;
/// Size in bytes of magic number, version and CBOR size.
pub(super) const PREFIX_BYTES: usize = 10;
/// Size limit of the CBOR in bytes, as in the crate `burn-pack`.
const MAX_HEADER_BYTES: u32 = 100 << 20;
/// Limit on the nesting of the CBOR.
const MAX_DEPTH: usize = 32;
/// Alignment of the data section and of every tensor in it, in bytes.
const ALIGNMENT: u64 = 256;

/// Returns the size of the CBOR, given the first bytes of a file.
pub(super) fn header_length(prefix: [u8; PREFIX_BYTES]) -> Result<u32, String> {
    let [m0, m1, m2, m3, v0, v1, l0, l1, l2, l3] = prefix;
    if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
        return Err("it does not begin as a burnpack file does".to_owned());
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(format!("burnpack version {version} is not read, only version {VERSION}"));
    }
    match u32::from_le_bytes([l0, l1, l2, l3]) {
        length if length > MAX_HEADER_BYTES => {
            Err(format!("header length {length} is above the limit of {MAX_HEADER_BYTES}"))
        }
        length => Ok(length),
    }
}

/// Start of the data section after a header of `length` bytes.
pub(super) fn data_start(length: u32) -> u64 {
    (PREFIX_BYTES as u64 + u64::from(length)).next_multiple_of(ALIGNMENT)
}

/// Parses the CBOR of a file whose data section begins at `data_start`. The tensors are sorted by their position in the
/// file, do not overlap, and have as many bytes as their shape and type require.
pub(super) fn parse(cbor: &[u8], data_start: u64) -> Result<Vec<(String, Place)>, String> {
    let header: Header =
        ciborium::de::from_reader_with_recursion_limit(cbor, MAX_DEPTH).map_err(|error| error.to_string())?;
    let mut tensors = Vec::new();
    for (name, tensor) in header.tensors.0 {
        let dtype = dtype(&tensor.dtype)
            .ok_or_else(|| format!("tensor {name:?} has type {}, which is not supported", tensor.dtype))?;
        let (start, end) = tensor.data_offsets;
        let place = (data_start.checked_add(start))
            .zip(data_start.checked_add(end))
            .and_then(|(start, end)| Place::new(dtype, tensor.shape.0, start, end))
            .ok_or_else(|| format!("tensor {name:?} does not have the bytes that its shape and type take"))?;
        tensors.push((name, place));
    }
    tensors.sort_by_key(|(_, place)| place.start);
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].1.end > pair[1].1.start) {
        return Err(format!("tensors {:?} and {:?} overlap", pair[0].0, pair[1].0));
    }
    Ok(tensors)
}

fn dtype(name: &str) -> Option<Dtype> {
    match name {
        "F32" => Some(Dtype::F32),
        "F16" => Some(Dtype::F16),
        "BF16" => Some(Dtype::BF16),
        _ => None,
    }
}

/// The top level of the CBOR. Other fields are for people.
#[derive(Deserialize)]
struct Header {
    tensors: Tensors,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Tensors by name. A duplicate name is an error.
struct Tensors(BTreeMap<String, Tensor>);

/// Dimensions, read one by one: a length in CBOR may be any number, so no memory is reserved for it.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Tensors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name:?} is there twice")));
                    }
                    tensors.insert(name, map.next_value()?);
                }
                Ok(Tensors(tensors))
            }
        }

        deserializer.deserialize_map(Map)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;

        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = list.next_element()? {
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }

        deserializer.deserialize_seq(Dims)
    }
}
