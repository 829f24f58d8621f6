//! Fake quantization, forward and backward.

use slm_quant_core::{
    LearnableGradients, QParams, fake_quantize, fake_quantize_backward, fake_quantize_learnable_backward,
    fake_quantize_mask, learned_zero_point,
};

use crate::harness::Case;
use crate::quantize::by_channel;

pub(crate) fn case(case: &mut Case) {
    match case.op() {
        "fake_quantize_per_tensor" | "fake_quantize_per_channel" => straight_through(case),
        "fake_quantize_learnable_per_tensor" | "fake_quantize_learnable_per_channel" => learnable(case),
        _ => case.unknown_op(),
    }
}

/// Shape and axis; a per-tensor case is a single channel.
fn layout(case: &Case) -> (Vec<usize>, usize) {
    let tensor = case.tensor("inputs", "x");
    if case.op().ends_with("per_tensor") {
        (vec![1, tensor.values.len()], 0)
    } else {
        (tensor.shape.clone(), case.param_usize("axis"))
    }
}

fn straight_through(case: &mut Case) {
    let ((shape, axis), range) = (layout(case), case.range());
    let qparams = case.qparams_of("inputs", "scale", "zero_point");
    let (x, grad_out) = (case.input("x"), case.input("grad_out"));
    let both: Vec<(f32, f32)> = x.iter().copied().zip(grad_out).collect();

    case.check("y", &by_channel(&x, &shape, axis, |c, x| fake_quantize(x, qparams[c], range).unwrap()));
    let mask = by_channel(&x, &shape, axis, |c, x| fake_quantize_mask(x, qparams[c], range).unwrap());
    case.check("mask", &mask.into_iter().map(u8::from).collect::<Vec<_>>());
    let grad_x = by_channel(&both, &shape, axis, |c, both| {
        let (x, grad): (Vec<f32>, Vec<f32>) = both.iter().copied().unzip();
        fake_quantize_backward(&x, &grad, qparams[c], range).unwrap()
    });
    case.check("grad_x", &grad_x);
}

fn learnable(case: &mut Case) {
    let ((shape, axis), range) = (layout(case), case.range());
    let (scales, zero_points) = (case.input("scale"), case.input("zero_point"));
    let (x, grad_out) = (case.input("x"), case.input("grad_out"));
    let factor = case.param_f32("grad_factor");
    let both: Vec<(f32, f32)> = x.iter().copied().zip(grad_out).collect();

    let y = by_channel(&x, &shape, axis, |c, x| {
        let zero_point = learned_zero_point(zero_points[c], range).unwrap();
        fake_quantize(x, QParams { scale: scales[c], zero_point }, range).unwrap()
    });
    case.check("y", &y);
    let (mut grad_scale, mut grad_zero_point) = (Vec::new(), Vec::new());
    let grad_x = by_channel(&both, &shape, axis, |c, both| {
        let (x, grad): (Vec<f32>, Vec<f32>) = both.iter().copied().unzip();
        let LearnableGradients { grad_x, grad_scale: by_scale, grad_zero_point: by_zero_point } =
            fake_quantize_learnable_backward(&x, &grad, scales[c], zero_points[c], range, factor).unwrap();
        grad_scale.push(by_scale);
        grad_zero_point.push(by_zero_point);
        grad_x
    });
    case.check("grad_x", &grad_x);
    case.check("grad_scale", &grad_scale);
    case.check("grad_zero_point", &grad_zero_point);
}
