//! Kills the program at random times and checks that nothing is lost.
//!
//! `SLM_KILLS` sets how often each command is killed. The default is 6, for a quick test.
//!
//! ```text
//! SLM_KILLS=200 cargo test --release -p slm-tests --test killed -- --nocapture
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use slm_tests::{Files, Random, Sandbox, quantized, text, train_config};

fn kills() -> usize {
    std::env::var("SLM_KILLS").map_or(6, |count| count.parse().expect("SLM_KILLS: a number"))
}

/// A random duration up to `most`.
fn up_to(most: Duration, random: &mut Random) -> Duration {
    most.mul_f64((random.bits() >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Runs `line`, kills it after `delay`, and returns whether it was still running.
fn kill_after(sandbox: &Sandbox, line: &str, delay: Duration) -> bool {
    let mut child = sandbox.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

fn timed(sandbox: &Sandbox, line: &str) -> Duration {
    let start = Instant::now();
    sandbox.slm(line).success();
    start.elapsed()
}

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn ptq_leaves_the_old_or_the_new() {
    let sandbox = Sandbox::with_model();
    let line = |bits| {
        format!(
            "ptq --checkpoint model --calibration text.txt --calibration-tokens 64 --eval-tokens 64 \
             --window 32 --bits {bits} --out out --overwrite"
        )
    };
    let time = timed(&sandbox, &line(4));
    let int4 = files(&sandbox.path("out"));
    sandbox.slm(&line(8)).success();
    let int8 = files(&sandbox.path("out"));
    let (mut random, mut killed, mut new) = (Random(1), 0, 0);
    for round in 0..kills() {
        // The existing output is of the other kind than the new one.
        let (bits, old, made) = if round % 2 == 0 { (4, &int8, &int4) } else { (8, &int4, &int8) };
        killed += usize::from(kill_after(&sandbox, &line(bits), up_to(time, &mut random)));
        sandbox.slm("inspect out").success();
        let found = files(&sandbox.path("out"));
        assert!(found == *old || found == *made, "round {round}: a mixture");
        new += usize::from(found == *made);
        sandbox.slm(&line(bits)).success();
        assert!(files(&sandbox.path("out")) == *made, "round {round}");
        assert_eq!(names(&sandbox.path("")), ["model", "out", "text.txt"], "round {round}");
    }
    println!("ptq: {killed} of {} killed while running ({time:.0?} a run), {new} found the new one", kills());
    assert!(killed > 0);
}

/// Ctrl-C at a random time: the program reports it, and neither this run nor the next one has anything to clean up.
#[cfg(unix)]
#[test]
fn an_interrupted_ptq_leaves_the_old_or_the_new_and_nothing_else() {
    let sandbox = Sandbox::with_model();
    let line = |bits, out| {
        format!(
            "ptq --checkpoint model --calibration text.txt --calibration-tokens 256 --window 16 \
             --bits {bits} --out {out} --overwrite"
        )
    };
    let time = timed(&sandbox, &line(4, "int4"));
    timed(&sandbox, &line(8, "out"));
    let (old, made) = (files(&sandbox.path("out")), files(&sandbox.path("int4")));
    fs::remove_dir_all(sandbox.path("int4")).unwrap();
    let (mut random, mut interrupted, mut new) = (Random(4), 0, 0);
    for round in 0..kills() {
        // In every second round, there is no output yet.
        let out = if round % 2 == 0 { "out" } else { "first" };
        let mut command = sandbox.command(&line(4, out));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(up_to(time, &mut random));
        // Before it handles the signal, the signal ends it. Its id cannot be reused before `wait`.
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => assert_eq!(stderr, "", "round {round}"),
            Some(130) => {
                assert!(stderr.starts_with("error: interrupted"), "round {round}: {stderr}");
                interrupted += 1;
            }
            code => assert_eq!((code, stderr.as_str()), (None, ""), "round {round}"),
        }
        let finished = output.status.success();
        let found = sandbox.path(out).exists().then(|| files(&sandbox.path(out)));
        // The output is in place before the perplexity is measured.
        let is_new = found.as_ref() == Some(&made);
        assert!(is_new || !finished && found.as_ref() == (out == "out").then_some(&old), "round {round}");
        new += usize::from(is_new);
        sandbox.put_dir("out", &old);
        let _if_it_is_there = fs::remove_dir_all(sandbox.path("first"));
        assert_eq!(names(&sandbox.path("")), ["model", "out", "text.txt"], "round {round}");
    }
    println!("ptq: {interrupted} of {} interrupted ({time:.0?} a run), {new} found the new one", kills());
    assert!(interrupted > 0);
}

/// Kills the training command `line` at random times. Each time its directory `run` must contain a verified checkpoint,
/// unless there is none yet. Resuming must lead to the same model as an uninterrupted run.
fn goes_on_from_its_last_checkpoint(sandbox: &Sandbox, line: &str, steps: usize, seed: u64) {
    // The first run may be slow for other reasons, so it does not determine when to kill the others.
    let first = timed(sandbox, line);
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    let time = first.min(timed(sandbox, line));
    let whole = sandbox.read("run/model.safetensors");
    let after = names(&sandbox.path(""));
    let (mut random, mut killed, mut resumed) = (Random(seed), 0, 0);
    for round in 0..kills() {
        fs::remove_dir_all(sandbox.path("run")).unwrap();
        killed += usize::from(kill_after(sandbox, line, up_to(time, &mut random)));
        let mut finished = false;
        if sandbox.path("run").exists() {
            sandbox.slm("inspect run").success();
            finished = sandbox.read_json("run/config.json")["training"]["step"] == steps;
            sandbox.slm(&format!("{line} --resume")).success();
            resumed += 1;
        } else {
            sandbox.slm(line).success();
        }
        assert!(sandbox.read("run/model.safetensors") == whole, "round {round}: another model");
        // A run that was killed after its last checkpoint writes nothing more, so nothing has cleaned up.
        if !finished {
            assert_eq!(names(&sandbox.path("")), after, "round {round}");
        }
    }
    let command = line.split(' ').next().unwrap();
    println!("{command}: {killed} of {} killed while running ({time:.0?} a run), {resumed} resumed", kills());
    assert!(killed > 0);
}

/// GPTQ is killed repeatedly and resumes from its last layer each time.
#[test]
fn gptq_goes_on_from_its_last_layer() {
    let sandbox = Sandbox::with_model();
    let line = "ptq --checkpoint model --calibration text.txt --calibration-tokens 2048 --window 32 --no-eval \
                --type weight-only --bits 4 --granularity group:8 --method gptq";
    let time = timed(&sandbox, &format!("{line} --out whole"));
    let whole = fs::read(sandbox.path("whole/model.safetensors")).unwrap();
    let (mut random, mut killed, mut kept) = (Random(9), 0, 0);
    for round in 0..kills() {
        let mut resume = "";
        while !sandbox.path("out").exists() {
            killed += usize::from(kill_after(
                &sandbox,
                &format!("{line} --out out/ {resume}"),
                time.mul_f64(0.2) + up_to(time, &mut random),
            ));
            let unfinished = sandbox.path("out.unfinished");
            let layers = if unfinished.exists() { names(&unfinished) } else { Vec::new() };
            kept += layers.iter().filter(|name| name.ends_with(".safetensors")).count();
            resume = if unfinished.exists() { "--resume" } else { "" };
        }
        let made = fs::read(sandbox.path("out/model.safetensors")).unwrap();
        assert!(made == whole, "round {round}");
        // A run that was killed between the two steps has left files that are no longer needed.
        sandbox.slm(&format!("{line} --out out --overwrite")).success();
        assert_eq!(names(&sandbox.path("")), ["model", "out", "text.txt", "whole"], "round {round}");
        fs::remove_dir_all(sandbox.path("out")).unwrap();
    }
    println!("gptq: killed {killed} times ({time:.0?} a run), {kept} layers kept");
    assert!(killed > 0);
}

/// Ctrl-C after the first layers: every form of output says that they are kept and how to continue.
#[cfg(unix)]
#[test]
fn an_interrupted_gptq_says_what_it_keeps() {
    for option in ["", "--quiet", "--json"] {
        let sandbox = Sandbox::with_model();
        let line = "ptq --checkpoint model --calibration text.txt --window 32 --no-eval --type weight-only --bits 4 \
                    --granularity group:8 --method tune --tune-steps 200 --out out";
        let mut command = sandbox.command(&format!("{line} {option}"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let kept = sandbox.path("out.unfinished");
        let is_layer = |name: &String| name.ends_with(".safetensors") && !name.starts_with('.');
        while !kept.exists() || !names(&kept).iter().any(is_layer) {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(130), "{option}: {stdout}{stderr}");
        let said = "layers are kept in out.unfinished: the same command with --resume continues";
        assert!(stderr.starts_with("error: interrupted") && stderr.contains(said), "{option}: {stderr}");
        if option == "--json" {
            let error = &serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["error"];
            assert_eq!((&error["kind"], &error["exit_code"]), (&"interrupted".into(), &130.into()));
            assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        }
    }
}

#[test]
fn training_goes_on_from_its_last_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.put("run.toml", train_config(20));
    sandbox.put("text.txt", text());
    goes_on_from_its_last_checkpoint(&sandbox, "train --config run.toml --data text.txt --out run", 20, 2);
}

/// Steps that each write a checkpoint, for any kind of training.
const STEPS: &str = "
[training]
steps = 8
batch_size = 1
sequence_length = 16
save_interval = 1
validation_windows = 1
weight_decay = 0.0
";

#[test]
fn quantization_aware_training_goes_on_from_its_last_checkpoint() {
    let sandbox = Sandbox::with_model();
    sandbox.put("run.toml", STEPS);
    let line = "qat --config run.toml --checkpoint model --data text.txt --bits 4 --granularity group:32 \
                --window 32 --eval-tokens 64 --out run";
    goes_on_from_its_last_checkpoint(&sandbox, line, 8, 5);
}

#[test]
fn finetuning_goes_on_from_its_last_checkpoint() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox.put("run.toml", STEPS);
    // Rounding remainders are an additional file that must belong to the same step as the others.
    let line = "finetune --config run.toml --checkpoint int8 --data text.txt --window 32 \
                --eval-tokens 64 --rounding error-feedback --out run";
    goes_on_from_its_last_checkpoint(&sandbox, line, 8, 6);
}

#[test]
fn migration_leaves_the_old_or_the_new_and_a_backup() {
    let sandbox = Sandbox::new();
    let fixture: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/slm-checkpoint/fixtures/v1/int8-static");
    let old = files(&fixture);
    sandbox.put_dir("model", &old);
    let time = timed(&sandbox, "migrate model");
    let new = files(&sandbox.path("model"));
    let (mut random, mut killed, mut migrated) = (Random(3), 0, 0);
    for round in 0..kills() {
        for dir in ["model", "model.v1-backup"] {
            fs::remove_dir_all(sandbox.path(dir)).unwrap();
        }
        sandbox.put_dir("model", &old);
        killed += usize::from(kill_after(&sandbox, "migrate model", up_to(time, &mut random)));
        sandbox.slm("inspect model").success();
        let found = files(&sandbox.path("model"));
        assert!(found == old || found == new, "round {round}: a mixture");
        migrated += usize::from(found == new);
        if sandbox.path("model.v1-backup").exists() {
            assert!(files(&sandbox.path("model.v1-backup")) == old, "round {round}: the backup");
        } else {
            assert!(found == old, "round {round}: migrated without a backup");
        }
        sandbox.slm("migrate model").success();
        assert!(files(&sandbox.path("model")) == new, "round {round}");
        let left: Vec<String> =
            names(&sandbox.path("")).into_iter().filter(|name| name.starts_with('.')).collect();
        // If nothing was left to do, no run has taken the lock and cleaned up.
        assert!(left.is_empty() || found == new, "round {round}: {left:?}");
        for name in left {
            let path = sandbox.path(&name);
            let _file_or_directory = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
    println!(
        "migrate: {killed} of {} killed while running ({time:.0?} a run), {migrated} found the new one",
        kills()
    );
    assert!(killed > 0);
}
