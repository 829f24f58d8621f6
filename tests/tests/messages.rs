//! Messages for users, for other programs, and for users who mistype.

use serde_json::Value;
use slm_tests::{Sandbox, model, quantized, train_config};

#[test]
fn a_pipe_gets_no_colours() {
    let sandbox = Sandbox::new();
    let mut model = model();
    model.config["secret_gate"] = 2.into();
    model.write(sandbox.path("hf"));
    for variables in [&[][..], &[("NO_COLOR", "1")], &[("NO_COLOR", "")]] {
        let outcome = sandbox.slm_with("import hf --out model --overwrite", &[], variables);
        assert!(outcome.stderr.contains("secret_gate") && !outcome.stderr.contains('\x1b'), "{outcome}");
    }
    let outcome = sandbox.slm_with("import hf --out model --overwrite -vv", &[], &[]);
    assert!(outcome.stderr.contains("info: ") && !outcome.stderr.contains('\x1b'), "{outcome}");
}

#[test]
fn errors_are_json_where_results_are() {
    let sandbox = Sandbox::with_model();
    sandbox.put("empty.txt", "");
    for (line, code, kind) in [
        ("eval --checkpoint nowhere --data text.txt", 1, "checkpoint"),
        ("eval --checkpoint model --data empty.txt", 1, "text"),
        ("eval --checkpoint model --data text.txt --window 1", 2, "usage"),
        ("inspect model --layer nothing", 1, "file"),
        ("eval --checkpoint model --data", 2, "usage"),
        ("eval --checkpoint model --nonsense", 2, "usage"),
        ("nonsense", 2, "usage"),
    ] {
        let outcome = sandbox.slm(&format!("--json {line}"));
        assert_eq!(outcome.code, Some(code), "{outcome}");
        let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let error = &json["error"];
        assert_eq!(
            (error["kind"].as_str(), error["exit_code"].as_i64()),
            (Some(kind), Some(code.into())),
            "{outcome}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            !message.starts_with("error") && outcome.stderr.contains(message.lines().next().unwrap()),
            "{outcome}"
        );
        // Without --json, standard output is empty.
        assert_eq!(sandbox.slm(line).stdout, "");
    }
}

/// Results use the same name for the output and for the quality in all commands.
#[test]
fn results_share_their_names() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    model().write(sandbox.path("hf"));
    sandbox.put("ids.json", r#"{"ids": [[1, 2]]}"#);
    sandbox.put("train.toml", train_config(2));
    sandbox
        .put("run.toml", "[training]\nsteps = 2\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\n");
    for (line, has_perplexity) in [
        ("import hf --out NEW", false),
        ("corpus --stories 2 --out NEW", false),
        ("sample --checkpoint model --sequences 1 --length 8 --out NEW", false),
        ("logits --checkpoint model --ids ids.json --out NEW", false),
        ("migrate model --out NEW", false),
        ("train --config train.toml --data text.txt --out NEW", true),
        ("ptq --checkpoint model --calibration text.txt --out NEW", true),
        ("qat --checkpoint model --config run.toml --data text.txt --out NEW", true),
        ("finetune --checkpoint int8 --config run.toml --data text.txt --out NEW", true),
    ] {
        let name = line.split(' ').next().unwrap();
        let json = sandbox.slm(&format!("{} --json", line.replace("NEW", name))).json();
        assert!(json["output"].as_str().is_some_and(|output| output.ends_with(name)), "{line}: {json}");
        for other in ["checkpoint", "out", "file", "directory"] {
            assert!(json[other].is_null(), "{line}: {json}");
        }
        assert_eq!(json["perplexity"].is_f64(), has_perplexity, "{line}: {json}");
        if has_perplexity && name != "train" {
            let eval = format!("eval --checkpoint {name} --data text.txt --json");
            assert!(sandbox.slm(&eval).json()["perplexity"].is_f64());
            assert!(json["evaluated_tokens"].as_u64().unwrap() > 0, "{json}");
        }
    }
    assert!(sandbox.slm("inspect model --json").json()["checkpoint"].as_str().unwrap().ends_with("model"));
}

#[test]
fn what_nearly_fits_is_put_right() {
    let sandbox = Sandbox::with_model();
    const PTQ: &str = "ptq --checkpoint model --calibration text.txt --out new";
    for (line, code, meant) in [
        (format!("{PTQ} --granularity 32"), 2, "did you mean group:32?"),
        (format!("{PTQ} --granularity group-16"), 2, "did you mean group:16?"),
        (format!("{PTQ} --granularity per-channel"), 2, "did you mean channel?"),
        (format!("{PTQ} --mapping asymmetric"), 2, "did you mean affine?"),
        (format!("{PTQ} --observer minmax"), 2, "did you mean min-max?"),
        (format!("{PTQ} --type w4a16"), 2, "did you mean weight-only?"),
        (format!("{PTQ} --type weight_only"), 2, "did you mean weight-only?"),
        (format!("{PTQ} --embeddings int3"), 2, "a scheme is float, int8 or int4"),
        ("generate --checkpoint model --prompt x --repeat-penalty 2".to_owned(), 2, "'--repetition-penalty'"),
        ("eval --checkpoint model --data text.txt --device cuda:0".to_owned(), 2, "'wgpu'"),
        (format!("{PTQ} --scale-dtype fp16"), 2, "did you mean f16?"),
        (format!("{PTQ} --skip lmhead"), 1, "did you mean \"lm_head\"?"),
        (format!("{PTQ} --skip q_proj"), 1, "did you mean \"*q_proj*\"?"),
        (format!("{PTQ} --skip layers.1"), 1, "did you mean \"layers.1.*\"?"),
        (
            format!("{PTQ} --skip model.layers.0.mlp.up_proj.weight"),
            1,
            "did you mean \"layers.0.mlp.up_proj\"?",
        ),
        ("quantize --checkpoint model".to_owned(), 2, "'ptq'"),
        ("perplexity --checkpoint model".to_owned(), 2, "'eval'"),
        ("convert hf".to_owned(), 2, "'import'"),
        ("glossary".to_owned(), 2, "'explain'"),
        ("exprot model".to_owned(), 2, "'export'"),
        ("chta --checkpoint model".to_owned(), 2, "'chat'"),
        ("diagnose".to_owned(), 2, "'doctor'"),
        (format!("{PTQ} --group 32"), 2, "'--granularity group:32'"),
        (format!("{PTQ} --group-size 32"), 2, "'--granularity group:32'"),
        (format!("{PTQ} --wbits 4"), 2, "'--bits'"),
        ("run --checkpoint model".to_owned(), 2, "'generate'"),
        ("eval --model model --data text.txt".to_owned(), 2, "'--checkpoint'"),
        ("eval --checkpoint model --text text.txt".to_owned(), 2, "'--data'"),
        ("ptq --checkpoint model --data text.txt".to_owned(), 2, "'--calibration'"),
        ("generate --checkpoint model --prompt x --n-predict 3".to_owned(), 2, "'--max-new-tokens'"),
        ("plan --checkpoint model --data text.txt --size 1MB".to_owned(), 2, "'--target-size'"),
        ("eval --checkpoint model --data text.txt --device cuda".to_owned(), 2, "'wgpu'"),
        (
            "inspect model --layer layers.0.self_attn.qproj".to_owned(),
            1,
            "did you mean layers.0.self_attn.q_proj?",
        ),
    ] {
        sandbox.refuses(&line, code, &[meant]);
    }
    // Unambiguous input is accepted.
    let eval = "eval --checkpoint model --data text.txt --max-tokens 128 --json";
    assert_eq!(sandbox.slm(&format!("{eval} --device cpu")).json()["device"], "flex");
    let bits = "ptq --checkpoint model --type weight-only --no-eval --overwrite --out new --json --bits";
    for given in ["4", "int4", "4bit"] {
        assert_eq!(sandbox.slm(&format!("{bits} {given}")).json()["bits"], 4);
    }
    let layer = sandbox.slm("inspect model --layer layers.0.self_attn.q_proj").success().stdout;
    for name in ["layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"] {
        assert_eq!(sandbox.slm(&format!("inspect model --layer {name}")).success().stdout, layer);
    }
}

/// Output paths that would lose the result are rejected.
#[cfg(target_os = "linux")]
#[test]
fn outputs_that_are_no_files_are_refused() {
    use std::fs::File;

    let sandbox = Sandbox::with_model();
    let sample = "sample --checkpoint model --sequences 1 --length 4 --overwrite --out";
    sandbox.refuses(&format!("{sample} -"), 2, &["--out -", "give its name"]);
    sandbox.refuses(&format!("{sample} /dev/null"), 1, &["/dev/null", "not a regular file"]);
    sandbox.refuses(
        "ptq --checkpoint model --type weight-only --no-eval --overwrite --out ./model",
        2,
        &["--out ./model", "the checkpoint itself"],
    );
    for line in ["--help", "--version", "inspect model", "generate --checkpoint model --prompt Once"] {
        let mut command = sandbox.command(line);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("standard output: No space left"), "{line}");
    }
}

#[test]
fn inspect_says_how_inputs_are_quantized() {
    let sandbox = Sandbox::with_model();
    for (kind, words) in [
        ("static", "static 8-bit activations"),
        ("dynamic", "dynamic 8-bit activations (one scale per token)"),
        ("weight-only", "weight-only, float activations"),
    ] {
        let ptq =
            format!("ptq --checkpoint model --calibration text.txt --type {kind} --out new --overwrite");
        sandbox.slm(&ptq).success();
        let said = sandbox.slm("inspect new").success();
        assert!(said.stdout.contains(&format!("quantized model, {words}")), "{said}");
        let json = sandbox.slm("inspect new --json").json();
        assert!(json["input_quantization"].as_str().unwrap().starts_with(words), "{json}");
    }
}

#[test]
fn verbose_commands_say_what_they_read_and_measured() {
    let sandbox = Sandbox::with_model();
    model().write(sandbox.path("hf"));
    for (line, parts) in [
        ("import hf --out new", &["LlamaForCausalLM", "2 layers", "64 positions"][..]),
        ("eval --checkpoint model --data text.txt", &["text.txt", "tokens read", "float", "windows"]),
        (
            "ptq --checkpoint model --calibration text.txt --out int8",
            &["float perplexity", "quantized perplexity"],
        ),
    ] {
        let outcome = sandbox.slm(&format!("{line} -v"));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        for part in parts {
            assert!(outcome.stderr.contains(part), "{part:?} is not said\n{outcome}");
        }
    }
}

/// Programs read the same verdict in JSON as users in the text.
#[test]
fn a_training_run_has_its_verdict_in_json() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    let run = "[training]\nsteps = 2\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\neval_interval = 1\n";
    sandbox.put("run.toml", run);
    sandbox.put("train.toml", train_config(2));
    for (line, compares) in [
        ("qat --checkpoint model --config run.toml", true),
        ("finetune --checkpoint int8 --config run.toml", true),
        ("train --config train.toml", false),
    ] {
        let line = format!("{line} --data text.txt --out new --overwrite");
        let json = sandbox.slm(&format!("{line} --json")).json();
        let quality = &json["quality"];
        let verdict = quality["verdict"].as_str().unwrap_or_else(|| panic!("{json}"));
        let said = sandbox.slm(&format!("{line} -q")).success().stdout;
        assert!(said.contains(verdict.lines().next().unwrap()), "{verdict}\n{said}");
        assert_eq!(quality["text"], "the end of text.txt", "{json}");
        assert_eq!(quality["rise"].is_number(), compares, "{json}");
        assert!(quality["tokens"].as_u64().unwrap() > 0, "{json}");
    }
}
