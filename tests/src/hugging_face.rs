//! Small models in the Hugging Face layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::Random;

/// Shape and values of a tensor.
pub type Tensor = (Vec<usize>, Vec<f32>);

/// A model directory that can be changed before it is written.
#[derive(Debug, Clone)]
pub struct HuggingFace {
    /// `config.json`.
    pub config: Value,
    /// `model.safetensors`, in F32.
    pub tensors: BTreeMap<String, Tensor>,
    /// `tokenizer.json`.
    pub tokenizer: String,
}

const VOCAB: usize = 320;
const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 128;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

impl HuggingFace {
    /// Creates a Llama with a tied head and random weights, which are the same each time. Its tokenizer has 320 tokens
    /// and is trained on `text`; the end-of-text token has id 0.
    pub fn llama(text: &str) -> Self {
        let mut random = Random(1);
        let mut tensors = BTreeMap::new();
        let mut matrix = |name: String, rows: usize, cols: usize, spread: f32| {
            let values = (0..rows * cols).map(|_| random.normal() * spread).collect();
            tensors.insert(name, (vec![rows, cols], values));
        };
        matrix("model.embed_tokens.weight".to_owned(), VOCAB, HIDDEN, 0.4);
        let kv = HIDDEN / HEADS * KV_HEADS;
        for layer in 0..LAYERS {
            for (name, rows, cols) in [
                ("self_attn.q_proj", HIDDEN, HIDDEN),
                ("self_attn.k_proj", kv, HIDDEN),
                ("self_attn.v_proj", kv, HIDDEN),
                ("self_attn.o_proj", HIDDEN, HIDDEN),
                ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
                ("mlp.up_proj", INTERMEDIATE, HIDDEN),
                ("mlp.down_proj", HIDDEN, INTERMEDIATE),
            ] {
                matrix(format!("model.layers.{layer}.{name}.weight"), rows, cols, 0.2);
            }
        }
        let layer_norms = (0..LAYERS).flat_map(|layer| {
            ["input_layernorm", "post_attention_layernorm"].map(|name| format!("layers.{layer}.{name}"))
        });
        for name in layer_norms.chain(["norm".to_owned()]) {
            let values = (0..HIDDEN).map(|_| 1.0 + 0.1 * random.normal()).collect();
            tensors.insert(format!("model.{name}.weight"), (vec![HIDDEN], values));
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "eos_token_id": 0,
        });
        let tokenizer = slm_text::Tokenizer::train(text, VOCAB).unwrap().to_json().unwrap();
        Self { config, tensors, tokenizer }
    }

    /// Makes the tokenizer put its end-of-text token before prompts.
    pub fn put_bos_before_prompts(&mut self) {
        let mut tokenizer: Value = serde_json::from_str(&self.tokenizer).unwrap();
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        });
        self.tokenizer = tokenizer.to_string();
    }

    /// Writes the directory.
    pub fn write(&self, dir: impl AsRef<Path>) {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        fs::write(dir.join("tokenizer.json"), &self.tokenizer).unwrap();
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<_> =
            self.tensors.iter().map(|(name, (shape, values))| (name, shape, bytes(values))).collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
        });
        fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// Reads every tensor of a safetensors file; integers become the nearest float.
pub fn read_tensors(path: impl AsRef<Path>) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &TensorView<'_>| match view.dtype() {
        Dtype::F32 => {
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        Dtype::I64 => {
            view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
        }
        _ => Vec::new(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), values(&view)))).collect()
}
