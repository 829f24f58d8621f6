//! Models with known outputs, run through the whole program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use slm_tests::{Sandbox, read_tensors, shared};

/// Largest difference from the reference logits that rounding can explain.
const TOLERANCE: f32 = 1e-3;

/// The same for a model of 30 layers.
const REAL_TOLERANCE: f32 = 2e-3;

/// Every architecture that can be imported.
const MODELS: [&str; 15] = [
    "stories260k",
    "tiny-llama",
    "tiny-mistral",
    "tiny-mistral-swa",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-smollm2",
    "tiny-gpt2",
    "tiny-gpt-neox",
    "tiny-smollm3",
    "tiny-gemma3",
    "tiny-phi3",
    "tiny-olmo2",
    "tiny-granite",
    "tiny-stablelm",
];

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn golden_logits_of_every_architecture() {
    let Some(shared) = shared() else { return };
    for name in MODELS {
        logits_are_those_of_the_reference(name, &shared.join("models").join(name), TOLERANCE);
    }
}

/// SmolLM2-135M-Instruct, if the environment variable `SLM_REAL` names its Hugging Face directory, which must contain
/// the expected outputs.
#[test]
fn golden_logits_and_greedy_tokens_of_a_real_model() {
    let Some(source) = std::env::var_os("SLM_REAL").map(PathBuf::from) else {
        println!("skipped: SLM_REAL does not name the directory of a real model");
        return;
    };
    let sandbox = logits_are_those_of_the_reference("SmolLM2-135M", &source, REAL_TOLERANCE);
    let expected: Value = serde_json::from_slice(&fs::read(source.join("expected.json")).unwrap()).unwrap();
    for prompt in expected["prompts"].as_array().unwrap() {
        let line = "generate --checkpoint model --kv-cache f32 --temperature 0 --max-new-tokens 32 --ignore-eos --json --prompt";
        let json = sandbox.slm_with(line, &[prompt["text"].as_str().unwrap()], &[]).json();
        assert_eq!(json["ids"], prompt["greedy_ids"], "{}", prompt["text"]);
    }
}

/// Imports `source` and compares the logits of its prompts with the expected ones, on both CPU devices. The returned
/// sandbox contains the checkpoint `model`.
fn logits_are_those_of_the_reference(name: &str, source: &Path, tolerance: f32) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.slm_with("import --out model", &[text_of(source)], &[]).success();
    let expected = read_tensors(source.join("expected.safetensors"));
    let prompts: Vec<Vec<u32>> = (0..)
        .map_while(|prompt| expected.get(&format!("prompt{prompt}.input_ids")))
        .map(|(_, ids)| ids.iter().map(|&id| id as u32).collect())
        .collect();
    assert!(prompts.len() >= 4, "{name}: {} prompts", prompts.len());
    sandbox.put("ids.json", json!({ "ids": prompts }).to_string());
    for device in slm_tests::CPU_DEVICES {
        let out = format!("{device}.safetensors");
        let line = format!("logits --checkpoint model --ids ids.json --out {out} --device {device}");
        sandbox.slm(&line).success();
        let logits = read_tensors(sandbox.path(&out));
        let mut worst = 0.0_f32;
        for prompt in 0..prompts.len() {
            let (shape, values) = &logits[&format!("logits.{prompt}")];
            let (expected_shape, reference) = &expected[&format!("prompt{prompt}.logits")];
            assert_eq!(shape, expected_shape, "{name}");
            assert!(values.iter().all(|value| value.is_finite()));
            worst = values.iter().zip(reference).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        println!("{name} on {device}: largest difference {worst:e}");
        assert!(worst <= tolerance, "{name} on {device}: {worst}");
    }
    sandbox
}

/// Perplexity of a trained model on its whole sample text, in every scheme.
///
/// The bounds for weight-only and dynamic quantization are the results in PyTorch of rounding to nearest with
/// absolute-maximum ranges (dynamic activations there share one scale per matrix, in slm per token); ranges chosen by
/// mean squared error must be at least as good. Static activations have no such reference: their bounds are slightly
/// above the values measured with slm.
#[test]
fn golden_stories260k_perplexities() {
    let Some(shared) = shared() else { return };
    let sandbox = Sandbox::new();
    let source = shared.join("models/stories260k");
    let text = source.join("stories-sample.txt");
    sandbox.slm_with("import --out model", &[text_of(&source)], &[]).success();
    let cases = [
        (8, "tensor", [4.4056, 4.4245, 4.43]),
        (8, "channel", [4.3916, 4.4082, 4.43]),
        (8, "group:32", [4.3921, 4.4146, 4.43]),
        (4, "tensor", [36.91, 37.53, 10.0]),
        (4, "channel", [5.339, 5.419, 5.45]),
        (4, "group:32", [5.084, 5.128, 5.15]),
    ];
    for (bits, granularity, bounds) in cases {
        for (kind, most) in ["weight-only", "dynamic", "static"].into_iter().zip(bounds) {
            let scheme = format!("--bits {bits} --granularity {granularity} --type {kind}");
            // The reference used no beginning-of-sequence token, and neither does this text.
            let line =
                "ptq --checkpoint model --out new --overwrite --window 256 --no-calibration-bos --json";
            let line = format!("{line} {scheme}");
            let texts = ["--calibration", text_of(&text), "--eval", text_of(&text)];
            let json = sandbox.slm_with(&line, &texts, &[]).json();
            let field = |name: &str| json[name].as_f64().unwrap();
            let (float, quantized) = (field("perplexity_float"), field("perplexity_quantized"));
            println!("{scheme}: {quantized:.4}");
            assert!((float - 4.3881).abs() < 5e-4, "float: {float}");
            assert!(quantized <= most && quantized > float * 0.999, "{scheme}: {quantized}, at most {most}");
            assert_eq!(json["skipped"], Value::Array(vec![]), "{scheme}");
        }
    }
}
