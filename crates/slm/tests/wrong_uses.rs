//! Misuse of the API: errors name the layer and the remedy, and leave their inputs unchanged.

use burn::module::{Module, Param};
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use slm::nn::Weight;
use slm::prelude::*;
use slm::quant::{ObserverKind, QuantizationType};
use slm::{Error, Result};

#[derive(Module, Debug, NamedLinears)]
struct Net {
    body: Vec<Linear>,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(true).init(0.3, device);
        Self { body: vec![linear(9, 12), linear(12, 12)], head: linear(12, 3) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.body.iter().fold(x, |x, layer| layer.forward(x).tanh()))
    }
}

fn inputs(device: &Device) -> Tensor<2> {
    Tensor::<1, Int>::arange(0..45, device).float().sin().reshape([5, 9])
}

fn calibrated(quantizer: Quantizer) -> Quantizer {
    let device = Device::flex();
    quantizer.calibrate(&mut Net::new(&device), |net| drop(net.forward(inputs(&device)))).unwrap()
}

/// Checks that the result is an error whose message contains all of `parts`.
#[track_caller]
fn refused<T>(result: Result<T>, parts: &[&str]) -> Error {
    let error = result.err().expect("an error");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    error
}

/// A net whose second layer has `value` as one of its weights.
fn spoiled(value: f32, device: &Device) -> Net {
    let mut net = Net::new(device);
    let mut weight = net.body[1].float_weight().unwrap().into_data().try_to_vec::<f32>().unwrap();
    weight[17] = value;
    let weight = Tensor::from_data(TensorData::new(weight, [12, 12]), device);
    net.body[1].weight = Weight::Float(Param::from_tensor(weight));
    net
}

#[test]
fn weights_that_are_not_finite() {
    let device = Device::flex();
    for value in [f32::NAN, f32::INFINITY] {
        for quantizer in
            [Quantizer::int8(), Quantizer::int4().group(4).affine(), Quantizer::int8().f16_scales()]
        {
            refused(quantizer.convert(spoiled(value, &device)), &["body.1", "finite"]);
        }
        let root = tempfile::tempdir().unwrap();
        let saved = slm::save(&spoiled(value, &device), root.path().join("net"));
        refused(saved, &["body.1.weight"]);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
    // A scale beyond the range of F16 cannot be rounded to F16.
    refused(Quantizer::int8().f16_scales().convert(spoiled(1e9, &device)), &["body.1", "f16"]);
    let (net, _) = Quantizer::int8().convert(spoiled(1e9, &device)).unwrap();
    let outputs: Vec<f32> = net.forward(inputs(&device)).into_data().try_to_vec().unwrap();
    assert!(outputs.iter().all(|value| value.is_finite()));
}

#[test]
fn calibration_that_is_missing_or_shows_nothing() {
    let device = Device::flex();
    let mut net = Net::new(&device);
    for quantizer in [
        Quantizer::int8().static_activations(),
        Quantizer::int4().group(4).gptq(),
        Quantizer::int4().group(4).observer(ObserverKind::WeightedMse),
    ] {
        refused(quantizer.convert(net.clone()), &["calibrate"]);
        refused(quantizer.clone().calibrate(&mut net, |_| ()), &["body.0", "no input was observed"]);
        let first_only = |net: &Net| drop(net.body[0].forward(inputs(&device)));
        refused(quantizer.clone().calibrate(&mut net, first_only), &["body.1", "skip"]);
        let no_rows = |net: &Net| drop(net.forward(Tensor::zeros([0, 9], &device)));
        refused(quantizer.clone().calibrate(&mut net, no_rows), &["body.0", "no input was observed"]);
        let not_finite = |net: &Net| drop(net.forward(inputs(&device) / 0.0));
        refused(quantizer.clone().calibrate(&mut net, not_finite), &["body.0", "not finite", "inputs"]);
    }
    // An error of the caller's function is returned unchanged.
    let failed =
        Quantizer::int8().try_calibrate(&mut net, |_| Err(Box::<dyn std::error::Error>::from("no data")));
    assert_eq!(failed.unwrap_err().to_string(), "no data");
}

#[test]
fn settings_after_calibration() {
    let net = Net::new(&Device::flex());
    let dynamic = calibrated(Quantizer::int8());
    refused(dynamic.clone().static_activations().convert(net.clone()), &["`static_activations`", "last"]);
    refused(dynamic.gptq().convert(net.clone()), &["`gptq`", "last"]);
    let fixed = calibrated(Quantizer::int8().static_activations());
    let late = fixed.clone().activation_observer(ObserverKind::MinMax);
    refused(late.convert(net.clone()), &["`activation_observer`", "last"]);
    // Settings that calibration does not depend on may change afterwards.
    for changed in [fixed.clone().group(4), fixed.clone().affine().skip("head"), fixed.dynamic_activations()]
    {
        changed.convert(net.clone()).unwrap();
    }
}

#[test]
fn layers_and_groups_that_are_not_there() {
    let net = Net::new(&Device::flex());
    for (pattern, parts) in [
        ("heads", &["\"heads\"", "did you mean \"head\""][..]),
        ("body", &["\"body\"", "did you mean \"body.*\""]),
        ("tail.*", &["\"tail.*\"", "\"body.0\""]),
        ("", &["\"\""]),
        ("body.[", &["body.["]),
    ] {
        refused(Quantizer::int8().skip(pattern).convert(net.clone()), parts);
        refused(Qat::from(Quantizer::int8().skip(pattern)).prepare(net.clone().train()), parts);
    }
    refused(Quantizer::int8().skip("*").convert(net.clone()), &["all 3"]);
    refused(Quantizer::int4().group(0).convert(net.clone()), &["body.0", "group"]);
    refused(Quantizer::int4().group(usize::MAX).convert(net), &["body.0", "use 1 to 9"]);

    #[derive(Module, Debug, NamedLinears)]
    struct OfBurn {
        linear: burn::nn::Linear,
    }
    let of_burn = OfBurn { linear: burn::nn::LinearConfig::new(3, 3).init(&Device::flex()) };
    refused(Quantizer::int8().convert(of_burn), &["slm's `Linear`"]);
}

#[test]
fn two_layers_of_one_name() {
    #[derive(Module, Debug, NamedLinears)]
    struct Twins {
        #[linears(rename = "proj")]
        first: Linear,
        #[linears(rename = "proj")]
        second: Linear,
    }
    let device = Device::flex();
    let linear = || LinearConfig::new(4, 4).init(0.1, &device);
    let mut twins = Twins { first: linear(), second: linear() };
    let parts = &["\"proj\"", "rename"];
    refused(Quantizer::int8().convert(twins.clone()), parts);
    refused(Quantizer::int8().calibrate(&mut twins, |_| ()), parts);
    refused(Qat::from(Quantizer::int8()).prepare(twins.clone().train()), parts);
    let root = tempfile::tempdir().unwrap();
    refused(slm::save(&twins, root.path().join("twins")), &["proj"]);
}

#[test]
fn doing_it_twice() {
    let device = Device::flex();
    let autodiff = device.clone().autodiff();
    let (packed, _) = Quantizer::int8().convert(Net::new(&device)).unwrap();
    refused(Quantizer::int8().convert(packed.clone()), &["body.0", "packed"]);
    refused(Qat::from(Quantizer::int8()).prepare(packed.clone().train()), &["body.0", "packed"]);
    // A layer that was left float can be quantized later; the others stay unchanged.
    let (some, _) = Quantizer::int8().skip("head").convert(Net::new(&device)).unwrap();
    let (all, report) = Quantizer::int8().per_tensor().skip("body.*").convert(some).unwrap();
    assert_eq!(report.layers.len(), 1);
    assert!(all.body.iter().chain([&all.head]).all(|layer| layer.packed().is_some()));

    let (prepared, training) = Qat::from(Quantizer::int8()).prepare(Net::new(&autodiff)).unwrap();
    let in_training = &["body.0", "quantization-aware training"];
    refused(Qat::from(Quantizer::int8()).prepare(prepared.clone()), in_training);
    refused(Quantizer::int8().convert(prepared.clone()), in_training);
    refused(Quantizer::int8().calibrate(&mut prepared.clone(), |_| ()), in_training);
    let (converted, _) = training.convert(&prepared).unwrap();
    refused(training.convert(&converted.train()), &["no layer is prepared"]);

    let (tuned, mut tuning) = FineTune::nearest().prepare(packed.clone(), &autodiff).unwrap();
    refused(FineTune::nearest().prepare(tuned.clone(), &autodiff), &["in training already"]);
    refused(Quantizer::int8().convert(tuned.clone()), &["body.0"]);
    let mut finished = tuning.finish(&tuned).unwrap();
    refused(tuning.finish(&finished), &["FineTune::prepare"]);
    refused(tuning.apply(&mut finished), &["FineTune::prepare"]);
    refused(FineTune::nearest().prepare(Net::new(&device), &autodiff), &["Quantizer"]);
}

#[test]
fn training_without_gradients() {
    let device = Device::flex();
    refused(Qat::from(Quantizer::int8()).prepare(Net::new(&device)), &["body.0", "autodiff()"]);
    let (packed, _) = Quantizer::int8().convert(Net::new(&device)).unwrap();
    refused(FineTune::nearest().prepare(packed, &device), &["autodiff()"]);
}

/// One step of plain gradient descent.
fn step(net: Net, x: Tensor<2>) -> Net {
    let y = net.forward(x);
    let loss = MseLoss::new().forward(y.clone(), y.ones_like(), Reduction::Mean);
    let gradients = GradientsParams::from_grads(loss.backward(), &net);
    SgdConfig::new().init().step(0.1, net, gradients)
}

#[test]
fn settings_that_training_cannot_follow() {
    let device = Device::flex().autodiff();
    let net = || Net::new(&device);
    let quantizer = Quantizer::int8;
    refused(Qat::from(calibrated(quantizer().gptq())).prepare(net()), &["gptq()"]);
    refused(Qat::from(quantizer().observer(ObserverKind::WeightedMse)).prepare(net()), &["observer"]);
    refused(Qat::from(quantizer()).schedule(10, 10, 0).prepare(net()), &["observe_steps", "10"]);
    // The selected observer is used in training and appears in the report.
    let (trained, training) =
        Qat::from(quantizer().observer(ObserverKind::Mse)).learned_scales().prepare(net()).unwrap();
    let (converted, report) = training.convert(&step(trained, inputs(&device))).unwrap();
    assert_eq!(report.metadata(&converted).weight_observer, "learned from mse");

    let (trained, training) = Qat::from(quantizer()).schedule(2, 1, 0).prepare(net()).unwrap();
    let trained = step(trained, inputs(&device));
    refused(training.convert(&trained), &["set_step"]);
    training.set_step(0);
    training.convert(&trained).unwrap();
    // Static activations need a batch.
    let (trained, training) = Qat::from(quantizer().static_activations()).prepare(net()).unwrap();
    refused(training.convert(&trained), &["body.0", "no input was observed"]);
}

#[test]
fn a_pass_that_fails_is_named_with_its_cause() {
    let device = Device::flex();
    let autodiff = device.clone().autodiff();
    let bad = || inputs(&autodiff) / 0.0;
    let (net, training) =
        Qat::from(Quantizer::int8().static_activations()).prepare(Net::new(&autodiff)).unwrap();
    let net = step(net, bad());
    refused(training.check(), &["input of layer body.0", "finite"]);
    training.check().unwrap();
    refused(training.convert(&net), &["finite"]);
    // Without a preceding `check`, the conversion returns the cause.
    let (net, training) = Qat::from(Quantizer::int8()).prepare(Net::new(&autodiff)).unwrap();
    let net = step(net, bad());
    refused(training.convert(&net), &["input of layer body.0"]);

    let (packed, _) = Quantizer::int8().convert(Net::new(&device)).unwrap();
    let (net, mut tuning) = FineTune::nearest().prepare(packed, &autodiff).unwrap();
    let mut net = step(net, bad());
    refused(tuning.apply(&mut net), &["input of layer body.0", "finite"]);
}

#[test]
fn a_step_that_was_not_applied_is_not_lost() {
    let device = Device::flex();
    let autodiff = device.clone().autodiff();
    let (packed, _) = Quantizer::int8().convert(Net::new(&device)).unwrap();
    let (net, mut tuning) = FineTune::stochastic(1).prepare(packed, &autodiff).unwrap();
    let mut net = step(net, inputs(&autodiff));
    refused(tuning.finish(&net), &["body.0", "apply"]);
    tuning.apply(&mut net).unwrap();
    tuning.finish(&net).unwrap();
}

#[test]
fn reports_of_other_modules_are_not_saved_with_this_one() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let net = Net::new(&device);
    let (packed, report) = Quantizer::int8().convert(net.clone()).unwrap();
    let at = |name: &str| root.path().join(name);
    // A module with fewer layers, one with float layers, and one with another scheme.
    let (fewer, _) = Quantizer::int8().skip("head").convert(net.clone()).unwrap();
    let (fours, _) = Quantizer::int4().per_channel().convert(net.clone()).unwrap();
    for (name, other, layer) in
        [("fewer", &fewer, "head"), ("float", &net, "body.0"), ("fours", &fours, "body.0")]
    {
        refused(report.save(other, at(name)), &[layer, "came with the report"]);
        assert!(!at(name).exists());
    }
    // A report that covers only some of the layers.
    let (_, part) = Quantizer::int8().skip("head").convert(net).unwrap();
    refused(part.save(&packed, at("part")), &["head"]);
    assert!(!at("part").exists());
    report.save(&packed, at("packed")).unwrap();
}

#[test]
fn activations_of_two_kinds_in_one_directory() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let (some, _) = Quantizer::int8().weight_only().skip("head").convert(Net::new(&device)).unwrap();
    let (both, _) = Quantizer::int8().skip("body.*").convert(some).unwrap();
    refused(slm::save(&both, root.path().join("both")), &["quantized otherwise"]);
    assert_eq!(Quantizer::int8().config().quantization_type, QuantizationType::Dynamic);
}

#[test]
fn paths_that_cannot_be_written_or_read() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, "hello").unwrap();
    let mut net = Net::new(&device);
    let before = net.forward(inputs(&device)).into_data();
    for path in [root.path().to_owned(), file.clone(), root.path().join("nowhere"), "".into()] {
        refused(slm::load(&mut net, &path), &["name a directory that `slm::save` wrote"]);
    }
    refused(slm::load(&mut net, &file), &["is a file"]);
    assert_eq!(net.forward(inputs(&device)).into_data(), before);
    refused(slm::save(&net, &file), &["file"]);
    refused(slm::save(&net, file.join("below")), &["file"]);
    refused(slm::save(&net, ""), &[]);
    // Missing parent directories are created.
    let dir = slm::save(&net, root.path().join("a/b/c")).unwrap();
    refused(slm::save(&net, &dir), &["already exists", "overwrite: true"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"hello");
}

#[test]
fn files_of_other_layers() {
    #[derive(Module, Debug, NamedLinears)]
    struct Renamed {
        layers: Vec<Linear>,
        head: Linear,
    }
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let (packed, _) = Quantizer::int8().convert(Net::new(&device)).unwrap();
    let float = slm::save(&Net::new(&device), root.path().join("float")).unwrap();
    let packed = slm::save(&packed, root.path().join("packed")).unwrap();
    let Net { body, head } = Net::new(&device);
    let mut renamed = Renamed { layers: body, head };
    let mut wider = Net::new(&device);
    wider.head = LinearConfig::new(12, 4).with_bias(true).init(0.3, &device);
    let mut bare = Net::new(&device);
    bare.head.bias = None;
    let mut longer = Net::new(&device);
    longer.body.push(LinearConfig::new(12, 12).init(0.3, &device));
    for dir in [&float, &packed] {
        refused(slm::load(&mut renamed, dir), &["body.0"]);
        refused(slm::load(&mut wider, dir), &["head", "4", "3"]);
        refused(slm::load(&mut bare, dir), &["head.bias"]);
        refused(slm::load(&mut longer, dir), &["body.2"]);
        // Files that are not safetensors, or of another directory.
        let weights = dir.join("model.safetensors");
        let good = std::fs::read(&weights).unwrap();
        for bad in [&b"PK\x03\x04 not tensors"[..], &[0; 64], &good[..good.len() / 2], b""] {
            std::fs::write(&weights, bad).unwrap();
            refused(slm::load(&mut Net::new(&device), dir), &["model.safetensors"]);
        }
        std::fs::write(&weights, &good).unwrap();
        slm::load(&mut Net::new(&device), dir).unwrap();
    }
    let [from, to] = [&float, &packed].map(|dir| dir.join("model.safetensors"));
    std::fs::copy(from, to).unwrap();
    refused(slm::load(&mut Net::new(&device), &packed), &["model.safetensors"]);
}
