//! Training of a network that stays quantized. The network is in `examples/net`.

mod net;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use net::{Net, images};
use slm::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let (quantized, report) = Quantizer::int8().convert(Net::new(&device))?;

    let device = device.autodiff();
    let (images, labels) = images(&device);
    let loss = CrossEntropyLossConfig::new().init(&device);
    let mut optimizer = AdamWConfig::new().init();
    let (mut net, mut tuning) = FineTune::stochastic(0).prepare(quantized, &device)?;
    let mut losses = Vec::new();
    for _ in 0..30 {
        let value = loss.forward(net.forward(images.clone()), labels.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &net);
        net = optimizer.step(3e-3, net, gradients);
        // Applies the optimizer's update to the codes.
        tuning.apply(&mut net)?;
        losses.push(value.into_scalar::<f32>());
    }
    println!("loss {:.3} -> {:.3}", losses[0], losses[29]);
    assert!(losses[29] < losses[0] / 2.0);

    let trained = tuning.finish(&net)?;
    let root = tempfile::tempdir()?;
    let dir = slm::save(&trained, root.path().join("net-tuned"))?;
    println!("{} quantized layers saved in {}", report.layers.len(), dir.display());
    Ok(())
}
