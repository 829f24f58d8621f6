//! Configs and what is changed about them, when a run begins and when it is resumed.

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
        &["none.toml", "`quantization`"],
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
            &["learning_rate", "is 300", "above 0 and at most 1"],
        );
        sandbox.refuses(&format!("{line} --set steps"), 2, &["--set", "KEY=VALUE"]);
    }
}

/// A run that is interrupted, or rather: one that is left at a checkpoint before its end.
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
        // Another value that matters.
        let changed = format!("{line} --steps 100000 --resume --set training.learning_rate=5e-4");
        sandbox.refuses(&changed, 1, &["training.learning_rate was 0.001, is now 0.0005"]);
        // Another number of steps.
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
    // The head of the model is tied; quantized, it is not.
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
    sandbox.refuses(other, 1, &["`model` in other.toml", "there", "here", "remove [model]"]);
}
