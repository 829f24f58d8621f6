//! Tests of training that starts with a quantized model: nothing changes or is lost before the first step.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use slm_model::{ModelConfig, Transformer, window_logits};
use slm_nn::{NamedLinears, Weight};
use slm_ptq::{Calibration, Plan, PtqConfig, calibrate};
use slm_qat::{Error, QatOptions, ScaleMode, convert, prepare_quantized, unpack};
use slm_quant_core::{
    ActivationQuant, Bits, Granularity, Mapping, QuantScheme, QuantizationType, QuantizedMatrix,
};

fn float() -> Transformer {
    let mut config = ModelConfig::new(96, 24, 52, 2, 2, 64);
    config.tie_word_embeddings = false;
    Transformer::new(&config, 3, &Device::flex()).unwrap()
}

fn ids() -> Vec<u32> {
    (0..40).map(|i| (i * i * 7 + i * 13) % 96).collect()
}

/// The float model quantized to nearest, with a layer of another scheme and one left float.
fn quantized(config: &PtqConfig) -> Transformer {
    let mut model = float();
    let plan = Plan::new(&model, config).unwrap();
    let observed = match config.quantization_type {
        QuantizationType::Static => calibrate(&mut model, &plan, config, |model| {
            window_logits(model, &ids()).map(|_| ()).map_err(slm_ptq::Error::from)
        })
        .unwrap(),
        _ => Calibration::default(),
    };
    slm_ptq::convert(&mut model, &plan, config, Some(&observed), &mut |_| {}).unwrap();
    model
}

fn config(scheme: QuantScheme, quantization_type: QuantizationType) -> PtqConfig {
    let mut config = PtqConfig::new(scheme, quantization_type);
    config.layers.push("layers.1.mlp.down_proj=int8:channel".parse().unwrap());
    config.skip.push("layers.0.self_attn.q_proj".to_owned());
    config
}

fn layers(model: &Transformer) -> BTreeMap<String, (QuantizedMatrix, ActivationQuant)> {
    let mut layers = BTreeMap::new();
    model.for_each_linear(&mut |name, linear| {
        if let Some(packed) = linear.packed() {
            layers.insert(name.to_owned(), (packed.matrix().unpack(), packed.activation()));
        }
    });
    layers
}

fn options() -> QatOptions {
    QatOptions { scale: ScaleMode::Learned, ..QatOptions::default() }
}

#[test]
fn codes_and_scales_are_those_of_the_quantized_model_until_something_is_trained() {
    let device = Device::flex().autodiff();
    for bits in [Bits::Int8, Bits::Int4] {
        for granularity in
            [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 16 }]
        {
            for kind in [QuantizationType::WeightOnly, QuantizationType::Dynamic, QuantizationType::Static] {
                let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity);
                let start = quantized(&config(scheme, kind));
                let expected = layers(&start);
                let logits = window_logits(&start, &ids()).unwrap();
                let mut model = start.train();
                let starts = unpack(&mut model, &device).unwrap();
                let prepared = prepare_quantized(&mut model, &starts, &options(), 10).unwrap();
                assert_eq!(prepared.plan.layers.len(), 14);
                assert_eq!(prepared.plan.skipped[0].name, "layers.0.self_attn.q_proj");
                prepared.set_stage(0);
                let mut trained = model.valid();
                let close = |found: &[f32], what: &str| {
                    let largest = logits.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    let error =
                        found.iter().zip(&logits).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
                    assert!(error <= 1e-4 * largest, "{scheme} {kind} {what}: {error} of {largest}");
                };
                close(&window_logits(&trained, &ids()).unwrap(), "prepared");
                convert(&mut trained, &mut |_| {}).unwrap();
                let found = layers(&trained);
                assert_eq!(found.len(), expected.len());
                for (name, (matrix, activation)) in found {
                    let (wanted, input) = &expected[&name];
                    assert_eq!(&matrix, wanted, "{scheme} {kind} {name}");
                    match (activation.static_params(), input.static_params()) {
                        (Some(a), Some(b)) => {
                            assert_eq!(a.zero_point, b.zero_point, "{name}");
                            assert!((a.scale / b.scale - 1.0).abs() < 1e-6, "{name}: {a:?} {b:?}");
                        }
                        _ => assert_eq!(&activation, input, "{name}"),
                    }
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_trained_from_codes_is_refused() {
    let device = Device::flex().autodiff();
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    assert!(matches!(unpack(&mut float(), &device), Err(Error::NothingQuantized)));

    let prepared = |scheme: QuantScheme, options: &QatOptions, device: &Device| {
        let mut model = quantized(&PtqConfig::new(scheme, QuantizationType::WeightOnly)).train();
        let starts = unpack(&mut model, device).unwrap();
        prepare_quantized(&mut model, &starts, options, 10).err().unwrap()
    };
    let observed = prepared(scheme, &QatOptions::default(), &device).to_string();
    assert!(observed.contains("set it to \"learned\""), "{observed}");
    let watching = prepared(scheme, &QatOptions { observe_steps: 2, ..options() }, &device);
    assert!(matches!(watching, Error::Option { option: "observe_steps", .. }), "{watching}");
    let affine = prepared(scheme.with_mapping(Mapping::Affine), &options(), &device).to_string();
    assert!(affine.contains("layers.0.self_attn.q_proj") && affine.contains("affine"), "{affine}");
    let without = prepared(scheme, &options(), &Device::flex());
    assert!(matches!(without, Error::NoGradients { .. }), "{without}");

    // The starts of a model with more layers.
    let mut model = quantized(&PtqConfig::new(scheme, QuantizationType::WeightOnly)).train();
    let mut starts = unpack(&mut model, &device).unwrap();
    let one = starts.values().next().unwrap().clone();
    starts.insert("layers.9.mlp.up_proj".to_owned(), one);
    let unknown = prepare_quantized(&mut model, &starts, &options(), 10).err().unwrap().to_string();
    assert!(unknown.contains("layers.9.mlp.up_proj"), "{unknown}");
    model.for_each_linear(&mut |_, linear| assert!(!matches!(linear.weight, Weight::Packed(_))));
}
