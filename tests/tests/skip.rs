//! Skip patterns have the same meaning in every command that quantizes, whether or not the head is tied to the
//! embedding.

use serde_json::Value;
use slm_tests::{Sandbox, model, text, train_config};

/// Patterns, the number of layers that they leave float, and whether these include the head.
const PATTERNS: [(&str, usize, bool); 5] = [
    ("lm_head", 1, true),
    ("lm_*", 1, true),
    ("*head", 1, true),
    ("*.mlp.*", 6, false),
    ("layers.1.*", 7, false),
];

const CONFIG: &str = r#"
[training]
steps = 2
batch_size = 1
sequence_length = 16
weight_decay = 0.0
validation_fraction = 0.2
validation_windows = 2
"#;

/// Creates a sandbox with `float`, a checkpoint whose head is tied or not.
fn sandbox(tied: bool) -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    if !tied {
        let head = model.tensors["model.embed_tokens.weight"].clone();
        model.tensors.insert("lm_head.weight".to_owned(), head);
        model.config["tie_word_embeddings"] = Value::Bool(false);
    }
    model.write(sandbox.path("hf"));
    sandbox.slm("import hf --out float").success();
    sandbox.put("text.txt", text());
    sandbox.put("run.toml", CONFIG);
    sandbox
}

fn with_skip(sandbox: &Sandbox, pattern: &str) {
    sandbox.put("skip.toml", format!("{CONFIG}\n[quantization]\nskip = [{pattern:?}]\n"));
}

const PTQ: &str = "ptq --checkpoint float --type weight-only --no-eval --overwrite --out ptq";
const QAT: &str = "qat --checkpoint float --config run.toml --data text.txt --type weight-only --eval-tokens 64 \
                   --window 16 --overwrite --out qat";
const FINETUNE: &str =
    "finetune --data text.txt --config skip.toml --eval-tokens 64 --window 16 --overwrite --out tuned";

/// Returns the layers that a checkpoint leaves float, with reasons, and whether its head is tied.
fn left_float(sandbox: &Sandbox, checkpoint: &str) -> (Value, bool) {
    let metadata = sandbox.read_json(&format!("{checkpoint}/quantization_metadata.json"));
    let config = sandbox.read_json(&format!("{checkpoint}/config.json"));
    (metadata["skipped"].clone(), config["model"]["tie_word_embeddings"].as_bool().unwrap())
}

#[test]
fn a_pattern_leaves_the_same_layers_float_in_every_command() {
    for tied in [true, false] {
        let sandbox = sandbox(tied);
        for (pattern, count, head) in PATTERNS {
            sandbox.slm_with(PTQ, &["--skip", pattern], &[]).success();
            let (skipped, stays_tied) = left_float(&sandbox, "ptq");
            let names: Vec<&str> =
                skipped.as_array().unwrap().iter().map(|layer| layer["name"].as_str().unwrap()).collect();
            assert_eq!(names.len(), count, "{pattern}: {names:?}");
            assert_eq!(names.contains(&"lm_head"), head, "{pattern}");
            assert_eq!(stays_tied, tied && head, "{pattern}");

            let qat = sandbox.slm_with(QAT, &["--skip", pattern, "--json"], &[]).json();
            assert_eq!(qat["quantized_layers"], 15 - count, "{pattern}");
            assert_eq!(left_float(&sandbox, "qat"), (skipped.clone(), stays_tied), "{pattern}");

            with_skip(&sandbox, pattern);
            for start in ["ptq", "qat"] {
                sandbox.slm(&format!("{FINETUNE} --checkpoint {start}")).success();
                assert_eq!(left_float(&sandbox, "tuned"), (skipped.clone(), stays_tied), "{pattern}");
            }
        }
    }
}

#[test]
fn a_pattern_without_a_layer_is_refused_by_every_command() {
    for tied in [true, false] {
        let sandbox = sandbox(tied);
        sandbox.slm(PTQ).success();
        with_skip(&sandbox, "ln_head");
        let message = ["skip pattern \"ln_head\" matches no linear layer", "layers.0.self_attn.q_proj"];
        let more = ["--skip", "ln_head"];
        sandbox.refuses_with(&PTQ.replace("--out ptq", "--out new"), &more, &[], 1, &message);
        sandbox.refuses_with(QAT, &more, &[], 1, &message);
        for start in ["ptq", "float"] {
            sandbox.refuses(&format!("{FINETUNE} --checkpoint {start}"), 1, &message);
        }
    }
}

/// A wrong pattern is rejected before training starts.
#[test]
fn training_refuses_a_pattern_without_a_layer() {
    let sandbox = Sandbox::new();
    sandbox.put("text.txt", text());
    for (mode, pattern, fits) in
        [("ptq", "lm_*", true), ("none", "ln_head", false), ("qat", "ln_head", false)]
    {
        let section = format!("\n[quantization]\nquantization_mode = {mode:?}\nskip = [{pattern:?}]\n");
        sandbox.put("train.toml", train_config(1) + &section);
        let train = "train --config train.toml --data text.txt --out new";
        if fits {
            assert_eq!(sandbox.slm(train).code, Some(0), "{mode}, {pattern}");
            std::fs::remove_dir_all(sandbox.path("new")).unwrap();
        } else {
            sandbox.refuses(train, 1, &["skip pattern \"ln_head\" matches no linear layer"]);
        }
    }
}

#[test]
fn patterns_that_leave_nothing_to_quantize_are_refused() {
    for tied in [true, false] {
        let sandbox = sandbox(tied);
        for pattern in ["*", "[ln][am]*"] {
            let more = ["--skip", pattern];
            let message = ["no layer to quantize: skip patterns match all 15 linear layers"];
            sandbox.refuses_with(PTQ, &more, &[], 1, &message);
            sandbox.refuses_with(QAT, &more, &[], 1, &message);
        }
    }
}

#[test]
fn finetuning_cannot_leave_float_what_is_quantized() {
    let sandbox = sandbox(true);
    sandbox.slm(PTQ).success();
    for (pattern, layer) in [("lm_*", "lm_head"), ("layers.1.mlp.*", "layers.1.mlp.gate_proj")] {
        with_skip(&sandbox, pattern);
        let quoted = format!("skip pattern {pattern:?} leaves {layer} float");
        sandbox.refuses(&format!("{FINETUNE} --checkpoint ptq"), 1, &[&quoted, "remove the pattern"]);
        // A float checkpoint has no quantized layers, so there is no conflict.
        sandbox.slm(&format!("{FINETUNE} --checkpoint float")).success();
    }
}
