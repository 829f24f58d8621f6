//! 5,000 damaged Hugging Face directories: none panics, none uses more memory than its files could need, and each is
//! rejected with an error that names the file, or becomes a checkpoint that generates text.
//!
//! Half of the damage respects the formats: it changes a value of a JSON file, an entry of a safetensors header (with
//! the header's length updated), numbers or names of tensors, or removes, exchanges or replaces files. The rest is
//! damage as from disks and networks.
//!
//! The test is a separate program with one test, so that nothing else allocates memory.

#[path = "support/damage.rs"]
mod damage;
#[path = "support/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use damage::{damage_bytes, damage_value};
use peak_alloc::PeakAlloc;
use random::Random;
use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, hf};
use slm_model::{GenerateOptions, SamplingOptions, generate};
use slm_text::Tokenizer;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Total number of damaged directories.
const MUTATIONS: usize = 5_000;
/// Memory that an import needs independently of the size of the files: the names of as many layers as a config can
/// have, the tables of a tokenizer, a thread.
const FIXED_BYTES: usize = 24 << 20;

type Files = BTreeMap<String, Vec<u8>>;
type Tensors = Vec<(String, Vec<usize>)>;

const VOCAB: usize = 300;
const HIDDEN: usize = 8;

fn tokenizer() -> Value {
    let text = "Once upon a time there was a cat. The cat sat on the mat, and the mat was red.\n".repeat(3);
    serde_json::from_str(&Tokenizer::train(&text, 280).unwrap().to_json().unwrap()).unwrap()
}

/// The tensors of two layers with the names of Llama, with biases on q, k and v if `biases` is set.
fn tensors(biases: bool) -> Tensors {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        for (name, rows) in [("q", HIDDEN), ("k", HIDDEN / 2), ("v", HIDDEN / 2)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, HIDDEN]);
            if biases {
                add(&format!("self_attn.{name}_proj.bias"), &[rows]);
            }
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[12, HIDDEN]);
        add("mlp.up_proj.weight", &[12, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, 12]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    tensors
}

/// A safetensors file of F32 tensors with small random numbers.
fn safetensors(tensors: &[(String, Vec<usize>)], random: &mut Random) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            data.extend_from_slice(&(random.below(2001) as f32 / 2000.0 - 0.5).to_le_bytes());
        }
        header.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    joined(&Value::Object(header), &data)
}

fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// Splits a safetensors file into header and data.
fn split(bytes: &[u8]) -> Option<(Value, Vec<u8>)> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?) as usize;
    let end = length.checked_add(8)?;
    Some((serde_json::from_slice(bytes.get(8..end)?).ok()?, bytes[end..].to_vec()))
}

fn config(architecture: &str, changes: Value) -> Vec<u8> {
    let mut config = json!({
        "architectures": [architecture], "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32, "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": [0, 1],
        "hidden_act": "silu", "rope_theta": 1e4,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::to_vec(&config).unwrap()
}

/// Directories to damage: one file; shards with an index and YaRN; a vocabulary without `tokenizer.json`, and LongRoPE.
fn originals() -> Vec<Files> {
    let mut random = Random(3);
    let tokenizer = tokenizer();
    let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
    let files =
        |list: Vec<(&str, Vec<u8>)>| list.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let single = vec![
        ("config.json", config("LlamaForCausalLM", json!({ "model_type": "llama" }))),
        ("model.safetensors", safetensors(&tensors(false), &mut random)),
        ("tokenizer.json", bytes(&tokenizer)),
        (
            "tokenizer_config.json",
            bytes(&json!({ "add_bos_token": false, "tokenizer_class": "PreTrainedTokenizer" })),
        ),
        ("generation_config.json", bytes(&json!({ "eos_token_id": 0, "bos_token_id": null }))),
    ];
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let all = tensors(true);
    let (first, second) = all.split_at(all.len() / 2);
    let map = |tensors: &[(String, Vec<usize>)], shard: &str| -> Map<String, Value> {
        tensors.iter().map(|(name, _)| (name.clone(), shard.into())).collect()
    };
    let mut weight_map = map(first, shards[0]);
    weight_map.extend(map(second, shards[1]));
    let yarn = json!({ "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16 });
    let sharded = vec![
        (
            "config.json",
            config(
                "Qwen2ForCausalLM",
                json!({ "rope_scaling": yarn, "use_sliding_window": true,
            "sliding_window": 4, "max_window_layers": 1 }),
            ),
        ),
        ("model.safetensors.index.json", bytes(&json!({ "metadata": {}, "weight_map": weight_map }))),
        (shards[0], safetensors(first, &mut random)),
        (shards[1], safetensors(second, &mut random)),
        ("tokenizer.json", bytes(&tokenizer)),
    ];
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::Array(pair) => format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        merge => format!("{}\n", merge.as_str().unwrap()),
    });
    let merges = ["#version: 0.2\n".to_owned()].into_iter().chain(merges).collect::<String>();
    let longrope = json!({ "rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0],
        "original_max_position_embeddings": 8 });
    let unbuilt = vec![
        ("config.json", config("LlamaForCausalLM", json!({ "rope_scaling": longrope }))),
        ("model-00001-of-00001.safetensors", safetensors(&tensors(false), &mut random)),
        ("vocab.json", bytes(&tokenizer["model"]["vocab"])),
        ("merges.txt", merges.into_bytes()),
        (
            "tokenizer_config.json",
            bytes(&json!({ "tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>" })),
        ),
    ];
    vec![files(single), files(sharded), files(unbuilt)]
}

/// Damages a file of tensors and keeps the header's length consistent.
fn damage_tensors(bytes: &mut Vec<u8>, random: &mut Random) {
    let Some((mut header, mut data)) =
        split(bytes).filter(|(header, _)| header.as_object().is_some_and(|tensors| !tensors.is_empty()))
    else {
        return damage_bytes(bytes, random);
    };
    match random.below(6) {
        0 if data.len() >= 4 => {
            // Extreme numbers, some of which are not allowed.
            let values = [f32::NAN, f32::INFINITY, -0.0, 1e38, 1e-42, f32::from_bits(random.next() as u32)];
            for _ in 0..=random.below(4) {
                let at = random.below(data.len() / 4) * 4;
                data[at..at + 4].copy_from_slice(&random.pick(&values).to_le_bytes());
            }
        }
        1 | 2 => {
            // Other names: wrappers, buffers, those of other models.
            let prefix =
                *random.pick(&["_orig_mod.", "module.", "base_model.model.", "model.", "lora_A.", "x."]);
            let every = 1 + random.below(3);
            let entries = header.as_object().unwrap().clone().into_iter().enumerate();
            let renamed = entries.map(|(index, (name, value))| match index % every {
                0 => (format!("{prefix}{name}"), value),
                _ => (name, value),
            });
            header = Value::Object(renamed.collect());
        }
        3 => {
            // Another type of the same width.
            let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
            let dtype = *random.pick(&["I32", "U32", "F32", "BF16", "F8_E4M3"]);
            if let Some(tensor) = header[random.pick(&names).as_str()].as_object_mut() {
                tensor.insert("dtype".to_owned(), dtype.into());
            }
        }
        _ => damage_value(&mut header, random),
    }
    *bytes = joined(&header, &data);
}

fn damage(files: &mut Files, random: &mut Random) {
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = random.pick(&names).clone();
    if files[&name].is_empty() {
        return;
    }
    match random.below(20) {
        0 => drop(files.remove(&name)),
        1 => {
            let other = random.pick(&names).clone();
            let (a, b) = (files[&name].clone(), files[&other].clone());
            files.insert(name, b);
            files.insert(other, a);
        }
        2 => {
            let stands_in: &[&[u8]] = &[
                b"",
                b"version https://git-lfs.github.com/spec/v1\n",
                b"<!doctype html>",
                b"GGUF\x03\0",
                b"{}",
                b"null",
            ];
            files.insert(name, random.pick(stands_in).to_vec());
        }
        3 => {
            let other = *random.pick(&[
                "model.safetensors",
                "adapter_config.json",
                "tokenizer.model",
                "manifest.json",
            ]);
            files.insert(other.to_owned(), files[&name].clone());
        }
        4..=9 => damage_bytes(files.get_mut(&name).unwrap(), random),
        _ => {
            let bytes = files.get_mut(&name).unwrap();
            if name.ends_with(".safetensors") {
                damage_tensors(bytes, random);
            } else if let Ok(mut value) = serde_json::from_slice(bytes) {
                damage_value(&mut value, random);
                *bytes = serde_json::to_vec(&value).unwrap();
            } else {
                damage_bytes(bytes, random);
            }
        }
    }
}

/// Loads the imported model and generates text with it.
fn use_it(out: &Path, what: &str) -> bool {
    let checkpoint = Checkpoint::open(out).unwrap_or_else(|error| panic!("{what}: {error}"));
    let model = checkpoint.load_model(&Device::flex()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let max = model.config().max_position_embeddings;
    let tokenizer = checkpoint.tokenizer_json().map(|json| {
        let text = std::str::from_utf8(json).unwrap();
        Tokenizer::from_json(text, "tokenizer.json").unwrap_or_else(|error| panic!("{what}: {error}"))
    });
    let prompt =
        tokenizer.as_ref().map(|tokenizer| tokenizer.encode_with_special_tokens("The cat sat").unwrap());
    let mut prompt = prompt.filter(|prompt| !prompt.is_empty()).unwrap_or_else(|| vec![0]);
    prompt.truncate(max);
    let new = 4.min(max + 1 - prompt.len());
    let options =
        GenerateOptions { max_new_tokens: new, sampling: SamplingOptions::default(), stop_ids: vec![] };
    match generate(&model, &prompt, &options, |_| ControlFlow::Continue(())) {
        Ok(output) => {
            assert_eq!(output.ids.len(), new, "{what}");
            if let Some(tokenizer) = tokenizer {
                tokenizer.decode(&output.ids).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            true
        }
        // Finite weights can be so large that the model overflows.
        Err(error @ slm_model::Error::NotFinite { .. }) => {
            println!("{what}: {error}");
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn damaged_directories_are_refused_or_generate() {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let originals = originals();
    for (number, files) in originals.iter().enumerate() {
        let dir = root.path().join(format!("whole{number}"));
        fs::create_dir(&dir).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
        let report = hf::import_to(&dir, root.path().join("out"), true).unwrap();
        assert!(report.has_tokenizer);
        assert!(use_it(&report.path, "undamaged"));
    }
    let (mut refused, mut generated, mut overflowed) = (0, 0, 0);
    for number in 0..MUTATIONS {
        let mut random = Random(number as u64);
        let mut files = random.pick(&originals).clone();
        for _ in 0..=random.below(2) {
            damage(&mut files, &mut random);
        }
        let dir = root.path().join("damaged");
        fs::create_dir(&dir).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
        let size: usize = files.values().map(Vec::len).sum();
        let what = format!("mutation {number}");

        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let result = hf::import_to(&dir, root.path().join("out"), true);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        assert!(taken <= FIXED_BYTES + 40 * size, "{what}: {taken} bytes for {size}");
        match result {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(dir.to_str().unwrap()), "{what} does not name the file: {message}");
                assert!(message.len() < 2500, "{what}: {} characters: {message}", message.len());
                assert!(!message.contains("panicked"), "{what}: {message}");
                refused += 1;
            }
            Ok(report) => match use_it(&report.path, &what) {
                true => generated += 1,
                false => overflowed += 1,
            },
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("{refused} refused, {generated} generated, {overflowed} overflowed");
    assert!(refused > MUTATIONS / 4 && generated > MUTATIONS / 20, "the damage shows too much or too little");
    assert!(overflowed < MUTATIONS / 100);
}
