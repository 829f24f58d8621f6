//! Version 0 and its migration to version 1: a plain record of a float model, as a user of Burn who does not use this
//! crate writes it.
//!
//! It is a directory of two files: a record of a [`slm_model::Transformer`], either `model.bpk` by
//! `Module::into_record().save()` or `model.safetensors` by the crate `burn-store`, and `config.json` with only the
//! [`slm_model::ModelConfig`]. A record does not contain the number of heads or the kind of position encoding, so it
//! cannot be used without its configuration.
//!
//! Differences from version 1:
//!
//! - tensors are named by their paths in Burn's modules, which include the form of a weight;
//! - `config.json` is the configuration itself, without format, version or special tokens;
//! - there is no manifest, and layers are never quantized.

use std::path::Path;

use serde_json::{Map, Value, json};
use slm_store::WEIGHTS;

use super::{CONFIG, FORMAT, Migration, RawCheckpoint, single_file};
use crate::{Error, Result};

/// Name of a record that Burn itself writes.
pub(super) const BURNPACK: &str = "model.bpk";

/// The migration to version 1.
pub(super) const MIGRATION: Migration = Migration {
    from: 0,
    to: 1,
    changes: "tensors get their canonical names, and the configuration of the model a format, a version and \
              checksums around it",
    fixture: "fixtures/v0",
    apply,
};

/// Returns the name of the record in `dir`, if any.
pub(super) fn record_in(dir: &Path) -> Option<&'static str> {
    [BURNPACK, WEIGHTS].into_iter().find(|name| dir.join(name).is_file())
}

/// Returns the name of the record in `dir` for the configuration `config`, which does not state its format.
pub(super) fn recognize(dir: &Path, config: &Map<String, Value>) -> Result<&'static str> {
    let refuse = |reason: &str, remedy: &str| {
        let (path, reason, remedy) = (dir.to_owned(), reason.to_owned(), remedy.to_owned());
        Err(Error::NotACheckpoint { path, reason, remedy })
    };
    if config.contains_key("architectures") || config.contains_key("model_type") {
        let remedy = format!("import it first: {}", single_file::import(dir));
        return refuse("its config.json is that of a Hugging Face model", &remedy);
    }
    if !(config.contains_key("hidden_size") && config.contains_key("num_layers")) {
        return refuse(
            "its config.json has no field \"format\" and is not the configuration of a model",
            "name the directory of a checkpoint",
        );
    }
    match [BURNPACK, WEIGHTS].map(|name| dir.join(name).is_file()) {
        [true, false] => Ok(BURNPACK),
        [false, true] => Ok(WEIGHTS),
        [true, true] => {
            refuse("it has two records, model.bpk and model.safetensors", "keep the one that is the model")
        }
        [false, false] => refuse(
            "it has a configuration and no record (model.bpk or model.safetensors)",
            "put the record there",
        ),
    }
}

/// Returns the error for a record without a configuration.
pub(super) fn lacks_config(dir: &Path, record: &str) -> Error {
    Error::NotACheckpoint {
        path: dir.to_owned(),
        reason: format!("it has a record {record}, but no {CONFIG}"),
        remedy: "write the model's configuration there, the keys of [model] in a training config, as JSON"
            .to_owned(),
    }
}

fn apply(raw: &mut RawCheckpoint) -> Result<()> {
    let model = Value::Object(std::mem::take(&mut raw.config));
    let fields = [
        ("format", json!(FORMAT)),
        ("format_version", json!(1)),
        ("program_version", json!("0.0.0")),
        ("model", model),
    ];
    raw.config = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(raw.weights.rename(canonical)?)
}

/// Converts a parameter's path in Burn's modules to its canonical name.
fn canonical(path: &str) -> String {
    let name = |part| match part {
        // Variants of the enums for weights and norms; a record may name them or not.
        "Float" | "Rms" | "Layer" => None,
        // Burn's names for the parameters of a norm.
        "gamma" => Some("weight"),
        "beta" => Some("bias"),
        part => Some(part),
    };
    let name = path.split('.').filter_map(name).collect::<Vec<_>>().join(".");
    match name.as_str() {
        "embed_tokens" | "embed_positions" => format!("{name}.weight"),
        _ => name,
    }
}
