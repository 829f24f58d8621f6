//! The lineage of a model, under metadata keys of slm.

use serde_json::json;
use slm_checkpoint::Checkpoint;

use crate::Result;
use crate::llama_cpp::keys::OWN;

/// The lineage recorded in the checkpoint: version, source, quantization.
pub(crate) fn pairs(checkpoint: &Checkpoint) -> Result<Vec<(String, String)>> {
    let config = checkpoint.config();
    let mut pairs = vec![
        (format!("{OWN}.version"), env!("CARGO_PKG_VERSION").to_owned()),
        (format!("{OWN}.weights_sha256"), checkpoint.weights_sha256()?),
    ];
    if let Some(lineage) = &config.lineage {
        pairs.push((format!("{OWN}.lineage"), lineage.to_string()));
    }
    if let Some(metadata) = checkpoint.metadata() {
        let summary = json!({
            "mode": metadata.mode,
            "type": metadata.quantization_type,
            "bits": metadata.bits,
            "granularity": metadata.granularity,
            "mapping": metadata.mapping,
            "scale_dtype": metadata.scale_dtype,
            "method": metadata.method,
            "lineage": metadata.lineage,
        });
        pairs.push((format!("{OWN}.quantization"), summary.to_string()));
    }
    Ok(pairs)
}
