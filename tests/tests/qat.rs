//! Quantization-aware training, sampling and fine-tuning with the whole program.

use std::fs;

use slm_tests::{Sandbox, checkpoint, quantized, text};

const CONFIG: &str = r#"
[training]
steps = 24
batch_size = 2
sequence_length = 32
learning_rate = 2e-3
warmup_steps = 3
weight_decay = 0.0
eval_interval = 1
validation_fraction = 0.2
validation_windows = 4
save_interval = 10
seed = 1
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.put("run.toml", CONFIG);
    sandbox.put("text.txt", text());
    sandbox.put_dir("float", checkpoint());
    sandbox
}

const QAT: &str = "qat --config run.toml --checkpoint float --bits 4 --granularity group:32 --window 32";

#[test]
fn qat_on_sampled_text_recovers_what_rounding_lost() {
    let sandbox = sandbox();
    let sample = "sample --checkpoint float --sequences 24 --length 48 --seed 3 --out";
    sandbox.slm(&format!("{sample} ids.json --batch-size 5")).success();
    sandbox.slm(&format!("{sample} again.json --batch-size 24")).success();
    assert!(sandbox.read("ids.json") == sandbox.read("again.json"), "batches change what is drawn");
    let json = sandbox
        .slm(&format!(
            "{QAT} --type weight-only --data ids.json --distill --learned-scales --out int4 --json"
        ))
        .json();
    let perplexity = |name: &str| json[name].as_f64().unwrap();
    let (float, ptq) = (perplexity("perplexity_float"), perplexity("perplexity_ptq"));
    let qat = perplexity("perplexity");
    assert!(float < ptq && qat < ptq, "{json}");
    assert!(json["recovered"].as_f64().unwrap() > 0.0, "{json}");
    let inspected = sandbox.slm("inspect int4 --json").json();
    assert_eq!(inspected["quantization"]["mode"], "qat", "{inspected}");
    assert!(fs::read_to_string(sandbox.path("int4/loss.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn qat_goes_on_from_what_gptq_quantized() {
    let sandbox = sandbox();
    sandbox.slm("sample --checkpoint float --sequences 24 --length 48 --seed 3 --out ids.json").success();
    let ptq =
        "ptq --checkpoint float --calibration text.txt --bits 4 --granularity group:32 --type weight-only";
    sandbox.slm(&format!("{ptq} --window 32 --method gptq --no-eval --out gptq")).success();
    let from = "qat --config run.toml --checkpoint gptq --data ids.json --window 32 --learned-scales";
    let json = sandbox.slm(&format!("{from} --teacher float --distill --out trained --json")).json();
    let perplexity = |name: &str| json[name].as_f64().unwrap();
    assert_eq!(json["scheme"], "int4 group:32 symmetric", "the checkpoint's, and not the config's");
    assert_eq!(json["quantization_type"], "weight-only");
    assert!(perplexity("perplexity_float") < perplexity("perplexity_ptq"), "{json}");
    assert!(perplexity("perplexity") < perplexity("perplexity_ptq"), "{json}");

    let alone = sandbox.slm(&format!("{from} --set training.steps=4 --out alone --json")).json();
    assert!(alone["perplexity_float"].is_null() && alone["recovered"].is_null(), "{alone}");
    assert_eq!(alone["perplexity_ptq"], json["perplexity_ptq"]);
    let fails = |options: &str, code: i32, parts: &[&str]| {
        sandbox.slm(&format!("{options} --out no")).fails(code, parts);
    };
    fails(&format!("{from} --distill"), 1, &["--teacher"]);
    fails(&format!("{from} --bits 8"), 2, &["--bits", "int4 group:32"]);
    fails(&from.replace(" --learned-scales", ""), 1, &["--learned-scales"]);
    fails(&format!("{from} --teacher gptq --distill"), 1, &["quantized"]);
    assert!(!sandbox.path("no").exists());
}

/// A run that is interrupted by Ctrl-C and resumed with `--resume` gives the same bytes as an uninterrupted run.
#[cfg(unix)]
#[test]
fn an_interrupted_qat_run_goes_on_as_if_it_had_not_stopped() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let sandbox = sandbox();
    let qat = format!("{QAT} --type static --data text.txt");
    sandbox.slm(&format!("{qat} --out whole")).success();
    let mut child = sandbox
        .command(&format!("{qat} --out parts"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("step ")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let resumed = sandbox.slm(&format!("{qat} --out parts --resume --json")).json();
    assert_eq!(resumed["finished"], true);
    for file in ["model.safetensors", "quantization_metadata.json", "config.json"] {
        let (whole, parts) = (sandbox.read(&format!("whole/{file}")), sandbox.read(&format!("parts/{file}")));
        assert!(whole == parts, "{file} differs");
    }
}

#[test]
fn a_quantized_checkpoint_is_tuned_and_stays_quantized() {
    let sandbox = sandbox();
    sandbox.put_dir("int8", quantized());
    let json = sandbox
        .slm("finetune --checkpoint int8 --config run.toml --data text.txt --window 32 --out tuned --json")
        .json();
    let (before, after) = (&json["perplexity_before"], &json["perplexity"]);
    assert!(after.as_f64().unwrap() < before.as_f64().unwrap(), "{json}");
    assert_eq!(json["rounding"], "stochastic");
    let memory = &json["bytes_per_weight"];
    assert!(memory["total"].as_f64().unwrap() < memory["float_total"].as_f64().unwrap(), "{json}");
    assert_eq!(sandbox.slm("inspect tuned --json").json()["quantization"]["mode"], "finetuned");
    let float = "finetune --checkpoint float --config run.toml --data text.txt --window 32 --out more --json";
    assert!(sandbox.slm(float).json()["rounding"].is_null());
}

/// The same run on a GPU gives nearly the same model.
#[cfg(feature = "wgpu")]
#[test]
fn a_quantized_checkpoint_is_tuned_on_a_gpu() {
    let sandbox = sandbox();
    sandbox.put_dir("int8", quantized());
    // A software GPU is slow.
    sandbox.put("short.toml", CONFIG.replace("steps = 24", "steps = 8").replace("eval_interval = 1", ""));
    let run = |device: &str| {
        let line =
            "finetune --checkpoint int8 --config short.toml --data text.txt --window 32 --eval-tokens 256";
        let json = sandbox.slm(&format!("{line} --device {device} --out {device} --json")).json();
        assert_eq!((&json["device"], &json["finished"]), (&device.into(), &true.into()), "{json}");
        assert_eq!(
            sandbox.slm(&format!("inspect {device} --json")).json()["quantization"]["mode"],
            "finetuned"
        );
        ["nll_before", "nll"].map(|key| json[key].as_f64().unwrap())
    };
    let (flex, wgpu) = (run("flex"), run("wgpu"));
    assert!(flex[1] < flex[0] - 0.2, "{flex:?}");
    // Activations are rounded, so a different order of float sums changes some of them by a code.
    for (flex, wgpu) in flex.iter().zip(wgpu) {
        assert!((wgpu - flex).abs() < 0.02, "{flex} {wgpu}");
    }
}

#[test]
fn what_cannot_work_is_refused_at_once() {
    let sandbox = sandbox();
    sandbox.put_dir("int8", quantized());
    sandbox.put("bad.json", "{\"ids\": [[1, 99999]]}");
    sandbox.put("text.toml", format!("{CONFIG}\n[qat]\nfreeze_steps = 30\n"));
    let cases: [(&str, i32, &[&str]); 8] = [
        (
            "qat --config run.toml --checkpoint int8 --data text.txt --out new",
            1,
            &["scale", "--learned-scales"],
        ),
        ("qat --config run.toml --data text.txt --out new", 1, &["run.toml", "model"]),
        (
            "qat --config text.toml --checkpoint float --data text.txt --out new",
            1,
            &["qat.freeze_steps", "use fewer"],
        ),
        ("qat --config run.toml --checkpoint float --data bad.json --out new", 1, &["bad.json", "99999"]),
        (
            "qat --config run.toml --checkpoint float --data text.txt --skip * --out new",
            1,
            &["no layer to quantize"],
        ),
        ("qat --config run.toml --checkpoint float --data text.txt --bits 3 --out new", 2, &["--bits"]),
        (
            "finetune --checkpoint float --data text.txt --rounding nearest --out new",
            2,
            &["--rounding", "float"],
        ),
        ("sample --checkpoint float --sequences 1 --length 9999 --out new.json", 2, &["--length 9999"]),
    ];
    for (line, code, parts) in cases {
        sandbox.refuses(line, code, parts);
    }
    assert!(!sandbox.path("new").exists());
}
