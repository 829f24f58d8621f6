//! Tests that transformations do not change logits, on every architecture that allows them.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, IndexingUpdateOp, Tensor};
use slm_checkpoint::{Checkpoint, SaveRequest, hf, save};
use slm_model::{
    AttentionBias, MlpKind, ModelConfig, NormKind, NormPlacement, QkNorm, TensorSource, Transformer,
    expected_tensors,
};
use slm_nn::{NamedLinears, Weight};
use slm_ptq::{
    CalibrationTokens, CheckpointQuantizer, DynamicInputs, Error, PtqConfig, Rotate, RoundingMethod, Smooth,
    TransformedSource, Transforms,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType,
};

fn models() -> Option<PathBuf> {
    let path = std::env::var_os("SLM_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let path = path.join("models");
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no test models at {} (set SLM_SHARED)", path.display());
    None
}

fn imported(dir: &Path, out: &Path) -> Checkpoint {
    Checkpoint::open(hf::import_to(dir, out, false).unwrap().path).unwrap()
}

fn ids(vocab_size: usize) -> Vec<u32> {
    (0..24).map(|i| (i * 37 + 5) % vocab_size as u32).collect()
}

fn logits(model: &Transformer) -> Vec<f32> {
    let ids = model.ids_tensor(&ids(model.config().vocab_size));
    model.forward(ids).into_data().try_into_vec::<f32>().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn float_model(source: &Checkpoint, transforms: &Transforms) -> Transformer {
    let mut tensors = TransformedSource::new(source, transforms);
    Transformer::from_tensors(transforms.model(), &mut tensors, &Device::flex()).unwrap()
}

/// A quantizer that has smoothed, and perhaps rotated.
fn smoothed(source: &Checkpoint, rotate: Rotate, smooth: Smooth) -> CheckpointQuantizer<'_> {
    let mut config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::Dynamic);
    (config.rotate, config.smooth) = (rotate, smooth);
    let mut quantizer = CheckpointQuantizer::new(source, config).unwrap();
    calibrate(&mut quantizer, source);
    quantizer
}

fn calibrate(quantizer: &mut CheckpointQuantizer<'_>, source: &Checkpoint) {
    let ids = ids(source.config().model.vocab_size);
    let tokens = CalibrationTokens { ids: &ids, window: 12, prefix: &[], text_sha256: "0".repeat(64) };
    quantizer.calibrate(&tokens, &Device::flex(), &mut |_| Ok::<_, Error>(())).unwrap();
}

/// Checks every transformation of one model; returns whether it could be rotated.
fn check(source: &Checkpoint, name: &str) -> bool {
    let original = logits(&source.load_model(&Device::flex()).unwrap());
    let rotation = Transforms::rotation(source, 5);
    let mut all = Vec::new();
    match &rotation {
        Ok(transforms) => all.push(("rotated", transforms.clone())),
        Err(error) => assert!(matches!(error, Error::Setting { key: "rotate", .. }), "{name}: {error}"),
    }
    all.push(("smoothed", smoothed(source, Rotate::Off, Smooth::Strength(0.5)).transforms().clone()));
    if rotation.is_ok() {
        all.push((
            "rotated and smoothed",
            smoothed(source, Rotate::On, Smooth::Strength(0.5)).transforms().clone(),
        ));
    }
    let equalized = smoothed(source, Rotate::Off, Smooth::Auto).transforms().clone();
    if !equalized.is_none() {
        all.push(("equalized", equalized));
    }
    for (what, transforms) in all {
        assert!(!transforms.is_none());
        let model = float_model(source, &transforms);
        let difference = largest_difference(&original, &logits(&model));
        assert!(difference < 1e-4, "{name} {what}: {difference}");
        // The logits must not be equal merely because nothing changed.
        let mut tensors = TransformedSource::new(source, &transforms);
        let changed = expected_tensors(transforms.model()).into_iter().filter(|tensor| {
            let stored = source.tensors().read_f32(&tensor.name).ok();
            stored != Some(tensors.take_f32(&tensor.name, &tensor.shape).unwrap())
        });
        let least = if what == "equalized" { 1 } else { 5 };
        assert!(changed.count() > least, "{name} {what}");
    }
    rotation.is_ok()
}

#[test]
fn logits_of_every_architecture_stay() {
    let Some(models) = models() else { return };
    let root = tempfile::tempdir().unwrap();
    let (mut rotated, mut not) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(models).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let source = imported(&dir, &root.path().join(&name));
        if check(&source, &name) { rotated.push(name) } else { not.push(name) }
    }
    not.sort();
    assert_eq!(not, ["tiny-gemma3", "tiny-olmo2"], "rotated: {rotated:?}");
    assert!(rotated.len() >= 13);
}

fn saved(config: &ModelConfig, dir: &Path) -> Checkpoint {
    // Weights of a trained size: with those of a fresh model every output is nearly the same.
    let model = Transformer::new(config, 3, &Device::flex()).unwrap();
    save(dir, &model, &SaveRequest::default(), false).unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn logits_of_every_switch_stay() {
    let root = tempfile::tempdir().unwrap();
    let base = {
        let mut config = ModelConfig::new(40, 24, 36, 2, 4, 32);
        config.num_kv_heads = 2;
        config
    };
    let change = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = base.clone();
        change(&mut config);
        config
    };
    let configs = [
        change(&|_| {}),
        change(&|c| c.tie_word_embeddings = false),
        change(&|c| (c.norm, c.mlp, c.mlp_bias) = (NormKind::LayerNorm, MlpKind::Gelu, true)),
        change(&|c| (c.attention_bias, c.parallel_residual) = (AttentionBias::All, true)),
        change(&|c| (c.head_dim, c.qk_norm) = (10, QkNorm::PerHead)),
        change(&|c| (c.embedding_multiplier, c.residual_multiplier) = (3.0, 0.5)),
        change(&|c| c.position = slm_model::Position::Learned),
    ];
    for (index, config) in configs.iter().enumerate() {
        let source = saved(config, &root.path().join(index.to_string()));
        assert!(check(&source, &format!("config {index}")));
    }
    let post = saved(&change(&|c| c.norm_placement = NormPlacement::Post), &root.path().join("post"));
    assert!(!check(&post, "post"));
}

#[test]
fn a_model_that_cannot_be_rotated_says_why() {
    let root = tempfile::tempdir().unwrap();
    let mut config = ModelConfig::new(40, 24, 36, 1, 4, 32);
    config.norm_placement = NormPlacement::Both;
    let source = saved(&config, &root.path().join("both"));
    let mut ptq = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::WeightOnly);
    ptq.rotate = Rotate::On;
    let refused = CheckpointQuantizer::new(&source, ptq.clone()).unwrap_err().to_string();
    assert!(refused.contains("`rotate`") && refused.contains("layer 0 normalizes the output"), "{refused}");
    ptq.rotate = Rotate::Auto;
    let quantizer = CheckpointQuantizer::new(&source, ptq).unwrap();
    assert!(quantizer.transforms().is_none());
    assert!(quantizer.transforms().reason().unwrap().contains("layer 0 normalizes the output"));
}

#[test]
fn static_and_dynamic_layers_in_one_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let source = saved(&ModelConfig::new(40, 24, 36, 2, 4, 32), &root.path().join("float"));
    let scheme = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
    let mut config = PtqConfig::new(scheme, QuantizationType::Static);
    config.rotate = Rotate::On;
    config.dynamic_inputs = DynamicInputs::Matching(vec!["*.down_proj".to_owned()]);
    let mut quantizer = CheckpointQuantizer::new(&source, config.clone()).unwrap();
    calibrate(&mut quantizer, &source);
    let out = root.path().join("int8");
    let written = quantizer.write(&out, false, &mut |_| Ok::<_, Error>(())).unwrap();

    let checkpoint = Checkpoint::open(&out).unwrap();
    checkpoint.check_layers().unwrap();
    for layer in &written.layers {
        let (_, activation) = checkpoint.read_quantized(&layer.name).unwrap().unwrap();
        assert_eq!(activation, layer.activation);
        let is_dynamic = layer.name.ends_with("down_proj");
        let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
        assert_eq!(activation == dynamic, is_dynamic, "{}", layer.name);
        assert_eq!(activation.static_params().is_some(), !is_dynamic, "{}", layer.name);
    }
    let transforms = checkpoint.metadata().unwrap().lineage.transforms.unwrap();
    assert_eq!((transforms.rotation_seed, transforms.smoothing_strength), (Some(0), None));
    // The written model computes the same as the model quantized in memory, and is close to the float model.
    let read = logits(&checkpoint.load_model(&Device::flex()).unwrap());
    assert_eq!(read, logits(&quantizer.load(&Device::flex()).unwrap().0));
    let float = logits(&source.load_model(&Device::flex()).unwrap());
    let spread = float.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(largest_difference(&read, &float) < 0.1 * spread);

    config.dynamic_inputs = DynamicInputs::Matching(vec!["*.dawn_proj".to_owned()]);
    let unmatched = CheckpointQuantizer::new(&source, config).unwrap_err();
    assert!(matches!(unmatched, Error::UnmatchedPattern { pattern, .. } if pattern == "*.dawn_proj"));
}

/// A float checkpoint in which one channel of each MLP is 100 times as large in `up_proj` and a hundredth in
/// `down_proj`.
fn with_outlier_channel(config: &ModelConfig, dir: &Path) -> Checkpoint {
    let scale = |tensor: Tensor<2>, dim: usize, factor: f64| {
        let device = tensor.device();
        let index = Tensor::from_data([7_i32], &device);
        let part = tensor.clone().select(dim, index.clone()) * (factor - 1.0);
        tensor.select_assign(dim, index, part, IndexingUpdateOp::Add)
    };
    let mut model = Transformer::new(config, 3, &Device::flex()).unwrap();
    model.for_each_linear_mut(&mut |name, linear| {
        let (dim, factor) = match name.rsplit_once('.') {
            Some((_, "up_proj")) => (0, 100.0),
            Some((_, "down_proj")) => (1, 0.01),
            _ => return,
        };
        let weight = linear.float_weight().unwrap();
        linear.weight = Weight::Float(Param::from_tensor(scale(weight, dim, factor)));
    });
    save(dir, &model, &SaveRequest::default(), false).unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn an_outlier_channel_of_an_mlp_is_equalized() {
    let root = tempfile::tempdir().unwrap();
    let source = with_outlier_channel(&ModelConfig::new(40, 24, 36, 2, 4, 32), &root.path().join("outlier"));
    let float = logits(&source.load_model(&Device::flex()).unwrap());
    let tensor = QuantScheme::per_tensor(Bits::Int8);
    let channel = tensor.with_granularity(Granularity::PerChannel);
    for (scheme, quantization_type) in [
        (tensor, QuantizationType::Dynamic),
        (channel, QuantizationType::Dynamic),
        (channel, QuantizationType::Static),
    ] {
        let error = |smooth: Smooth| {
            let mut config = PtqConfig::new(scheme, quantization_type);
            (config.rotate, config.smooth, config.dynamic_inputs) =
                (Rotate::Off, smooth, DynamicInputs::None);
            // Errors of the other layers would hide the effect.
            config.skip = ["*self_attn*", "*gate_proj", "lm_head"].map(str::to_owned).to_vec();
            let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
            assert_eq!(quantizer.lacks_text_to_equalize(), smooth == Smooth::Auto);
            calibrate(&mut quantizer, &source);
            assert!(!quantizer.lacks_text_to_equalize());
            let record = quantizer.transforms().record();
            let count = record.and_then(|record| record.equalized_mlps);
            assert_eq!(count, (smooth == Smooth::Auto).then_some(2));
            let quantized = logits(&quantizer.load(&Device::flex()).unwrap().0);
            let squares = float.iter().zip(&quantized).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let [auto, off] = [Smooth::Auto, Smooth::Off].map(error);
        assert!(auto < 0.75 * off, "{quantization_type} {scheme}: {auto} {off}");
    }
}

#[test]
fn weights_by_channel_alone_need_no_equalization() {
    let root = tempfile::tempdir().unwrap();
    let source = saved(&ModelConfig::new(40, 24, 36, 1, 4, 32), &root.path().join("float"));
    let scheme = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
    let config = PtqConfig::new(scheme, QuantizationType::WeightOnly);
    let quantizer = CheckpointQuantizer::new(&source, config).unwrap();
    assert!(!quantizer.uses_calibration() && !quantizer.lacks_text_to_equalize());
}

/// Factors are chosen by rounding to nearest, which says little about 4 bits rounded by GPTQ.
#[test]
fn four_bits_are_equalized_for_rounding_to_nearest_alone() {
    let root = tempfile::tempdir().unwrap();
    let source = with_outlier_channel(&ModelConfig::new(40, 24, 36, 1, 4, 32), &root.path().join("outlier"));
    for (bits, method, equalized) in [
        (Bits::Int4, RoundingMethod::Rtn, Some(1)),
        (Bits::Int4, RoundingMethod::Gptq, None),
        (Bits::Int8, RoundingMethod::Gptq, Some(1)),
    ] {
        let scheme = QuantScheme::per_tensor(bits).with_granularity(Granularity::PerChannel);
        let mut config = PtqConfig::new(scheme, QuantizationType::Dynamic);
        (config.rotate, config.method) = (Rotate::Off, method);
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        calibrate(&mut quantizer, &source);
        let count = quantizer.transforms().record().and_then(|record| record.equalized_mlps);
        assert_eq!(count, equalized, "{bits:?} {method}");
    }
}

/// A checkpoint whose norms output two channels 30 times as large, and whose layers that read them have columns smaller
/// by the same factor, except for a little noise: the case that AWQ is made for.
fn with_large_activations(config: &ModelConfig, dir: &Path) -> Checkpoint {
    let model = Transformer::new(config, 3, &Device::flex()).unwrap();
    save(dir.join("even"), &model, &SaveRequest::default(), false).unwrap();
    let even = Checkpoint::open(dir.join("even")).unwrap();
    struct Uneven<'a>(slm_checkpoint::CheckpointSource<'a>);
    impl TensorSource for Uneven<'_> {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.shape(name)
        }
        fn take_f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, slm_model::SourceError> {
            let mut values = self.0.take_f32(name, shape)?;
            if name.ends_with("input_norm.weight") || name.ends_with("post_attention_norm.weight") {
                [3, 11].into_iter().for_each(|channel| values[channel] *= 30.0);
            }
            Ok(values)
        }
    }
    let mut uneven = Uneven(slm_checkpoint::CheckpointSource::new(&even));
    let model = Transformer::from_tensors(config, &mut uneven, &Device::flex()).unwrap();
    save(dir.join("uneven"), &model, &SaveRequest::default(), false).unwrap();
    Checkpoint::open(dir.join("uneven")).unwrap()
}

#[test]
fn awq_changes_nothing_in_floats_and_makes_rounding_to_nearest_better() {
    let root = tempfile::tempdir().unwrap();
    let mut model = ModelConfig::new(40, 32, 64, 2, 4, 32);
    model.tie_word_embeddings = false;
    let source = with_large_activations(&model, root.path());
    let float = logits(&source.load_model(&Device::flex()).unwrap());
    for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 16 }] {
        let error = |method: RoundingMethod| {
            let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity);
            let mut config = PtqConfig::new(scheme, QuantizationType::WeightOnly);
            (config.method, config.observer) = (method, Some(ObserverKind::MinMax));
            (config.rotate, config.skip) = (Rotate::Auto, vec!["lm_head".to_owned()]);
            let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
            assert_eq!(quantizer.needs_calibration(), method == RoundingMethod::Awq);
            if method == RoundingMethod::Awq {
                calibrate(&mut quantizer, &source);
                let transforms = quantizer.transforms();
                let record = transforms.record().unwrap();
                assert!(record.rotation_seed.is_none() && record.equalized_norms >= Some(2), "{record:?}");
                let difference = largest_difference(&float, &logits(&float_model(&source, transforms)));
                assert!(difference < 1e-4, "{difference}");
            }
            let quantized = logits(&quantizer.load(&Device::flex()).unwrap().0);
            float.iter().zip(&quantized).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let [nearest, awq] = [RoundingMethod::Rtn, RoundingMethod::Awq].map(error);
        assert!(awq < 0.8 * nearest, "{granularity}: {awq} {nearest}");
    }
}

#[test]
fn awq_scales_norms_for_one_scale_in_all_too() {
    let root = tempfile::tempdir().unwrap();
    let source = with_large_activations(&ModelConfig::new(40, 32, 64, 2, 4, 32), root.path());
    let mut config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int4), QuantizationType::WeightOnly);
    config.method = RoundingMethod::Awq;
    let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
    calibrate(&mut quantizer, &source);
    let record = quantizer.transforms().record().unwrap();
    assert!(record.equalized_norms >= Some(2), "{record:?}");
}

#[test]
fn awq_refuses_what_would_leave_it_nothing_to_do() {
    let root = tempfile::tempdir().unwrap();
    let source = saved(&ModelConfig::new(40, 24, 36, 1, 4, 32), &root.path().join("float"));
    let refused = |change: fn(&mut PtqConfig), key: &str| {
        let mut config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::WeightOnly);
        config.method = RoundingMethod::Awq;
        change(&mut config);
        let error = CheckpointQuantizer::new(&source, config).err().unwrap();
        assert!(matches!(&error, Error::Setting { key: found, .. } if *found == key), "{error}");
    };
    refused(|config| config.rotate = Rotate::On, "rotate");
    refused(|config| config.smooth = Smooth::Off, "smooth");
    refused(|config| config.smooth = Smooth::Strength(0.5), "smooth");

    let mut config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::WeightOnly);
    config.method = RoundingMethod::Awq;
    let mut model = source.load_model(&Device::flex()).unwrap();
    let plan = slm_ptq::Plan::new(&model, &config).unwrap();
    let error = slm_ptq::convert(&mut model, &plan, &config, None, &mut |_| {}).err().unwrap();
    assert!(matches!(error, Error::Setting { key: "method", .. }), "{error}");
}
