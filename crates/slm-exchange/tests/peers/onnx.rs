//! ONNX models, read by onnx and computed by ONNX Runtime.

use std::fs;
use std::path::Path;

use crate::support::{computed, config, import, models, name, quantize, quantize_with, run};
use burn::tensor::Device;
use serde_json::{Value, json};
use slm_checkpoint::{Checkpoint, SaveRequest, save};
use slm_exchange::{ExportOptions, Fidelity, FloatType, Format, OnnxProfile, export};
use slm_model::{ModelConfig, NormPlacement, QkNorm, Transformer, window_logits};
use slm_ptq::{PtqConfig, RoundingMethod};
use slm_quant_core::{ActivationGranularity, QuantizationType};
use slm_testing::peer_python;
use slm_text::Tokenizer;

use QuantizationType::{Dynamic, Static, WeightOnly};

const CASES: [(&str, QuantizationType); 17] = [
    ("int8:tensor", Static),
    ("int8:channel", Static),
    ("int8:channel:affine", Static),
    ("int8:group:32", Static),
    ("int4:group:32", Static),
    ("int8:tensor", WeightOnly),
    ("int8:tensor:affine", WeightOnly),
    ("int8:channel", WeightOnly),
    ("int8:group:32", WeightOnly),
    ("int4:tensor", WeightOnly),
    ("int4:channel", WeightOnly),
    ("int4:channel:affine", WeightOnly),
    ("int4:group:32", WeightOnly),
    ("int4:group:32:affine:f16", WeightOnly),
    ("int8:channel", Dynamic),
    ("int8:tensor:affine", Dynamic),
    ("int4:group:32", Dynamic),
];

/// Exports `checkpoint` and records the expected results of ONNX Runtime.
fn case(checkpoint: &Checkpoint, root: &Path, label: &str, options: &ExportOptions) -> Value {
    let out = root.join(format!("{label}-onnx"));
    let report = export(checkpoint.dir(), &out, options).unwrap();
    let mut case = computed(checkpoint, root, label);
    case["onnx"] = json!(out);
    case["exact"] = report.is_exact().into();
    case
}

fn check(root: &Path, cases: &[Value]) {
    if let (false, Some(python), Some(_)) =
        (cases.is_empty(), peer_python("onnx"), peer_python("onnxruntime"))
    {
        let list = root.join("list.json");
        fs::write(&list, serde_json::to_vec(cases).unwrap()).unwrap();
        run(&python, "check_onnx.py", &[&list]);
    }
}

/// Adds the expected output of onnxruntime-genai and the ids of a text to a case.
fn generated(mut case: Value, checkpoint: &Checkpoint) -> Value {
    let model = checkpoint.load_model(&Device::flex()).unwrap();
    let vocab = model.config().vocab_size;
    let mut ids: Vec<u32> = serde_json::from_value(case["ids"][0].clone()).unwrap();
    let prompt = ids.len();
    for _ in 0..16 {
        let logits = window_logits(&model, &ids).unwrap();
        let last = &logits[logits.len() - vocab..];
        ids.push((0..vocab as u32).max_by(|&a, &b| last[a as usize].total_cmp(&last[b as usize])).unwrap());
    }
    case["greedy"] = json!(ids[prompt..]);
    case["text"] = Value::Null;
    if let Some(path) = checkpoint.tokenizer_path() {
        let text = "Once upon a time, there were 12 don'ts.\n  The end";
        case["text"] = json!(text);
        case["text_ids"] =
            json!(Tokenizer::from_file(path).unwrap().encode_with_special_tokens(text).unwrap());
    }
    case
}

fn strict() -> ExportOptions {
    ExportOptions { strict: true, ..ExportOptions::new(Format::Onnx) }
}

#[test]
fn onnx_runtime_computes_every_family() {
    let root = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for dir in models() {
        let label = name(&dir).to_owned();
        let float = import(&dir, &root.path().join(&label));
        cases.push(case(&float, root.path(), &format!("{label}-float"), &strict()));
        for (scheme, kind) in [("int8:tensor", Static), ("int8:channel", Static), ("int8:channel", Dynamic)] {
            let label = format!("{label}-{}-{kind}", scheme.replace(':', "-"));
            let quantized = quantize(&float, &root.path().join(&label), scheme, kind, None);
            cases.push(case(&quantized, root.path(), &label, &strict()));
        }
    }
    check(root.path(), &cases);
}

#[test]
fn codes_scales_and_ranges_are_the_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for dir in models() {
        // An untied head, a tied one, and rows that are not whole groups.
        if !["tiny-llama", "tiny-qwen2", "stories260k"].contains(&name(&dir)) {
            continue;
        }
        let float = import(&dir, &root.path().join(name(&dir)));
        for (scheme, kind) in CASES {
            let label = format!("{}-{}-{kind}", name(&dir), scheme.replace(':', "-"));
            let quantized = quantize(&float, &root.path().join(&label), scheme, kind, None);
            cases.push(case(&quantized, root.path(), &label, &strict()));
        }
        // The last has rows that are not whole groups.
        for embeddings in [
            "int8:channel",
            "int8:tensor",
            "int8:tensor:affine",
            "int4:group:32",
            "int4:group:32:affine",
            "int4:channel:affine",
            "int8:group:24",
        ] {
            let label = format!("{}-embeddings-{}", name(&dir), embeddings.replace(':', "-"));
            let out = root.path().join(&label);
            let quantized = quantize(&float, &out, "int8:channel", Static, Some(embeddings));
            cases.push(case(&quantized, root.path(), &label, &strict()));
        }
    }
    check(root.path(), &cases);
}

#[test]
fn inputs_with_one_range_for_all_tokens_keep_it() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let float = import(&dir, &root.path().join("float"));
    let cases = ["int8:channel", "int4:group:32"].map(|scheme| {
        let mut config = config(scheme, Dynamic, None);
        config.activation_granularity = ActivationGranularity::PerTensor;
        let label = scheme.replace(':', "-");
        let quantized = quantize_with(&float, &root.path().join(&label), config);
        let mut case = case(&quantized, root.path(), &label, &strict());
        case["per_tensor"] = true.into();
        case
    });
    check(root.path(), &cases);
}

#[test]
fn onnxruntime_genai_generates_the_same() {
    let root = tempfile::tempdir().unwrap();
    let options = ExportOptions { onnx_profile: OnnxProfile::OrtGenai, ..strict() };
    let mut cases = Vec::new();
    for dir in models() {
        let label = name(&dir).to_owned();
        let float = import(&dir, &root.path().join(&label));
        if !float.config().model.head_dim.is_multiple_of(16) {
            let error = export(float.dir(), &root.path().join("none"), &options).unwrap_err().to_string();
            assert!(
                error.contains("multiples of 16") && error.contains("standard operators of ONNX"),
                "{error}"
            );
            continue;
        }
        cases.push(generated(case(&float, root.path(), &format!("{label}-float"), &options), &float));
        let schemes: &[(&str, Option<&str>)] = match label.as_str() {
            "tiny-llama" => &[
                ("int4:group:32", None),
                ("int4:group:64:affine:f16", None),
                ("int4:channel", None),
                ("int8:channel", None),
                ("int8:tensor:affine", None),
            ],
            "tiny-qwen2" => {
                &[("int4:group:32", Some("int8:channel")), ("int8:channel", Some("int4:group:32"))]
            }
            _ => &[("int4:group:32", None)],
        };
        for (index, (scheme, embeddings)) in schemes.iter().enumerate() {
            let label = format!("{label}-{}-{index}", scheme.replace(':', "-"));
            let quantized = quantize(&float, &root.path().join(&label), scheme, WeightOnly, *embeddings);
            cases.push(generated(case(&quantized, root.path(), &label, &options), &quantized));
        }
    }
    if !cases.is_empty() {
        // Properties that the reference models lack: heads of other widths, and rows that are not whole blocks.
        let mut config = ModelConfig::new(300, 64, 84, 3, 4, 128);
        (config.num_kv_heads, config.qk_norm) = (2, QkNorm::PerHead);
        (config.sliding_window, config.attention_scale) = (Some(16), Some(0.3));
        (config.norm_placement, config.embedding_multiplier) = (NormPlacement::Both, 8.0);
        let model = Transformer::new(&config, 7, &Device::flex()).unwrap();
        let dir = save(root.path().join("random"), &model, &SaveRequest::default(), false).unwrap();
        let float = Checkpoint::open(dir).unwrap();
        cases.push(generated(case(&float, root.path(), "random-float", &options), &float));
        for embeddings in ["int8:channel", "int4:group:64"] {
            let label = format!("random-{}", embeddings.replace(':', "-"));
            let out = root.path().join(&label);
            let quantized = quantize(&float, &out, "int8:tensor", WeightOnly, Some(embeddings));
            cases.push(generated(case(&quantized, root.path(), &label, &options), &quantized));
        }
    }
    if let (false, Some(python)) = (cases.is_empty(), peer_python("onnxruntime_genai")) {
        let list = root.path().join("list.json");
        fs::write(&list, serde_json::to_vec(&cases).unwrap()).unwrap();
        run(&python, "check_genai.py", &[&list]);
    }
}

#[test]
fn inputs_that_genai_rounds_by_itself_are_not_exact() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let float = import(&dir, &root.path().join("float"));
    let quantized = quantize(&float, &root.path().join("q"), "int8:channel", Dynamic, None);
    let options = ExportOptions { onnx_profile: OnnxProfile::OrtGenai, ..ExportOptions::new(Format::Onnx) };
    let report = export(quantized.dir(), &root.path().join("out"), &options).unwrap();
    assert!(!report.is_exact());
    let strict = ExportOptions { strict: true, ..options };
    let error = export(quantized.dir(), &root.path().join("none"), &strict).unwrap_err().to_string();
    assert!(error.contains("MatMulNBits rounds"), "{error}");
}

#[test]
fn large_values_go_to_a_second_file() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-qwen2") else { return };
    let float = import(&dir, &root.path().join("float"));
    let options = ExportOptions { external_data_above: 10_000, ..strict() };
    let quantized = quantize(&float, &root.path().join("q"), "int4:group:32", WeightOnly, None);
    let cases = [("a", &float), ("b", &quantized)];
    let cases = cases.map(|(label, checkpoint)| case(checkpoint, root.path(), label, &options));
    for label in ["a", "b"] {
        let size =
            |file: &str| fs::metadata(root.path().join(format!("{label}-onnx")).join(file)).unwrap().len();
        assert!(size("model.onnx") < 200_000 && size("model.onnx.data") > size("model.onnx") / 2, "{label}");
    }
    check(root.path(), &cases);
}

#[test]
fn half_floats_are_stored_as_such() {
    let root = tempfile::tempdir().unwrap();
    for dir in models() {
        let label = name(&dir).to_owned();
        // Models stored as F32, and as BF16.
        if !["tiny-llama", "tiny-mistral"].contains(&label.as_str()) {
            continue;
        }
        let float = import(&dir, &root.path().join(&label));
        let options = ExportOptions { float_type: Some(FloatType::Bf16), ..ExportOptions::new(Format::Onnx) };
        match label.as_str() {
            "tiny-mistral" => check(root.path(), &[case(&float, root.path(), "bf16", &options)]),
            _ => {
                let report = export(float.dir(), &root.path().join("rounded"), &options).unwrap();
                let matrix = |name: &str| report.tensors.iter().find(|tensor| tensor.name == name).unwrap();
                let rounded = &matrix("layers.0.mlp.up_proj.weight").fidelity;
                assert!(matches!(rounded, Fidelity::FloatRounded { .. }), "{rounded}");
                assert!(matrix("norm.weight").fidelity.is_exact());
                let strict = ExportOptions { strict: true, ..options };
                let error = export(float.dir(), &root.path().join("none"), &strict).unwrap_err().to_string();
                assert!(error.contains("not exact"), "{error}");
            }
        }
    }
}

#[test]
fn the_report_says_whether_the_rules_of_tensorrt_hold() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let float = import(&dir, &root.path().join("float"));
    let note_with = |scheme: &str, config: PtqConfig| {
        let label = format!("{}-{}-{}", scheme.replace(':', "-"), config.quantization_type, config.method);
        let quantized = quantize_with(&float, &root.path().join(&label), config);
        let report = export(quantized.dir(), &root.path().join(label + "-onnx"), &strict()).unwrap();
        report.notes.into_iter().find(|note| note.starts_with("TensorRT")).unwrap()
    };
    let note = |scheme: &str, kind| note_with(scheme, config(scheme, kind, None));
    for scheme in ["int8:tensor", "int8:channel"] {
        assert!(note(scheme, WeightOnly).contains("rules hold"), "{scheme}");
    }
    let nearest = || PtqConfig { method: RoundingMethod::Rtn, ..config("int4:group:32", WeightOnly, None) };
    assert!(note_with("int4:group:32", nearest()).contains("rules hold"));
    for (scheme, kind, reason) in [
        (
            "int8:channel:affine",
            WeightOnly,
            "the weights of layers.0.self_attn.q_proj: they have zero points",
        ),
        ("int8:group:32", WeightOnly, "INT8 in groups"),
        ("int4:channel", WeightOnly, "INT4 without groups"),
        ("int4:group:32", WeightOnly, "they have negative scales"),
        ("int8:channel", Static, "the inputs of layers.0.self_attn.q_proj: they have a zero point"),
        ("int8:channel", Dynamic, "their scales are not constant"),
    ] {
        let note = note(scheme, kind);
        assert!(note.contains("do not hold") && note.contains(reason), "{note}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "stories260k") else { return };
    let copy = root.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(copy.join("config.json")).unwrap()).unwrap();
    config["rope_scaling"] = json!({ "type": "dynamic", "factor": 2.0 });
    fs::remove_file(copy.join("config.json")).unwrap();
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    let float = import(&copy, &root.path().join("float"));
    let out = root.path().join("out");
    let error = export(float.dir(), &out, &ExportOptions::new(Format::Onnx)).unwrap_err().to_string();
    assert!(error.contains("(dynamic)") && error.contains("Hugging Face directory"), "{error}");
    assert!(!out.exists());
}
