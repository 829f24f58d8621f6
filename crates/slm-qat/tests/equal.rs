//! Tests that a fake-quantized model and the converted integer model agree, in every scheme.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use slm_kernels::{accumulate, quantize_activations};
use slm_model::{ModelConfig, Transformer, evaluate, window_logits};
use slm_nn::{
    ForwardHook, NamedLinears, Weight, attach_hook, cpu_devices, detach_hooks, fake_quantize_activation,
    to_vec_f32,
};
use slm_ptq::PtqConfig;
use slm_qat::{QatConfig, QatOptions, ScaleMode, convert, prepare};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QuantScheme, QuantizationType,
    ScaleDtype,
};

/// Largest difference of logits, relative to the largest logit of the window.
const TOLERANCE: f32 = 1e-4;
const WINDOW: usize = 24;

/// Two layers, 24 wide, with grouped queries, an MLP of 52 (which 16 does not divide) and an untied head.
fn config() -> ModelConfig {
    let mut config = ModelConfig::new(96, 24, 52, 2, 2, 64);
    config.num_kv_heads = 1;
    config.tie_word_embeddings = false;
    config
}

fn ids(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i * 7 + i * 13 + seed * 31) % 96).collect()
}

fn settings() -> Vec<QatConfig> {
    let mut all = Vec::new();
    for bits in [Bits::Int8, Bits::Int4] {
        for granularity in
            [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 16 }]
        {
            for (quantization_type, activations) in [
                (QuantizationType::WeightOnly, ActivationGranularity::PerToken),
                (QuantizationType::Dynamic, ActivationGranularity::PerToken),
                (QuantizationType::Dynamic, ActivationGranularity::PerTensor),
                (QuantizationType::Static, ActivationGranularity::PerToken),
            ] {
                for (scale, mapping, scale_dtype) in [
                    (ScaleMode::Observed, Mapping::Symmetric, ScaleDtype::F32),
                    (ScaleMode::Observed, Mapping::Affine, ScaleDtype::F16),
                    (ScaleMode::Learned, Mapping::SymmetricTorch, ScaleDtype::F32),
                ] {
                    let scheme = QuantScheme { bits, granularity, mapping, scale_dtype };
                    let mut quantization = PtqConfig::new(scheme, quantization_type);
                    quantization.activation_granularity = activations;
                    let options = QatOptions { scale, averaging_constant: 0.5, ..QatOptions::default() };
                    all.push(QatConfig { quantization, options });
                }
            }
        }
    }
    all
}

/// A prepared model that has seen some batches, without autodiff.
fn trained(config: &QatConfig, device: &Device) -> Transformer {
    let device = device.clone().autodiff();
    let mut model = Transformer::new(&self::config(), 5, &device).unwrap();
    let prepared = prepare(&mut model, config, 3).unwrap();
    assert_eq!((prepared.plan.layers.len(), prepared.plan.skipped.len()), (15, 0));
    for step in 0..3 {
        prepared.set_stage(step);
        model.forward(model.ids_tensor(&ids(step as u32, WINDOW)));
    }
    model.valid()
}

#[test]
fn logits_and_perplexity_of_the_converted_model_are_those_of_the_trained_one() {
    let text = ids(9, 5 * WINDOW);
    let mut worst = 0.0_f32;
    for device in cpu_devices() {
        for config in settings() {
            let what = format!("{} {:?} {:?}", config.quantization.scheme, config, device);
            let fake = trained(&config, &device);
            let mut integer = fake.clone();
            let reports = convert(&mut integer, &mut |_| {}).unwrap();
            assert_eq!(reports.len(), 15, "{what}");
            for window in text.chunks(WINDOW) {
                let expected = window_logits(&fake, window).unwrap();
                let found = window_logits(&integer, window).unwrap();
                let largest = expected.iter().fold(0.0_f32, |largest, e| largest.max(e.abs()));
                let difference = expected.iter().zip(&found).map(|(e, f)| (e - f).abs()).fold(0.0, f32::max);
                worst = worst.max(difference / largest);
                assert!(difference <= TOLERANCE * largest, "{what}: {difference} of {largest}");
            }
            let perplexity = |model: &Transformer| {
                let evaluation = evaluate(model, &text, WINDOW, |_, _| {}).unwrap();
                format!("{:.3e}", evaluation.perplexity())
            };
            assert_eq!(perplexity(&fake), perplexity(&integer), "{what}");
        }
    }
    println!("largest difference of logits, relative to the largest logit: {worst:e}");
}

#[derive(Default)]
struct Inputs(Mutex<BTreeMap<String, Tensor<2>>>);

impl ForwardHook for Inputs {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        self.0.lock().unwrap().insert(layer.to_owned(), input.clone());
    }
}

/// The codes of weights and activations, and therefore the integer sums, are the same in every layer, on the input that
/// the layer has in the model.
#[test]
fn integers_of_every_layer_are_the_same() {
    for config in settings() {
        let mut fake = trained(&config, &Device::flex());
        let mut integer = fake.clone();
        convert(&mut integer, &mut |_| {}).unwrap();
        let hook = Arc::new(Inputs::default());
        attach_hook(&mut fake, &(Arc::clone(&hook) as Arc<dyn ForwardHook>));
        fake.forward(fake.ids_tensor(&ids(4, WINDOW)));
        detach_hooks(&mut fake);
        let inputs = hook.0.lock().unwrap();
        let mut packed = BTreeMap::new();
        integer.for_each_linear(&mut |name, linear| {
            packed.insert(name.to_owned(), linear.packed().unwrap().clone());
        });
        fake.for_each_linear(&mut |name, linear| {
            let Weight::FakeQuantized(weight) = &linear.weight else { panic!("{name} is not prepared") };
            let packed = &packed[name];
            let stored = weight.quantize().unwrap();
            assert_eq!(packed.matrix().unpack(), stored, "{name}");
            assert_eq!(to_vec_f32("w", weight.rounded_weight()).unwrap(), stored.dequantize(), "{name}");
            let quant = weight.activation().unwrap().unwrap();
            assert_eq!(packed.activation(), quant, "{name}");
            if quant == ActivationQuant::Float {
                return;
            }
            let x = &inputs[name];
            let [rows, cols] = x.dims();
            let codes =
                quantize_activations(&to_vec_f32("x", x.clone()).unwrap(), rows, cols, &quant).unwrap();
            let rounded = to_vec_f32("x", fake_quantize_activation(x.clone(), quant)).unwrap();
            let steps = |row: usize, col: usize| {
                let params = codes.qparams(row);
                (f64::from(rounded[row * cols + col]) / f64::from(params.scale)).round() as i64
            };
            let sums = accumulate(&codes, packed.matrix()).unwrap();
            let groups = stored.groups_per_row();
            for row in 0..rows {
                for out in 0..stored.rows() {
                    for group in 0..groups {
                        let zero = i64::from(stored.qparams(stored.scale_index(out, group)).zero_point);
                        let from = group * stored.group_width();
                        let to = (from + stored.group_width()).min(cols);
                        let expected: i64 = (from..to)
                            .map(|col| steps(row, col) * (i64::from(stored.code(out, col)) - zero))
                            .sum();
                        let found = sums[(row * stored.rows() + out) * groups + group];
                        assert_eq!(i64::from(found), expected, "{name}");
                    }
                }
            }
        });
    }
}

#[test]
fn what_cannot_work_is_said_before_training() {
    let device = Device::flex().autodiff();
    let base = settings().remove(0);
    let refuse = |change: &dyn Fn(&mut QatConfig)| {
        let mut config = base.clone();
        change(&mut config);
        let mut model = Transformer::new(&self::config(), 5, &device).unwrap();
        prepare(&mut model, &config, 10).unwrap_err().to_string()
    };
    let nothing = refuse(&|config| config.quantization.skip = vec!["*".to_owned()]);
    assert!(nothing.contains("skip patterns match all 15 linear layers"), "{nothing}");
    let group = refuse(&|config| {
        config.quantization.scheme.granularity = Granularity::PerGroup { group_size: 32 };
    });
    assert!(group.contains("layers.0.self_attn.q_proj") && group.contains("32"), "{group}");
    let affine = refuse(&|config| {
        config.quantization.scheme.mapping = Mapping::Affine;
        config.options.scale = ScaleMode::Learned;
    });
    assert!(affine.contains("use symmetric"), "{affine}");
    let late = refuse(&|config| config.options.observe_steps = 10);
    assert!(late.starts_with("observe_steps is 10, and the run has 10 steps"), "{late}");
    let frozen = refuse(&|config| {
        (config.options.observe_steps, config.options.freeze_steps) = (5, 6);
    });
    assert!(frozen.starts_with("freeze_steps is 6, and 5 steps follow"), "{frozen}");
    let constant = refuse(&|config| config.options.averaging_constant = 0.0);
    assert!(constant.starts_with("averaging_constant is 0"), "{constant}");

    let mut model = Transformer::new(&self::config(), 5, &Device::flex()).unwrap();
    assert!(convert(&mut model, &mut |_| {}).unwrap_err().to_string().contains("call `prepare`"));
    let mut config = base.clone();
    config.quantization.quantization_type = QuantizationType::Static;
    let plain = prepare(&mut model, &config, 10).unwrap_err().to_string();
    assert!(plain.contains("layers.0.self_attn.q_proj") && plain.contains(".autodiff()"), "{plain}");
    assert!(convert(&mut model, &mut |_| {}).is_err(), "a layer was prepared all the same");
    let mut model = Transformer::new(&self::config(), 5, &device).unwrap();
    prepare(&mut model, &config, 10).unwrap();
    let mut model = model.valid();
    let unseen = convert(&mut model, &mut |_| {}).unwrap_err().to_string();
    assert!(unseen.contains("layers.0.self_attn.q_proj: no input was observed"), "{unseen}");
}
