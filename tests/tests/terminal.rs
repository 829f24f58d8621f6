//! Output on a terminal of 80 columns: no line is wider, and the most important lines come first.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use slm_tests::{Sandbox, Shown, model};

const COLUMNS: u16 = 80;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Creates a directory with the shipped model, called `stories`, a text, and the model in INT8 and INT4.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let model = root().join("models/stories");
    fs::create_dir(sandbox.path("stories")).unwrap();
    for entry in fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), sandbox.path("stories").join(entry.file_name())).unwrap();
    }
    fs::copy(root().join("data/held-out.txt"), sandbox.path("text.txt")).unwrap();
    sandbox
}

#[track_caller]
fn run(sandbox: &Sandbox, line: &str) -> Shown {
    sandbox.terminal(line, COLUMNS).fits(COLUMNS.into())
}

const PTQ: &str =
    "ptq --checkpoint stories --calibration text.txt --calibration-tokens 1024 --eval-tokens 2048";

/// Returns the number of layer rows.
fn layers(shown: &Shown) -> usize {
    let row = |line: &&String| line.starts_with("layers.") || line.starts_with("lm_head");
    shown.lines.iter().filter(row).count()
}

#[test]
fn ptq_shows_the_verdict_then_the_summary_then_the_worst_layers() {
    let sandbox = sandbox();
    let shown = run(&sandbox, &format!("{PTQ} --out int8"));
    let verdict = shown.position("GOOD: ");
    assert!(verdict < shown.position("weights    "), "{shown}");
    assert!(shown.position("weights    ") < shown.position("The ten worst of 29 layers"), "{shown}");
    assert_eq!(layers(&shown), 10, "{shown}");
    let all = run(&sandbox, &format!("{PTQ} --out int8 --overwrite --all"));
    assert_eq!(layers(&all), 29, "{all}");
    // Wider output only on request.
    let wide = sandbox.terminal(&format!("{PTQ} --out int8 --overwrite --wide"), COLUMNS);
    assert!(wide.lines.iter().any(|line| line.len() > 90 && line.contains("kernel")), "{wide}");
    // Only the result remains, and a pipe gets everything.
    let quiet = run(&sandbox, &format!("{PTQ} --out int8 --overwrite -q"));
    let said: Vec<&String> = quiet.lines.iter().filter(|line| !line.is_empty()).collect();
    assert!(said.len() <= 5 && said[0].starts_with("GOOD: "), "{quiet}");
    assert!(!said.iter().any(|line| line.starts_with("weights")), "{quiet}");
    let piped = sandbox.slm(&format!("{PTQ} --out int8 --overwrite")).success().stdout;
    assert!(piped.lines().any(|line| line.contains("zero point") && line.contains("kernel")), "{piped}");
    assert_eq!(
        piped.lines().filter(|line| line.contains("_proj ") || line.starts_with("lm_head")).count(),
        29
    );
}

#[test]
fn reports_fit() {
    let sandbox = sandbox();
    run(&sandbox, &format!("{PTQ} --out int8"));
    let no_eval = "ptq --checkpoint stories --bits 4 --granularity group:32 --type weight-only --mapping affine --no-eval";
    let shown = run(&sandbox, &format!("{no_eval} --out int4"));
    assert!(shown.lines.iter().any(|line| line.starts_with("QUANTIZED: 29 layers")), "{shown}");

    let shown = run(&sandbox, "inspect int8");
    // Progress bars are cleared first.
    let mut said =
        shown.lines.iter().filter(|line| !line.is_empty() && !line.starts_with("opening the checkpoint"));
    let first = said.next().unwrap();
    assert!(first.starts_with("quantized model, static 8-bit activations"), "{shown}");
    assert!(shown.position("architecture  ") < shown.position("SQNR dB"), "{shown}");
    assert!(!shown.lines.iter().any(|line| line.contains("embed_tokens.weight")), "{shown}");
    assert_eq!(layers(&shown), 10);
    let shown = run(&sandbox, "inspect int4 --tensors --all");
    shown.position("embed_tokens.weight");
    run(&sandbox, "inspect stories");
    for dir in ["stories", "int8", "int4"] {
        run(&sandbox, &format!("inspect {dir} --layer layers.1.mlp.down_proj"));
        run(&sandbox, &format!("inspect {dir} --layer layers.1.mlp.down_proj --all"));
    }

    let compare = "compare stories int8 --data text.txt --max-tokens 512";
    let shown = run(&sandbox, compare);
    assert!(shown.position("GOOD: KL divergence") < shown.position("errors accumulate"), "{shown}");
    assert!(shown.position("errors accumulate") < shown.position("own dB"), "{shown}");
    assert_eq!(layers(&shown), 10);
    let json = sandbox.slm(&format!("{compare} --json")).json();
    let layers_of = json["layers"].as_array().unwrap();
    let last = layers_of.iter().find(|layer| layer["name"] == "layers.3.mlp.down_proj").unwrap();
    let first = &layers_of[0];
    // The first layer inherits almost no error, because the embedding is float.
    assert!(
        (first["own_sqnr_db"].as_f64().unwrap() - first["sqnr_db"].as_f64().unwrap()).abs() < 1.0,
        "{first}"
    );
    assert!(last["own_sqnr_db"].as_f64() > last["sqnr_db"].as_f64(), "{last}");
    // The model was equalized before it was quantized, and the factors are known.
    assert!(!sandbox.read_json("int8/quantization_metadata.json")["lineage"]["transforms"].is_null());
    for layer in layers_of {
        assert!(
            layer["own_sqnr_db"].as_f64().unwrap() > 25.0 && layer["sqnr_db"].as_f64().unwrap() > 20.0,
            "{layer}"
        );
    }

    let shown = run(&sandbox, "sensitivity --checkpoint stories --data text.txt --max-tokens 256 --by layer");
    assert!(shown.position("suffers most") < shown.position("quantized alone"), "{shown}");
    assert_eq!(layers(&shown), 11, "{shown}");
    run(&sandbox, "sensitivity --checkpoint stories --data text.txt --max-tokens 256 --bits 4");
    let shown = run(
        &sandbox,
        "eval --checkpoint int8 --data text.txt --max-tokens 1024 --reference stories --noise-floor",
    );
    assert!(shown.position("perplexity  ") < shown.position("KL divergence"), "{shown}");
    run(&sandbox, "eval --checkpoint int8 --data text.txt --max-tokens 1024 --window 128 --stride 64");
    let shown = run(&sandbox, "generate --checkpoint int8 --prompt Tom --max-new-tokens 3 --ignore-eos");
    shown.position("[cut after 3 tokens; --max-new-tokens allows more]");
    let story = "generate --checkpoint int8 --prompt Tom --max-new-tokens 120 --ignore-eos";
    let shown = run(&sandbox, story);
    let piped = sandbox.slm(story).success().stdout;
    let text = shown.lines[shown.position("Tom")..shown.position("[cut after")].join(" ");
    assert!(piped.lines().any(|line| line.len() > 100), "{piped}");
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), piped.split_whitespace().collect::<Vec<_>>());
    let shown = run(
        &sandbox,
        "eval --checkpoint stories --checkpoint int8 --checkpoint int4 --data text.txt --max-tokens 512",
    );
    assert!(shown.position("best") < shown.position("weights"), "{shown}");
    assert!(shown.lines[shown.position("perplexity  ")].contains("bits per byte"), "{shown}");
    let plan = "plan --checkpoint stories --data text.txt --max-tokens 256 --bits-per-weight 5 --by";
    for by in ["kind", "layer"] {
        let shown = run(&sandbox, &format!("{plan} {by}"));
        let header = &shown.lines[shown.position("KL nats alone")];
        assert!(header.ends_with("size"), "{shown}");
    }
    let shown = run(&sandbox, "bench --checkpoint int8 --prompt 16 --generate 4 --repeats 1");
    // The result comes first, in words, and then its details.
    let order = [
        "reads a prompt at",
        "reading a prompt of 16 tokens took",
        "generating 4 tokens took",
        "memory     ",
    ];
    let places: Vec<usize> = order.iter().map(|part| shown.position(part)).collect();
    assert!(places.is_sorted() && places[3] < shown.position("Details; `slm explain prefill`"), "{shown}");
}

#[test]
fn commands_that_write_fit() {
    let sandbox = sandbox();
    run(&sandbox, &format!("{PTQ} --out int8"));
    run(&sandbox, "export int8 --format gguf --out int8.gguf");
    run(&sandbox, "export int8 --format hf --out hf");
    run(&sandbox, "export int8 --format compressed-tensors --out ct --all");
    run(&sandbox, "import int8.gguf --out again");
    model().write(sandbox.path("small"));
    run(&sandbox, "import small --out imported -v");
    run(&sandbox, "migrate stories --out migrated");
    run(&sandbox, "corpus --stories 20 --out corpus.txt");
    run(&sandbox, "sample --checkpoint int8 --sequences 2 --length 16 --out sampled.json");
    run(&sandbox, "logits --checkpoint int8 --ids sampled.json --out logits.safetensors");
    let config = "[training]\nsteps = 2\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\neval_interval = 1\n";
    sandbox.put("run.toml", config);
    let run_on = "--config run.toml --data text.txt --eval-tokens 512";
    run(&sandbox, &format!("qat --checkpoint stories {run_on} --bits 4 --out qat -v"));
    run(&sandbox, &format!("finetune --checkpoint int8 {run_on} --out tuned -v"));
    sandbox.put("train.toml", slm_tests::train_config(2));
    run(&sandbox, "train --config train.toml --data text.txt --out trained");
}

#[test]
fn help_and_errors_fit() {
    let sandbox = Sandbox::new();
    let help = run(&sandbox, "--help");
    let names = help.lines.iter().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names = names.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names: Vec<_> = names.filter(|line| !line.starts_with(' ')).collect();
    assert!(names.len() >= 18, "{help}");
    let names = names.iter().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| *name != "help") {
        run(&sandbox, &format!("{name} --help"));
        run(&sandbox, &format!("{name} -h"));
    }
    for line in [
        "explain",
        "explain sqnr",
        "explain kl",
        "doctor --no-measure",
        "config explain",
        "config explain qat",
    ] {
        run(&sandbox, line);
    }
    for command in ["train", "ptq", "qat", "finetune"] {
        run(&sandbox, &format!("config init {command}"));
        run(&sandbox, &format!("config init {command} --out {command}.toml"));
        run(&sandbox, &format!("config check {command}.toml"));
    }
    run(&sandbox, "completions man --out man1");
    for line in [
        "ptq",
        "nonsense",
        "eval --checkpoint nowhere --data nothing.txt",
        "ptq --checkpoint nowhere --granularity 32",
        "import nowhere --out there",
        "sample --checkpoint nowhere --sequences 1 --out -",
    ] {
        let shown = sandbox.terminal(line, COLUMNS).fits_whatever_it_says(COLUMNS.into());
        assert!(shown.code > 0 && shown.lines.iter().any(|line| line.contains("error: ")), "{shown}");
    }
}
