//! Configs and changes of their values, when a run starts and when it is resumed.

use slm_tests::{Sandbox, quantized, train_config};

const RUN: &str = "[training]\nsteps = 4\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\n";

#[test]
fn a_quantization_section_alone_is_enough_for_ptq() {
    let sandbox = Sandbox::with_model();
    let section = "[quantization]\nquantization_bits = 4\nquantization_type = \"weight-only\"\ngranularity = \"group:16\"\n";
    sandbox.put("q.toml", section);
    sandbox.put("bom.toml", format!("\u{feff}{section}"));
    sandbox.put("whole.toml", format!("{}{section}", train_config(3)));
    for file in ["q.toml", "bom.toml", "whole.toml"] {
        let line = format!("ptq --checkpoint model --config {file} --no-eval --out new --overwrite --json");
        let json = sandbox.slm(&line).json();
        assert_eq!(
            (&json["bits"], &json["granularity"], &json["type"]),
            (&4.into(), &"group:16".into(), &"weight-only".into())
        );
    }
    sandbox.put("none.toml", RUN);
    sandbox.refuses(
        "ptq --checkpoint model --config none.toml --no-eval --out other",
        1,
        &["none.toml", "[quantization]"],
    );
}

#[test]
fn options_set_values_of_a_config() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox.put("run.toml", RUN);
    sandbox.put("train.toml", train_config(4));
    for line in [
        "train --config train.toml",
        "qat --checkpoint model --config run.toml",
        "finetune --checkpoint int8 --config run.toml",
        "finetune --checkpoint int8",
    ] {
        let name = line.split(' ').next().unwrap();
        let line = format!("{line} --data text.txt --out {name} --overwrite --json");
        let small =
            "--set training.batch_size=1 --set training.sequence_length=16 --set training.warmup_steps=0";
        let json = sandbox.slm(&format!("{line} {small} --steps 3")).json();
        assert_eq!((&json["steps"], &json["step"]), (&3.into(), &3.into()), "{line}");
        let state = sandbox.read_json(&format!("{name}/training_state.json"));
        assert_eq!(state["config"]["training"]["sequence_length"], 16);
        let line = line.replace(" --overwrite", "").replace(&format!("--out {name}"), "--out new");
        sandbox.refuses(&format!("{line} --set training.stepz=3"), 1, &["stepz", "did you mean `steps`?"]);
        sandbox.refuses(
            &format!("{line} --set training.learning_rate=300"),
            1,
            &["learning_rate=300", "is 300", "above 0 and at most 1"],
        );
        sandbox.refuses(&format!("{line} --set steps"), 2, &["--set", "KEY=VALUE"]);
    }
}

/// An error names the option if the option is wrong, and the file if the file is wrong.
#[test]
fn what_is_wrong_with_a_config_is_said_where_it_is_written() {
    let sandbox = Sandbox::with_model();
    sandbox.put("train.toml", train_config(2));
    let line = "train --config train.toml --data text.txt --out new";
    for (options, parts) in [
        ("--set steps=3", &["--set steps=3", "did you mean `training.steps`?"][..]),
        ("--set training.lr=3", &["--set training.lr=3", "did you mean `learning_rate`?"]),
        ("--set training.batch-size=3", &["--set training.batch-size=3", "did you mean `batch_size`?"]),
        (
            "--set training.steps=many",
            &["--set training.steps=many", "found string \"many\"", "whole number"],
        ),
        ("--set training.steps=", &["--set training.steps=", "whole number"]),
        (
            "--set quantization.skip=lm_head",
            &["--set quantization.skip=lm_head", "expected a list", "[\"lm_head\"]"],
        ),
        ("--set training.steps.x=3", &["--set training.steps.x=3", "a value, not a section"]),
        ("--set training.learning_rate=300", &["--set training.learning_rate=300", "at most 1"]),
        ("--steps 0", &["--steps 0", "1 or more"]),
    ] {
        let outcome = sandbox.refuses(&format!("{line} {options}"), 1, parts);
        assert!(!outcome.stderr.contains("in train.toml"), "the file is not to blame: {outcome}");
    }
    sandbox.refuses(&format!("{line} --steps -1"), 2, &["--steps", "-1"]);
    sandbox.refuses(&format!("{line} --set training.steps"), 2, &["KEY=VALUE"]);
    // Quotes are optional, spaces are allowed, and the last value counts.
    let set = [
        "--set",
        "training.steps = 9",
        "--set",
        "quantization.granularity=group:8",
        "--set",
        "training.steps=1",
    ];
    assert_eq!(sandbox.slm_with(&format!("{line} --json"), &set, &[]).json()["steps"], 1);
    for (content, parts) in [
        ("{\"training\": {\"steps\": 3}}", &["bad.toml", "it is JSON", "[training]"][..]),
        ("training:\n  steps: 3\n", &["bad.toml", "it is YAML", "[training]"]),
        ("steps = = 3\n", &["bad.toml", "line 1"]),
        ("[training]\nsteps = 3\nsteps = 4\n", &["bad.toml", "line 3", "duplicate key"]),
        ("steps = 3\n", &["bad.toml", "did you mean `training.steps`?"]),
        ("[model]\nnum_hidden_layers = 2\n", &["bad.toml", "did you mean `num_layers`?"]),
        ("[model]\nnum_attention_heads = 2\n", &["bad.toml", "did you mean `num_heads`?"]),
        ("[training]\nsteps = \"3\"\n", &["training.steps", "bad.toml", "found string \"3\""]),
        ("[Training]\n", &["bad.toml", "did you mean `training`?"]),
    ] {
        sandbox.put("bad.toml", content);
        sandbox.refuses("train --config bad.toml --data text.txt --out other", 1, parts);
    }
    for (content, parts) in [
        ("quantization_bits = 4\n", &["did you mean `quantization.quantization_bits`?"][..]),
        ("[quantization]\nbits = 4\n", &["did you mean `quantization_bits`?"]),
        ("[quantization]\ngroup_size = 32\n", &["did you mean `granularity`?"]),
        ("[quantization]\ngranularity = 32\n", &["found integer `32`", "\"group:32\""]),
        ("[quantization]\nskip = \"lm_head\"\n", &["expected a list", "[\"lm_head\"]"]),
        ("[quantization]\nquantization_bits = 3\n", &["quantization_bits", "3"]),
    ] {
        sandbox.put("bad.toml", content);
        sandbox.refuses("ptq --checkpoint model --config bad.toml --no-eval --out other", 1, parts);
    }
}

/// Simulates an interrupted run: one whose checkpoint is not at its end.
fn unfinished() -> Sandbox {
    let sandbox = Sandbox::with_model();
    sandbox.put("run.toml", RUN);
    sandbox.put("train.toml", train_config(4));
    sandbox
}

#[cfg(unix)]
fn interrupt(sandbox: &Sandbox, line: &str, out: &str) {
    let mut child = sandbox
        .command(line)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !sandbox.path(out).join("training_state.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[cfg(unix)]
#[test]
fn an_unfinished_run_is_continued_and_not_lost() {
    let sandbox = unfinished();
    for line in [
        "train --config train.toml",
        "qat --checkpoint model --config run.toml --type weight-only",
        "finetune --checkpoint model --config run.toml",
    ] {
        let name = line.split(' ').next().unwrap();
        let line = format!("{line} --data text.txt --out {name} --set training.save_interval=1");
        interrupt(&sandbox, &format!("{line} --steps 100000"), name);
        let inspect = sandbox.slm(&format!("inspect {name}")).success();
        assert!(
            inspect.stdout.contains("unfinished training run: step ") && inspect.stdout.contains("of 100000"),
            "{inspect}"
        );
        assert!(sandbox.slm(&format!("inspect {name} --json")).json()["unfinished"]["step"].is_u64());
        // The same command again.
        let parts = [name, "unfinished run", "of 100000", "--resume", "--overwrite"];
        sandbox.refuses(&format!("{line} --steps 100000"), 1, &parts);
        // A different value that matters.
        let changed = format!("{line} --steps 100000 --resume --set training.learning_rate=5e-4");
        sandbox.refuses(&changed, 1, &["training.learning_rate was 0.001, is now 0.0005"]);
        // A different number of steps.
        let step = sandbox.read_json(&format!("{name}/training_state.json"))["step"].as_u64().unwrap();
        let outcome =
            sandbox.slm(&format!("{line} --steps {} --resume --set training.eval_interval=0", step + 2));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.stderr.contains("training.steps was 100000"), "{outcome}");
        assert!(!sandbox.slm(&format!("inspect {name}")).success().stdout.contains("unfinished"));
    }
    let quantized = "qat --checkpoint model --config run.toml --type weight-only --data text.txt --out qat \
                     --set training.save_interval=1 --steps 100000 --resume";
    sandbox.refuses(quantized, 1, &["qat", "finished", "slm finetune"]);
}

#[test]
fn the_config_of_qat_is_one_of_finetune() {
    let sandbox = unfinished();
    // The head of the model is tied, but untied in a quantized checkpoint.
    let model = "[model]\nvocab_size = 300\nhidden_size = 16\nintermediate_size = 32\nnum_layers = 1\nnum_heads = 2\n\
                 max_position_embeddings = 64\ntie_word_embeddings = true\n";
    let config = |bits: &str| {
        format!(
            "{model}[training]\nsteps = 4\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\n{bits}"
        )
    };
    sandbox.put("tied.toml", config("[quantization]\nquantization_mode = \"qat\"\nquantization_bits = 4\n"));
    sandbox.slm("qat --config tied.toml --data text.txt --out int4 --window 32").success();
    let line = "finetune --checkpoint int4 --config tied.toml --data text.txt --window 32 --out tuned --json";
    assert!(sandbox.slm(line).json()["perplexity"].is_f64());
    sandbox.put("other.toml", config("").replace("num_heads = 2", "num_heads = 4"));
    let other = "finetune --checkpoint int4 --config other.toml --data text.txt --window 32 --out more";
    let parts = ["`model` in other.toml", "num_heads (2 there, 4 here)", "remove [model]"];
    sandbox.refuses(other, 1, &parts);
}
