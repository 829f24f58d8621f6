//! Hugging Face models with known outputs: imported, saved, reopened, loaded and run.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;
use slm_checkpoint::{Checkpoint, Error, TensorFile, hf};
use slm_model::{GenerateOptions, SamplingOptions, Transformer, evaluate, generate};
use slm_text::Tokenizer;

/// Largest difference from the reference logits that rounding can explain.
const TOLERANCE: f32 = 1e-3;

fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("SLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    if path.join("models").is_dir() {
        return Some(path);
    }
    println!("skipped: no test models at {} (set SLM_SHARED)", path.display());
    None
}

fn expected_json(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap()
}

fn read_ids(file: &TensorFile, name: &str) -> Vec<u32> {
    let bytes = file.read_bytes(name).unwrap();
    bytes.chunks_exact(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap()).collect()
}

/// Imports a model into a checkpoint and opens the checkpoint.
fn imported(dir: &Path, out: &Path) -> Checkpoint {
    let report = hf::import_to(dir, out, false).unwrap();
    assert!(report.unrecognized_fields.is_empty(), "{:?}", report.unrecognized_fields);
    Checkpoint::open(report.path).unwrap()
}

/// Checks the continuations, and returns the largest difference between logits over all prompts.
fn compare(model: &Transformer, expected: &TensorFile) -> f32 {
    let vocab_size = model.config().vocab_size;
    let mut worst = 0.0_f32;
    let mut prompts = 0;
    while expected.shape(&format!("prompt{prompts}.logits")).is_some() {
        let name = |part: &str| format!("prompt{prompts}.{part}");
        let ids = read_ids(expected, &name("input_ids"));
        let logits = model.forward(model.ids_tensor(&ids)).into_data().try_into_vec::<f32>().unwrap();
        let reference = expected.read_f32(&name("logits")).unwrap();
        assert_eq!(expected.shape(&name("logits")).unwrap(), [ids.len(), vocab_size]);
        assert_eq!(logits.len(), reference.len());
        for (a, b) in logits.iter().zip(&reference) {
            assert!(a.is_finite());
            worst = worst.max((a - b).abs());
        }
        let continuation = read_ids(expected, &name("greedy"));
        let options = GenerateOptions {
            max_new_tokens: continuation.len(),
            sampling: SamplingOptions { temperature: 0.0, ..SamplingOptions::default() },
            stop_ids: Vec::new(),
        };
        let generated = generate(model, &ids, &options, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(generated.ids, continuation, "prompt {prompts}");
        prompts += 1;
    }
    assert!(prompts >= 4, "{prompts} prompts");
    worst
}

fn check_model(name: &str) {
    let Some(shared) = shared() else { return };
    let dir = shared.join("models").join(name);
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&dir, &root.path().join("out"));
    checkpoint.require_float().unwrap();
    assert!(checkpoint.tokenizer_json().is_some());
    let json = expected_json(&dir);
    assert_eq!(checkpoint.config().model.parameter_count(), json["parameters"].as_u64().unwrap());
    let expected = TensorFile::open(&dir.join("expected.safetensors")).unwrap();
    for device in slm_nn::cpu_devices() {
        let worst = compare(&checkpoint.load_model(&device).unwrap(), &expected);
        println!("{name} on {device:?}: max abs logit difference {worst:e}");
        assert!(worst <= TOLERANCE, "{name} on {device:?}: {worst}");
    }
    // Directly from the source, without a checkpoint.
    let direct = hf::import(&dir).unwrap().load_model(&Device::flex()).unwrap();
    assert!(compare(&direct, &expected) <= TOLERANCE);
}

macro_rules! models {
    ($($test:ident: $name:literal),*) => {$(
        #[test]
        fn $test() {
            check_model($name);
        }
    )*};
}

models! {
    golden_stories260k: "stories260k",
    golden_llama: "tiny-llama",
    golden_mistral: "tiny-mistral",
    golden_mistral_sliding_window: "tiny-mistral-swa",
    golden_qwen2: "tiny-qwen2",
    golden_qwen3: "tiny-qwen3",
    golden_smollm2: "tiny-smollm2",
    golden_gpt2: "tiny-gpt2",
    golden_gpt_neox: "tiny-gpt-neox",
    golden_smollm3: "tiny-smollm3",
    golden_gemma3: "tiny-gemma3",
    golden_phi3: "tiny-phi3",
    golden_olmo2: "tiny-olmo2",
    golden_granite: "tiny-granite",
    golden_stablelm: "tiny-stablelm"
}

#[test]
fn golden_perplexities_of_stories260k() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("models/stories260k");
    let root = tempfile::tempdir().unwrap();
    let checkpoint = imported(&dir, &root.path().join("out"));
    let model = checkpoint.load_model(&Device::flex()).unwrap();
    let tokenizer = Tokenizer::from_file(checkpoint.tokenizer_path().unwrap()).unwrap();
    let json = expected_json(&dir);
    let cases = json["perplexity"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let file = case["file"].as_str().unwrap().strip_prefix("shared/").unwrap();
        let range =
            case["byte_start"].as_u64().unwrap() as usize..case["byte_end"].as_u64().unwrap() as usize;
        let bytes = std::fs::read(shared.join(file)).unwrap();
        let ids = tokenizer.encode(std::str::from_utf8(&bytes[range]).unwrap()).unwrap();
        assert_eq!(ids.len() as u64, case["n_tokens"].as_u64().unwrap(), "{file}");
        let window = case["window"].as_u64().unwrap() as usize;
        let result = evaluate(&model, &ids, window, |_, _| {}).unwrap();
        let expected = case["perplexity"].as_f64().unwrap();
        println!("{file}: perplexity {} (reference {expected})", result.perplexity());
        assert_eq!(result.tokens as u64, case["n_scored"].as_u64().unwrap());
        assert!((result.perplexity() / expected - 1.0).abs() < 1e-5, "{file}: {}", result.perplexity());
    }
}

#[test]
fn golden_unsupported_models_are_refused_by_name() {
    let Some(shared) = shared() else { return };
    let root = tempfile::tempdir().unwrap();
    for architecture in ["MambaForCausalLM", "Gemma3ForConditionalGeneration", "GPTNeoXModel"] {
        let (source, out) = (root.path().join(architecture), root.path().join("out"));
        std::fs::create_dir(&source).unwrap();
        for file in std::fs::read_dir(shared.join("models/tiny-gemma3")).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), source.join(file.file_name())).unwrap();
        }
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
        config["architectures"] = serde_json::json!([architecture]);
        std::fs::write(source.join("config.json"), config.to_string()).unwrap();
        let error = hf::import_to(&source, &out, false).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Architecture { .. }), "{message}");
        for part in [architecture, "config.json", "LlamaForCausalLM"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!out.exists());
    }
}
