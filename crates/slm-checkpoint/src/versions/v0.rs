//! Version 0, and what makes version 1 of it: a plain record of a float model, as Burn writes it for whoever
//! knows nothing of this crate.
//!
//! It is a directory of two files: a record of a [`slm_model::Transformer`], either `model.bpk` by
//! `Module::into_record().save()` or `model.safetensors` by the crate `burn-store`, and `config.json` with the
//! [`slm_model::ModelConfig`] alone. A record does not say how many heads a model has or how positions enter it,
//! so that it means nothing without its configuration.
//!
//! It differs from version 1 in this:
//!
//! - tensors have the paths of Burn's modules, which name the form of a weight;
//! - `config.json` is the configuration itself, without format, version or special tokens;
//! - there is no manifest, and nothing is ever quantized.

use std::path::Path;

use serde_json::{Map, Value, json};
use slm_store::WEIGHTS;

use super::{CONFIG, FORMAT, Migration, RawCheckpoint};
use crate::{Error, Result};

/// Record that Burn itself writes.
pub(super) const BURNPACK: &str = "model.bpk";

/// The step to version 1.
pub(super) const MIGRATION: Migration = Migration {
    from: 0,
    to: 1,
    changes: "tensors get their canonical names, and the configuration of the model a format, a version and \
              checksums around it",
    fixture: "fixtures/v0",
    apply,
};

/// The record in `dir`.
pub(super) fn record_in(dir: &Path) -> Option<&'static str> {
    [BURNPACK, WEIGHTS].into_iter().find(|name| dir.join(name).is_file())
}

/// The record in `dir` whose configuration is `config`, which does not say its format.
pub(super) fn recognize(dir: &Path, config: &Map<String, Value>) -> Result<&'static str> {
    let refuse = |reason: &str, remedy: &str| {
        let (path, reason, remedy) = (dir.to_owned(), reason.to_owned(), remedy.to_owned());
        Err(Error::NotACheckpoint { path, reason, remedy })
    };
    if config.contains_key("architectures") {
        return refuse("its config.json is Hugging Face's", "import it first with `slm import`");
    }
    if !(config.contains_key("hidden_size") && config.contains_key("num_layers")) {
        return refuse(
            "its config.json has no field \"format\", and is no configuration of a model",
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

/// A record that nothing says how to use.
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

/// The canonical name of a parameter's path in Burn's modules.
fn canonical(path: &str) -> String {
    let name = |part| match part {
        // Variants of the enums that weights and norms are; a record may name them or not.
        "Float" | "Rms" | "Layer" => None,
        // Burn's names of a norm's parameters.
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
