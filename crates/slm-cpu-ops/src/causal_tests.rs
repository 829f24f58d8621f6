use super::*;
use crate::causal_forward::causal_attention;

fn wave(len: usize, step: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * step) % 97) as f32 / 24.0 - 2.0).collect()
}

fn shape(len: usize, group: usize, head_dim: usize, window: Option<usize>) -> CausalShape {
    CausalShape { len, group, head_dim, window, scale: 1.0 / (head_dim as f32).sqrt() }
}

fn shapes() -> Vec<CausalShape> {
    vec![
        shape(1, 1, 2, None),
        shape(5, 3, 4, None),
        shape(37, 2, 32, None),
        shape(37, 1, 12, Some(7)),
        shape(20, 2, 8, Some(1)),
        CausalShape { scale: 0.3, ..shape(20, 2, 9, Some(11)) },
        // More than one block of queries.
        shape(205, 2, 20, None),
        shape(205, 1, 16, Some(33)),
    ]
}

struct Case {
    shape: CausalShape,
    /// Number of rotated pairs, cosines and sines.
    tables: Option<(usize, Vec<f32>, Vec<f32>)>,
    inputs: [Vec<f32>; 3],
    grad: Vec<f32>,
}

impl Case {
    /// Rotates `pairs` of each head, if any.
    fn new(shape: CausalShape, pairs: usize) -> Self {
        let CausalShape { len, group, head_dim, .. } = shape;
        let angles = || {
            (0..len)
                .flat_map(|p| (0..pairs).map(move |i| p as f64 * 10f64.powf(-(i as f64) / head_dim as f64)))
        };
        let tables = (pairs > 0).then(|| {
            let of = |f: fn(f64) -> f64| angles().map(|a| f(a) as f32).collect();
            (pairs, of(f64::cos), of(f64::sin))
        });
        let (wide, narrow) = (len * group * head_dim, len * head_dim);
        Self {
            shape,
            tables,
            inputs: [wave(wide, 31), wave(narrow, 17), wave(narrow, 41)],
            grad: wave(wide, 13),
        }
    }

    fn rotation(&self) -> Option<Rotation<'_>> {
        self.tables.as_ref().map(|(pairs, cos, sin)| Rotation { pairs: *pairs, cos, sin })
    }

    fn widths(&self) -> [usize; 3] {
        let CausalShape { group, head_dim, .. } = self.shape;
        [group * head_dim, head_dim, head_dim]
    }

    fn forward(&self, scratch: &mut CausalScratch) -> (Vec<f32>, Vec<RowStatistics>) {
        let [wide, narrow, _] = self.widths();
        let [q, k, v] = &self.inputs;
        let rows: [Vec<&[f32]>; 3] =
            [(q, wide), (k, narrow), (v, narrow)].map(|(data, width)| data.chunks(width).collect());
        let mut out = vec![f32::NAN; q.len()];
        let mut stats = vec![RowStatistics::default(); self.shape.group * self.shape.len];
        let mut out_rows: Vec<&mut [f32]> = out.chunks_mut(wide).collect();
        causal_attention(
            &self.shape,
            self.rotation(),
            [&rows[0], &rows[1], &rows[2]],
            &mut out_rows,
            &mut stats,
            scratch,
        );
        (out, stats)
    }

    fn backward(&self, scratch: &mut CausalScratch) -> [Vec<f32>; 3] {
        let (out, stats) = self.forward(scratch);
        let [wide, narrow, _] = self.widths();
        let mut inputs = self.inputs.clone();
        let [q, k, v] = &mut inputs;
        let [mut q, mut k, mut v] = [(q, wide), (k, narrow), (v, narrow)]
            .map(|(data, width)| data.chunks_mut(width).collect::<Vec<_>>());
        let rows = |data| -> Vec<&[f32]> { <[f32]>::chunks(data, wide).collect() };
        causal_attention_backward(
            &self.shape,
            self.rotation(),
            [&mut q, &mut k, &mut v],
            &rows(&out),
            &rows(&self.grad),
            &stats,
            scratch,
        );
        inputs
    }

    /// The output and the gradients of q, k and v by definition, in f64.
    fn reference(&self) -> [Vec<f64>; 4] {
        let CausalShape { len, group, head_dim, .. } = self.shape;
        let turned = |x: &[f64], p: usize, back: bool| -> Vec<f64> {
            let Some((half, cos, sin)) = &self.tables else { return x.to_vec() };
            let half = *half;
            let mut y = x.to_vec();
            for i in 0..half {
                let (c, s) = (f64::from(cos[p * half + i]), f64::from(sin[p * half + i]));
                let s = if back { -s } else { s };
                (y[i], y[half + i]) = (x[i] * c - x[half + i] * s, x[half + i] * c + x[i] * s);
            }
            y
        };
        let head = |data: &[f32], width: usize, p: usize, h: usize| -> Vec<f64> {
            data[p * width + h * head_dim..][..head_dim].iter().map(|&x| f64::from(x)).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let add = |out: &mut [f64], factor: f64, x: &[f64]| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
        };
        let [wide, narrow, _] = self.widths();
        let keys: Vec<_> = (0..len).map(|p| turned(&head(&self.inputs[1], narrow, p, 0), p, false)).collect();
        let values: Vec<_> = (0..len).map(|p| head(&self.inputs[2], narrow, p, 0)).collect();
        let scale = f64::from(self.shape.scale);
        let mut found = [len * wide, len * wide, len * narrow, len * narrow].map(|size| vec![0.0; size]);
        let mut by_keys = vec![0.0; len * narrow];
        for p in 0..len {
            for h in 0..group {
                let q = turned(&head(&self.inputs[0], wide, p, h), p, false);
                let grad = head(&self.grad, wide, p, h);
                let seen = (p + 1).saturating_sub(self.shape.window.unwrap_or(len))..p + 1;
                let weights: Vec<f64> = seen.clone().map(|t| (dot(&q, &keys[t]) * scale).exp()).collect();
                let total: f64 = weights.iter().sum();
                let by_weights: Vec<f64> = seen.clone().map(|t| dot(&grad, &values[t])).collect();
                let mean = dot(&weights, &by_weights) / total;
                let mut by_q = vec![0.0; head_dim];
                for ((t, weight), by_weight) in seen.zip(&weights).zip(by_weights) {
                    let weight = weight / total;
                    let by_score = weight * (by_weight - mean) * scale;
                    add(&mut found[0][p * wide + h * head_dim..][..head_dim], weight, &values[t]);
                    add(&mut by_q, by_score, &keys[t]);
                    add(&mut by_keys[t * narrow..][..narrow], by_score, &q);
                    add(&mut found[3][t * narrow..][..narrow], weight, &grad);
                }
                found[1][p * wide + h * head_dim..][..head_dim].copy_from_slice(&turned(&by_q, p, true));
            }
        }
        for p in 0..len {
            let back = turned(&by_keys[p * narrow..][..narrow], p, true);
            found[2][p * narrow..][..narrow].copy_from_slice(&back);
        }
        found
    }
}

#[test]
fn output_and_gradients_equal_their_definition() {
    // The same scratch for all cases: nothing of one case may leak into the next.
    let mut scratch = CausalScratch::default();
    for shape in shapes() {
        for pairs in [0, shape.head_dim / 2, shape.head_dim.div_ceil(4)] {
            let case = Case::new(shape, pairs);
            let [out, by_q, by_k, by_v] = case.reference();
            let (found, _) = case.forward(&mut scratch);
            let [found_q, found_k, found_v] = case.backward(&mut scratch);
            for (what, found, expected) in
                [("out", found, out), ("q", found_q, by_q), ("k", found_k, by_k), ("v", found_v, by_v)]
            {
                let size = expected.iter().fold(0.1f64, |max, e| max.max(e.abs()));
                for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                    let ok = (f64::from(*f) - e).abs() < 1e-5 * size;
                    assert!(ok, "{what}, {shape:?}, element {i}: {f}, expected {e}");
                }
            }
        }
    }
}

#[test]
fn a_head_alone_gives_the_same_bits_as_in_a_group() {
    let whole = Case::new(shape(40, 3, 8, None), 4);
    let (out, _) = whole.forward(&mut CausalScratch::default());
    let [by_q, ..] = whole.backward(&mut CausalScratch::default());
    for head in 0..3 {
        let part = |data: &[f32]| -> Vec<f32> {
            data.chunks(24).flat_map(|row| row[head * 8..(head + 1) * 8].to_vec()).collect()
        };
        let mut alone = Case::new(shape(40, 1, 8, None), 4);
        alone.inputs = [part(&whole.inputs[0]), whole.inputs[1].clone(), whole.inputs[2].clone()];
        alone.grad = part(&whole.grad);
        let (found, _) = alone.forward(&mut CausalScratch::default());
        let [found_q, ..] = alone.backward(&mut CausalScratch::default());
        assert_eq!((found, found_q), (part(&out), part(&by_q)));
    }
}
