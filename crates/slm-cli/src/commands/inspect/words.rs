//! The text report of a checkpoint: the model, its quantization, and its origin.

use std::collections::BTreeMap;

use serde_json::Value;
use slm_checkpoint::{QuantizationMetadata, QuantizationMode};
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, Position};

use super::overview::{CheckpointView, Unfinished};
use crate::table;
use crate::transforms;

/// Number of digits of a checksum that are shown.
const DIGITS: usize = 12;

/// The kind of model, its number of parameters, and their size.
pub(super) fn headline(view: &CheckpointView<'_>) -> String {
    format!(
        "{}{}: {} parameters, {} of weights",
        if view.quantized { "quantized model" } else { "float model" },
        view.input_quantization.as_ref().map_or_else(String::new, |inputs| format!(", {inputs}")),
        view.parameters,
        table::bytes(view.weight_bytes),
    )
}

/// One line for each fact.
pub(super) fn summary(view: &CheckpointView<'_>) -> String {
    let mut lines = Lines::default();
    lines.add(
        "checkpoint",
        format!(
            "{}, format {}, written by slm {}",
            view.checkpoint.display(),
            view.format_version,
            view.program_version
        ),
    );
    architecture(view.model, &mut lines);
    match view.quantization {
        Some(metadata) => quantization(metadata, view, &mut lines),
        None => lines.add("weights", float_types(view.tensors.iter().map(|tensor| tensor.dtype.as_str()))),
    }
    if let Some(lineage) = view.lineage {
        // Omits information that the metadata already gives.
        let told = ["method", "source sha256", "source dir", "text file"];
        let told = |key: &str| view.quantized && told.contains(&key);
        for (key, value) in origin(lineage).into_iter().filter(|(key, _)| !told(key)) {
            lines.add(&key, value);
        }
        if let Some(history) = history(lineage) {
            lines.add("history", history);
        }
    }
    lines.add(
        "text",
        match (view.has_tokenizer, view.has_chat_template) {
            (false, _) => "no tokenizer: texts cannot be read with this checkpoint".to_owned(),
            (true, false) => "with a tokenizer, without a chat template".to_owned(),
            (true, true) => "with a tokenizer and a chat template".to_owned(),
        },
    );
    lines.add("kernel", format!("{} (available: {})", view.kernel, view.kernels_available.join(", ")));
    if let Some(Unfinished { step, steps }) = view.unfinished {
        lines.0.push(format!(
            "unfinished training run: step {step} of {steps}; the command that started it continues it with --resume"
        ));
    }
    lines.0.join("\n")
}

/// Lines of a label and a text.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, label: &str, text: String) {
        self.0.push(format!("{label:<16}  {text}"));
    }
}

fn architecture(model: &ModelConfig, lines: &mut Lines) {
    let heads = match model.num_kv_heads {
        same if same == model.num_heads => format!("{} heads of width {}", model.num_heads, model.head_dim),
        fewer => {
            format!("{} heads of width {}, {fewer} for keys and values", model.num_heads, model.head_dim)
        }
    };
    lines.add(
        "architecture",
        format!(
            "decoder with {} layers of width {}: {heads}; {} MLP of width {}; {}",
            model.num_layers,
            model.hidden_size,
            name(&model.mlp),
            model.intermediate_size,
            name(&model.norm),
        ),
    );
    let how = match &model.position {
        Position::Rotary(_) => "rotary",
        Position::Learned => "learned",
        Position::None => "not encoded",
    };
    let window = model.sliding_window.map_or(String::new(), |window| format!(", sliding window of {window}"));
    lines.add("positions", format!("{}, {how}{window}", model.max_position_embeddings));
    let head = if model.tie_word_embeddings { "is the embedding" } else { "is a separate layer" };
    lines.add("vocabulary", format!("{} tokens; the head {head}", model.vocab_size));
}

/// Returns the name of a kind as in a config.
fn name(kind: &impl serde::Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(Value::String(name)) => name,
        _ => "other".to_owned(),
    }
}

/// Lists the float types, the most frequent first.
fn float_types<'a>(dtypes: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for dtype in dtypes {
        *counts.entry(dtype).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let names = counts.into_iter().map(|(dtype, _)| match dtype {
        "F32" => "32-bit floats".to_owned(),
        dtype => format!("16-bit floats ({dtype})"),
    });
    names.collect::<Vec<_>>().join(", ")
}

fn quantization(metadata: &QuantizationMetadata, view: &CheckpointView<'_>, lines: &mut Lines) {
    let model = view.model;
    let mut schemes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for layer in &metadata.layers {
        schemes.entry(layer.scheme.to_string()).or_default().push(&layer.name);
    }
    let how = match metadata.mode {
        QuantizationMode::Ptq => format!("{}, {} observer", metadata.method, metadata.weight_observer),
        QuantizationMode::Qat => "quantization-aware training".to_owned(),
        QuantizationMode::Finetuned => {
            "fine-tuned while quantized; without float weights there is no SQNR".to_owned()
        }
        QuantizationMode::Unrecorded => "by a program that did not say how".to_owned(),
    };
    let mut schemes: Vec<_> = schemes.into_iter().collect();
    schemes.sort_by_key(|(_, layers)| std::cmp::Reverse(layers.len()));
    for (index, (scheme, layers)) in schemes.iter().enumerate() {
        let which = match &layers[..] {
            [layer] => (*layer).to_owned(),
            layers => format!("{} layers", layers.len()),
        };
        let how = if index == 0 { format!(" ({how})") } else { String::new() };
        lines.add(if index == 0 { "weights" } else { "" }, format!("{scheme}: {which}{how}"));
    }
    if let Some(embedding) = &metadata.embedding {
        lines.add("embedding", embedding.scheme.to_string());
    } else if model.tie_word_embeddings && metadata.layer(LM_HEAD).is_some() {
        lines.add("embedding", format!("one table, {LM_HEAD}, serves head and embedding"));
    } else {
        let table = view.tensors.iter().filter(|tensor| tensor.name == EMBED_TOKENS);
        lines.add("embedding", float_types(table.map(|tensor| tensor.dtype.as_str())));
    }
    let lineage = &metadata.lineage;
    let changes = lineage.transforms.and_then(transforms::in_words);
    let changes = changes.map(|changes| format!("{changes} before it was quantized"));
    lines.add("float model", changes.unwrap_or_else(|| "unchanged".to_owned()));
    if let Some(calibration) = &lineage.calibration {
        let text = text_of(view, &["ptq"], &calibration.text_sha256);
        lines.add("calibration", format!("{} tokens of {text}", calibration.tokens));
    }
    if let Some(training) = &lineage.training {
        let text = text_of(view, &["qat", "finetune"], &training.text_sha256);
        lines.add("training", format!("{} steps, {} tokens of {text}", training.steps, training.tokens));
    }
    if let Some(source) = &lineage.source_sha256 {
        let dir = view.lineage.and_then(|lineage| lineage["source_dir"].as_str());
        let dir = dir.map_or_else(String::new, |dir| printable(&format!("{dir}, ")));
        lines.add("made from", format!("{dir}model.safetensors with SHA-256 {}...", short(source)));
    }
}

/// Describes the text of the last step of the lineage by one of `methods`: its name, if it is recorded, and its checksum.
fn text_of(view: &CheckpointView<'_>, methods: &[&str], sha256: &str) -> String {
    let mut steps = std::iter::successors(view.lineage, |step| step.get("source"));
    let step = steps.find(|step| step["method"].as_str().is_some_and(|method| methods.contains(&method)));
    match step.and_then(|step| step["text_file"].as_str()) {
        Some(name) => format!("{} with SHA-256 {}...", printable(name), short(sha256)),
        None => format!("the text with SHA-256 {}...", short(sha256)),
    }
}

/// Returns `true` if a text is a SHA-256.
fn is_checksum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The first digits of a checksum.
fn short(sha256: &str) -> &str {
    sha256.get(..DIGITS).unwrap_or(sha256)
}

/// `text` without control characters, which a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

/// Returns the steps that led to a checkpoint, the first one first; `None` if there was only one.
fn history(lineage: &Value) -> Option<String> {
    let mut steps = Vec::new();
    let mut current = lineage;
    while let Value::Object(fields) = current {
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        let architecture = text("architecture").map_or(String::new(), |name| format!(" ({name})"));
        match (text("method"), text("imported_from")) {
            (_, Some(origin)) => steps.push(format!("imported from {origin}{architecture}")),
            (Some(method), None) => steps.push(method.to_owned()),
            (None, None) => break,
        }
        current = fields.get("source").unwrap_or(&Value::Null);
    }
    steps.reverse();
    (steps.len() > 1).then(|| printable(&steps.join(" -> ")))
}

/// Returns the texts and numbers of a lineage, which may have arbitrary keys.
fn origin(lineage: &Value) -> Vec<(String, String)> {
    let Value::Object(fields) = lineage else { return Vec::new() };
    let text = |value: &Value| match value {
        Value::String(text) if is_checksum(text) => Some(format!("{}...", short(text))),
        Value::String(text) => Some(printable(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let label = |key: &str| match key {
        "architecture" => "imported as".to_owned(),
        key => printable(&key.replace('_', " ")),
    };
    fields.iter().filter_map(|(key, value)| Some((label(key), text(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_history_begins_with_the_first_step() {
        let imported = json!({"imported_from": "hugging-face", "architecture": "LlamaForCausalLM"});
        assert_eq!(history(&imported), None);
        let quantized = json!({"method": "ptq", "source_sha256": "ab", "source": imported});
        assert_eq!(history(&quantized).unwrap(), "imported from hugging-face (LlamaForCausalLM) -> ptq");
        let trained = json!({"method": "qat", "source": quantized});
        assert_eq!(history(&trained).unwrap(), "imported from hugging-face (LlamaForCausalLM) -> ptq -> qat");
        let bell = json!({"method": "ptq\u{7}", "source": {"imported_from": "\u{1b}[31mred"}});
        assert_eq!(history(&bell).unwrap(), "imported from \u{fffd}[31mred -> ptq\u{fffd}");
        // A lineage may contain arbitrary values.
        for odd in [json!(null), json!([1]), json!({"method": 3}), json!({"method": "ptq", "source": "x"})] {
            assert_eq!(history(&odd), None);
        }
    }
}
