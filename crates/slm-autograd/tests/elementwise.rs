//! Tests of norms and activation functions against Burn's own operations.

mod support;

use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use slm_autograd::Gelu;
use support::{close, devices, gradient, leaf, on_threads, probe, values, wave};

const EPS: f64 = 1e-3;

/// Many rows whose width is not a multiple of a vector, and few rows whose width is.
const SHAPES: [[usize; 3]; 3] = [[1, 1, 3], [3, 200, 37], [2, 5, 64]];

/// Checks that values and gradients of both agree.
fn check<const N: usize>(
    what: &str,
    inputs: impl Fn() -> [Tensor<3>; N],
    fused: impl Fn(&[Tensor<3>; N]) -> Tensor<3>,
    expected: impl Fn(&[Tensor<3>; N]) -> Tensor<3>,
) {
    let run = |f: &dyn Fn(&[Tensor<3>; N]) -> Tensor<3>| {
        let inputs = inputs();
        let y = f(&inputs);
        let gradients = probe(y.clone()).backward();
        (values(y), inputs.map(|input| gradient(&input, &gradients)))
    };
    let ((found, found_grads), (expected, expected_grads)) = (run(&fused), run(&expected));
    close(what, &found, &expected, 1e-5);
    for (found, expected) in found_grads.iter().zip(&expected_grads) {
        close(what, found, expected, 1e-5);
    }
}

#[test]
fn rms_norm() {
    for device in devices() {
        for shape in SHAPES {
            let width = shape[2];
            let weight = || leaf::<1>(wave([width], 11), &device);
            let x = || leaf::<3>(wave(shape, 31), &device);
            let (fx, fw) = (x(), weight());
            let y = slm_autograd::rms_norm(fx.clone(), fw.clone(), EPS);
            let mut norm = RmsNormConfig::new(width).with_epsilon(EPS).init(&device);
            let (ex, ew) = (x(), weight());
            norm.gamma = burn::module::Param::from_tensor(ew.clone());
            let e = norm.forward(ex.clone());
            close("y", &values(y.clone()), &values(e.clone()), 1e-5);
            let (f, e) = (probe(y).backward(), probe(e).backward());
            close("dx", &gradient(&fx, &f), &gradient(&ex, &e), 1e-5);
            close("dw", &gradient(&fw, &f), &gradient(&norm.gamma.val(), &e), 1e-5);
        }
    }
}

#[test]
fn layer_norm() {
    for device in devices() {
        for shape in SHAPES {
            let width = shape[2];
            let parameter = |step| leaf::<1>(wave([width], step), &device);
            let (x, weight, bias) = (leaf::<3>(wave(shape, 31), &device), parameter(11), parameter(13));
            let y = slm_autograd::layer_norm(x.clone(), weight.clone(), bias.clone(), EPS);
            let mut norm = LayerNormConfig::new(width).with_epsilon(EPS).init(&device);
            norm.gamma = burn::module::Param::from_tensor(parameter(11));
            norm.beta = Some(burn::module::Param::from_tensor(parameter(13)));
            let ex = leaf::<3>(wave(shape, 31), &device);
            let e = norm.forward(ex.clone());
            close("y", &values(y.clone()), &values(e.clone()), 1e-5);
            let (f, e) = (probe(y).backward(), probe(e).backward());
            close("dx", &gradient(&x, &f), &gradient(&ex, &e), 1e-5);
            close("dw", &gradient(&weight, &f), &gradient(&norm.gamma.val(), &e), 1e-5);
            close("db", &gradient(&bias, &f), &gradient(&norm.beta.as_ref().unwrap().val(), &e), 1e-5);
        }
    }
}

#[test]
fn swiglu() {
    for device in devices() {
        for shape in SHAPES {
            check(
                "swiglu",
                || [leaf(wave(shape, 31), &device), leaf(wave(shape, 17), &device)],
                |[gate, up]| slm_autograd::swiglu(gate.clone(), up.clone()),
                |[gate, up]| silu(gate.clone()) * up.clone(),
            );
        }
    }
}

#[test]
fn gelus() {
    for device in devices() {
        for shape in SHAPES {
            let inputs = || [leaf(wave(shape, 31), &device)];
            let exact = |[x]: &[Tensor<3>; 1]| slm_autograd::gelu(x.clone(), Gelu::Exact);
            // Not Burn's own GELU, whose backward pass is that of the approximation.
            check("gelu", inputs, exact, |[x]| {
                x.clone() * ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
            });
            let tanh = |[x]: &[Tensor<3>; 1]| slm_autograd::gelu(x.clone(), Gelu::Tanh);
            check("gelu_tanh", inputs, tanh, |[x]| {
                let inner =
                    (x.clone().powi_scalar(3) * 0.044715 + x.clone()) * (2.0 / std::f64::consts::PI).sqrt();
                x.clone() * (inner.tanh() + 1.0) * 0.5
            });
        }
    }
}

/// A value that is used twice is not overwritten by the gradient of one use.
#[test]
fn shared_inputs_stay_whole() {
    for device in devices() {
        let run = |fused: bool| {
            let x = leaf::<3>(wave([2, 9, 16], 31), &device);
            // Not a leaf, so that only the graph holds it.
            let gate = x.clone() * 1.5;
            let y = if fused {
                slm_autograd::swiglu(gate.clone(), gate.clone())
            } else {
                silu(gate.clone()) * gate.clone()
            };
            let gradients = probe(y * gate).backward();
            gradient(&x, &gradients)
        };
        close("dx", &run(true), &run(false), 1e-5);
    }
}

#[test]
fn threads_change_no_bit() {
    for device in devices() {
        let [one, three] = on_threads(|| {
            let x = leaf::<3>(wave([4, 300, 48], 31), &device);
            let [weight, bias] = [11, 13].map(|step| leaf::<1>(wave([48], step), &device));
            let y = slm_autograd::rms_norm(x.clone(), weight.clone(), EPS);
            let y = slm_autograd::layer_norm(y, weight.clone(), bias.clone(), EPS);
            let y = slm_autograd::swiglu(y.clone(), slm_autograd::gelu(y, Gelu::Exact));
            let gradients = probe(y.clone()).backward();
            let parameters = [&weight, &bias].map(|parameter| gradient(parameter, &gradients));
            (values(y), gradient(&x, &gradients), parameters)
        });
        assert_eq!(one, three);
    }
}
