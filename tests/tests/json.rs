//! `docs/json-output.schema.json` describes the `--json` output of every command.

use std::path::Path;

use serde_json::Value;
use slm_testing::violations;
use slm_tests::{Outcome, Sandbox, Server, model, quantized, train_config};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json-output.schema.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Requires that `json` conforms to the entry `title` of the schema.
#[track_caller]
fn follows(schema: &Value, title: &str, json: &Value) {
    assert_eq!(violations(schema, json), Vec::<String>::new(), "{title}: {json:#}");
    let entry = schema["anyOf"].as_array().unwrap().iter().find(|entry| entry["title"] == title);
    let entry = entry.unwrap_or_else(|| panic!("the schema has no {title}"));
    assert_eq!(violations(entry, json), Vec::<String>::new(), "{title}");
}

#[test]
fn results_follow_the_schema() {
    let schema = schema();
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    model().write(sandbox.path("hf"));
    let run = "[training]\nsteps = 2\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\neval_interval = 1\n";
    sandbox.put("run.toml", run);
    sandbox.put("train.toml", train_config(2));
    sandbox.put("questions.jsonl", "{\"context\": \"Tom\", \"choices\": [\" a\", \" b\"], \"answer\": 0}\n");
    sandbox.put("ids.json", r#"{"ids": [[1, 2]]}"#);
    sandbox.put("other.txt", slm_tests::text());
    let text = "--data text.txt --max-tokens 128";
    let quantize = "ptq --checkpoint model --calibration text.txt";
    let mut told = vec!["chat", "serve"];
    for (title, line) in [
        ("ptq", &*format!("{quantize} --out a")),
        (
            "ptq",
            &format!(
                "{quantize} --bits 4 --granularity group:16 --mapping affine --type dynamic --embeddings int8 --out b"
            ),
        ),
        ("ptq", "ptq --checkpoint model --type weight-only --no-eval --out c"),
        ("eval", &format!("eval --checkpoint int8 {text}")),
        ("eval", &format!("eval --checkpoint int8 {text} --data other.txt --reference model --noise-floor")),
        ("eval", &format!("eval --checkpoint int8 {text} --window 32 --stride 16")),
        ("eval", "eval --checkpoint int8 --choices questions.jsonl"),
        (
            "eval, several checkpoints",
            &format!("eval --checkpoint int8 --checkpoint model {text} --reference model"),
        ),
        ("compare", &format!("compare model int8 {text}")),
        ("inspect", "inspect model"),
        ("inspect", "inspect int8"),
        ("inspect --layer", "inspect int8 --layer lm_head"),
        ("inspect --layer", "inspect model --layer layers.0.mlp.up_proj"),
        ("sensitivity", &format!("sensitivity --checkpoint model {text}")),
        ("plan", &format!("plan --checkpoint model {text} --bits-per-weight 6")),
        ("generate", "generate --checkpoint int8 --prompt Tom --max-new-tokens 3"),
        ("sample", "sample --checkpoint model --sequences 1 --length 4 --out s.json"),
        ("logits", "logits --checkpoint model --ids ids.json --out l.safetensors"),
        ("corpus", "corpus --stories 2 --out c.txt"),
        ("export", "export int8 --format hf --out exported"),
        ("import", "import hf --out imported"),
        ("migrate", "migrate model --out migrated"),
        ("qat", "qat --checkpoint model --config run.toml --data text.txt --out qat"),
        ("finetune", "finetune --checkpoint int8 --config run.toml --data text.txt --out tuned"),
        ("finetune", "finetune --checkpoint model --config run.toml --data text.txt --out tuned-float"),
        ("train", "train --config train.toml --data text.txt --out trained"),
        ("bench", "bench --checkpoint int8 --prompt 4 --generate 2 --repeats 1"),
        ("doctor", "doctor --no-measure"),
        ("explain", "explain sqnr"),
        ("config init", "config init qat --out qat.toml"),
        ("config init", "config init qat"),
        ("config check", "config check qat.toml"),
        ("config explain", "config explain observer"),
        ("completions", "completions bash"),
        ("completions", "completions man --out man1"),
    ] {
        follows(&schema, title, &sandbox.slm(&format!("{line} --json")).json());
        told.push(title);
    }
    for line in ["eval --checkpoint nowhere --data text.txt", "nonsense", "inspect model --layer nothing"] {
        let outcome = sandbox.slm(&format!("{line} --json"));
        follows(&schema, "error", &serde_json::from_str(&outcome.stdout).unwrap());
        told.push("error");
    }
    for entry in schema["anyOf"].as_array().unwrap() {
        let title = entry["title"].as_str().unwrap();
        assert!(told.contains(&title), "{title} was not run");
    }
    let help = sandbox.slm("--help").stdout;
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    for command in commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        let is_told = told.iter().any(|title| title.split([' ', ',']).next() == Some(command));
        assert!(is_told || ["", "help"].contains(&command), "the schema has no {command}");
    }
}

#[test]
fn what_is_printed_line_by_line_follows_the_schema() {
    let schema = schema();
    let sandbox = Sandbox::with_chat_model();
    let mut command = sandbox.command("chat --checkpoint model --max-new-tokens 2 --json");
    sandbox.put("lines", "Tom\n/temperature hot\nAnna\n");
    let lines = std::fs::File::open(sandbox.path("lines")).unwrap();
    let outcome = Outcome::of("chat", command.stdin(lines).output().unwrap());
    let lines: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{outcome}");
    for (line, title) in lines.iter().zip(["chat", "error", "chat"]) {
        follows(&schema, title, line);
    }
    sandbox.put("prompts", "{\"prompt\": \"Tom\", \"max_tokens\": 2, \"id\": 7}\n{\"prompt\": \"Anna\"}\n");
    let outcome = sandbox.slm("generate --checkpoint model --max-new-tokens 1 --prompts prompts").success();
    let lines: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["id"]), (2, &serde_json::json!(7)), "{outcome}");
    lines.iter().for_each(|line| follows(&schema, "generate", line));
    // The server's first line was parsed as JSON and contains a URL.
    let server = Server::start(&sandbox, "--checkpoint model");
    let started = serde_json::json!({"url": server.url, "model": "model", "chat": true});
    follows(&schema, "serve", &started);
}
