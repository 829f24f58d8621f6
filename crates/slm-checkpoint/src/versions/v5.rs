//! Version 5, the current version.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | [`Config`] |
//! | `model.safetensors` | tensors by canonical name, float ones in F32, F16 or BF16; see [`crate::Layout`] |
//! | `tokenizer.json` | optional |
//! | `quantization_metadata.json` | [`crate::QuantizationMetadata`]; only for a quantized model |
//! | `manifest.json` | size, SHA-256 and BLAKE3 of the others; also BLAKE3 of chunks for large files |

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use slm_model::ModelConfig;

use super::{CheckpointConfig, FORMAT, TokenizerInfo};
use crate::{Error, FORMAT_VERSION, Result};

/// `config.json` of versions 1 to 5.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    format: String,
    format_version: u32,
    program_version: String,
    model: ModelConfig,
    #[serde(default)]
    tokenizer: TokenizerInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lineage: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    training: Option<Value>,
}

pub(crate) fn read(path: &Path, value: Value) -> Result<CheckpointConfig> {
    let config: Config = serde_json::from_value(value).map_err(Error::json(path))?;
    Ok(CheckpointConfig {
        program_version: config.program_version,
        model: config.model,
        tokenizer: config.tokenizer,
        lineage: config.lineage,
        training: config.training,
    })
}

impl From<CheckpointConfig> for Config {
    fn from(config: CheckpointConfig) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            program_version: config.program_version,
            model: config.model,
            tokenizer: config.tokenizer,
            lineage: config.lineage,
            training: config.training,
        }
    }
}
