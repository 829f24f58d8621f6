//! The golden vectors of linear layers: every kernel reproduces PyTorch's codes, accumulators and outputs.
//!
//! `slm-quant-core/tests/golden` describes their location and comparison, and runs the other vectors.

#[path = "../../../slm-quant-core/tests/golden/harness.rs"]
#[allow(dead_code, reason = "the tests of slm-quant-core use the rest")]
mod harness;
mod linear;

#[test]
fn golden_linear() {
    harness::run("linear", 103, linear::case);
}
