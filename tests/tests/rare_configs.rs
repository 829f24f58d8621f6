//! Rare but valid configs: the program computes the same as a plain reference in 64-bit floats.

use std::f64::consts::TAU;

use serde_json::{Value, json};
use slm_tests::{HuggingFace, Random, Reference, Sandbox, frequencies, model, read_tensors};

/// Imports the changed model, which must warn of all `parts` (or not at all if there are none), and compares the logits
/// of a sequence of each length with the reference.
#[track_caller]
fn computes(
    change: impl FnOnce(&mut HuggingFace),
    lengths: &[usize],
    reference: impl Fn(usize) -> Reference,
    parts: &[&str],
) {
    let sandbox = Sandbox::new();
    let mut model = model();
    change(&mut model);
    model.write(sandbox.path("hf"));
    let outcome = sandbox.slm("import hf --out model");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(parts.is_empty(), outcome.stderr.is_empty(), "{outcome}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in the warnings\n{outcome}");
    }
    let ids: Vec<Vec<u32>> =
        lengths.iter().map(|&length| (0..length as u32).map(|at| (at * 37 + 11) % 310).collect()).collect();
    sandbox.put("ids.json", json!({ "ids": ids }).to_string());
    sandbox.slm("logits --checkpoint model --ids ids.json --out logits").success();
    let found = read_tensors(sandbox.path("logits"));
    for (index, ids) in ids.iter().enumerate() {
        let expected = reference(ids.len()).logits(&model, ids);
        let (shape, found) = &found[&format!("logits.{index}")];
        assert_eq!(shape.iter().product::<usize>(), expected.len());
        let worst = found.iter().zip(&expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{} tokens: logits are off by {worst}", ids.len());
    }
}

fn set(model: &mut HuggingFace, changes: Value) {
    model.config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
}

fn scaled(frequencies: Vec<f64>, scale: f64) -> Reference {
    Reference { frequencies, scale, ..Reference::plain() }
}

#[test]
fn plain_positions_under_every_name() {
    let of_base = |theta| move |_| scaled(frequencies(theta, 16), 1.0);
    computes(|_| {}, &[40, 1], |_| Reference::plain(), &[]);
    computes(|model| set(model, json!({ "rope_theta": 500.0 })), &[40], of_base(500.0), &[]);
    let inside =
        json!({ "rope_theta": null, "rope_parameters": { "rope_type": "default", "rope_theta": 500 } });
    computes(|model| set(model, inside), &[40], of_base(500.0), &[]);
    let both =
        json!({ "rope_theta": 9e9, "rope_parameters": { "rope_type": "default", "rope_theta": 500.0 } });
    computes(|model| set(model, both), &[40], of_base(500.0), &["rope_theta", "the one inside holds"]);
    let null = json!({ "rope_theta": null });
    computes(|model| set(model, null), &[40], of_base(1e4), &["rope_theta", "is null", "10000"]);
    let sizes = json!({ "hidden_size": 64.0, "head_dim": null, "rope_scaling": null, "dtype": "bfloat16" });
    computes(|model| set(model, sizes), &[3], |_| Reference::plain(), &[]);
}

#[test]
fn scaled_positions() {
    let halved: Vec<f64> = frequencies(1e4, 16).iter().map(|frequency| frequency / 2.0).collect();
    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 2, "beta_fast": 32 } });
    computes(|model| set(model, linear), &[40], |_| scaled(halved.clone(), 1.0), &["rope_scaling.beta_fast"]);

    let yarn =
        json!({ "rope_scaling": { "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16 } });
    // The pair that turns this many times within the original context.
    let pair = |turns: f64| 16.0 * (16.0 / (turns * TAU)).ln() / (2.0 * 1e4_f64.ln());
    let (low, high) = (pair(32.0).floor().max(0.0), pair(1.0).ceil().min(15.0));
    let blended = frequencies(1e4, 16).into_iter().enumerate().map(|(index, frequency)| {
        let divided = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / 4.0 * divided + frequency * (1.0 - divided)
    });
    let blended: Vec<f64> = blended.collect();
    computes(|model| set(model, yarn), &[40], |_| scaled(blended.clone(), 0.1 * 4f64.ln() + 1.0), &[]);

    // The original context outside the object takes precedence.
    let llama3 = json!({ "original_max_position_embeddings": 32, "rope_scaling": { "rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16 } });
    let blended = frequencies(1e4, 16).into_iter().map(|frequency| {
        let kept = ((32.0 * frequency / TAU - 1.0) / 3.0).clamp(0.0, 1.0);
        kept * frequency + (1.0 - kept) * frequency / 8.0
    });
    let blended: Vec<f64> = blended.collect();
    let parts = ["original_max_position_embeddings", "is 16", "it is 32"];
    computes(|model| set(model, llama3), &[40], |_| scaled(blended.clone(), 1.0), &parts);
}

#[test]
fn a_dynamic_base_grows_with_the_sequence() {
    let dynamic =
        json!({ "max_position_embeddings": 16, "rope_scaling": { "rope_type": "dynamic", "factor": 2.5 } });
    let reference = |length: usize| {
        let grown = 2.5 * length.max(16) as f64 / 16.0 - 1.5;
        scaled(frequencies(1e4 * grown.powf(16.0 / 14.0), 16), 1.0)
    };
    computes(
        |model| set(model, dynamic.clone()),
        &[7, 16, 17, 29, 40],
        reference,
        &["dynamic", "16", "2.5 times"],
    );
    // Up to that length and no further; generation continues beyond it.
    let sandbox = Sandbox::new();
    let mut model = model();
    set(&mut model, dynamic);
    model.write(sandbox.path("hf"));
    assert_eq!(sandbox.slm("import hf --out model").code, Some(0));
    let line = "generate --checkpoint model --prompt Once --ignore-eos --json --max-new-tokens";
    assert_eq!(sandbox.slm(&format!("{line} 30")).json()["ids"].as_array().unwrap().len(), 30);
    let cut = sandbox.slm(&format!("{line} 60"));
    assert!(cut.code == Some(0) && cut.stderr.contains("40 positions are full"), "{cut}");
}

fn windows(windows: &[Option<usize>]) -> impl Fn(usize) -> Reference {
    let windows = windows.to_vec();
    move |_| Reference { windows: windows.clone(), ..Reference::plain() }
}

#[test]
fn windows_of_single_layers() {
    let mistral = |changes: Value| {
        move |model: &mut HuggingFace| {
            set(model, json!({ "architectures": ["MistralForCausalLM"], "model_type": "mistral" }));
            set(model, changes);
        }
    };
    let types = |types: [&str; 2]| json!({ "sliding_window": 5, "layer_types": types });
    let (full, sliding) = ("full_attention", "sliding_attention");
    computes(mistral(types([sliding, full])), &[40], windows(&[Some(5), None]), &[]);
    computes(mistral(types([full, sliding])), &[40], windows(&[None, Some(5)]), &[]);
    computes(mistral(json!({ "sliding_window": 7 })), &[40], windows(&[Some(7), Some(7)]), &[]);
    computes(mistral(json!({ "sliding_window": null })), &[40], windows(&[None, None]), &[]);

    let qwen = |changes: Value| {
        move |model: &mut HuggingFace| {
            set(model, json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" }));
            set(model, changes);
            let mut random = Random(9);
            for layer in 0..2 {
                for (part, width) in [("q", 64), ("k", 32), ("v", 32)] {
                    let name = format!("model.layers.{layer}.self_attn.{part}_proj.bias");
                    let values = (0..width).map(|_| random.normal() * 0.1).collect();
                    model.tensors.insert(name, (vec![width], values));
                }
            }
        }
    };
    let upper = |on: bool| json!({ "use_sliding_window": on, "sliding_window": 6, "max_window_layers": 1 });
    computes(qwen(upper(true)), &[40], windows(&[None, Some(6)]), &[]);
    computes(qwen(upper(false)), &[40], windows(&[None, None]), &[]);
    let typed = json!({ "use_sliding_window": true, "sliding_window": 6, "layer_types": [sliding, full] });
    computes(qwen(typed), &[40], windows(&[Some(6), None]), &[]);
}

#[test]
fn layer_types_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    let refuses = |changes: Value, parts: &[&str]| {
        let mut model = model();
        set(&mut model, json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" }));
        set(&mut model, changes);
        model.write(sandbox.path("hf"));
        let outcome = sandbox.refuses("import hf --out new", 1, parts);
        assert!(outcome.stderr.len() < 700, "{outcome}");
    };
    refuses(json!({ "layer_types": ["full_attention"] }), &["layer_types", "each of 2 layers"]);
    refuses(json!({ "layer_types": vec!["full_attention"; 99] }), &["layer_types", "each of 2 layers", "…"]);
    refuses(
        json!({ "layer_types": ["linear_attention", "full_attention"] }),
        &["layer_types", "linear_attention"],
    );
    refuses(
        json!({ "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9 }),
        &["use_sliding_window"],
    );
}

#[test]
fn sizes_that_a_config_leaves_out_and_heads_that_are_not_tied() {
    let eps = |_| Reference { norm_eps: 1e-6, ..Reference::plain() };
    let without = |model: &mut HuggingFace| {
        model.config.as_object_mut().unwrap().remove("rms_norm_eps");
        // Embeddings so small that the constant added to their mean square matters.
        model
            .tensors
            .get_mut("model.embed_tokens.weight")
            .unwrap()
            .1
            .iter_mut()
            .for_each(|value| *value *= 0.01);
    };
    computes(without, &[9], eps, &["rms_norm_eps", "0.000001", "transformers"]);
    // transformers 5 does not tie a head that the file stores with other values.
    let other_head = |model: &mut HuggingFace| {
        let mut head = model.tensors["model.embed_tokens.weight"].clone();
        head.1.iter_mut().for_each(|value| *value *= -1.5);
        model.tensors.insert("lm_head.weight".to_owned(), head);
    };
    computes(
        other_head,
        &[9],
        |_| Reference::plain(),
        &["tie_word_embeddings", "lm_head.weight", "not tied"],
    );
    // A vocabulary that was padded for speed is larger than the tokenizer's.
    let padded = |model: &mut HuggingFace| {
        let (shape, values) = model.tensors.get_mut("model.embed_tokens.weight").unwrap();
        shape[0] = 384;
        values.resize(384 * 64, 0.0);
        model.config["vocab_size"] = 384.into();
    };
    computes(padded, &[9], |_| Reference::plain(), &[]);
}
