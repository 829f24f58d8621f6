//! Tests of learned rounding: its results, and the settings that it rejects.
#![cfg(feature = "checkpoint")]

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, SaveRequest, save};
use slm_model::{ModelConfig, Transformer, window_logits};
use slm_ptq::{
    CalibrationTokens, CheckpointQuantizer, Error, LayerRule, Plan, PtqConfig, RoundingMethod, convert,
};
use slm_quant_core::{Bits, Granularity, Mapping, QuantScheme, QuantizationType};

fn model() -> Transformer {
    Transformer::new(&ModelConfig::new(60, 32, 72, 2, 2, 64), 4, &Device::flex()).unwrap()
}

fn config(method: RoundingMethod, granularity: Granularity) -> PtqConfig {
    let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity);
    PtqConfig { method, ..PtqConfig::new(scheme, QuantizationType::WeightOnly) }
}

fn ids(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + i * seed + i / 3) % 60).collect()
}

/// Mean square of the difference of logits from those of the float model, on texts other than the calibration text.
fn error(model: &Transformer, float: &Transformer) -> f64 {
    let of_text = |seed| {
        let ids = ids(60, seed);
        let (a, b) = (window_logits(model, &ids).unwrap(), window_logits(float, &ids).unwrap());
        a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
    };
    let seeds = [17, 19, 23, 29, 31, 37, 41, 43];
    seeds.map(of_text).iter().sum::<f64>() / seeds.len() as f64
}

#[test]
fn trained_blocks_are_nearer_to_the_float_model_than_gptq_and_the_same_each_time() {
    let root = tempfile::tempdir().unwrap();
    let float = model();
    let path = save(root.path().join("float"), &float, &SaveRequest::default(), false).unwrap();
    let source = Checkpoint::open(path).unwrap();
    let ids = ids(64 * 32, 13);
    let quantize = |method: RoundingMethod, granularity: Granularity| {
        let mut config = config(method, granularity);
        // The head is not trained.
        config.skip = vec!["lm_head".to_owned()];
        config.tune.steps = 100;
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        let tokens = CalibrationTokens { ids: &ids, window: 64, prefix: &[], text_sha256: "a".repeat(64) };
        quantizer.calibrate(&tokens, &Device::flex(), &mut |_| Ok::<_, Error>(())).unwrap();
        quantizer.load(&Device::flex()).unwrap()
    };
    for granularity in
        [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 8 }]
    {
        let gptq = error(&quantize(RoundingMethod::Gptq, granularity).0, &float);
        let (tuned, layers) = quantize(RoundingMethod::Tune, granularity);
        let tuned = error(&tuned, &float);
        assert!(tuned < gptq, "{granularity}: {tuned:e} against {gptq:e}");
        assert_eq!(quantize(RoundingMethod::Tune, granularity).1, layers, "{granularity}");
    }
}

#[test]
fn learned_rounding_refuses_what_it_cannot_train() {
    let root = tempfile::tempdir().unwrap();
    let mut model = model();
    let path = save(root.path().join("float"), &model, &SaveRequest::default(), false).unwrap();
    let source = Checkpoint::open(path).unwrap();
    let mut affine = config(RoundingMethod::Tune, Granularity::PerChannel);
    affine.layers =
        vec![LayerRule { pattern: "layers.1.mlp.*".to_owned(), scheme: "int4:affine".parse().unwrap() }];
    let refused = CheckpointQuantizer::new(&source, affine).unwrap_err().to_string();
    assert!(refused.contains("`method` is tune, and the mapping of layers.1.mlp."), "{refused}");
    assert!(refused.contains("use a symmetric mapping, or gptq"), "{refused}");

    // A user-defined module has no blocks.
    let config = config(RoundingMethod::Tune, Granularity::PerChannel);
    let plan = Plan::new(&model, &config).unwrap();
    let refused = convert(&mut model, &plan, &config, None, &mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("`method` is tune") && refused.contains("use gptq"), "{refused}");
    assert_eq!(config.scheme.mapping, Mapping::Symmetric);
}
