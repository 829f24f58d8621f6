//! Tests of attention against a composition of Burn's operations.

mod support;

use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use slm_autograd::{AttentionOptions, RotaryTable};
use support::{close, devices, gradient, leaf, on_threads, probe, values, wave};

#[derive(Clone)]
struct Case {
    batch: usize,
    len: usize,
    head_dim: usize,
    options: AttentionOptions,
}

/// A case in which `pairs` of each head are rotated, if any.
fn case([batch, len, head_dim, heads, kv_heads]: [usize; 5], window: Option<usize>, pairs: usize) -> Case {
    let angle = |p: usize, i: usize| p as f32 * 0.7f32.powi(i as i32);
    let angles = || (0..len).flat_map(|p| (0..pairs).map(move |i| angle(p, i)));
    let table =
        RotaryTable { pairs, cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect() };
    let rotary = (pairs > 0).then(|| Arc::new(table));
    Case { batch, len, head_dim, options: AttentionOptions { heads, kv_heads, window, scale: None, rotary } }
}

impl Case {
    fn inputs(&self, device: &Device) -> [Tensor<3>; 3] {
        let Self { batch, len, head_dim, ref options } = *self;
        [(options.heads, 31), (options.kv_heads, 17), (options.kv_heads, 41)]
            .map(|(heads, step)| leaf(wave([batch, len, heads * head_dim], step), device))
    }

    fn reference(&self, inputs: &[Tensor<3>; 3]) -> Tensor<3> {
        let Self { batch, len, head_dim, ref options } = *self;
        let device = inputs[0].device();
        let split =
            |x: &Tensor<3>, heads: usize| x.clone().reshape([batch, len, heads, head_dim]).swap_dims(1, 2);
        let rotate = |x: Tensor<4>| match &options.rotary {
            None => x,
            Some(table) => {
                let tensor = |values: &[f32]| {
                    Tensor::<4>::from_data(
                        TensorData::new(values.to_vec(), [1, 1, len, table.pairs]),
                        &device,
                    )
                };
                let (cos, sin) = (tensor(&table.cos), tensor(&table.sin));
                let part = |at: usize, width: usize| x.clone().narrow(3, at, width);
                let (pairs, rest) = (table.pairs, head_dim - 2 * table.pairs);
                let (a, b) = (part(0, pairs), part(pairs, pairs));
                let first = a.clone() * cos.clone() - b.clone() * sin.clone();
                let mut parts = vec![first, b * cos + a * sin];
                if rest > 0 {
                    parts.push(part(2 * pairs, rest));
                }
                Tensor::cat(parts, 3)
            }
        };
        let groups = options.heads / options.kv_heads;
        let repeat = |x: Tensor<4>| {
            let x = x.reshape([batch, options.kv_heads, 1, len * head_dim]).repeat_dim(2, groups);
            x.reshape([batch, options.heads, len, head_dim])
        };
        let q = rotate(split(&inputs[0], options.heads));
        let k = repeat(rotate(split(&inputs[1], options.kv_heads)));
        let v = repeat(split(&inputs[2], options.kv_heads));
        let window = options.window.unwrap_or(len);
        let hidden: Vec<bool> = (0..len)
            .flat_map(|query| (0..len).map(move |key| key > query || query - key >= window))
            .collect();
        let mask = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, len, len]), &device);
        let scale = options.scale.map_or(1.0 / (head_dim as f64).sqrt(), f64::from);
        let scores = q.matmul(k.transpose()) * scale;
        let mask = mask.expand([batch, options.heads, len, len]);
        let weights = softmax(scores.mask_fill(mask, -1e30), 3);
        weights.matmul(v).swap_dims(1, 2).reshape([batch, len, options.heads * head_dim])
    }
}

fn cases() -> Vec<Case> {
    let mut scaled = case([2, 12, 9, 4, 2], Some(7), 2);
    scaled.options.scale = Some(0.7);
    vec![
        case([1, 1, 4, 2, 1], None, 2),
        case([2, 9, 8, 4, 2], None, 0),
        case([3, 33, 12, 3, 3], None, 3),
        case([2, 40, 16, 4, 1], Some(5), 8),
        case([1, 120, 32, 2, 2], Some(50), 16),
        scaled,
    ]
}

#[test]
fn equals_burns_operations_and_their_gradients() {
    for device in devices() {
        for case in cases() {
            let inputs = case.inputs(&device);
            let [q, k, v] = inputs.clone();
            let y = slm_autograd::attention(q, k, v, case.options.clone());
            let others = case.inputs(&device);
            let expected = case.reference(&others);
            close("y", &values(y.clone()), &values(expected.clone()), 1e-5);
            let (found, expected) = (probe(y).backward(), probe(expected).backward());
            for (name, (input, other)) in ["q", "k", "v"].iter().zip(inputs.iter().zip(&others)) {
                close(name, &gradient(input, &found), &gradient(other, &expected), 1e-5);
            }
        }
    }
}

#[test]
fn without_gradients_it_is_the_same() {
    for device in devices() {
        let case = &cases()[3];
        let tracked = case.inputs(&device);
        let [q, k, v] = tracked.clone();
        let with = values(slm_autograd::attention(q, k, v, case.options.clone()));
        let [q, k, v] = tracked.map(Tensor::inner);
        assert!(slm_autograd::is_supported(&q.device()));
        assert_eq!(values(slm_autograd::attention(q, k, v, case.options.clone())), with);
    }
}

#[test]
fn threads_change_no_bit() {
    for device in devices() {
        let case = &cases()[3];
        let [one, three] = on_threads(|| {
            let inputs = case.inputs(&device);
            let [q, k, v] = inputs.clone();
            let y = slm_autograd::attention(q, k, v, case.options.clone());
            let gradients = probe(y.clone()).backward();
            (values(y), inputs.map(|input| gradient(&input, &gradients)))
        });
        assert_eq!(one, three);
    }
}
