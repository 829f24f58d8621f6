//! The golden vectors of linear layers: PyTorch's codes, accumulators and outputs, against every kernel.
//!
//! `slm-quant-core/tests/golden` says where they lie and how they are compared, and runs the others.

#[path = "../../../slm-quant-core/tests/golden/harness.rs"]
#[allow(dead_code, reason = "the tests of slm-quant-core use the rest")]
mod harness;
mod linear;

#[test]
fn golden_linear() {
    harness::run("linear", 103, linear::case);
}
