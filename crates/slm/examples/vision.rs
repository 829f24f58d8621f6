//! A convolutional network of Burn's modules: quantize its linears, report, save and load. The network is in
//! `examples/net`.

mod net;

use burn::prelude::*;
use net::{Net, images};
use slm::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let mut net = Net::new(&device);
    let (images, _) = images(&device);

    let (quantized, report) = Quantizer::int8()
        .static_activations()
        .skip("head")
        .calibrate(&mut net, |net| drop(net.forward(images.clone())))?
        .convert(net)?;
    println!("{report}");

    // `save` fails for an existing directory; the new one appears complete or not at all.
    let root = tempfile::tempdir()?;
    let dir = report.save(&quantized, root.path().join("net-int8"))?;

    // Loading needs a module with the same structure; float layers become quantized ones.
    let mut loaded = Net::new(&device);
    let found = slm::load(&mut loaded, &dir)?;
    println!("quantized layers: {}", found.quantized.join(", "));
    let outputs = |net: &Net| net.forward(images.clone()).into_data();
    assert_eq!(outputs(&loaded), outputs(&quantized));
    Ok(())
}
