//! Tests of operations whose inputs are rounded to BF16, as linear layers round theirs.

mod support;

use burn::tensor::{Device, Tensor};
use slm_autograd::{AttentionOptions, Gelu, Precision};
use support::{changed, close, devices, gradient, leaf, probe, rounded, values, wave};

/// Values that BF16 does not hold.
fn uneven(shape: [usize; 3], step: usize, device: &Device) -> Tensor<3> {
    changed(&leaf(wave(shape, step), device), |value| value / 3.0)
}

/// The output of `apply` in BF16, and its gradients with respect to `inputs`.
fn in_bf16<const N: usize>(
    inputs: &[Tensor<3>; N],
    apply: impl Fn([Tensor<3>; N]) -> Tensor<3>,
) -> (Vec<f32>, [Vec<f32>; N]) {
    let y = Precision::Bf16.scope(|| apply(inputs.clone()));
    // The backward pass runs outside of the scope.
    let gradients = probe(y.clone()).backward();
    (values(y), inputs.each_ref().map(|x| gradient(x, &gradients)))
}

/// The same for the rounded inputs in 32 bits.
fn of_rounded<const N: usize>(
    inputs: &[Tensor<3>; N],
    apply: impl Fn([Tensor<3>; N]) -> Tensor<3>,
) -> (Vec<f32>, [Vec<f32>; N]) {
    let inputs = inputs.each_ref().map(rounded);
    let y = apply(inputs.clone());
    let gradients = probe(y.clone()).backward();
    (values(y), inputs.each_ref().map(|x| gradient(x, &gradients)))
}

#[test]
fn activation_functions_compute_with_rounded_inputs() {
    for device in devices() {
        for shape in [[1, 1, 1], [2, 9, 16], [3, 70, 130]] {
            let inputs = [uneven(shape, 31, &device), uneven(shape, 17, &device)];
            let swiglu = |[gate, up]: [Tensor<3>; 2]| slm_autograd::swiglu(gate, up);
            assert_eq!(in_bf16(&inputs, swiglu), of_rounded(&inputs, swiglu));
            let input = [uneven(shape, 41, &device)];
            for kind in [Gelu::Exact, Gelu::Tanh] {
                let gelu = |[x]: [Tensor<3>; 1]| slm_autograd::gelu(x, kind);
                assert_eq!(in_bf16(&input, gelu), of_rounded(&input, gelu));
            }
        }
    }
}

#[test]
fn attention_computes_with_rounded_inputs_and_rounds_its_output() {
    let options = AttentionOptions { heads: 4, kv_heads: 2, window: None, scale: None, rotary: None };
    let attention = |[q, k, v]: [Tensor<3>; 3]| slm_autograd::attention(q, k, v, options.clone());
    for device in devices() {
        for [batch, len, head_dim] in [[1, 1, 4], [2, 40, 16]] {
            let shape = |heads| [batch, len, heads * head_dim];
            let inputs = [(4, 31), (2, 17), (2, 41)].map(|(heads, step)| uneven(shape(heads), step, &device));
            let (y, [by_q, by_k, by_v]) = in_bf16(&inputs, attention);
            let (expected, [q, k, v]) = of_rounded(&inputs, attention);
            let bf16: Vec<f32> = expected.iter().map(|y| half::bf16::from_f32(*y).to_f32()).collect();
            assert_eq!(y, bf16);
            assert_eq!(by_v, v);
            // These gradients contain the rounded output.
            close("dq", &by_q, &q, 0.02);
            close("dk", &by_k, &k, 0.02);
        }
    }
}

/// The first pass of gradient checkpointing runs without gradients, and must compute what the second does.
#[test]
fn gradients_do_not_change_the_output() {
    let options = AttentionOptions { heads: 2, kv_heads: 2, window: None, scale: None, rotary: None };
    for device in devices() {
        let inputs = [31, 17, 41].map(|step| uneven([2, 30, 32], step, &device));
        let compute = |[q, k, v]: [Tensor<3>; 3]| {
            Precision::Bf16.scope(|| {
                let x = slm_autograd::attention(q, k, v, options.clone());
                let x = slm_autograd::swiglu(x.clone(), slm_autograd::gelu(x, Gelu::Exact));
                let [batch, len, width] = x.dims();
                let rows = x.reshape([batch * len, width]);
                values(slm_autograd::linear(rows.clone(), rows))
            })
        };
        assert_eq!(compute(inputs.clone()), compute(inputs.map(Tensor::inner)));
    }
}
