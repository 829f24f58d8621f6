//! Ctrl-C during exports, imports and migrations: they stop, say so and leave nothing.
#![cfg(unix)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use slm_tests::{HuggingFace, Sandbox, model};

/// A model with such wide MLPs that its conversion takes a moment.
fn large() -> HuggingFace {
    const WIDTH: usize = 40_000;
    let mut model = model();
    model.config["intermediate_size"] = WIDTH.into();
    for (name, (shape, values)) in &mut model.tensors {
        let hidden = match name.split('.').nth_back(1) {
            Some("gate_proj" | "up_proj") => std::mem::replace(&mut shape[0], WIDTH),
            Some("down_proj") => std::mem::replace(&mut shape[1], WIDTH),
            _ => continue,
        };
        assert_ne!(hidden, WIDTH);
        *values = (0..shape.iter().product()).map(|index| (index % 13) as f32 / 64.0).collect();
    }
    model
}

fn names(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path("")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs `line`, which writes `out`, and presses Ctrl-C once it writes. A run that ends before that is repeated.
fn interrupt(sandbox: &Sandbox, line: &str, out: &str) {
    let before = names(sandbox);
    let old = fs::read(sandbox.path(out)).ok();
    for _ in 0..50 {
        let mut command = sandbox.command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Before it writes, it may not handle signals yet.
        while names(sandbox) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its id cannot be reused before `wait`.
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        if output.status.success() {
            let path = sandbox.path(out);
            match (&old, path.is_dir()) {
                (Some(old), _) => fs::write(path, old).unwrap(),
                (None, true) => fs::remove_dir_all(path).unwrap(),
                (None, false) => fs::remove_file(path).unwrap(),
            }
            continue;
        }
        let said = format!("error: interrupted; nothing was written to {out}\n");
        assert_eq!((output.status.code(), stdout, stderr), (Some(130), String::new(), said), "{line}");
        assert_eq!(names(sandbox), before, "{line}");
        assert!(fs::read(sandbox.path(out)).ok() == old, "{line}: {out} was changed");
        return;
    }
    panic!("{line}: every run ended before Ctrl-C");
}

#[test]
fn an_interrupted_export_or_import_writes_nothing() {
    let sandbox = Sandbox::new();
    large().write(sandbox.path("hf"));
    sandbox.slm("import hf --out model").success();
    sandbox
        .slm("ptq --checkpoint model --no-eval --type weight-only --bits 4 --granularity group:32 --out int4")
        .success();
    sandbox.slm("export model --format gguf --out model.gguf").success();
    for line in [
        "import hf",
        "import model.gguf",
        "migrate int4",
        "export model --format gguf",
        "export int4 --format gguf",
        "export model --format hf",
        "export int4 --format compressed-tensors",
        "export int4 --format mlx",
        "export int4 --format onnx",
        "export int4 --format onnx --profile ort-genai",
    ] {
        interrupt(&sandbox, &format!("{line} --out out"), "out");
    }
    interrupt(&sandbox, "export int4 --format gguf --out model.gguf --overwrite", "model.gguf");
}
