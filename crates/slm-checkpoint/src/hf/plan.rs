//! The source of every tensor of a model, and the errors for missing and unexpected ones.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use slm_model::arch::{Architecture, HfConfig, TensorSource};
use slm_model::{EMBED_TOKENS, expected_tensors};

use super::no_weights::shortened;
use super::quantized::Layer;
use super::weights::Weights;
use super::{CONFIG, Warnings};
use crate::{Error, Result};
use slm_store::Error as StoreError;

/// Shape and source of every canonical tensor.
pub(super) type TensorSources = BTreeMap<String, (Vec<usize>, TensorSource)>;

/// Supported float types of weights.
const FLOATS: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];

/// Finds the source of every tensor of the model and checks it. Every tensor in the files must have a use or be a known
/// constant.
pub(super) fn plan(parsed: &HfConfig, weights: &Weights, warnings: &mut Warnings) -> Result<TensorSources> {
    let HfConfig { architecture, model, .. } = parsed;
    let names = weights.names();
    refuse_quantized(architecture, weights, &names)?;
    let mut tensor_sources: TensorSources = expected_tensors(model)
        .into_iter()
        .map(|tensor| {
            let source = architecture.tensor_source(model, &tensor, weights.prefixed());
            (tensor.name, (tensor.shape, source))
        })
        .collect();
    let head = architecture.head();
    // If two names refer to one tensor, some programs keep only the other name.
    if let Some((_, embedding)) = tensor_sources.get_mut(EMBED_TOKENS)
        && model.tie_word_embeddings
        && !weights.contains(&embedding.tensor)
        && weights.contains(&head)
    {
        embedding.tensor.clone_from(&head);
    }
    let wanted: BTreeSet<&str> = tensor_sources.values().map(|(_, source)| source.tensor.as_str()).collect();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !weights.contains(name)).collect();
    let passed_over =
        |name: &str| architecture.is_constant(name) || (model.tie_word_embeddings && name == head);
    let unused = names.iter().map(String::as_str).filter(|name| !wanted.contains(name) && !passed_over(name));
    let (harmless, unexpected): (Vec<&str>, Vec<&str>) =
        unused.partition(|name| is_harmless(weights, name) || is_bias_of_zeros(weights, name));
    if !harmless.is_empty() && missing.is_empty() && unexpected.is_empty() {
        let names = shortened(harmless.iter().map(|name| weights.original(name)));
        warnings
            .add(weights.path(), &format!("tensors that are not part of the model were ignored: {names}"));
    }
    // The index lists the parts of a quantized weight instead of the weight.
    let is_unlisted = |name: &&str| weights.is_unlisted(name) && weights.quantized(name).is_none();
    let unlisted: Vec<&str> = wanted.iter().copied().filter(is_unlisted).collect();
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(mismatch(parsed, weights, &head, &missing, &unexpected));
    }
    if let [first, ..] = unlisted[..] {
        let path = weights.file_of(first).map_or(weights.path(), |file| file.path()).to_owned();
        return Err(Error::Store(StoreError::TensorSet {
            path,
            missing: Vec::new(),
            unexpected: unlisted.iter().map(|name| weights.original(name).to_owned()).collect(),
            remedy: format!("{} does not list them: the files do not belong together", weights.index_name()),
        }));
    }
    for (_, source) in tensor_sources.values() {
        if let Some(layer) = weights.quantized(&source.tensor) {
            check_quantized(weights, layer, source)?;
        } else if let Some(file) = weights.file_of(&source.tensor) {
            file.check_dtype(&source.tensor, &FLOATS)?;
            file.check_shape(&source.tensor, &source.shape)
                .map_err(|error| shape_cause(parsed, weights, source).unwrap_or(error))?;
        }
    }
    Ok(tensor_sources)
}

/// Returns `true` if an unused tensor does not affect the model: a counter, a scale of a cache, or the head that a
/// trainer put next to that of the language model.
fn is_harmless(weights: &Weights, name: &str) -> bool {
    let scalar = weights.shape(name).is_some_and(<[usize]>::is_empty);
    scalar || name.split('.').any(|part| ["v_head", "k_scale", "v_scale"].contains(&part))
}

/// Returns `true` if a tensor is the zero bias that AutoGPTQ adds to layers without one.
fn is_bias_of_zeros(weights: &Weights, name: &str) -> bool {
    let of_quantized = name
        .strip_suffix(".bias")
        .is_some_and(|module| weights.quantized(&format!("{module}.weight")).is_some());
    of_quantized && weights.read_f32(name).is_ok_and(|values| values.iter().all(|&value| value == 0.0))
}

/// Rejects a quantized weight with a shape other than the model's. The weight of a `Conv1D` is stored like that of a
/// `Linear`.
fn check_quantized(weights: &Weights, layer: &Layer, source: &TensorSource) -> Result<()> {
    let mut expected = source.shape.clone();
    if source.is_transposed() {
        expected.reverse();
    }
    if layer.shape() == expected {
        return Ok(());
    }
    let path =
        layer.parts().find_map(|part| weights.file_of(part)).map_or(weights.path(), |file| file.path());
    Err(Error::Store(StoreError::Shape {
        path: path.to_owned(),
        tensor: source.tensor.clone(),
        expected,
        found: layer.shape().to_vec(),
    }))
}

/// Returns the error for a tensor with the wrong shape, if the shape shows which field of the config is wrong.
fn shape_cause(parsed: &HfConfig, weights: &Weights, source: &TensorSource) -> Option<Error> {
    let HfConfig { architecture, model, .. } = parsed;
    let file = weights.file_of(&source.tensor)?;
    let found = file.shape(&source.tensor)?;
    let rows = *found.first()?;
    // The other dimensions of a tensor must match.
    if found.len() != source.shape.len() || found.get(1..) != source.shape.get(1..) {
        return None;
    }
    let ends = |ends: &[&str]| ends.iter().any(|end| source.tensor.ends_with(end));
    let embedding = expected_tensors(model).into_iter().find(|tensor| tensor.name == EMBED_TOKENS)?;
    let embedding = architecture.tensor_source(model, &embedding, weights.prefixed()).tensor;
    let (field, is, should_be) = if source.tensor == embedding || source.tensor == architecture.head() {
        ("vocab_size", model.vocab_size, rows)
    } else if ends(&["wpe.weight"]) {
        ("n_positions", model.max_position_embeddings, rows)
    } else if ends(&["k_proj.weight", "v_proj.weight"]) && rows.is_multiple_of(model.head_dim) {
        ("num_key_value_heads", model.num_kv_heads, rows / model.head_dim)
    } else if ends(&["self_attn.q_norm.weight", "self_attn.k_norm.weight"])
        && source.shape == [model.head_dim]
    {
        ("head_dim", model.head_dim, rows)
    } else {
        return None;
    };
    let tensor = weights.original(&source.tensor);
    let expected = format!("{should_be}, by the shape {found:?} of {tensor} in {}", file.path().display());
    Some(Error::field(&weights.dir().join(CONFIG), field, expected, is))
}

/// Returns the error for tensors that do not match the config, with the likely cause.
fn mismatch(
    parsed: &HfConfig,
    weights: &Weights,
    head: &str,
    missing: &[&str],
    unexpected: &[&str],
) -> Error {
    let (path, remedy) = cause(parsed, weights, head, missing, unexpected);
    Error::Store(StoreError::TensorSet {
        path: path.unwrap_or_else(|| weights.path().to_owned()),
        missing: missing.iter().map(|&name| name.to_owned()).collect(),
        unexpected: unexpected.iter().map(|name| weights.original(name).to_owned()).collect(),
        remedy,
    })
}

fn cause(
    parsed: &HfConfig,
    weights: &Weights,
    head: &str,
    missing: &[&str],
    unexpected: &[&str],
) -> (Option<std::path::PathBuf>, String) {
    let model = &parsed.model;
    if let Some(shard) = missing.iter().find_map(|name| weights.listed_in(name)) {
        let index = weights.index_name();
        return (Some(shard), format!("{index} says that it is there: the files do not belong together"));
    }
    let layers = weights.layers();
    if layers != model.num_layers && layers > 0 {
        let field = &parsed.layers_field;
        let remedy = format!(
            "{field} is {} in config.json, but the weights have {layers} layers: the files do not belong together",
            model.num_layers
        );
        return (None, remedy);
    }
    if missing == [head] {
        return (None, "the file fits a model with \"tie_word_embeddings\": true in config.json".to_owned());
    }
    let all_biases_of = |names: &[&str], part: &str| {
        !names.is_empty() && names.iter().all(|name| name.ends_with(".bias") && name.contains(part))
    };
    let (attention, mlp) = (parsed.attention_bias_field.as_str(), "mlp_bias");
    for (part, field) in [(".self_attn.", attention), (".mlp.", mlp)] {
        if all_biases_of(unexpected, part) && missing.is_empty() {
            let projections: BTreeSet<&str> =
                unexpected.iter().filter_map(|name| name.rsplit('.').nth(1)).collect();
            let projections: Vec<&str> = projections.into_iter().collect();
            let remedy = format!(
                "the weights have biases on {}, but {field} in config.json does not say so: it is another architecture, \
                 or {field} should be true",
                projections.join(", ")
            );
            return (None, remedy);
        }
        if all_biases_of(missing, part) && unexpected.is_empty() {
            return (None, format!("{field} in config.json asks for biases that the weights do not have"));
        }
    }
    if unexpected
        .iter()
        .any(|name| ["vision", "visual", "audio", "multi_modal"].iter().any(|part| name.contains(part)))
    {
        let remedy = "it is a multimodal model: import only its text model, saved by transformers";
        return (None, remedy.to_owned());
    }
    if unexpected
        .iter()
        .any(|name| ["score.", "classifier.", "qa_outputs."].iter().any(|part| name.contains(part)))
    {
        return (
            None,
            "it is a classifier, not a language model: import the model it was made from".to_owned(),
        );
    }
    for (marks, layout, remedy) in [
        (
            &["tok_embeddings", "attention.wq", "feed_forward.w1"][..],
            "Meta's own",
            "convert it with transformers' convert_llama_weights_to_hf.py, or download the Hugging Face layout",
        ),
        (
            &["token_embd", "blk.", "attn_q."],
            "GGUF",
            "import the Hugging Face directory that it was made from",
        ),
        (
            &["transformer.wte", "transformer.h."],
            "GPT-2's",
            "the weights are those of a different architecture than config.json says",
        ),
    ] {
        if unexpected.iter().any(|name| marks.iter().any(|mark| name.contains(mark))) {
            return (None, format!("the names of tensors are {layout}: {remedy}"));
        }
    }
    let remedy = "the weights and config.json do not belong together, or the architecture is a variant that is not \
                  supported";
    (None, remedy.to_owned())
}

/// Rejects weights that are quantized in a way that the config does not describe.
fn refuse_quantized(architecture: &Architecture, weights: &Weights, names: &[String]) -> Result<()> {
    let used =
        || names.iter().filter(|name| !architecture.is_constant(name) && weights.quantized(name).is_none());
    let ends = |end: &str| used().find(|name| name.ends_with(end));
    let of_type = |types: &[Dtype]| {
        used().find(|name| {
            let Some(file) = weights.file_of(name) else { return false };
            let scalar = file.shape(name).is_some_and(<[usize]>::is_empty);
            !scalar && file.dtype(name).is_some_and(|dtype| types.contains(&dtype))
        })
    };
    let integers =
        [Dtype::U8, Dtype::I8, Dtype::U16, Dtype::I16, Dtype::U32, Dtype::I32, Dtype::U64, Dtype::I64];
    let found = ends(".qweight").or(ends(".qzeros")).or(ends(".g_idx")).map(|name| (name, "GPTQ or AWQ"));
    let found = found.or_else(|| ends(".weight_packed").map(|name| (name, "compressed-tensors")));
    let found = found.or_else(|| {
        let name = ends(".absmax").or(ends(".quant_map")).or(ends(".SCB"));
        let name = name.or_else(|| used().find(|name| name.contains(".quant_state.")));
        name.map(|name| (name, "bitsandbytes"))
    });
    let found = found.or_else(|| ends(".scales").zip(ends(".biases")).map(|(name, _)| (name, "MLX")));
    let found = found.or_else(|| of_type(&[Dtype::F8_E4M3, Dtype::F8_E5M2]).map(|name| (name, "FP8")));
    let found = found
        .or_else(|| ends(".weight_scale_inv").or(ends(".weight_scale")).map(|name| (name, "FP8 or INT8")));
    // A scalar is a counter.
    let found = found.or_else(|| of_type(&integers).map(|name| (name, "integers")));
    let Some((name, how)) = found else { return Ok(()) };
    Err(Error::Unusable {
        path: weights.file_of(name).map_or(weights.path(), |file| file.path()).to_owned(),
        problem: format!("the weights are quantized already ({how}): tensor {:?}", weights.original(name)),
        remedy: "import the float model (BF16, F16 or F32) that they were made from (of compressed-tensors, GPTQ, AWQ and \
                 FP8 the config has to say how they were quantized)"
            .to_owned(),
    })
}
