//! The header of a safetensors file: a length, then a JSON object of tensors.

use std::collections::{HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// Size in bytes of the length before the header.
pub(super) const LENGTH_BYTES: u64 = 8;

/// Size limit of the header in bytes, as in the reference implementation.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Parses a header without its length. The resulting tensors fill the data section without gap or overlap, and each has
/// as many bytes as its shape and type require.
pub(super) fn parse(json: &[u8]) -> Result<Metadata, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut tensors = deserializer.deserialize_map(TensorMap).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Metadata::new(None, tensors).map_err(|e| e.to_string())
}

/// Alignment of the data section in files that are written, in bytes: a cache line.
pub(super) const ALIGNMENT: usize = 64;

/// Builds the header of `tensors`, including its length and padded to the start of the data section. Tensors are stored
/// in the given order. `format` names the framework in the metadata.
pub(super) fn build(tensors: Vec<(String, TensorInfo)>, format: &str) -> Result<Vec<u8>, String> {
    let format = HashMap::from([("format".to_owned(), format.to_owned())]);
    let metadata = Metadata::new(Some(format), tensors).map_err(|e| e.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    let length = LENGTH_BYTES as usize + json.len();
    json.resize(length.next_multiple_of(ALIGNMENT) - LENGTH_BYTES as usize, b' ');
    let length = json.len() as u64;
    if length > MAX_HEADER_BYTES {
        return Err(format!("a header of {length} bytes is above the format's limit of {MAX_HEADER_BYTES}"));
    }
    let mut header = length.to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

/// Collects the tensors of a header and rejects duplicate names, which a map would hide.
struct TensorMap;

impl<'de> Visitor<'de> for TensorMap {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map.next_value::<TensorInfo>()?;
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor {name:?} is there twice")));
            }
            tensors.push((name, info));
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    #[test]
    fn data_begins_at_a_cache_line() {
        for length in 1..80 {
            let info = TensorInfo { dtype: Dtype::U8, shape: vec![3], data_offsets: (0, 3) };
            let header = build(vec![("x".repeat(length), info)], "pt").unwrap();
            assert_eq!(header.len() % ALIGNMENT, 0, "{length}");
            let json = u64::from_le_bytes(header[..8].try_into().unwrap());
            assert_eq!(json as usize, header.len() - 8);
            // The padding is less than one cache line.
            assert!(header[8..].trim_ascii_end().len() + ALIGNMENT > json as usize);
            assert_eq!(parse(&header[8..]).unwrap().data_len(), 3);
        }
    }
}
