//! Import of GGUF files.

mod codes;
mod plan;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use slm_checkpoint::hf::{self, ImportOptions, ImportReport};
use slm_checkpoint::{CheckpointWriter, ImportedLayers, Lineage, SaveRequest, layer_of};
use slm_model::{EMBED_TOKENS, LM_HEAD, TOKEN_TABLE};
use slm_quant_core::{ActivationGranularity, ActivationQuant, QuantizationType};

use self::plan::{Plan, StoredForm};
#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::gguf::{GgufFile, MAGIC};
use crate::llama_cpp::{config, tokenizer_json};

/// Returns `true` if `path` is a GGUF file: by its name, or by its first bytes.
pub fn is_gguf(path: &Path) -> bool {
    let is_named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    hf::head(path).is_some_and(|head| is_named || head.starts_with(&MAGIC))
}

/// Imports the GGUF file `path` as a checkpoint in `out`.
///
/// Floats stay floats. Q8_0 and Q4_0 keep their codes and scales, and so does Q4_1 if the offsets of a tensor are multiples of
/// its scales, as slm exports them. Other types are dequantized.
///
/// # Errors
/// [`Error::Damaged`] naming the key or tensor; [`Error::Unsupported`] for an unknown architecture, option or tensor
/// type; errors of writing a checkpoint.
pub fn import_gguf(path: &Path, out: &Path, options: &ImportOptions) -> Result<ImportReport> {
    let mut file = GgufFile::open(path)?;
    file.stop_at(options.stop.clone());
    let (arch, model) = config::read(&file)?;
    let texts = tokenizer_json::read(&file, model.vocab_size)?;
    let plan = Plan::new(&file, arch, &model, options.dequantize)?;
    let layout = plan.layout(&file, &model)?;
    let mut writer = CheckpointWriter::create(out, &model, &layout, options.overwrite)?;
    writer.stop_at(options.stop.clone());
    let granularity = ActivationGranularity::PerToken;
    let (activation, quantization_type) = match options.dynamic {
        true => (ActivationQuant::Dynamic(granularity), QuantizationType::Dynamic),
        false => (ActivationQuant::Float, QuantizationType::WeightOnly),
    };
    let mut layers = ImportedLayers::new(quantization_type, granularity);
    for tensor in &plan.tensors {
        match &tensor.form {
            StoredForm::Float => {
                writer.write_f32(&tensor.name, &plan.floats(&file, tensor)?)?;
                if tensor.is_linear {
                    let shape = [tensor.shape[0], tensor.shape[1]];
                    let reason = format!("float in the file ({})", tensor.kind);
                    layers.skip(layer_of(&tensor.name), shape, reason);
                }
            }
            StoredForm::Codes(scheme) => {
                let matrix = plan.matrix(&file, tensor, *scheme)?;
                let is_table = tensor.name == EMBED_TOKENS;
                let name = match is_table {
                    true if model.tie_word_embeddings => LM_HEAD,
                    true => TOKEN_TABLE,
                    false => layer_of(&tensor.name),
                };
                layers.write(&mut writer, name, &matrix, activation)?;
            }
        }
    }
    let source_sha256 = file.sha256()?;
    let quantized_layers = layers.len();
    let lineage = Lineage { source_sha256: Some(source_sha256.clone()), ..Lineage::default() };
    let metadata = layers.metadata("rtn", lineage);
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let size = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    let files = BTreeMap::from([(file_name, json!({ "size": size, "sha256": source_sha256 }))]);
    let architecture = plan.hugging_face(&file);
    let path = writer.finish(&SaveRequest {
        tokenizer_json: texts.json.as_deref(),
        tokenizer: texts.info.clone(),
        metadata: metadata.as_ref(),
        lineage: Some(json!({
            "imported_from": "gguf", "architecture": architecture, "files": files,
        })),
        ..SaveRequest::default()
    })?;
    Ok(ImportReport {
        path,
        architecture: arch.name(),
        has_tokenizer: texts.json.is_some(),
        chat: texts.info.chat,
        tensors: plan.summary(),
        config: model,
        unrecognized_fields: Vec::new(),
        warnings: texts.notes,
        quantized_layers,
        quantization_type: (quantized_layers > 0).then_some(quantization_type),
    })
}
