//! Errors of calibration with a different module than the one that is converted.

use burn::prelude::*;
use slm::prelude::*;
use slm::{Error, ptq};

#[derive(Module, Debug, NamedLinears)]
struct Net {
    body: Option<Linear>,
    head: Linear,
}

fn net(width: usize, with_body: bool) -> Net {
    let device = Device::flex();
    Net {
        body: with_body.then(|| LinearConfig::new(width, 8).init(0.1, &device)),
        head: LinearConfig::new(8, 4).init(0.1, &device),
    }
}

fn calibrated(quantizer: Quantizer, width: usize, with_body: bool) -> Quantizer {
    let device = Device::flex();
    let x = |width| Tensor::<1, Int>::arange(0..3 * width as i64, &device).float().reshape([3, width]);
    let mut module = net(width, with_body);
    let forward = |net: &Net| match &net.body {
        Some(body) => drop(net.head.forward(body.forward(x(width)))),
        None => drop(net.head.forward(x(8))),
    };
    quantizer.calibrate(&mut module, forward).unwrap()
}

#[test]
fn a_layer_that_calibration_did_not_see_as_it_is_is_refused() {
    for quantizer in [
        Quantizer::int8().static_activations(),
        Quantizer::int8(),
        Quantizer::int4().per_channel(),
        Quantizer::int4().per_channel().gptq(),
    ] {
        let same = calibrated(quantizer.clone(), 16, true);
        assert_eq!(same.convert(net(16, true)).unwrap().1.layers.len(), 2);
        // A missing layer is allowed; an additional one has no calibration.
        assert_eq!(same.convert(net(16, false)).unwrap().1.layers.len(), 1);
        let fewer = calibrated(quantizer.clone(), 16, false);
        let error = fewer.convert(net(16, true)).unwrap_err();
        let is_named = matches!(&error, Error::Ptq(ptq::Error::NotCalibrated { layer }) if layer == "body");
        assert!(is_named, "{error}");
        let error = calibrated(quantizer, 32, true).convert(net(16, true)).unwrap_err();
        let Error::OtherCalibration { layer, expected, found } = &error else { panic!("{error}") };
        assert_eq!((layer.as_str(), *expected, *found), ("body", 16, 32));
        assert!(error.to_string().contains("calibrate the module that is converted"), "{error}");
    }
}

/// GPTQ reuses the products of a layer's inputs for the next layer with the same inputs.
#[test]
fn the_same_values_in_rows_of_another_width_are_other_inputs() {
    #[derive(Module, Debug, NamedLinears)]
    struct Reshaped {
        narrow: Linear,
        wide: Linear,
    }
    let device = Device::flex();
    let linear = |inputs| LinearConfig::new(inputs, 3).init(0.1, &device);
    let mut net = Reshaped { narrow: linear(8), wide: linear(16) };
    let x = Tensor::<1, Int>::arange(0..64, &device).float().sin();
    let quantizer = Quantizer::int4().per_channel().gptq().calibrate(&mut net, |net| {
        net.narrow.forward(x.clone().reshape([8, 8]));
        net.wide.forward(x.clone().reshape([4, 16]));
    });
    assert_eq!(quantizer.unwrap().convert(net).unwrap().1.layers.len(), 2);
}
