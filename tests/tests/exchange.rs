//! Exports in other programs: llama.cpp reads what slm writes, produces the same tokens, and computes the same results.
//!
//! `.ci/peers` builds llama.cpp. `crates/slm-exchange/tests/peers/llama_cpp.rs` compares logits and greedy continuations.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use slm_tests::{Sandbox, llama_cpp, read_tensors, shared};
use slm_text::Tokenizer;

/// Number of tokens in a window of llama-perplexity, which scores the second half.
const WINDOW: usize = 128;
const WINDOWS: usize = 6;

/// Text that is hard to split: all kinds of spaces, digits, apostrophes, other scripts, symbols.
const HARD: &str = "\n\n \t  Hello, w\u{f6}rld! 12 345 \u{4f60}\u{597d} if (x == 1) { \u{1f600} } I've DON'T  don't\r\n x\u{a0}y";

/// Runs a program of llama.cpp until its output contains `part`, because its last log lines are sometimes lost.
fn output_with(program: &Path, arguments: &[&str], part: &str) -> String {
    for _ in 0..40 {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{}: {text}", program.display());
        if text.contains(part) {
            return text;
        }
    }
    panic!("{} {arguments:?} never says {part:?}", program.display());
}

/// Imports the models of the shared data and exports them as `NAME.gguf` with 32-bit floats.
fn exported(sandbox: &Sandbox) -> Vec<String> {
    let Some(models) = shared().map(|shared| shared.join("models")) else { return Vec::new() };
    let mut names: Vec<String> = fs::read_dir(models.clone())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| models.join(name).join("config.json").exists())
        .collect();
    names.sort();
    for name in &names {
        let dir = models.join(name).display().to_string();
        sandbox.slm_with("import", &[dir.as_str(), "--out", name], &[]).success();
        let file = format!("{name}.gguf");
        sandbox.slm_with("export --format gguf --dtype f32", &[name.as_str(), "--out", &file], &[]).success();
    }
    names
}

/// A megabyte of WikiText, and the texts for testing real tokenizers.
fn long_text() -> String {
    let shared = shared().unwrap();
    let text = fs::read_to_string(shared.join("data/wikitext2-valid.txt")).unwrap();
    let mut all = text[..text.floor_char_boundary(1_000_000)].to_owned();
    for entry in fs::read_dir(shared.join("tokenizers")).unwrap() {
        let path = entry.unwrap().path().join("tokenizer_cases.json");
        let Ok(bytes) = fs::read(path) else { continue };
        let cases: Value = serde_json::from_slice(&bytes).unwrap();
        for case in cases["tokenizer_cases"].as_array().unwrap() {
            all = all + "\n" + case["text"].as_str().unwrap();
        }
    }
    all
}

#[test]
fn llama_cpp_makes_the_same_tokens() {
    let Some(tokenize) = llama_cpp("llama-tokenize") else { return };
    let sandbox = Sandbox::new();
    let names = exported(&sandbox);
    let text = if names.is_empty() { String::new() } else { long_text() + HARD };
    sandbox.put("text.txt", &text);
    for name in names {
        let tokenizer = Tokenizer::from_file(sandbox.path(&name).join("tokenizer.json")).unwrap();
        let expected = tokenizer.encode_with_special_tokens(&text).unwrap();
        let (file, text_file) = (sandbox.path(&format!("{name}.gguf")), sandbox.path("text.txt"));
        let (file, text_file) = (file.to_str().unwrap(), text_file.to_str().unwrap());
        // Without --no-escape, the two characters `\n` would become a line break.
        let arguments = ["-m", file, "-f", text_file, "--ids", "--no-escape", "--log-disable"];
        let output = output_with(&tokenize, &arguments, "]");
        let list = &output[output.find('[').unwrap()..=output.rfind(']').unwrap()];
        let found: Vec<u32> = serde_json::from_str(list).unwrap();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn llama_cpp_computes_the_same_perplexity() {
    let Some(perplexity) = llama_cpp("llama-perplexity") else { return };
    let sandbox = Sandbox::new();
    for name in exported(&sandbox) {
        let text = fs::read_to_string(shared().unwrap().join("data/tinyshakespeare.txt")).unwrap();
        sandbox.put("text.txt", &text[..3_000]);
        let tokenizer = Tokenizer::from_file(sandbox.path(&name).join("tokenizer.json")).unwrap();
        let ids = tokenizer.encode_with_special_tokens(&text[..3_000]).unwrap();
        let plain = tokenizer.encode(&text[..3_000]).unwrap();
        // Every window begins with BOS if the tokenizer puts it before texts.
        let windows: Vec<Vec<u32>> = ids
            .chunks_exact(WINDOW)
            .take(WINDOWS)
            .map(|window| {
                let mut window = window.to_vec();
                if ids.len() > plain.len() {
                    window[0] = ids[0];
                }
                window
            })
            .collect();
        assert_eq!(windows.len(), WINDOWS, "{name}");
        sandbox.put("ids.json", json!({ "ids": windows }).to_string());
        sandbox
            .slm_with("logits --ids ids.json --out logits --overwrite --checkpoint", &[&name], &[])
            .success();
        let logits = read_tensors(sandbox.path("logits"));
        let (mut sum, mut count) = (0.0, 0.0);
        for (index, window) in windows.iter().enumerate() {
            let values = &logits[&format!("logits.{index}")].1;
            let vocabulary = values.len() / WINDOW;
            for position in WINDOW / 2..WINDOW - 1 {
                let row = &values[position * vocabulary..(position + 1) * vocabulary];
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = row.iter().map(|value| f64::from(value - most).exp()).sum();
                sum += total.ln() - f64::from(row[window[position + 1] as usize] - most);
                count += 1.0;
            }
        }
        let ours = f64::exp(sum / count);
        let (file, text_file) = (sandbox.path(&format!("{name}.gguf")), sandbox.path("text.txt"));
        let (window, chunks) = (WINDOW.to_string(), WINDOWS.to_string());
        let arguments = [
            "-m",
            file.to_str().unwrap(),
            "-f",
            text_file.to_str().unwrap(),
            "-c",
            &window,
            "-b",
            &window,
            "--chunks",
            &chunks,
            "-t",
            "1",
            "-fa",
            "off",
            "-ctk",
            "f32",
            "-ctv",
            "f32",
            "--no-warmup",
            "-lv",
            "4",
        ];
        let output = output_with(&perplexity, &arguments, "Final estimate: PPL = ");
        let (_, rest) = output.split_once("Final estimate: PPL = ").unwrap();
        let theirs: f64 = rest.split_whitespace().next().unwrap().parse().unwrap();
        let difference = (theirs / ours - 1.0).abs();
        println!("{name}: {ours:.4}, llama.cpp {theirs:.4}, {difference:.1e}");
        // llama.cpp's GPT-NeoX uses another GELU.
        let limit = if name == "tiny-gpt-neox" { 1e-3 } else { 1e-4 };
        assert!(difference < limit, "{name}: {ours} and {theirs}");
    }
}

#[test]
fn onnx_models_are_directories_that_export_replaces() {
    let sandbox = Sandbox::with_model();
    let line = "export model --format onnx --out onnx";
    let report = sandbox.slm(&format!("{line} --json")).json();
    assert_eq!((&report["exact"], &report["architecture"]), (&json!(true), &json!("opset 21")));
    for file in ["model.onnx", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(sandbox.path("onnx").join(file).is_file(), "{file}");
    }
    // The model is small enough for one file.
    assert!(!sandbox.path("onnx/model.onnx.data").exists());
    sandbox.refuses(line, 1, &["onnx", "--overwrite"]);
    sandbox.slm(&format!("{line} --overwrite")).success();
    let other = "export model --format gguf --out file --profile ort-genai";
    sandbox.refuses(other, 2, &["--profile", "--format onnx"]);
    sandbox.refuses(
        "export model --format onnx --out other --profile tensorrt",
        2,
        &["standard or ort-genai"],
    );
}
