//! `slm ptq` without a model: it uses the one in the checkout where it runs.

use slm_tests::{Sandbox, checkpoint, text};

/// A minimal checkout that the program recognizes, with the small model of these tests.
fn checkout() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.put_dir("models/stories", checkpoint());
    sandbox.put_dir("data", &Default::default());
    let (calibration, held_out) = text().split_at(text().len() / 2);
    sandbox.put("data/calibration.txt", calibration);
    sandbox.put("data/held-out.txt", held_out);
    sandbox
}

#[test]
fn ptq_alone_quantizes_the_model_that_ships_again_and_again() {
    let sandbox = checkout();
    let first = sandbox.slm("ptq").success();
    for part in [
        "layers.1.mlp.down_proj",
        "SQNR dB",
        "clipped",
        "zero point",
        "kernel",
        "linear layers",
        "whole model",
    ] {
        assert!(first.stdout.contains(part), "{part} is not in\n{first}");
    }
    let perplexity = |line: &str| {
        let json = sandbox.slm(&format!("{line} --json")).json();
        (json["perplexity_quantized"].as_f64(), json["perplexity"].as_f64())
    };
    let held_out = "eval --checkpoint out/ptq-int8-static-tensor --data data/held-out.txt";
    let weights = sandbox.read("out/ptq-int8-static-tensor/model.safetensors");
    assert_eq!(perplexity("ptq").0, perplexity(held_out).1);
    assert!(weights == sandbox.read("out/ptq-int8-static-tensor/model.safetensors"));

    let int4 = sandbox.slm("ptq --bits 4 --json").json();
    assert_eq!((&int4["bits"], &int4["source"]), (&4.into(), &"models/stories".into()));
    assert!(sandbox.path("out/ptq-int4-static-tensor/model.safetensors").is_file());
    // A text other than the shipped one, part of which is held out.
    let other = sandbox.slm("ptq --calibration data/held-out.txt --out other --json").json();
    assert_ne!(other["evaluated_tokens"], int4["evaluated_tokens"]);
}

#[test]
fn the_checkout_is_found_from_within_and_as_cargo_names_it() {
    let sandbox = checkout();
    sandbox.put_dir("data/deep", &Default::default());
    let mut command = sandbox.command("ptq --quiet");
    let output = command.current_dir(sandbox.path("data/deep")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(sandbox.path("data/deep/out/ptq-int8-static-tensor/config.json").is_file());

    let elsewhere = Sandbox::new();
    let package = sandbox.path("crates/slm-cli");
    let variable = [("CARGO_MANIFEST_DIR", package.to_str().unwrap())];
    elsewhere.slm_with("ptq", &[], &variable).success();
    assert!(elsewhere.path("out/ptq-int8-static-tensor/config.json").is_file());
}

#[test]
fn outside_of_a_checkout_it_says_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.refuses("ptq", 2, &["models/stories", "checkout", "--checkpoint", "--calibration"]);
}
