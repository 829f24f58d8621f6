//! Fake quantization of unmodified modules by Burn's `apply_reparameterization`, as docs/library.md describes it.

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use slm::nn::fake_quantize;
use slm::quant::{Bits, Granularity, ObserverKind, QuantScheme};

/// A module that does not use slm.
#[derive(Module, Debug)]
struct Plain {
    embedding: Embedding,
    up: Linear,
    down: Linear,
}

impl Plain {
    fn new(device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(8, 16).init(device),
            up: LinearConfig::new(16, 32).init(device),
            down: LinearConfig::new(32, 16).init(device),
        }
    }

    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.down.forward(self.up.forward(self.embedding.forward(ids)).tanh())
    }
}

const SCHEME: QuantScheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerChannel);

#[derive(Module, Debug)]
struct Rounded;

impl Reparameterization for Rounded {
    const NAME: &'static str = "fake_quantized";

    /// Burn's weight is `[in_features, out_features]`.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dims = base.dims();
        let weight = base.reshape([dims[0], dims[1]]).transpose();
        let rounded = fake_quantize(weight, SCHEME, &ObserverKind::MinMax).unwrap();
        rounded.transpose().reshape(dims)
    }
}

/// Reparameterization that rounds the weights of linears. It sees only the path and the rank of a parameter, so only
/// the name distinguishes the weight of an embedding from that of a linear.
struct RoundLinears;

impl Reparameterizer for RoundLinears {
    type Reparam = Rounded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Rounded>) {
        let wanted = D == 2 && ["up.weight", "down.weight"].contains(&path);
        (param, wanted.then_some(Rounded))
    }
}

#[test]
fn weights_of_an_unmodified_module_are_trained_on_their_grid() {
    let device = Device::flex().autodiff();
    let ids: Vec<i64> = (0..8).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 8]), &device);
    let mut module = Plain::new(&device).apply_reparameterization(RoundLinears);
    let target = Tensor::<3>::ones([1, 8, 16], &device) * 0.3;
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..40 {
        let loss = (module.forward(ids.clone()) - target.clone()).square().mean();
        losses.push(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &module);
        module = optimizer.step(1e-2, module, gradients);
    }
    assert!(losses[39] < losses[0] / 4.0, "{losses:?}");

    // The materialized weights are floats on the grid, so slm's linear stores them without further error.
    let folded = module.valid().materialize();
    let linear = slm::nn::Linear::from(folded.up.clone());
    let values = linear.float_weight().unwrap();
    let again = fake_quantize(values.clone(), SCHEME, &ObserverKind::MinMax).unwrap();
    let difference = (again - values).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-6, "{difference}");
    // But the module stays as large as before, and its inputs stay float.
    assert_eq!(folded.num_params(), Plain::new(&device).num_params());
}
