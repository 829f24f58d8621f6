//! Every case of the golden vectors: inputs and outputs of PyTorch's and torchao's quantization code.
//!
//! They lie outside the repository, in the folder that the environment variable `SLM_SHARED` names, else in
//! `shared` beside the repository; without them each test says so and returns. Every required case must
//! pass its `tolerance`, every expected output must be compared, and an operation that is not known here
//! fails. How many checks hold bit for bit is printed, and the `strict` rules must all hold.

mod fake_quant;
mod harness;
mod linear;
mod metrics;
mod qat;
mod qparams;
mod quantize;

use harness::{Case, Golden};

/// Runs all cases of a kind and checks their number.
fn run(kind: &str, required: usize, case: impl Fn(&mut Case)) {
    let Some(golden) = Golden::load() else { return };
    let summary = golden.run(kind, case);
    println!("{summary}");
    assert!(
        summary.failures.is_empty(),
        "{kind}: {} failures, first: {}",
        summary.failures.len(),
        summary.failures[0]
    );
    assert_eq!(summary.required, required, "{kind}: number of required cases");
    assert_eq!(summary.strict_held, summary.strict, "{kind}: strict rules that hold bit for bit");
}

#[test]
fn golden_qparams() {
    run("qparams", 275, qparams::case);
}

#[test]
fn golden_quantize() {
    run("quantize", 104, quantize::case);
}

#[test]
fn golden_fake_quant() {
    run("fake_quant", 68, fake_quant::case);
}

#[test]
fn golden_linear() {
    run("linear", 103, linear::case);
}

#[test]
fn golden_qat() {
    run("qat", 12, qat::case);
}

#[test]
fn golden_metrics() {
    run("metrics", 11, metrics::case);
}

#[test]
fn golden_kinds_are_all_run() {
    let Some(golden) = Golden::load() else { return };
    assert_eq!(golden.kinds(), ["fake_quant", "linear", "metrics", "qat", "qparams", "quantize"]);
    assert_eq!(golden.len(), 577);
}
