//! Version 1 and its migration to version 2.
//!
//! Differences from version 2:
//!
//! - INT8 codes are stored as U8, although they are two's-complement numbers; version 2 uses I8, so that any tool reads
//!   the codes correctly;
//! - tensors are aligned to the width of their type; in version 2 a matrix whose rows are whole cache lines begins at a
//!   cache line;
//! - `quantization_metadata.json` has `source_sha256` and `calibration` at the top level; version 2 moves them to
//!   `lineage`, next to the record of a training, if any;
//! - `manifest.json` has no version, and one checksum per file; version 2 adds those of chunks, so that all processors
//!   can verify a large file in parallel.

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};
use slm_quant_core::{Bits, QuantScheme};
use slm_store::METADATA;
use slm_store::layer::names;

use super::{Migration, RawCheckpoint};
use crate::{Error, Result};

/// The migration to version 2.
pub(super) const MIGRATION: Migration = Migration {
    from: 1,
    to: 2,
    changes: "INT8 codes become I8 tensors, tensors are aligned to cache lines, the metadata's source and \
              calibration text move under \"lineage\", and large files get a checksum for each chunk",
    fixture: "fixtures/v1",
    apply,
};

/// Fields of a layer's record that describe how its codes are stored.
#[derive(Deserialize)]
struct Layer {
    name: String,
    scheme: QuantScheme,
}

fn apply(raw: &mut RawCheckpoint) -> Result<()> {
    raw.config.insert("format_version".to_owned(), 2.into());
    let path = raw.dir.join(METADATA);
    let Some(metadata) = &mut raw.metadata else { return Ok(()) };
    if metadata.contains_key("lineage") {
        return Err(Error::field(&path, "lineage", "no such field in version 1", "one"));
    }
    metadata.insert("format_version".to_owned(), 2.into());
    let mut lineage = Map::new();
    for name in ["source_sha256", "calibration"] {
        if let Some(value) = metadata.remove(name) {
            lineage.insert(name.to_owned(), value);
        }
    }
    metadata.insert("lineage".to_owned(), Value::Object(lineage));
    for layer in metadata.get("layers").and_then(Value::as_array).into_iter().flatten() {
        let Layer { name, scheme } = Layer::deserialize(layer).map_err(Error::json(&path))?;
        let codes = names::codes(&name);
        // A missing tensor is reported later, together with all other missing ones.
        if scheme.bits == Bits::Int8 && raw.weights.shape(&codes).is_some() {
            raw.weights.reinterpret(&codes, Dtype::U8, Dtype::I8)?;
        }
    }
    Ok(())
}
