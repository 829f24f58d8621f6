//! The feed-forward half of a layer.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, silu};
use slm_autograd::Gelu;
use slm_nn::Linear;

use crate::config::{MlpKind, ModelConfig};
use crate::error::Result;
use crate::names::mlp_linears;
use crate::source::Loader;

/// `down(silu(gate(x)) * up(x))` or `down(gelu(up(x)))`.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub(crate) gate_proj: Option<Linear>,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
    #[module(skip)]
    kind: MlpKind,
}

impl Mlp {
    pub(crate) fn load(config: &ModelConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        let (gate, up, down) = mlp_linears(config);
        Ok(Self {
            gate_proj: gate.map(|gate| loader.linear(path, gate)).transpose()?,
            up_proj: loader.linear(path, up)?,
            down_proj: loader.linear(path, down)?,
            kind: config.mlp,
        })
    }

    /// `[batch, len, hidden]` to the same.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let fused = slm_autograd::is_preferred(&x.device());
        let inner = match &self.gate_proj {
            Some(gate) => {
                let (gate, up) = (gate.forward(x.clone()), self.up_proj.forward(x));
                if fused { slm_autograd::swiglu(gate, up) } else { silu(gate) * up }
            }
            None => {
                let up = self.up_proj.forward(x);
                match self.kind {
                    MlpKind::GeluTanh if fused => slm_autograd::gelu(up, Gelu::Tanh),
                    MlpKind::GeluTanh => gelu_tanh(up),
                    _ if fused => slm_autograd::gelu(up, Gelu::Exact),
                    _ => gelu(up),
                }
            }
        };
        self.down_proj.forward(inner)
    }
}

/// The tanh approximation of GELU (Hendrycks and Gimpel, 2016), with products instead of Burn's general power
/// for the cube.
fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let sqrt_2_over_pi = (2.0 / std::f64::consts::PI).sqrt();
    let inner = (x.clone() * x.clone() * 0.044715 + 1.0) * x.clone() * sqrt_2_over_pi;
    x * (inner.tanh() + 1.0) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;

    #[test]
    fn gelu_variants_at_known_points() {
        // Values of torch.nn.functional.gelu, approximate="none" and "tanh".
        let x = [-3.0f32, -1.0, 0.0, 0.5, 2.0];
        let erf = [-0.004_049_7, -0.158_655_26, 0.0, 0.345_731_23, 1.954_499_7];
        let tanh = [-0.003_637_4, -0.158_808_01, 0.0, 0.345_714, 1.954_597_6];
        for device in devices() {
            let x = Tensor::<1>::from_data(x, &device);
            for (y, expected) in [(gelu(x.clone()), erf), (gelu_tanh(x), tanh)] {
                for (y, e) in y.into_data().try_into_vec::<f32>().unwrap().iter().zip(expected) {
                    assert!((y - e).abs() < 1e-6, "{y} {e}");
                }
            }
        }
    }
}
