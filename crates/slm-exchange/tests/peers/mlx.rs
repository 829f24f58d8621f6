//! Directories for MLX, loaded and computed by mlx-lm.

use std::fs;
use std::path::Path;

use crate::support::{computed, import, models, name, quantize, run};
use serde_json::{Value, json};
use slm_checkpoint::Checkpoint;
use slm_exchange::{ExportOptions, FloatType, Format, export};
use slm_quant_core::QuantizationType;
use slm_testing::peer_python;
use slm_text::Tokenizer;

use QuantizationType::{Dynamic, WeightOnly};

/// Schemes that are tested for every family.
const OF_ALL: [&str; 2] = ["int4:group:32:f16", "int8:channel"];
/// Schemes that are tested for one family with an untied head and one with a tied head, with that of the embedding.
const MORE: [(&str, Option<&str>); 6] = [
    ("int4:group:64:affine:f16", None),
    ("int4:group:32:affine", None),
    ("int8:tensor:affine:f16", Some("int8:channel:f16")),
    ("int8:group:32:f16", Some("int4:group:32:f16")),
    ("int4:tensor", Some("int8:tensor")),
    ("int4:channel:affine", None),
];

fn options() -> ExportOptions {
    ExportOptions { float_type: Some(FloatType::F32), ..ExportOptions::new(Format::Mlx) }
}

/// Exports a checkpoint and records the expected results of mlx-lm.
fn case(checkpoint: &Checkpoint, root: &Path, label: &str, exact: bool) -> Value {
    let out = root.join(format!("{label}-out"));
    let report = export(checkpoint.dir(), &out, &options()).unwrap();
    assert!(report.is_exact() || !exact, "{label}: {report:?}");
    let quantized = report.tensors.iter().filter(|tensor| tensor.kind.contains("affine")).count();
    let text = "Once upon a time, there were 12 don'ts.";
    let ids_of_text = checkpoint
        .tokenizer_path()
        .map(|path| Tokenizer::from_file(path).unwrap().encode_with_special_tokens(text).unwrap());
    // mlx-lm uses another GELU.
    let bound = label.starts_with("tiny-gpt-neox").then_some(0.01);
    let mut case = computed(checkpoint, root, label);
    case["directory"] = json!(out);
    case["quantized"] = quantized.into();
    case["exact"] = exact.into();
    case["bound"] = json!(bound);
    case["text"] = json!(ids_of_text.as_ref().map(|_| text));
    case["text_ids"] = json!(ids_of_text);
    case
}

fn check(root: &Path, cases: &[Value]) {
    if let (false, Some(python)) = (cases.is_empty(), peer_python("mlx.core, mlx_lm")) {
        let list = root.join("list.json");
        fs::write(&list, serde_json::to_vec(cases).unwrap()).unwrap();
        run(&python, "check_mlx.py", &[&list]);
    }
}

#[test]
fn mlx_lm_computes_every_family() {
    let root = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for dir in models() {
        let label = name(&dir).to_owned();
        let float = import(&dir, &root.path().join(&label));
        if label == "tiny-mistral-swa" {
            let error = export(float.dir(), &root.path().join("none"), &options()).unwrap_err().to_string();
            assert!(error.contains("no such sliding windows"), "{error}");
            continue;
        }
        cases.push(case(&float, root.path(), &format!("{label}-float"), true));
        for scheme in OF_ALL {
            let label = format!("{label}-{}", scheme.replace(':', "-"));
            // mlx-lm's GPT-2 supports only a tied head.
            let embeddings = label.starts_with("tiny-gpt2").then_some("int8:channel:f16");
            let quantized = quantize(&float, &root.path().join(&label), scheme, WeightOnly, embeddings);
            // Rows of 172 are not whole groups.
            let is_whole = !label.starts_with("stories260k");
            let case = case(&quantized, root.path(), &label, is_whole && scheme.ends_with("f16"));
            assert!(case["quantized"].as_u64().unwrap() > 0, "{label}");
            cases.push(case);
        }
        if !["tiny-llama", "tiny-qwen2"].contains(&label.as_str()) {
            continue;
        }
        for (index, (scheme, embeddings)) in MORE.into_iter().enumerate() {
            let label = format!("{label}-{index}");
            let quantized = quantize(&float, &root.path().join(&label), scheme, WeightOnly, embeddings);
            cases.push(case(&quantized, root.path(), &label, false));
        }
    }
    check(root.path(), &cases);
}

#[test]
fn what_is_rounded_or_left_out_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let float = import(&dir, &root.path().join("float"));
    let quantize =
        |label: &str, scheme: &str, kind| quantize(&float, &root.path().join(label), scheme, kind, None);
    let strict = ExportOptions { strict: true, ..options() };
    let out = root.path().join("out");
    let refused = |checkpoint: &Checkpoint, options: &ExportOptions| {
        let error = export(checkpoint.dir(), &out, options).unwrap_err().to_string();
        assert!(!out.exists());
        error
    };

    let exact = quantize("exact", "int4:group:32:f16", WeightOnly);
    let report = export(exact.dir(), &root.path().join("strict"), &strict).unwrap();
    assert!(report.is_exact() && report.notes.is_empty(), "{report:?}");

    let wide = quantize("wide", "int4:group:32", WeightOnly);
    let narrow = ExportOptions { float_type: Some(FloatType::F16), ..strict.clone() };
    assert!(refused(&wide, &narrow).contains("scale rounded"));
    let groups = quantize("groups", "int4:group:16", WeightOnly);
    let error = refused(&groups, &strict);
    assert!(error.contains("groups of 16 values are not multiples of 32"), "{error}");
    let inputs = quantize("inputs", "int8:channel:f16", Dynamic);
    let error = refused(&inputs, &strict);
    assert!(error.contains("quantization of inputs is left out"), "{error}");
}
