//! Heads that are stored in a file although its config ties them to the embedding.

use std::path::Path;

use slm_model::arch::HfConfig;
use slm_model::{EMBED_TOKENS, expected_tensors};

use super::Warnings;
use super::weights::Weights;
use crate::Result;

/// Unties the head of a model whose file contains both the embedding and a head with other values, and warns about it.
///
/// transformers 5 does the same; transformers 4 ties them and ignores the head in the file.
pub(super) fn untie(
    parsed: &mut HfConfig,
    weights: &Weights,
    config: &Path,
    warnings: &mut Warnings,
) -> Result<()> {
    let HfConfig { architecture, model, .. } = &parsed;
    if !model.tie_word_embeddings {
        return Ok(());
    }
    let head = architecture.head();
    let Some(embedding) = expected_tensors(model).into_iter().find(|tensor| tensor.name == EMBED_TOKENS)
    else {
        return Ok(());
    };
    let embedding = architecture.tensor_source(model, &embedding, weights.prefixed()).tensor;
    if !weights.contains(&head) || !weights.contains(&embedding) {
        return Ok(());
    }
    let float = |name: &str| weights.file_of(name).filter(|_| weights.quantized(name).is_none());
    let same = match (float(&head), float(&embedding)) {
        _ if weights.shape(&head) != weights.shape(&embedding) => false,
        (Some(ours), Some(theirs)) if ours.dtype(&head) == theirs.dtype(&embedding) => {
            ours.same_content(&head, theirs, &embedding)?
        }
        _ => weights.read_f32(&head)? == weights.read_f32(&embedding)?,
    };
    if !same {
        let what = format!(
            "field \"tie_word_embeddings\" is true, and the file has other values in {head} than in {embedding}: they are \
             not tied, as in transformers 5 (transformers 4 passes {head} over)"
        );
        warnings.add(config, &what);
        parsed.model.tie_word_embeddings = false;
    }
    Ok(())
}
