//! A small convolutional network with nested and optional parts, and images to train it on.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::prelude::*;
use burn::tensor::activation::{relu, sigmoid};
use slm::prelude::*;

#[derive(Module, Debug, NamedLinears)]
pub(crate) struct Net {
    conv: Conv2d,
    norm: BatchNorm,
    blocks: Vec<Block>,
    head: Linear,
}

#[derive(Module, Debug, NamedLinears)]
struct Block {
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
}

impl Net {
    pub(crate) fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| burn::nn::LinearConfig::new(inputs, outputs).init(device).into();
        let block = |gated: bool| Block {
            up: linear(64, 96),
            gate: gated.then(|| linear(64, 96)),
            down: linear(96, 64),
        };
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let conv = Conv2dConfig::new([1, 4], [3, 3]).with_stride([2, 2]).with_padding(padding);
        Self {
            conv: conv.init(device),
            norm: BatchNormConfig::new(4).init(device),
            blocks: vec![block(true), block(false)],
            head: linear(64, 4),
        }
    }

    /// Maps images of shape `[batch, 1, 8, 8]` to logits of shape `[batch, 4]`.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.norm.forward(self.conv.forward(images))).flatten(1, 3);
        let x = self.blocks.iter().fold(x, |x, block| {
            let up = relu(block.up.forward(x.clone()));
            let gated = match &block.gate {
                Some(gate) => up * sigmoid(gate.forward(x.clone())),
                None => up,
            };
            x + block.down.forward(gated)
        });
        self.head.forward(x)
    }
}

/// 64 images with one bright quadrant each, and the index of that quadrant.
pub(crate) fn images(device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let pixel = |image: usize, at: usize| {
        let quadrant = (at / 8 / 4) * 2 + (at % 8) / 4;
        let noise = ((image * 64 + at) * 7919 % 101) as f32 / 101.0;
        noise + f32::from(u8::from(quadrant == image % 4))
    };
    let pixels: Vec<f32> = (0..64 * 64).map(|index| pixel(index / 64, index % 64)).collect();
    let labels: Vec<i64> = (0..64).map(|image| image % 4).collect();
    let images = Tensor::from_data(TensorData::new(pixels, [64, 1, 8, 8]), device);
    (images, Tensor::from_data(TensorData::new(labels, [64]), device))
}
