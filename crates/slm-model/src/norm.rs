//! The norms of the residual stream and of q/k heads.

use burn::module::{Module, Param};
use burn::nn::RmsNorm;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{ModelConfig, NormKind};
use crate::error::Result;
use crate::source::Loader;
use crate::visit::TensorVisitor;

/// RMSNorm or LayerNorm over the last dimension, with the epsilon inside the root as in Hugging Face's models.
#[derive(Module, Debug)]
pub(crate) enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

/// Weight and bias of a LayerNorm.
#[derive(Module, Debug)]
pub(crate) struct LayerNorm {
    pub(crate) gamma: Param<Tensor<1>>,
    pub(crate) beta: Param<Tensor<1>>,
    #[module(skip)]
    pub(crate) epsilon: f64,
}

impl Norm {
    /// A norm over the residual stream, of the kind that the config specifies.
    pub(crate) fn load(config: &ModelConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        match config.norm {
            NormKind::RmsNorm => Self::load_rms(config.hidden_size, config.norm_eps, path, loader),
            NormKind::LayerNorm => {
                let weight = loader.tensor(&format!("{path}.weight"), [config.hidden_size])?;
                let bias = loader.tensor(&format!("{path}.bias"), [config.hidden_size])?;
                Ok(Self::Layer(LayerNorm::new(weight, bias, config.norm_eps)))
            }
        }
    }

    /// An RMSNorm over `width` values, whatever the config says for the residual stream (q/k norms).
    pub(crate) fn load_rms(width: usize, eps: f64, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        let gamma = loader.tensor(&format!("{path}.weight"), [width])?;
        Ok(Self::Rms(RmsNorm { gamma: Param::from_tensor(gamma), epsilon: eps }))
    }

    /// The device that holds the parameters.
    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Rms(norm) => norm.gamma.device(),
            Self::Layer(norm) => norm.gamma.device(),
        }
    }

    pub(crate) fn visit_tensors<E>(
        &self,
        path: &str,
        visit: &mut dyn FnMut(&str, TensorData) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut visitor = TensorVisitor::new(visit);
        match self {
            Self::Rms(norm) => visitor.param(&format!("{path}.weight"), &norm.gamma),
            Self::Layer(norm) => {
                visitor.param(&format!("{path}.weight"), &norm.gamma)?;
                visitor.param(&format!("{path}.bias"), &norm.beta)
            }
        }
    }
}

impl LayerNorm {
    fn new(weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Self {
        Self { gamma: Param::from_tensor(weight), beta: Param::from_tensor(bias), epsilon }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::burn::normalize;
    use crate::testing::cpu_devices;
    use burn::tensor::Device;

    /// A large epsilon shows whether it is added inside the root.
    const EPS: f64 = 0.5;
    const X: [f32; 4] = [1.0, -2.0, 3.0, 0.5];
    const W: [f32; 4] = [0.5, 1.0, 2.0, -1.0];
    const B: [f32; 4] = [0.1, 0.2, 0.3, 0.4];

    fn check(norm: &Norm, device: &Device, expected: [f64; 4]) {
        let y =
            normalize(norm, Tensor::<2>::from_data([X], device)).into_data().try_into_vec::<f32>().unwrap();
        for (y, e) in y.iter().zip(expected) {
            assert!((f64::from(*y) - e).abs() < 1e-6, "{y} {e}");
        }
    }

    #[test]
    fn rms_norm_by_hand() {
        let mean_square = X.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 4.0;
        let expected =
            std::array::from_fn(|i| f64::from(X[i]) / (mean_square + EPS).sqrt() * f64::from(W[i]));
        for device in cpu_devices() {
            let gamma = Param::from_tensor(Tensor::<1>::from_data(W, &device));
            check(&Norm::Rms(RmsNorm { gamma, epsilon: EPS }), &device, expected);
        }
    }

    #[test]
    fn layer_norm_by_hand() {
        let mean = X.iter().map(|&x| f64::from(x)).sum::<f64>() / 4.0;
        let var = X.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 4.0;
        let expected = std::array::from_fn(|i| {
            (f64::from(X[i]) - mean) / (var + EPS).sqrt() * f64::from(W[i]) + f64::from(B[i])
        });
        for device in cpu_devices() {
            let norm = LayerNorm::new(Tensor::from_data(W, &device), Tensor::from_data(B, &device), EPS);
            check(&Norm::Layer(norm), &device, expected);
        }
    }
}
