//! The program is killed at random instants, and nothing is lost.
//!
//! `SLM_KILLS` says how often each command is killed: 6 times by default, for a quick test.
//!
//! ```text
//! SLM_KILLS=200 cargo test --release -p slm-tests --test killed -- --nocapture
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use slm_tests::{Files, Random, Sandbox, text, train_config};

fn kills() -> usize {
    std::env::var("SLM_KILLS").map_or(6, |count| count.parse().expect("SLM_KILLS: a number"))
}

/// A random duration up to `most`.
fn up_to(most: Duration, random: &mut Random) -> Duration {
    most.mul_f64((random.bits() >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Runs `line`, kills it after `delay`, and says whether it was still running then.
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
        // What is there is of the other kind than what is written.
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

#[test]
fn training_goes_on_from_its_last_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.put("run.toml", train_config(20));
    sandbox.put("text.txt", text());
    let line = "train --config run.toml --data text.txt --out run";
    let time = timed(&sandbox, line);
    let whole = sandbox.read("run/model.safetensors");
    let (mut random, mut killed, mut resumed) = (Random(2), 0, 0);
    for round in 0..kills() {
        fs::remove_dir_all(sandbox.path("run")).unwrap();
        killed += usize::from(kill_after(&sandbox, line, up_to(time, &mut random)));
        let mut finished = false;
        if sandbox.path("run").exists() {
            sandbox.slm("inspect run").success();
            finished = sandbox.read_json("run/config.json")["training"]["step"] == 20;
            sandbox.slm(&format!("{line} --resume")).success();
            resumed += 1;
        } else {
            sandbox.slm(line).success();
        }
        assert!(sandbox.read("run/model.safetensors") == whole, "round {round}: another model");
        // A run that was killed after its last checkpoint writes no more, and so nobody has tidied up.
        if !finished {
            assert_eq!(names(&sandbox.path("")), ["run", "run.toml", "text.txt"], "round {round}");
        }
    }
    println!("train: {killed} of {} killed while running ({time:.0?} a run), {resumed} resumed", kills());
    assert!(killed > 0);
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
        // Where nothing was left to do, nobody has taken the lock and tidied up.
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
