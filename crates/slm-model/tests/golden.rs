//! The model against logits, greedy continuations and window losses computed by Hugging Face transformers.
//!
//! Reads Hugging Face's files directly, so that the model is checked without the importer.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::{Dtype, SafeTensors};
use slm_model::{
    AttentionBias, GenerateOptions, MlpKind, ModelConfig, NormKind, Position, RopeScaling, SamplingOptions,
    SourceError, TensorSource, Transformer, evaluate, generate, window_logits,
};

/// Folder of the reference models, `None` with a printed line where there is none.
fn models() -> Option<PathBuf> {
    let shared = std::env::var_os("SLM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let models = shared.join("models");
    if !models.is_dir() {
        println!("skipped: no reference models at {}", models.display());
        return None;
    }
    Some(models)
}

/// Every tensor of the safetensors files of a folder as f32, under the canonical names.
struct Files(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Files {
    fn read(folder: &Path) -> Self {
        let mut tensors = HashMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !(name.starts_with("model") && name.ends_with(".safetensors")) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let canonical = name
                    .trim_start_matches("model.")
                    .replace("input_layernorm", "input_norm")
                    .replace("post_attention_layernorm", "post_attention_norm");
                let values = match view.dtype() {
                    Dtype::F32 => to_vec(view.data(), f32::from_le_bytes),
                    Dtype::BF16 => to_vec(view.data(), |b| half::bf16::from_le_bytes(b).to_f32()),
                    dtype => panic!("{name}: {dtype:?}"),
                };
                tensors.insert(canonical, (view.shape().to_vec(), values));
            }
        }
        Self(tensors)
    }
}

/// The values of an `[rows, cols]` matrix, transposed.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}

impl Files {
    /// Renames GPT-2's tensors: its linear weights are stored `[in, out]`, q, k and v in one.
    fn into_canonical_gpt2(self) -> Self {
        let mut tensors = HashMap::new();
        for (name, (shape, values)) in self.0 {
            let canonical = match name.as_str() {
                "wte.weight" => "embed_tokens.weight".to_owned(),
                "wpe.weight" => "embed_positions.weight".to_owned(),
                _ => name
                    .replace("h.", "layers.")
                    .replace("ln_f", "norm")
                    .replace("ln_1", "input_norm")
                    .replace("ln_2", "post_attention_norm")
                    .replace("attn.c_proj", "self_attn.o_proj")
                    .replace("mlp.c_fc", "mlp.up_proj")
                    .replace("mlp.c_proj", "mlp.down_proj"),
            };
            if canonical.ends_with(".attn.bias") {
                continue; // The causal mask, not a weight.
            }
            let is_linear = canonical.ends_with("_proj.weight") || canonical.ends_with("c_attn.weight");
            let (shape, values) = match shape[..] {
                [inputs, outputs] if is_linear => {
                    (vec![outputs, inputs], transpose(&values, inputs, outputs))
                }
                _ => (shape, values),
            };
            if let Some((layer, kind)) = canonical.split_once("attn.c_attn.") {
                let third = values.len() / 3;
                for (projection, part) in ["q", "k", "v"].into_iter().zip(values.chunks(third)) {
                    let mut shape = shape.clone();
                    shape[0] /= 3;
                    tensors
                        .insert(format!("{layer}self_attn.{projection}_proj.{kind}"), (shape, part.to_vec()));
                }
            } else {
                tensors.insert(canonical, (shape, values));
            }
        }
        Self(tensors)
    }
}

impl TensorSource for Files {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }
    fn take_f32(&mut self, name: &str, _: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.0.remove(name).map(|(_, values)| values).ok_or_else(|| "taken twice".into())
    }
}

fn to_vec<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| convert(chunk.try_into().unwrap())).collect()
}

/// The fields of Hugging Face's config.json that these models use.
fn read_config(folder: &Path) -> ModelConfig {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let size = |key: &str| json[key].as_u64().map(|n| n as usize);
    if json["model_type"] == "gpt2" {
        let (width, heads) = (size("n_embd").unwrap(), size("n_head").unwrap());
        let (layers, positions) = (size("n_layer").unwrap(), size("n_positions").unwrap());
        let mut config =
            ModelConfig::new(size("vocab_size").unwrap(), width, 4 * width, layers, heads, positions);
        config.norm = NormKind::LayerNorm;
        config.norm_eps = json["layer_norm_epsilon"].as_f64().unwrap();
        config.position = Position::Learned;
        config.mlp = MlpKind::GeluTanh;
        config.attention_bias = AttentionBias::All;
        config.mlp_bias = true;
        return config;
    }
    let mut config = ModelConfig::new(
        size("vocab_size").unwrap(),
        size("hidden_size").unwrap(),
        size("intermediate_size").unwrap(),
        size("num_hidden_layers").unwrap(),
        size("num_attention_heads").unwrap(),
        size("max_position_embeddings").unwrap(),
    );
    config.num_kv_heads = size("num_key_value_heads").unwrap();
    config.head_dim = size("head_dim").unwrap_or(config.head_dim);
    config.norm_eps = json["rms_norm_eps"].as_f64().unwrap();
    config.tie_word_embeddings = json["tie_word_embeddings"].as_bool().unwrap();
    if json["use_sliding_window"].as_bool() != Some(false) {
        config.sliding_window = size("sliding_window");
    }
    let model_type = json["model_type"].as_str().unwrap();
    config.qk_norm = model_type == "qwen3";
    if model_type == "qwen2" {
        config.attention_bias = AttentionBias::Qkv;
    }
    let scaling = &json["rope_scaling"];
    config.position = Position::Rotary {
        theta: json["rope_theta"].as_f64().or(json["rope_parameters"]["rope_theta"].as_f64()).unwrap(),
        scaling: scaling.is_object().then(|| RopeScaling::Llama3 {
            factor: scaling["factor"].as_f64().unwrap(),
            low_freq_factor: scaling["low_freq_factor"].as_f64().unwrap(),
            high_freq_factor: scaling["high_freq_factor"].as_f64().unwrap(),
            original_max_position_embeddings: scaling["original_max_position_embeddings"].as_u64().unwrap()
                as usize,
        }),
    };
    config
}

#[allow(deprecated)] // Burn 0.22 deprecates NdArray in favour of Flex; both are offered while it exists.
fn check(name: &str) {
    let Some(models) = models() else { return };
    let folder = models.join(name);
    let config = read_config(&folder);
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let ids_of = |key: &str| {
        to_vec(expected.tensor(key).unwrap().data(), i64::from_le_bytes).into_iter().map(|id| id as u32)
    };
    for device in [Device::ndarray(), Device::flex()] {
        let mut files = Files::read(&folder);
        if config.position == Position::Learned {
            files = files.into_canonical_gpt2();
        }
        let model = Transformer::from_tensors(&config, &mut files, &device).unwrap();
        assert!(files.0.is_empty(), "{name}: not asked for {:?}", files.0.keys());
        let prompts = (0..).take_while(|i| expected.tensor(&format!("prompt{i}.input_ids")).is_ok()).count();
        assert_eq!(prompts, 4);
        for prompt in 0..prompts {
            let ids: Vec<u32> = ids_of(&format!("prompt{prompt}.input_ids")).collect();
            let found = window_logits(&model, &ids).unwrap();
            let logits = expected.tensor(&format!("prompt{prompt}.logits")).unwrap();
            let logits = to_vec(logits.data(), f32::from_le_bytes);
            assert_eq!(found.len(), logits.len());
            let worst = found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name} on {device:?}, prompt {prompt}: largest logit difference {worst:e}");
            assert!(worst < 1e-3, "{name} on {device:?}, prompt {prompt}: {worst}");

            let options = GenerateOptions {
                max_new_tokens: 32,
                sampling: SamplingOptions::default(),
                stop_ids: vec![],
            };
            let output = generate(&model, &ids, &options, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(output.ids, ids_of(&format!("prompt{prompt}.greedy")).collect::<Vec<_>>(), "{name}");

            let nll = evaluate(&model, &ids, ids.len(), |_, _| {}).unwrap().nll;
            let reference = nll_of(&logits, &ids, config.vocab_size);
            assert!((nll - reference).abs() < 1e-4 * reference, "{name}, prompt {prompt}: {nll} {reference}");
        }
    }
}

/// Negative log-likelihood of all ids but the first, from the reference logits.
fn nll_of(logits: &[f32], ids: &[u32], vocab_size: usize) -> f64 {
    let rows = logits.chunks_exact(vocab_size);
    rows.zip(&ids[1..])
        .map(|(row, &next)| {
            let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            total.ln() - f64::from(row[next as usize])
        })
        .sum()
}

#[test]
fn golden_stories260k() {
    check("stories260k");
}

#[test]
fn golden_tiny_gpt2() {
    check("tiny-gpt2");
}

#[test]
fn golden_tiny_llama() {
    check("tiny-llama");
}

#[test]
fn golden_tiny_mistral() {
    check("tiny-mistral");
}

#[test]
fn golden_tiny_mistral_swa() {
    check("tiny-mistral-swa");
}

#[test]
fn golden_tiny_qwen2() {
    check("tiny-qwen2");
}

#[test]
fn golden_tiny_qwen3() {
    check("tiny-qwen3");
}

#[test]
fn golden_tiny_smollm2() {
    check("tiny-smollm2");
}
