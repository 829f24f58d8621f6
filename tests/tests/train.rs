//! Training with the whole program.

use std::fs;

use serde_json::Value;
use slm_tests::{Sandbox, quantized, text};

const CONFIG: &str = r#"
[model]
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_layers = 1
num_heads = 2
max_position_embeddings = 64

[training]
steps = 30
batch_size = 2
sequence_length = 32
learning_rate = 3e-3
warmup_steps = 3
eval_interval = 1
validation_windows = 4
save_interval = 10
seed = 1
"#;

const TRAIN: &str = "train --config run.toml --data text.txt";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.put("run.toml", CONFIG);
    sandbox.put("text.txt", text());
    sandbox
}

#[test]
fn a_trained_model_has_learned_and_can_be_quantized() {
    let sandbox = sandbox();
    let json = sandbox.slm(&format!("{TRAIN} --out model --json")).json();
    assert_eq!((&json["finished"], &json["step"], &json["steps"]), (&true.into(), &30.into(), &30.into()));
    // An untrained model has ln 300 = 5.7 nats per token.
    let nll = json["validation"]["nll"].as_f64().unwrap();
    assert!(nll < 5.0, "{json}");
    let ptq = "ptq --checkpoint model --calibration text.txt --bits 8 --window 32 --out int8 --json";
    let ptq = sandbox.slm(ptq).json();
    let (float, int8) =
        ["perplexity_float", "perplexity_quantized"].map(|name| ptq[name].as_f64().unwrap()).into();
    assert!(float < 200.0 && (int8 / float - 1.0).abs() < 0.05, "{float} {int8}");
    let generated = sandbox.slm("generate --checkpoint int8 --prompt The --max-new-tokens 8 --json").json();
    assert!(generated["text"].is_string());
}

#[test]
fn the_qat_mode_trains_a_model_that_comes_out_quantized() {
    let sandbox = sandbox();
    let quantization = "
[quantization]
quantization_mode = \"qat\"
quantization_bits = 4
quantization_type = \"dynamic\"
granularity = \"channel\"
";
    sandbox.put("qat.toml", format!("{CONFIG}{quantization}"));
    let trained = sandbox.slm("train --config qat.toml --data text.txt --out int4 --json").json();
    assert_eq!(trained["finished"], true, "{trained}");
    let inspected = sandbox.slm("inspect int4 --json").json();
    let recorded = &inspected["quantization"];
    for (key, value) in [("mode", "qat"), ("type", "dynamic"), ("granularity", "channel")] {
        assert_eq!(recorded[key], value, "{key}");
    }
    assert_eq!(recorded["bits"], 4);
    // An untrained model has a perplexity of 300; the validated model is the quantized one.
    let evaluated = sandbox.slm("eval --checkpoint int4 --data text.txt --window 32 --json").json();
    let perplexity = evaluated["perplexity"].as_f64().unwrap();
    assert!(
        perplexity < 150.0 && trained["validation"]["perplexity"].as_f64().unwrap() < 150.0,
        "{evaluated}"
    );
    let generated = sandbox.slm("generate --checkpoint int4 --prompt The --max-new-tokens 4 --json").json();
    assert!(generated["text"].is_string(), "{generated}");
}

/// A run that is interrupted by Ctrl-C and resumed with `--resume` gives the same bytes as an uninterrupted run.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_stopped() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let sandbox = sandbox();
    sandbox.slm(&format!("{TRAIN} --out whole")).success();
    let mut command = sandbox.command(&format!("{TRAIN} --out parts"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("step ")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("--resume")), "{rest:?}");
    let resumed = sandbox.slm(&format!("{TRAIN} --out parts --resume --json")).json();
    assert_eq!(resumed["finished"], true);
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let (whole, parts) = (sandbox.read(&format!("whole/{file}")), sandbox.read(&format!("parts/{file}")));
        assert!(whole == parts, "{file} differs");
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let sandbox = sandbox();
    sandbox.put_dir("int8", quantized());
    fs::create_dir(sandbox.path("mine")).unwrap();
    sandbox.put("mine/thesis.tex", "years of work");
    sandbox.put("short.txt", text().split_at(300).0);
    sandbox.put("latin1.txt", b"caf\xe9\n");
    let cases: [(&str, &[&str]); 12] = [
        ("--config nowhere --data text.txt --out new", &["nowhere"]),
        ("--config run.toml --data nowhere --out new", &["nowhere"]),
        ("--config run.toml --data short.txt --out new", &["more text"]),
        ("--config run.toml --data latin1.txt --out new", &["latin1.txt", "not UTF-8", "iconv"]),
        ("--config text.txt --data text.txt --out new", &["text.txt", "not valid TOML"]),
        ("--config run.toml --data text.txt --out text.txt/new", &["text.txt/new", "cannot be written"]),
        ("--config run.toml --data text.txt --out int8", &["int8", "already exists", "--overwrite"]),
        ("--config run.toml --data text.txt --out mine", &["mine", "already exists", "--overwrite"]),
        ("--config run.toml --data text.txt --out mine --overwrite", &["mine", "not overwritten"]),
        (
            "--config run.toml --data text.txt --out new --resume",
            &["new: there is no run", "without --resume"],
        ),
        ("--config run.toml --data text.txt --out int8 --resume", &["int8", "resume"]),
        ("--config run.toml --data text.txt --out mine --resume", &["mine"]),
    ];
    for (options, parts) in cases {
        sandbox.refuses(&format!("train {options}"), 1, parts);
    }
    let configs: [(&str, &str, &[&str]); 5] = [
        ("steps = 30", "setps = 30", &["setps", "did you mean `steps`?"]),
        ("steps = 30", "steps = 0", &["training.steps", "use 1 or more"]),
        ("num_heads = 2", "num_heads = 3", &["num_heads"]),
        ("vocab_size = 300", "vocab_size = 100", &["100", "257"]),
        ("sequence_length = 32", "sequence_length = 65", &["training.sequence_length", "64"]),
    ];
    for (from, to, parts) in configs {
        sandbox.put("wrong.toml", CONFIG.replace(from, to));
        let line = "train --config wrong.toml --data text.txt --out new";
        sandbox.refuses(line, 1, parts);
    }
    assert!(matches!(sandbox.read_json("int8/config.json"), Value::Object(_)));
}
