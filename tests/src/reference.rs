//! A plain reference implementation of Llama in 64-bit floats.

use crate::HuggingFace;

/// Parameters of a reference run, in addition to the model.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Angle per position of each pair of a head.
    pub frequencies: Vec<f64>,
    /// Factor of sines and cosines.
    pub scale: f64,
    /// The window of each layer.
    pub windows: Vec<Option<usize>>,
    /// Constant added to the mean of squares in norms.
    pub norm_eps: f64,
}

/// `theta^(-2i / dims)` for each pair.
pub fn frequencies(theta: f64, dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dims as f64)).collect()
}

impl Reference {
    /// Full attention and plain rotary positions with base 10000, for heads of width 16.
    pub fn plain() -> Self {
        Self { frequencies: frequencies(1e4, 16), scale: 1.0, windows: vec![None; 8], norm_eps: 1e-5 }
    }

    /// Computes the logits at every position of `ids`, row by row, for a Llama, Mistral or Qwen2.
    ///
    /// # Panics
    /// If a tensor or a size is missing.
    pub fn logits(&self, model: &HuggingFace, ids: &[u32]) -> Vec<f64> {
        let size = |name: &str| model.config[name].as_f64().unwrap() as usize;
        let (hidden, heads, kv) =
            (size("hidden_size"), size("num_attention_heads"), size("num_key_value_heads"));
        let dim = hidden / heads;
        let tensor = |name: &str| model.tensors.get(name).map(|(_, values)| values.as_slice());
        let linear = |x: &[f64], name: &str| -> Vec<f64> {
            let weight = tensor(&format!("{name}.weight")).unwrap();
            let bias = tensor(&format!("{name}.bias"));
            let rows = weight.chunks_exact(x.len()).enumerate();
            rows.map(|(row, weight)| {
                let product: f64 = weight.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
                product + bias.map_or(0.0, |bias| f64::from(bias[row]))
            })
            .collect()
        };
        let norm = |x: &[f64], name: &str| -> Vec<f64> {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let weight = tensor(&format!("{name}.weight")).unwrap();
            x.iter().zip(weight).map(|(x, &w)| x / (mean + self.norm_eps).sqrt() * f64::from(w)).collect()
        };
        let rotate = |x: &mut [f64], position: usize| {
            for head in x.chunks_exact_mut(dim) {
                for (pair, frequency) in self.frequencies.iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let (a, b) = (head[pair], head[pair + dim / 2]);
                    head[pair] = (a * cos - b * sin) * self.scale;
                    head[pair + dim / 2] = (b * cos + a * sin) * self.scale;
                }
            }
        };
        let embedding = tensor("model.embed_tokens.weight").unwrap();
        let row = |id: u32| &embedding[id as usize * hidden..][..hidden];
        let mut x: Vec<Vec<f64>> =
            ids.iter().map(|&id| row(id).iter().map(|&value| f64::from(value)).collect()).collect();
        for layer in 0..size("num_hidden_layers") {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed: Vec<Vec<f64>> = x.iter().map(|x| norm(x, &name("input_layernorm"))).collect();
            let project = |part: &str| -> Vec<Vec<f64>> {
                normed.iter().map(|x| linear(x, &name(&format!("self_attn.{part}_proj")))).collect()
            };
            let (mut q, mut k, v) = (project("q"), project("k"), project("v"));
            q.iter_mut().chain(&mut k).enumerate().for_each(|(index, x)| rotate(x, index % ids.len()));
            for at in 0..ids.len() {
                let first = self.windows[layer].map_or(0, |window| (at + 1).saturating_sub(window));
                let mut mixed = Vec::with_capacity(hidden);
                for head in 0..heads {
                    let own = head / (heads / kv) * dim;
                    let query = &q[at][head * dim..][..dim];
                    let score = |key: &Vec<f64>| -> f64 {
                        query.iter().zip(&key[own..]).map(|(a, b)| a * b).sum::<f64>() / (dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = k[first..=at].iter().map(score).collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    mixed.extend((0..dim).map(|i| {
                        let values = v[first..=at].iter().map(|value| value[own + i]);
                        weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>() / sum
                    }));
                }
                let out = linear(&mixed, &name("self_attn.o_proj"));
                x[at].iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
            for x in &mut x {
                let normed = norm(x, &name("post_attention_layernorm"));
                let gate = linear(&normed, &name("mlp.gate_proj"));
                let up = linear(&normed, &name("mlp.up_proj"));
                let inner: Vec<f64> =
                    gate.iter().zip(up).map(|(g, up)| g / (1.0 + (-g).exp()) * up).collect();
                let out = linear(&inner, &name("mlp.down_proj"));
                x.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
        }
        let head = tensor("lm_head.weight").unwrap_or(embedding);
        x.iter()
            .flat_map(|x| {
                let x = norm(x, "model.norm");
                let rows = head.chunks_exact(hidden);
                rows.map(|row| row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum::<f64>())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}
