//! Norms on slices.

use slm_cpu_ops::{add, add_scaled, layer_norm, rms_norm, rms_norm_heads};

use super::buffers::Deltas;
use super::parallel::{for_each_part, rows_per_part};
use crate::error::Result;
use crate::eval::read_f32;
use crate::norm::Norm;

/// A norm with its parameters in host memory.
#[derive(Debug)]
pub(crate) enum CpuNorm {
    Rms { weight: Vec<f32>, eps: f32 },
    Layer { weight: Vec<f32>, bias: Vec<f32>, eps: f32 },
}

impl CpuNorm {
    pub(super) fn new(norm: &Norm) -> Result<Self> {
        Ok(match norm {
            Norm::Rms(norm) => {
                Self::Rms { weight: read_f32("norm", norm.gamma.val())?, eps: norm.epsilon as f32 }
            }
            Norm::Layer(norm) => {
                let (weight, bias) =
                    (read_f32("norm", norm.gamma.val())?, read_f32("norm", norm.beta.val())?);
                Self::Layer { weight, bias, eps: norm.epsilon as f32 }
            }
        })
    }

    /// Adds `factor * delta` to `x` for each of `deltas`, then computes `normed = norm(x)`, row by row.
    pub(super) fn add_and_normalize(&self, x: &mut [f32], deltas: Deltas<'_>, normed: &mut [f32]) {
        let width = self.width();
        let part = rows_per_part(x.len() / width, width) * width;
        let parts = x.chunks_mut(part).zip(normed.chunks_mut(part)).enumerate();
        for_each_part(parts, |(index, (x, normed))| {
            for (delta, factor) in deltas.iter().flatten() {
                add_product(x, &delta[index * part..][..x.len()], *factor);
            }
            for (x, normed) in x.chunks_exact(width).zip(normed.chunks_exact_mut(width)) {
                self.normalize(x, normed);
            }
        });
    }

    /// Normalizes every head of a row of heads.
    pub(super) fn normalize_heads(&self, heads: &mut [f32]) {
        match self {
            Self::Rms { weight, eps } => rms_norm_heads(heads, weight, *eps),
            Self::Layer { .. } => {
                for head in heads.chunks_exact_mut(self.width()) {
                    let x = head.to_vec();
                    self.normalize(&x, head);
                }
            }
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight.len(),
        }
    }

    fn normalize(&self, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Rms { weight, eps } => rms_norm(x, weight, *eps, out),
            Self::Layer { weight, bias, eps } => layer_norm(x, weight, bias, *eps, out),
        }
    }
}

/// Computes `x += factor * delta`.
pub(super) fn add_product(x: &mut [f32], delta: &[f32], factor: f32) {
    match factor == 1.0 {
        true => add(x, delta),
        false => add_scaled(x, delta, factor),
    }
}
