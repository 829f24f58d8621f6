//! The same command and seed give the same bytes: with one thread and with two, twice each.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use slm_tests::{Outcome, Sandbox, binary};

const TRAIN: &str = "
[model]
vocab_size = 300
hidden_size = 32
intermediate_size = 48
num_layers = 2
num_heads = 2
max_position_embeddings = 64

[training]
steps = 6
batch_size = 4
sequence_length = 48
save_interval = 4
seed = 3
";

/// Runs the program with `threads` threads. A single thread also gets a single processor, if the system supports that.
fn run(sandbox: &Sandbox, line: &str, threads: usize) {
    let bound =
        threads == 1 && Command::new("taskset").args(["-c", "0", "true"]).status().is_ok_and(|s| s.success());
    let mut command = if bound {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(binary());
        command
    } else {
        Command::new(binary())
    };
    command.current_dir(sandbox.path("")).args(line.split_whitespace());
    command.env("RAYON_NUM_THREADS", threads.to_string());
    Outcome::of(line, command.output().unwrap()).success();
}

fn files(sandbox: &Sandbox, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(sandbox.path(dir)).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn every_checkpoint_is_the_same_byte_for_byte() {
    let sandbox = Sandbox::with_model();
    sandbox.put("run.toml", TRAIN);
    let ptq = "ptq --checkpoint model --calibration text.txt --calibration-tokens 512 --eval-tokens 64";
    let commands = [
        "train --config run.toml --data text.txt --overwrite".to_owned(),
        format!("{ptq} --overwrite"),
        format!("{ptq} --bits 4 --granularity group:16 --mapping affine --observer histogram --overwrite"),
        format!("{ptq} --type dynamic --granularity channel --no-eval --overwrite"),
        "ptq --checkpoint model --sample-calibration --calibration-tokens 512 --no-eval --overwrite"
            .to_owned(),
        "ptq --checkpoint model --type weight-only --rotate on --no-eval --overwrite".to_owned(),
        "migrate model --overwrite".to_owned(),
    ];
    for command in commands {
        let mut first = None;
        for threads in [1, 2, 1, 2] {
            run(&sandbox, &format!("{command} --out out"), threads);
            let found = files(&sandbox, "out");
            let expected = first.get_or_insert_with(|| found.clone());
            for (name, bytes) in &found {
                assert!(
                    expected.get(name) == Some(bytes),
                    "{command}: {name} differs with {threads} threads"
                );
            }
            assert_eq!(found.len(), expected.len(), "{command}");
        }
    }
}

#[test]
fn sampled_sequences_are_the_same_with_one_thread_and_two() {
    let sandbox = Sandbox::with_model();
    let sample = "sample --checkpoint model --sequences 11 --length 24 --batch-size 3 --seed 5 --out";
    for (name, threads) in [("one.json", 1), ("two.json", 2), ("again.json", 2)] {
        run(&sandbox, &format!("{sample} {name}"), threads);
        assert!(sandbox.read("one.json") == sandbox.read(name), "{name}");
    }
    // The batch size does not matter either.
    for size in [1, 2, 7, 11] {
        let name = format!("batch{size}.json");
        run(&sandbox, &format!("{} {name}", sample.replace("size 3", &format!("size {size}"))), 2);
        assert!(sandbox.read("one.json") == sandbox.read(&name), "{name}");
    }
    let sequences = sandbox.read_json("one.json")["ids"].as_array().unwrap().clone();
    assert_eq!(sequences.len(), 11);
    assert!(sequences.windows(2).all(|pair| pair[0] != pair[1]), "two sequences are the same");
}
