//! Custom modules with every kind of part, in every quantization mode: loading restores the saved module exactly.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Lstm, LstmConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::{gelu, relu};
use slm::nn::Weight;
use slm::prelude::*;
use slm::quant::QuantizationType;
use slm_testing::Random;

/// A module that tests can run.
trait Net: Module + NamedLinears {
    fn new(device: &Device) -> Self;

    /// Creates the module with parameters that depend only on `seed`.
    fn drawn(seed: u64, device: &Device) -> Self {
        Self::new(device).map(&mut Draw(Random(seed)))
    }

    /// Runs the module on fixed inputs of the shape that it needs.
    fn run(&self, device: &Device) -> Tensor<2>;
}

/// Redraws all parameters except those with equal values, such as the scales of norms.
struct Draw(Random);

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let values: Vec<f32> = tensor.to_data().try_to_vec().unwrap();
            if values.iter().all(|value| *value == values[0]) {
                return tensor;
            }
            let dims = tensor.dims();
            let scale = (dims[0] as f32).sqrt().recip();
            let values: Vec<f32> = values.iter().map(|_| scale * self.0.normal()).collect();
            let drawn = Tensor::from_data(TensorData::new(values, dims), &tensor.device());
            if tensor.is_require_grad() { drawn.require_grad() } else { drawn }
        })
    }
}

fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    burn::nn::LinearConfig::new(inputs, outputs).init(device).into()
}

/// Distinct numbers between -1 and 1.
fn numbers<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * 0.77).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A module with generic, nested, optional, repeated and enum parts, whose widths no group size divides.
#[derive(Module, Debug, NamedLinears)]
struct Tower<B: Module> {
    stem: Linear,
    blocks: Vec<Vec<B>>,
    chosen: [Chosen; 2],
    tail: Option<Linear>,
    absent: Option<B>,
    pair: (Linear, Linear),
    offset: Param<Tensor<1>>,
}

#[derive(Module, Debug, NamedLinears)]
#[allow(clippy::large_enum_variant, reason = "Burn has no Module for Box")]
enum Chosen {
    Gated(Gated),
    Narrow(Linear),
}

#[derive(Module, Debug, NamedLinears)]
struct Gated {
    up: Linear,
    gate: Linear,
    norm: LayerNorm,
}

#[derive(Module, Debug, NamedLinears)]
struct Residual {
    inner: Option<Linear>,
}

impl Net for Tower<Residual> {
    fn new(device: &Device) -> Self {
        let residual = |width| Residual { inner: Some(linear(width, width, device)) };
        let gated = Gated {
            up: linear(13, 33, device),
            gate: linear(13, 33, device),
            norm: LayerNormConfig::new(33).init(device),
        };
        Self {
            stem: linear(7, 13, device),
            blocks: vec![vec![residual(13), Residual { inner: None }], vec![], vec![residual(13)]],
            chosen: [Chosen::Gated(gated), Chosen::Narrow(linear(33, 5, device))],
            tail: Some(linear(5, 65, device)),
            absent: None,
            pair: (linear(65, 6, device), linear(6, 3, device)),
            offset: Param::from_tensor(numbers([3], device)),
        }
    }

    fn run(&self, device: &Device) -> Tensor<2> {
        let mut x = self.stem.forward(numbers([9, 7], device));
        for block in self.blocks.iter().flatten() {
            if let Some(inner) = &block.inner {
                x = x.clone() + relu(inner.forward(x));
            }
        }
        for chosen in &self.chosen {
            x = match chosen {
                Chosen::Gated(Gated { up, gate, norm }) => {
                    norm.forward(up.forward(x.clone()) * gelu(gate.forward(x)))
                }
                Chosen::Narrow(narrow) => narrow.forward(x),
            };
        }
        if let Some(tail) = &self.tail {
            x = tail.forward(x);
        }
        self.pair.1.forward(self.pair.0.forward(x)) + self.offset.val().unsqueeze::<2>()
    }
}

/// A module with a convolution over time, running statistics, a recurrent layer of Burn's, and linears on 3-D inputs.
#[derive(Module, Debug, NamedLinears)]
struct Sequence {
    conv: Conv1d,
    norm: BatchNorm,
    lstm: Lstm,
    mix: Linear,
    head: Linear,
}

impl Net for Sequence {
    fn new(device: &Device) -> Self {
        Self {
            conv: Conv1dConfig::new(3, 6, 2).init(device),
            norm: BatchNormConfig::new(6).init(device),
            lstm: LstmConfig::new(6, 10, true).init(device),
            mix: linear(10, 9, device),
            head: linear(9, 4, device),
        }
    }

    fn run(&self, device: &Device) -> Tensor<2> {
        let x = self.norm.forward(self.conv.forward(numbers([2, 3, 8], device)));
        let (x, _) = self.lstm.forward(x.swap_dims(1, 2), None);
        let x = self.head.forward(relu(self.mix.forward(x)));
        x.reshape([14, 4])
    }
}

/// One matrix in three places: an encoder, the same encoder again, and a bare parameter that is multiplied by hand.
#[derive(Module, Debug, NamedLinears)]
struct Tied {
    encoder: Linear,
    again: Linear,
    decoder: Param<Tensor<2>>,
}

impl Net for Tied {
    fn new(device: &Device) -> Self {
        let encoder = linear(11, 11, device);
        let Weight::Float(decoder) = encoder.weight.clone() else { unreachable!() };
        Self { again: encoder.clone(), encoder, decoder }
    }

    fn run(&self, device: &Device) -> Tensor<2> {
        let x = self.again.forward(relu(self.encoder.forward(numbers([4, 11], device))));
        x.matmul(self.decoder.val())
    }
}

/// All combinations of bits, granularity, mapping, scale type and activations.
fn quantizers() -> Vec<(String, Quantizer)> {
    let mut all = Vec::new();
    for (bits, quantizer) in [("int8", Quantizer::int8()), ("int4", Quantizer::int4())] {
        for (granularity, quantizer) in [
            ("tensor", quantizer.clone().per_tensor()),
            ("channel", quantizer.clone().per_channel()),
            ("group:5", quantizer.clone().group(5)),
            ("group:4", quantizer.group(4)),
        ] {
            for (grid, quantizer) in [
                ("symmetric", quantizer.clone()),
                ("affine", quantizer.clone().affine()),
                ("affine f16", quantizer.affine().f16_scales()),
            ] {
                for (inputs, quantizer) in [
                    ("weight-only", quantizer.clone().weight_only()),
                    ("dynamic", quantizer.clone().dynamic_activations()),
                    ("static", quantizer.static_activations()),
                ] {
                    all.push((format!("{bits} {granularity} {grid} {inputs}"), quantizer));
                }
            }
        }
    }
    all
}

fn values<N: Net>(net: &N, device: &Device) -> Vec<f32> {
    net.run(device).into_data().try_to_vec().unwrap()
}

/// Power of the difference between `found` and `expected`, relative to the power of `expected`.
fn noise(found: &[f32], expected: &[f32]) -> f32 {
    let power = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    power(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / power(&mut expected.iter().copied())
}

fn is_saved_and_loaded_exactly<N: Net>(root: &Path, device: &Device) {
    let mut float = N::drawn(1, device);
    let expected = values(&float, device);
    for (name, quantizer) in quantizers() {
        let quantizer = match quantizer.config().quantization_type {
            QuantizationType::Static => quantizer.calibrate(&mut float, |net| drop(net.run(device))).unwrap(),
            _ => quantizer,
        };
        let (quantized, report) = quantizer.convert(float.clone()).unwrap();
        let found = values(&quantized, device);
        assert!(found.iter().all(|value| value.is_finite()), "{name}");
        let share = noise(&found, &expected);
        // 4-bit weights with a single scale per tensor are coarse.
        let most = if name.starts_with("int8") { 0.01 } else { 0.5 };
        assert!(share > 0.0 && share < most, "{name}: noise {share}");
        let dir = report.save(&quantized, root.join(&name)).unwrap();
        let mut loaded = N::drawn(2, device);
        assert_ne!(values(&loaded, device), found, "{name}");
        let read = slm::load(&mut loaded, &dir).unwrap();
        assert_eq!(read.quantized.len(), report.layers.len(), "{name}");
        assert_eq!(values(&loaded, device), found, "{name}");
        std::fs::remove_dir_all(dir).unwrap();
    }
    // The caller's clone stays float.
    assert_eq!(values(&float, device), expected);
    let dir = slm::save(&float, root.join("float")).unwrap();
    let mut loaded = N::drawn(2, device);
    slm::load(&mut loaded, dir).unwrap();
    assert_eq!(values(&loaded, device), expected);
}

#[test]
fn nested_generic_and_chosen_parts() {
    let root = tempfile::tempdir().unwrap();
    is_saved_and_loaded_exactly::<Tower<Residual>>(root.path(), &Device::flex());
}

#[test]
fn layers_of_one_input_and_of_one_output() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = || vec![linear(1, 3, &device), linear(3, 1, &device), linear(1, 1, &device)];
    let run = |module: &Vec<Linear>| {
        let x = module.iter().fold(numbers([5, 1], &device), |x, layer| layer.forward(x));
        x.into_data().try_to_vec::<f32>().unwrap()
    };
    for (name, quantizer) in [
        ("int8", Quantizer::int8().per_tensor().dynamic_activations()),
        ("int4", Quantizer::int4().per_channel().affine()),
        ("group", Quantizer::int4().group(1)),
    ] {
        let (quantized, report) = quantizer.convert(module()).unwrap();
        let dir = report.save(&quantized, root.path().join(name)).unwrap();
        let mut loaded = module();
        slm::load(&mut loaded, dir).unwrap();
        assert_eq!(run(&loaded), run(&quantized), "{name}");
    }
}

#[test]
fn a_convolution_and_a_recurrent_layer() {
    let root = tempfile::tempdir().unwrap();
    is_saved_and_loaded_exactly::<Sequence>(root.path(), &Device::flex());
}

#[test]
fn one_matrix_in_three_places() {
    let root = tempfile::tempdir().unwrap();
    is_saved_and_loaded_exactly::<Tied>(root.path(), &Device::flex());
}

/// The codes are the same on every device; products of floats may differ in their last bits.
#[test]
#[cfg(feature = "ndarray")]
fn a_directory_goes_from_one_device_to_another() {
    let root = tempfile::tempdir().unwrap();
    let [flex, ndarray] = slm_nn::cpu_devices().try_into().unwrap();
    let (quantized, report) = Quantizer::int4().group(5).convert(Tower::drawn(1, &flex)).unwrap();
    let dir = report.save(&quantized, root.path().join("tower")).unwrap();
    let mut loaded = Tower::<Residual>::drawn(2, &ndarray);
    slm::load(&mut loaded, dir).unwrap();
    let (found, expected) = (values(&loaded, &ndarray), values(&quantized, &flex));
    assert!(noise(&found, &expected) < 1e-9, "{found:?} {expected:?}");
}

/// Trains `net` towards a constant for a few steps, and returns the losses.
fn train<N: Net>(net: &mut N, device: &Device, mut each: impl FnMut(&mut N)) -> Vec<f32> {
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..40 {
        let output = net.run(device);
        let target = numbers(output.dims(), device) * 0.5;
        let loss = MseLoss::new().forward(output, target, Reduction::Mean);
        let gradients = GradientsParams::from_grads(loss.backward(), &*net);
        *net = optimizer.step(1e-2, net.clone(), gradients);
        each(net);
        losses.push(loss.into_scalar::<f32>());
    }
    losses
}

fn is_trained_both_ways<N: Net>(root: &Path) {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    for (name, quantizer) in [
        ("int8", Quantizer::int8().static_activations()),
        ("int4", Quantizer::int4().group(5).dynamic_activations()),
        ("weight-only", Quantizer::int4().per_channel()),
    ] {
        let (mut net, training) = Qat::from(quantizer).prepare(N::drawn(1, &device)).unwrap();
        let losses = train(&mut net, &device, |_| training.check().unwrap());
        assert!(losses[39] < 0.8 * losses[0], "{name}: {losses:?}");
        let (quantized, report) = training.convert(&net).unwrap();
        let trained = values(&net.valid(), &plain);
        let share = noise(&values(&quantized, &plain), &trained);
        assert!(share < 1e-6, "{name}: what was trained is not what is stored: {share}");
        let dir = report.save(&quantized, root.join(name)).unwrap();
        let mut loaded = N::drawn(2, &plain);
        slm::load(&mut loaded, &dir).unwrap();
        assert_eq!(values(&loaded, &plain), values(&quantized, &plain), "{name}");

        // Training of the loaded module continues, and it stays quantized.
        let (mut tuned, mut tuning) = FineTune::stochastic(3).prepare(loaded, &device).unwrap();
        let losses = train(&mut tuned, &device, |net| tuning.apply(net).unwrap());
        assert!(losses[39] < 0.8 * losses[0], "{name}: {losses:?}");
        let tuned = tuning.finish(&tuned).unwrap();
        assert_ne!(values(&tuned, &plain), values(&quantized, &plain), "{name}");
        let dir = slm::save(&tuned, root.join(format!("{name} tuned"))).unwrap();
        let mut loaded = N::drawn(2, &plain);
        assert_eq!(slm::load(&mut loaded, &dir).unwrap().quantized.len(), report.layers.len());
        assert_eq!(values(&loaded, &plain), values(&tuned, &plain), "{name}");
    }
}

#[test]
fn nested_parts_are_trained_to_be_quantized_and_while_quantized() {
    let root = tempfile::tempdir().unwrap();
    is_trained_both_ways::<Tower<Residual>>(root.path());
}

#[test]
fn a_sequence_model_is_trained_to_be_quantized_and_while_quantized() {
    let root = tempfile::tempdir().unwrap();
    is_trained_both_ways::<Sequence>(root.path());
}

/// A float adapter on a frozen quantized module: gradients flow through the quantized layers.
#[test]
fn an_adapter_is_trained_on_a_quantized_module() {
    #[derive(Module, Debug, NamedLinears)]
    struct Adapted {
        base: Linear,
        down: Linear,
        up: Linear,
    }
    let plain = Device::flex();
    let net =
        Adapted { base: linear(12, 12, &plain), down: linear(12, 2, &plain), up: linear(2, 12, &plain) };
    let net = net.map(&mut Draw(Random(1)));
    let (net, _) = Quantizer::int8().skip("down").skip("up").convert(net).unwrap();
    let device = plain.autodiff();
    let mut net = net.train();
    let codes = |net: &Adapted| net.base.packed().unwrap().matrix().unpack();
    let before = codes(&net);
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..40 {
        let x = net.base.forward(net.up.forward(net.down.forward(numbers([6, 12], &device))));
        let loss = MseLoss::new().forward(x, numbers([6, 12], &device) * 0.3, Reduction::Mean);
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(1e-2, net, gradients);
        losses.push(loss.into_scalar::<f32>());
    }
    assert!(losses[39] < 0.7 * losses[0], "{losses:?}");
    assert_eq!(codes(&net), before);
}
