//! Tests of every golden vector: inputs and outputs of PyTorch's and torchao's quantization code.
//!
//! The vectors are outside the repository, in the folder that the environment variable `SLM_SHARED` names, or else in
//! `shared` next to the repository. Without them each test says so and returns. Every required case must pass its
//! `tolerance`, every expected output must be compared, and an operation that is not known here fails. The tests print
//! how many checks hold bit for bit, and all `strict` rules must hold.
//!
//! The tests of `slm-kernels` run the cases of whole linear layers, with every kernel.

mod fake_quant;
mod harness;
mod metrics;
mod qat;
mod qparams;
mod quantize;

use harness::{Golden, run};

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
