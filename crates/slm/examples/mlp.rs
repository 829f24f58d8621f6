//! Post-training quantization of a multilayer perceptron: 8-bit weights and activations.

use burn::prelude::*;
use burn::tensor::{Distribution, activation::relu};
use slm::prelude::*;

#[derive(Module, Debug, NamedLinears)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        // `into` turns Burn's layers into slm's; the weights stay the same.
        Self {
            up: burn::nn::LinearConfig::new(32, 128).init(device).into(),
            down: burn::nn::LinearConfig::new(128, 10).init(device).into(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(relu(self.up.forward(x)))
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let mut mlp = Mlp::new(&device);
    let inputs = Tensor::<2>::random([256, 32], Distribution::Normal(0.0, 1.0), &device);
    let expected = mlp.forward(inputs.clone());

    let (quantized, report) = Quantizer::int8()
        .static_activations()
        .calibrate(&mut mlp, |mlp| drop(mlp.forward(inputs.clone())))?
        .convert(mlp)?;
    println!("{report}");

    let noise = quantized.forward(inputs) - expected.clone();
    let share = noise.square().mean().into_scalar::<f32>() / expected.square().mean().into_scalar::<f32>();
    println!("noise: {:.3} % of the outputs' power", share * 100.0);
    assert!(share < 0.001);
    Ok(())
}
