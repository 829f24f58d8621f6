//! Five SGD steps of quantization-aware training of one linear layer, on plain slices.

use serde_json::Value;
use slm_quant_core::{
    Mapping, MovingAverageMinMaxObserver, Observer, PerChannelMinMaxObserver, QParams, QuantRange,
    fake_quantize, fake_quantize_backward, quantize,
};

use crate::harness::{Case, mapping, range_of};

/// An observer of a weight, per tensor or per row.
enum WeightObserver {
    Tensor(MovingAverageMinMaxObserver),
    Row(PerChannelMinMaxObserver),
}

/// Fake quantization of one operand.
struct Spec {
    range: QuantRange,
    mapping: Mapping,
    eps: f32,
    constant: f32,
    granularity: String,
}

impl Spec {
    fn new(json: &Value) -> Self {
        assert_eq!(json["observer"], "moving average min/max");
        Self {
            range: range_of(json, "qmin", "qmax"),
            mapping: mapping(&json["scheme"]),
            eps: json["eps"].as_f64().unwrap() as f32,
            constant: json["averaging_constant"].as_f64().unwrap() as f32,
            granularity: json["granularity"].as_str().unwrap().to_owned(),
        }
    }
}

/// Values that are compared, step after step.
#[derive(Default)]
struct Trace(std::collections::BTreeMap<&'static str, Vec<f64>>);

impl Trace {
    fn push<T: Copy + Into<f64>>(&mut self, role: &'static str, values: &[T]) {
        self.0.entry(role).or_default().extend(values.iter().map(|v| (*v).into()));
    }
}

pub(crate) fn case(case: &mut Case) {
    if case.op() != "qat_linear_sgd" {
        return case.unknown_op();
    }
    let (k, n) = (case.param_usize("in_features"), case.param_usize("out_features"));
    let (m, steps, lr) = (case.param_usize("batch"), case.param_usize("steps"), case.param_f32("lr"));
    let (by_x, by_w) =
        (Spec::new(case.param("activation_fake_quant")), Spec::new(case.param("weight_fake_quant")));
    let (x, target) = (case.input("x"), case.input("target"));
    let (mut weight, mut bias) = (case.input("weight0"), case.input("bias0"));
    let mut x_observer = MovingAverageMinMaxObserver::new(by_x.constant).unwrap();
    let mut w_observer = match by_w.granularity.as_str() {
        "tensor" => WeightObserver::Tensor(MovingAverageMinMaxObserver::new(by_w.constant).unwrap()),
        "row" => WeightObserver::Row(PerChannelMinMaxObserver::moving_average(n, by_w.constant).unwrap()),
        other => panic!("granularity {other}"),
    };
    let mut trace = Trace::default();
    for step in 0..steps {
        // One batch for all steps, or one for each.
        let batch = |all: &[f32], len: usize| {
            if all.len() == len { all.to_vec() } else { all[step * len..][..len].to_vec() }
        };
        let (x, target) = (batch(&x, m * k), batch(&target, m * n));

        x_observer.observe(&x).unwrap();
        let x_qparams = x_observer.qparams(by_x.range, by_x.mapping, by_x.eps).unwrap();
        let (x_min, x_max) = x_observer.bounds().unwrap();
        trace.push("x_min", &[x_min]);
        trace.push("x_max", &[x_max]);
        trace.push("x_scale", &[x_qparams.scale]);
        trace.push("x_zero_point", &[x_qparams.zero_point]);
        trace.push("x_q", &quantize::<i16>(&x, x_qparams, by_x.range).unwrap());
        let x_fq = fake_quantize(&x, x_qparams, by_x.range).unwrap();

        let (w_bounds, w_qparams) = observe_weight(&mut w_observer, &weight, &by_w);
        trace.push("w_min", &w_bounds.iter().map(|b| b.0).collect::<Vec<_>>());
        trace.push("w_max", &w_bounds.iter().map(|b| b.1).collect::<Vec<_>>());
        trace.push("w_scale", &w_qparams.iter().map(|q| q.scale).collect::<Vec<_>>());
        let of_row = |row: usize| w_qparams[if w_qparams.len() == 1 { 0 } else { row }];
        let mut w_fq = Vec::new();
        for (row, values) in weight.chunks(k).enumerate() {
            trace.push("w_q", &quantize::<i16>(values, of_row(row), by_w.range).unwrap());
            w_fq.extend(fake_quantize(values, of_row(row), by_w.range).unwrap());
        }

        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let y: Vec<f32> =
            (0..m * n).map(|i| dot(&x_fq[i / n * k..][..k], &w_fq[i % n * k..][..k]) + bias[i % n]).collect();
        trace.push("y", &y);
        let difference: Vec<f32> = y.iter().zip(&target).map(|(y, t)| y - t).collect();
        let count = (m * n) as f32;
        trace.push("loss", &[difference.iter().map(|d| d * d).sum::<f32>() / count]);

        let grad_y: Vec<f32> = difference.iter().map(|d| 2.0 * d / count).collect();
        let mut grad_weight = vec![0.0; n * k];
        let mut grad_bias = vec![0.0; n];
        for (i, grad) in grad_y.iter().enumerate() {
            grad_bias[i % n] += grad;
            for (j, x) in x_fq[i / n * k..][..k].iter().enumerate() {
                grad_weight[i % n * k + j] += grad * x;
            }
        }
        let masked =
            weight.chunks(k).zip(grad_weight.chunks(k)).enumerate().flat_map(|(row, (w, grad))| {
                fake_quantize_backward(w, grad, of_row(row), by_w.range).unwrap()
            });
        let grad_weight: Vec<f32> = masked.collect();
        trace.push("grad_weight", &grad_weight);
        trace.push("grad_bias", &grad_bias);
        weight.iter_mut().zip(&grad_weight).for_each(|(w, g)| *w -= lr * g);
        bias.iter_mut().zip(&grad_bias).for_each(|(b, g)| *b -= lr * g);
        trace.push("weight", &weight);
        trace.push("bias", &bias);
    }
    for (role, values) in &trace.0 {
        case.check(role, values);
    }
}

fn observe_weight(
    observer: &mut WeightObserver,
    weight: &[f32],
    spec: &Spec,
) -> (Vec<(f32, f32)>, Vec<QParams>) {
    match observer {
        WeightObserver::Tensor(observer) => {
            observer.observe(weight).unwrap();
            let qparams = observer.qparams(spec.range, spec.mapping, spec.eps).unwrap();
            (vec![observer.bounds().unwrap()], vec![qparams])
        }
        WeightObserver::Row(observer) => {
            observer.observe(weight).unwrap();
            let qparams = observer.qparams(spec.range, spec.mapping, spec.eps).unwrap();
            (observer.bounds().to_vec(), qparams)
        }
    }
}
