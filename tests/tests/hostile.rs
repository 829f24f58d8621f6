//! Misbehaving systems: full disks, other processes, files that change or disappear.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use slm_tests::{Outcome, Sandbox, binary, quantized, text, train_config};

const PTQ: &str = "ptq --checkpoint model --calibration text.txt";

/// Runs a shell script in the sandbox, with the program as `$SLM`.
fn shell(sandbox: &Sandbox, script: &str) -> Outcome {
    let mut command = Command::new("sh");
    command.current_dir(sandbox.path("")).env("SLM", binary()).args(["-c", script]);
    Outcome::of(script, command.output().unwrap())
}

/// Runs a script that may mount file systems in its own namespace. Returns `None` if the system does not permit that.
fn shell_with_mounts(sandbox: &Sandbox, script: &str) -> Option<Outcome> {
    let allowed = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system lets nobody mount a file system of their own");
        return None;
    }
    let mut command = Command::new("unshare");
    command.current_dir(sandbox.path("")).env("SLM", binary()).args(["-rm", "sh", "-c", script]);
    Some(Outcome::of(script, command.output().unwrap()))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_output_that_somebody_writes_is_refused() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("out", quantized());
    // The lock of another process that writes there.
    let lock = File::create(sandbox.path(".out.lock")).unwrap();
    lock.lock().unwrap();
    (&lock).write_all(b"4711").unwrap();
    for line in [format!("{PTQ} --out out --overwrite"), "migrate model --out out --overwrite".to_owned()] {
        sandbox.refuses(&line, 1, &["out: process 4711 is writing to it", "choose another output"]);
    }
    drop(lock);
    // A killed process leaves a lock file without a lock.
    sandbox.slm(&format!("{PTQ} --out out --overwrite")).success();
    assert_eq!(names(&sandbox.path("")), ["model", "out", "text.txt"]);
}

#[test]
fn a_full_disk_loses_nothing() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("out", quantized());
    let before = names(&sandbox.path(""));
    // Files are limited to 8 blocks. The signal for exceeding the limit is ignored, so writes fail as on a full disk.
    let outcome =
        shell(&sandbox, &format!("trap '' XFSZ; ulimit -f 8; exec \"$SLM\" {PTQ} --out out --overwrite"));
    outcome.fails(1, &["model.safetensors", "File too large"]);
    assert_eq!(names(&sandbox.path("")), before);
    for (name, bytes) in quantized() {
        assert!(sandbox.read(&format!("out/{name}")) == *bytes, "{name}");
    }

    fs::create_dir(sandbox.path("disk")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=120k none disk && mkdir disk/mine && echo 1 > disk/mine/file && \
         \"$SLM\" {PTQ} --out disk/out; code=$?; ls -A disk disk/mine >&2; exit $code"
    );
    if let Some(outcome) = shell_with_mounts(&sandbox, &script) {
        let left = "disk:\nmine\n\ndisk/mine:\nfile\n";
        outcome
            .fails(1, &["disk/out/model.safetensors: ", "No space left on device", "free some space", left]);
    }
    let small = [
        ("export model --format gguf --out disk/new.gguf", "disk/new.gguf: "),
        ("export model --format onnx --out disk/new", "disk/new/model.onnx"),
        ("completions man --out disk/new/man1", "disk/new/man1/slm-"),
        ("corpus --stories 5000 --out disk/new.txt", "disk/new.txt: "),
    ];
    for (line, named) in small {
        let script = format!(
            "mount -t tmpfs -o size=60k none disk && \"$SLM\" {line}; code=$?; ls -A disk | sed 's/^/left: /' >&2; exit $code"
        );
        if let Some(outcome) = shell_with_mounts(&sandbox, &script) {
            outcome.fails(1, &[named, "No space left on device", "free some space"]);
            assert!(!outcome.stderr.contains("left: "), "{outcome}");
        }
    }
}

#[test]
fn a_read_only_file_system_is_named() {
    let sandbox = Sandbox::with_model();
    fs::create_dir(sandbox.path("disk")).unwrap();
    let script = format!(
        "mount -t tmpfs none disk && cp -r model disk/model && mount -o remount,ro disk && \
         \"$SLM\" eval --checkpoint disk/model --data text.txt > /dev/null && \"$SLM\" {PTQ} --out disk/out"
    );
    if let Some(outcome) = shell_with_mounts(&sandbox, &script) {
        outcome.fails(1, &["disk/out", "cannot be written", "Read-only file system"]);
    }
    for out in ["completions man --out disk/new/man1", "corpus --stories 1 --out disk/new.txt"] {
        let script = format!("mount -t tmpfs -o ro none disk && \"$SLM\" {out}");
        if let Some(outcome) = shell_with_mounts(&sandbox, &script) {
            outcome.fails(1, &["disk/new", "choose an output on a disk that may be written to"]);
        }
    }
}

#[test]
fn an_output_directory_that_goes_away_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.put("run.toml", train_config(100_000));
    sandbox.put("text.txt", text());
    let mut command = sandbox.command("train --config run.toml --data text.txt --out here/run");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !sandbox.path("here/run/manifest.json").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::rename(sandbox.path("here"), sandbox.path("gone")).unwrap();
    let output = child.wait_with_output().unwrap();
    let outcome = Outcome::of("train", output);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stderr.contains("here"), "{outcome}");
    // The last checkpoint is complete.
    sandbox.slm("inspect gone/run").success();
}

#[test]
fn a_source_that_changes_meanwhile_is_found() {
    let sandbox = Sandbox::with_model();
    // The program waits for the text after it has opened and verified the checkpoint.
    assert!(Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
    let mut command = sandbox.command("ptq --checkpoint model --calibration pipe --out out");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Opening the pipe waits until the program opens it.
    let mut pipe = fs::OpenOptions::new().write(true).open(sandbox.path("pipe")).unwrap();
    let weights =
        fs::OpenOptions::new().read(true).write(true).open(sandbox.path("model/model.safetensors")).unwrap();
    let mut byte = [0];
    let at = weights.metadata().unwrap().len() - 4;
    weights.read_exact_at(&mut byte, at).unwrap();
    weights.write_all_at(&[byte[0] ^ 1], at).unwrap();
    pipe.write_all(text().as_bytes()).unwrap();
    drop(pipe);
    let outcome = Outcome::of("ptq", child.wait_with_output().unwrap());
    outcome.fails(1, &["model/model.safetensors", "changed while it was read", "try again"]);
    assert_eq!(names(&sandbox.path("")), ["model", "pipe", "text.txt"]);
}

#[test]
fn verification_can_be_skipped() {
    let sandbox = Sandbox::with_model();
    let mut weights = sandbox.read("model/model.safetensors");
    let last = weights.len() - 4;
    weights[last] ^= 1;
    sandbox.put("model/model.safetensors", weights);
    sandbox.refuses("eval --checkpoint model --data text.txt", 1, &["model.safetensors", "restore it"]);
    sandbox.slm("eval --checkpoint model --data text.txt --no-verify").success();
}

#[test]
fn old_checkpoints_are_used_and_migrated() {
    let sandbox = Sandbox::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/slm-checkpoint/fixtures");
    for (fixture, step) in [
        ("v0/llama-burnpack", "version 0"),
        ("v1/int8-static", "version 1"),
        ("v2/int8-finetuned", "version 2"),
        ("v3/int8-static", "version 3"),
        ("v4/int8-static", "version 4"),
    ] {
        let copied =
            Command::new("cp").arg("-r").arg(fixtures.join(fixture)).arg(sandbox.path("old")).status();
        assert!(copied.unwrap().success());
        sandbox.slm("inspect old").success();
        let outcome = sandbox.slm("inspect old -v");
        assert!(outcome.stderr.contains(&format!("format {step} read as")), "{outcome}");
        let json = sandbox.slm("migrate old --json").json();
        assert_eq!(json["to"], 5);
        let backup = json["backup"].as_str().unwrap();
        assert!(Path::new(backup).is_dir());
        assert!(!sandbox.slm("inspect old -v").stderr.contains("read as"));
        let outcome = sandbox.slm("migrate old").success();
        assert!(outcome.stdout.contains("already in the current format"), "{outcome}");
        fs::remove_dir_all(sandbox.path("old")).unwrap();
    }
}

#[test]
fn a_checkpoint_of_a_later_release_is_left_as_it_is() {
    let sandbox = Sandbox::with_model();
    let mut config = sandbox.read_json("model/config.json");
    config["format_version"] = 1000.into();
    config["program_version"] = "4.5.6".into();
    sandbox.put("model/config.json", config.to_string());
    for line in ["migrate model", "migrate model --out new", "inspect model", &format!("{PTQ} --out new")] {
        sandbox.refuses(line, 1, &["model/config.json", "version 1000", "version 5", "slm 4.5.6 or later"]);
    }
}

#[test]
fn a_model_is_quantized_without_ever_being_in_memory() {
    let sandbox = Sandbox::with_model();
    for kind in ["dynamic", "weight-only"] {
        // Improvements that require a text are omitted.
        let options = format!("--type {kind} --smooth off --observer min-max");
        sandbox.slm(&format!("{PTQ} {options} --out {kind}")).success();
        let alone = format!("ptq --checkpoint model {options} --no-eval --out {kind}-alone --json");
        let json = sandbox.slm(&alone).json();
        assert_eq!(json["perplexity_float"], serde_json::Value::Null);
        assert_eq!(json["largest_tensor_bytes"], 320 * 64 * 4);
        for file in ["model.safetensors", "quantization_metadata.json", "config.json", "manifest.json"] {
            let (a, b) =
                (sandbox.read(&format!("{kind}/{file}")), sandbox.read(&format!("{kind}-alone/{file}")));
            assert!(a == b, "{file} differs");
        }
    }
    sandbox.refuses(
        "ptq --checkpoint model --no-eval --out new",
        2,
        &["--calibration", "--no-eval", "--type"],
    );
}
