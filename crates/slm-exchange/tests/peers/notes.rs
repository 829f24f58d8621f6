//! Notes of exports and imports on what another program, or a file, does differently. No other program is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value as Json, json};
use slm_checkpoint::{ChatInfo, Checkpoint, SaveRequest, TokenizerInfo, save};
use slm_exchange::gguf::{GgufFile, GgufWriter, TensorDecl, Value};
use slm_exchange::{
    ExportOptions, ExportReport, Format, ImportOptions, OnnxProfile, explain_bin, export, import_gguf,
};
use slm_model::{ModelConfig, Position, RopeScaling, RotaryConfig, Transformer};
use slm_quant_core::QuantizationType;

use crate::support::quantize;

const VOCAB: usize = 8;

fn model() -> ModelConfig {
    ModelConfig::new(VOCAB, 64, 64, 2, 4, 32)
}

/// Saves a random model with the tokenizer of `json`.
fn saved(out: PathBuf, config: &ModelConfig, json: &Json, chat: Option<ChatInfo>) -> Checkpoint {
    let model = Transformer::new(config, 1, &Device::flex()).unwrap();
    let json = json.to_string();
    let info = TokenizerInfo { bos_token_id: Some(1), eos_token_ids: vec![2], chat };
    let request =
        SaveRequest { tokenizer_json: Some(json.as_bytes()), tokenizer: info, ..SaveRequest::default() };
    Checkpoint::open(save(out, &model, &request, false).unwrap()).unwrap()
}

/// A SentencePiece tokenizer with additional steps of normalization, and additional fields of its last added token.
fn tokenizer(steps: &[Json], fields: &Json) -> Json {
    let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
    let added = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let mut last = added(7, "<x>");
    let steps = [steps, &[space]].concat();
    last.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>"), last],
        "normalizer": { "type": "Sequence", "normalizers": steps },
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": { "<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}": 3, "a": 4, "b": 5, "ab": 6, "<x>": 7 },
            "merges": ["a b"],
        },
    })
}

fn plain() -> Json {
    tokenizer(&[], &json!({}))
}

fn notes(report: &ExportReport) -> String {
    report.notes.join("\n")
}

fn options(strict: bool) -> ExportOptions {
    ExportOptions { strict, overwrite: true, ..ExportOptions::new(Format::Gguf) }
}

#[test]
fn longrope_is_noted_and_refused_by_strict_in_gguf() {
    let root = tempfile::tempdir().unwrap();
    let scaling = RopeScaling::LongRope {
        short_factor: vec![1.0; 8],
        long_factor: vec![2.0; 8],
        original_max_position_embeddings: 16,
        attention_factor: 1.0,
    };
    let rotary = RotaryConfig { scaling: Some(scaling), ..RotaryConfig::new(10_000.0) };
    let config = ModelConfig { position: Position::Rotary(rotary), ..model() };
    let checkpoint = saved(root.path().join("long"), &config, &plain(), None);
    let out = root.path().join("long.gguf");
    let report = export(checkpoint.dir(), &out, &options(false)).unwrap();
    assert!(notes(&report).contains("LongRoPE"), "{}", notes(&report));
    let error = export(checkpoint.dir(), &out, &options(true)).unwrap_err().to_string();
    assert!(error.contains("LongRoPE") && error.contains("strict"), "{error}");
}

#[test]
fn dynamic_inputs_are_noted_and_accepted_by_strict_in_gguf() {
    let root = tempfile::tempdir().unwrap();
    let float = saved(root.path().join("float"), &model(), &plain(), None);
    for (kind, noted) in [(QuantizationType::Dynamic, true), (QuantizationType::WeightOnly, false)] {
        let out = root.path().join(kind.to_string());
        let quantized = quantize(&float, &out, "int8:channel:f16", kind, None);
        let report = export(quantized.dir(), &root.path().join("out.gguf"), &options(true)).unwrap();
        assert_eq!(notes(&report).contains("in blocks of 32"), noted, "{kind}: {}", notes(&report));
    }
}

#[test]
fn skipped_normalization_and_spaces_around_tokens_are_noted() {
    let root = tempfile::tempdir().unwrap();
    let extra = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
    let genai = ExportOptions { onnx_profile: OnnxProfile::OrtGenai, ..ExportOptions::new(Format::Onnx) };
    let cases = [
        ("plain", plain(), None),
        ("spaces", tokenizer(&[extra], &json!({})), Some("remove extra spaces")),
        ("lstrip", tokenizer(&[], &json!({ "lstrip": true })), Some("spaces around <x>")),
        ("rstrip", tokenizer(&[], &json!({ "rstrip": true })), Some("spaces around <x>")),
    ];
    for (name, json, part) in cases {
        let checkpoint = saved(root.path().join(name), &model(), &json, None);
        let report = export(checkpoint.dir(), &root.path().join("out.gguf"), &options(true)).unwrap();
        let (extra, around) =
            (notes(&report).contains("remove extra"), notes(&report).contains("spaces around"));
        assert_eq!(extra || around, part.is_some(), "{name}: {}", notes(&report));
        assert!(part.is_none_or(|part| notes(&report).contains(part)), "{name}: {}", notes(&report));
        let out = root.path().join(format!("{name}-genai"));
        let report = export(checkpoint.dir(), &out, &genai).unwrap();
        assert_eq!(notes(&report).contains("onnxruntime-genai does not"), extra, "{name}");
    }
}

#[test]
fn affine_weights_that_transformers_does_not_load_are_noted() {
    let root = tempfile::tempdir().unwrap();
    let float = saved(root.path().join("float"), &model(), &plain(), None);
    let cases = [
        ("int4:group:32:affine", QuantizationType::WeightOnly, true),
        ("int8:channel:affine", QuantizationType::WeightOnly, true),
        ("int8:channel", QuantizationType::WeightOnly, false),
        ("int8:channel:affine", QuantizationType::Dynamic, false),
    ];
    for (index, (scheme, kind, noted)) in cases.into_iter().enumerate() {
        let quantized = quantize(&float, &root.path().join(format!("q{index}")), scheme, kind, None);
        let options = ExportOptions { strict: true, ..ExportOptions::new(Format::CompressedTensors) };
        let report = export(quantized.dir(), &root.path().join(format!("c{index}")), &options).unwrap();
        assert_eq!(notes(&report).contains("transformers does not load"), noted, "{scheme} {kind}");
    }
}

/// Copies a GGUF file with the values of some keys changed.
fn changed(from: &Path, to: &Path, changes: &[(&str, Value)]) {
    let file = GgufFile::open(from).unwrap();
    let change = |key: &str| changes.iter().find(|(changed, _)| *changed == key).map(|(_, value)| value);
    let pairs: Vec<(String, Value)> = file
        .metadata()
        .iter()
        .map(|(key, value)| (key.clone(), change(key).unwrap_or(value).clone()))
        .collect();
    let declared = file.tensors().iter().map(|tensor| TensorDecl {
        name: tensor.name.clone(),
        kind: tensor.kind,
        shape: tensor.shape.clone(),
    });
    let mut writer = GgufWriter::create(to, &pairs, declared.collect()).unwrap();
    for tensor in file.tensors() {
        writer.write(&tensor.name, &file.read(tensor).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn contradictions_in_a_gguf_file_are_warned_of() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = saved(root.path().join("float"), &model(), &plain(), None);
    let (whole, file) = (root.path().join("whole.gguf"), root.path().join("changed.gguf"));
    export(checkpoint.dir(), &whole, &options(true)).unwrap();
    let import = |path: &Path, out: &str| {
        let options = ImportOptions::default();
        import_gguf(path, &root.path().join(out), &options).unwrap().warnings
    };
    assert_eq!(import(&whole, "a"), [""; 0]);
    let (eos, bos, size) = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id", "llama.vocab_size");
    changed(&whole, &file, &[(eos, Value::U32(5000)), (bos, Value::U32(8)), (size, Value::U32(7))]);
    let warnings = import(&file, "b");
    for part in [format!("{eos} is 5000"), format!("{bos} is 8"), format!("{size} is 7")] {
        assert!(warnings.iter().any(|warning| warning.contains(&part)), "{part}: {warnings:?}");
    }
}

#[test]
fn the_tokens_of_a_chat_template_come_back_from_gguf() {
    let root = tempfile::tempdir().unwrap();
    for (index, tokens) in [&[][..], &["eos_token"], &["bos_token", "eos_token"]].into_iter().enumerate() {
        let special_tokens: BTreeMap<String, String> =
            tokens.iter().map(|&name| (name.to_owned(), "</s>".to_owned())).collect();
        let chat = ChatInfo { template: "{{ messages }}".to_owned(), special_tokens };
        let checkpoint = saved(root.path().join(format!("{index}")), &model(), &plain(), Some(chat));
        let (file, out) =
            (root.path().join(format!("{index}.gguf")), root.path().join(format!("{index}-back")));
        export(checkpoint.dir(), &file, &options(true)).unwrap();
        import_gguf(&file, &out, &ImportOptions::default()).unwrap();
        let back = Checkpoint::open(&out).unwrap();
        assert_eq!(back.config().tokenizer, checkpoint.config().tokenizer);
    }
}

#[test]
fn a_bin_file_that_no_reader_takes_is_explained_by_its_header() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.bin");
    let explained = |numbers: [i32; 7], name: &str| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).chain([7; 40]).collect();
        fs::write(root.path().join(name), bytes).unwrap();
        explain_bin(&root.path().join(name)).map(|error| error.to_string())
    };
    for (numbers, part) in [
        ([-1, 8, 1, 2, 2, 8, 8], "dim is -1"),
        ([8, 8, 1, 0, 2, 8, 8], "n_heads is 0"),
        ([8, 1 << 30, 1, 2, 2, 8, 8], "hidden_dim 1073741824"),
        ([8, 8, 1, 3, 2, 8, 8], "n_heads 3"),
    ] {
        let error = explained(numbers, "model.bin").unwrap();
        for part in [part, "model.bin", "Python pickle", "llama2.c", "again"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert_eq!(explained([-1; 7], "model.gguf"), None);
    fs::write(&path, b"\x80\x02}q\0.").unwrap();
    assert!(explain_bin(&path).is_none(), "a pickle");
}
