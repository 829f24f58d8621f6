//! Runs every example.
#![allow(clippy::duplicate_mod, reason = "each example is a program and has its own network")]

#[path = "../examples/finetune.rs"]
mod finetune;
#[path = "../examples/generate.rs"]
mod generate;
#[path = "../examples/language_model.rs"]
mod language_model;
#[path = "../examples/mlp.rs"]
mod mlp;
#[path = "../examples/numbers.rs"]
mod numbers;
#[path = "../examples/qat.rs"]
mod qat;
#[path = "../examples/vision.rs"]
mod vision;

use std::fs;
use std::path::Path;

#[test]
fn a_perceptron_is_quantized() {
    mlp::main().unwrap();
}

#[test]
fn a_network_is_quantized_saved_and_loaded() {
    vision::main().unwrap();
}

#[test]
fn a_network_is_trained_to_be_quantized() {
    qat::main().unwrap();
}

#[test]
fn a_quantized_network_is_trained() {
    finetune::main().unwrap();
}

#[test]
fn a_checkpoint_writes_text() {
    generate::main().unwrap();
}

#[test]
fn a_language_model_is_quantized_measured_and_writes_text() {
    language_model::main().unwrap();
}

#[test]
fn the_program_in_the_documentation_is_an_example() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/library.md");
    let program = include_str!("../examples/language_model.rs");
    let block = format!("```rust\n{program}```\n");
    assert!(
        fs::read_to_string(page).unwrap().contains(&block),
        "copy examples/language_model.rs to docs/library.md"
    );
}

#[test]
fn numbers_need_no_module() {
    numbers::main().unwrap();
}

#[test]
fn every_example_is_short_and_run_here() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let this = include_str!("examples.rs");
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let Some("rs") = path.extension().and_then(|extension| extension.to_str()) else { continue };
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 60, "{} has {lines} lines", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(this.contains(&format!("{name}::main()")), "{name} is not run");
    }
}
