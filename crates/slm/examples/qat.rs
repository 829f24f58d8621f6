//! Quantization-aware training in a custom training loop: 4-bit weights, 8-bit activations. The network is in
//! `examples/net`.

mod net;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use net::{Net, images};
use slm::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let (images, labels) = images(&device);
    let loss = CrossEntropyLossConfig::new().init(&device);
    let mut optimizer = AdamWConfig::new().init();

    let quantizer = Quantizer::int4().group(32).static_activations();
    let (mut net, training) = Qat::from(quantizer).prepare(Net::new(&device))?;
    let mut losses = Vec::new();
    for _ in 0..30 {
        let value = loss.forward(net.forward(images.clone()), labels.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &net);
        net = optimizer.step(3e-3, net, gradients);
        losses.push(value.into_scalar::<f32>());
    }
    println!("loss {:.3} -> {:.3}", losses[0], losses[29]);
    assert!(losses[29] < losses[0] / 2.0);

    // The packed network computes the same as the trained one.
    let (quantized, report) = training.convert(&net)?;
    println!("{report}");
    let images = images.inner();
    let before = net.valid().forward(images.clone());
    let difference = (quantized.forward(images) - before).abs().max().into_scalar::<f32>();
    println!("largest difference of an output: {difference:e}");
    assert!(difference < 1e-4);
    Ok(())
}
