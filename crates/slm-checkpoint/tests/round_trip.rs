//! A checkpoint reads back exactly as it was written.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use burn::tensor::Device;
use proptest::prelude::*;
use serde_json::json;
use slm_checkpoint::{
    Checkpoint, CheckpointWriter, Error, Layout, QuantizationMetadata, SaveRequest, WeightError, WriteFile,
    save,
};
use slm_model::{
    AttentionBias, Choice, LayerOverride, MlpKind, ModelConfig, NormKind, NormPlacement, Position, QkNorm,
    RopeScaling, RotaryConfig, Transformer, expected_tensors,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QParams, QuantScheme, ScaleDtype,
};
use slm_store::Error as StoreError;
use support::*;

fn rotary(theta: f64, scaling: RopeScaling) -> Position {
    Position::Rotary(RotaryConfig { scaling: Some(scaling), ..RotaryConfig::new(theta) })
}

fn configs() -> impl Strategy<Value = ModelConfig> {
    let sizes = (5..20_usize, 1..4_usize, 1..20_usize, 1..3_usize, 1..3_usize, 1..3_usize);
    let kinds = (0..4_u8, 0..3_u8, 0..3_u8, any::<[bool; 4]>());
    (sizes, kinds).prop_map(
        |((vocab, half_head, inner, layers, kv_heads, repeats), (position, mlp, bias, on))| {
            let heads = kv_heads * repeats;
            let mut config = ModelConfig::new(vocab, heads * 6, inner, layers, heads, 16);
            config.num_kv_heads = kv_heads;
            config.head_dim = half_head * 2;
            config.position = match position {
                0 => Position::Learned,
                1 => Position::Rotary(RotaryConfig::new(12_345.678)),
                2 => rotary(1e4, RopeScaling::Linear { factor: 2.5 }),
                _ => rotary(
                    5e5,
                    RopeScaling::Llama3 {
                        factor: 8.0,
                        low_freq_factor: 1.0,
                        high_freq_factor: 4.0,
                        original_max_position_embeddings: 8,
                    },
                ),
            };
            config.mlp = [MlpKind::SwiGlu, MlpKind::Gelu, MlpKind::GeGluTanh][mlp as usize];
            config.attention_bias =
                [AttentionBias::None, AttentionBias::Qkv, AttentionBias::All][bias as usize];
            config.norm = if on[0] { NormKind::LayerNorm } else { NormKind::RmsNorm };
            config.mlp_bias = on[1];
            config.qk_norm = if on[2] { QkNorm::PerHead } else { QkNorm::None };
            config.tie_word_embeddings = on[3];
            // About half of the configs override the first layer.
            if on[0] != on[1] {
                let norms = [NormPlacement::Pre, NormPlacement::Post, NormPlacement::Both][mlp as usize];
                config.layer_overrides = vec![LayerOverride {
                    layers: vec![0],
                    norm_placement: Some(norms),
                    sliding_window: Some(Choice(on[2].then_some(3))),
                    rotary: Some(Choice(on[3].then(|| RotaryConfig::new(77.0)))),
                    qk_norm: Some(QkNorm::Full),
                    residual_multiplier: Some(0.5),
                    ..LayerOverride::default()
                }];
            }
            config
        },
    )
}

fn schemes() -> impl Strategy<Value = QuantScheme> {
    let granularity = prop_oneof![
        Just(Granularity::PerTensor),
        Just(Granularity::PerChannel),
        Just(Granularity::PerGroup { group_size: 1 }),
    ];
    let mapping = prop_oneof![Just(Mapping::Symmetric), Just(Mapping::SymmetricTorch), Just(Mapping::Affine)];
    (any::<bool>(), granularity, mapping, any::<bool>()).prop_map(|(int8, granularity, mapping, half)| {
        QuantScheme::per_tensor(if int8 { Bits::Int8 } else { Bits::Int4 })
            .with_granularity(granularity)
            .with_mapping(mapping)
            .with_scale_dtype(if half { ScaleDtype::F16 } else { ScaleDtype::F32 })
    })
}

fn activations() -> impl Strategy<Value = ActivationQuant> {
    prop_oneof![
        Just(ActivationQuant::Float),
        Just(ActivationQuant::Dynamic(ActivationGranularity::PerToken)),
        Just(ActivationQuant::Dynamic(ActivationGranularity::PerTensor)),
        (1e-6_f32..10.0, 0..256_i32)
            .prop_map(|(scale, zero_point)| ActivationQuant::Static(QParams { scale, zero_point })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn float_models_come_back_bit_for_bit(config in configs(), seed in any::<u64>()) {
        let root = tempfile::tempdir().unwrap();
        let model = Transformer::new(&config, seed, &Device::flex()).unwrap();
        let dir = save(root.path().join("out"), &model, &SaveRequest::default(), false).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        prop_assert_eq!(&checkpoint.config().model, &config);
        prop_assert!(!checkpoint.is_quantized());
        let loaded = checkpoint.load_model(&Device::flex()).unwrap();
        prop_assert_eq!(content(&loaded), content(&model));
    }

    #[test]
    fn quantized_models_come_back_bit_for_bit(
        config in configs(),
        scheme in schemes(),
        activation in activations(),
        untie in any::<bool>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut model = Transformer::new(&config, 3, &Device::flex()).unwrap();
        if untie {
            model.untie_head();
        }
        let metadata = quantize(&mut model, scheme, activation, &["layers.0.self_attn.k_proj"]);
        let dir = save(root.path().join("out"), &model, &request_without_tokenizer(&metadata), false).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        checkpoint.check_layers().unwrap();
        let read = checkpoint.require_quantized().unwrap();
        prop_assert_eq!(read.layers.len(), metadata.layers.len());
        // Compared as debug text, because a NaN does not equal itself.
        prop_assert_eq!(format!("{:?}", &read.layers[0].error), format!("{:?}", &metadata.layers[0].error));
        prop_assert_eq!(&read.skipped, &metadata.skipped);
        let loaded = checkpoint.load_model(&Device::flex()).unwrap();
        prop_assert_eq!(content(&loaded), content(&model));
    }

    #[test]
    fn statistics_come_back_whatever_they_are(
        sqnr_db in any::<f64>(),
        special in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)],
    ) {
        let error = WeightError { sqnr_db, max_abs_error: special, clipped_share: 0.25 };
        let text = serde_json::to_string(&error).unwrap();
        let read: WeightError = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.max_abs_error.is_nan(), special.is_nan());
        prop_assert!(special.is_nan() || read.max_abs_error == special);
        prop_assert_eq!(read.clipped_share, 0.25);
        let close = (read.sqnr_db - sqnr_db).abs() <= 1e-15 * sqnr_db.abs();
        prop_assert!(close || read.sqnr_db == sqnr_db || (read.sqnr_db.is_nan() && sqnr_db.is_nan()), "{}", text);
    }

    #[test]
    fn scales_survive_their_text(scale in any::<f32>().prop_filter("finite", |s| s.is_finite())) {
        let text = serde_json::to_string(&scale).unwrap();
        prop_assert_eq!(serde_json::from_str::<f32>(&text).unwrap().to_bits(), scale.to_bits());
    }
}

fn request_without_tokenizer(metadata: &QuantizationMetadata) -> SaveRequest<'_> {
    SaveRequest { metadata: Some(metadata), ..SaveRequest::default() }
}

#[test]
fn quantized_logits_are_those_of_the_saved_model() {
    let root = tempfile::tempdir().unwrap();
    for (name, activation) in [("s", static_activation()), ("d", per_token()), ("w", ActivationQuant::Float)]
    {
        let dir = root.path().join(name);
        let model = save_quantized(&dir, affine_groups(), activation);
        let loaded = load(&dir).unwrap();
        let logits = |model: &Transformer| {
            let ids = model.ids_tensor(&[1, 2, 3, 4]);
            model.forward(ids).into_data().try_into_vec::<f32>().unwrap()
        };
        assert_eq!(logits(&loaded), logits(&model));
    }
}

/// A file that is written one letter at a time.
struct Alphabet;

impl WriteFile for Alphabet {
    fn write_file(&self, path: &Path) -> std::io::Result<()> {
        let mut file = fs::File::create(path)?;
        [b"a", b"b", b"c"].into_iter().try_for_each(|letter| file.write_all(letter))
    }
}

/// A file that does not fit on the disk.
struct Full;

impl WriteFile for Full {
    fn write_file(&self, path: &Path) -> std::io::Result<()> {
        fs::write(path, "a")?;
        Err(std::io::Error::other("no space"))
    }
}

#[test]
fn everything_beside_the_weights_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let extra: [(&str, &[u8]); 1] = [("optimizer.bin", b"state")];
    let large: [(&str, &dyn WriteFile); 1] = [("letters", &Alphabet)];
    let mut request = request(None);
    request.large_files = &large;
    request.lineage = Some(json!({"from": ["a", 1]}));
    request.training = Some(json!({"steps": 10}));
    request.extra_files = &extra;
    save(&dir, &small_model(), &request, false).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.config().tokenizer, request.tokenizer);
    assert_eq!(checkpoint.config().lineage, request.lineage);
    assert_eq!(checkpoint.config().training, request.training);
    assert_eq!(checkpoint.tokenizer_json(), Some(TOKENIZER.as_bytes()));
    assert_eq!(fs::read(dir.join("optimizer.bin")).unwrap(), b"state");
    assert_eq!(fs::read(dir.join("letters")).unwrap(), b"abc");
    assert_eq!(checkpoint.extra_files(), ["letters", "optimizer.bin"]);
    assert_eq!(fs::read(checkpoint.tokenizer_path().unwrap()).unwrap(), TOKENIZER.as_bytes());
    for name in ["optimizer.bin", "letters"] {
        let content = fs::read(dir.join(name)).unwrap();
        fs::write(dir.join(name), "other").unwrap();
        let error = Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::write(dir.join(name), content).unwrap();
    }
    // The extra file belongs to the checkpoint, so the directory may be replaced.
    save(&dir, &small_model(), &support::request(None), true).unwrap();
    assert!(!dir.join("optimizer.bin").exists());
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    save_quantized(&a, affine_groups(), static_activation());
    save_quantized(&b, affine_groups(), static_activation());
    let mut names = 0;
    for entry in fs::read_dir(&a).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(fs::read(a.join(&name)).unwrap(), fs::read(b.join(&name)).unwrap(), "{name:?}");
        names += 1;
    }
    assert_eq!(names, 5);
}

#[test]
fn the_file_is_one_that_the_safetensors_crate_reads() {
    let root = tempfile::tempdir().unwrap();
    save_float(&root.path().join("out"));
    let bytes = fs::read(root.path().join("out/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), expected_tensors(&small_config()).len());
    let view = tensors.tensor("layers.1.mlp.down_proj.weight").unwrap();
    assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F32, &[12, 7][..]));
}

#[test]
fn a_writer_takes_tensors_in_any_order_and_leaves_nothing_when_dropped() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let config = small_config();
    let tensors = expected_tensors(&config);
    let layout = Layout::new(&config);
    let fill = |writer: &mut CheckpointWriter, count: usize| {
        for (index, tensor) in tensors.iter().enumerate().rev().take(count) {
            let values = vec![index as f32; tensor.shape.iter().product()];
            writer.write_f32(&tensor.name, &values).unwrap();
        }
    };
    let mut writer = CheckpointWriter::create(&dir, &config, &layout, false).unwrap();
    fill(&mut writer, tensors.len() - 1);
    let error = writer.finish(&SaveRequest::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Store(StoreError::Write { .. }))
            && error.to_string().contains("embed_tokens"),
        "{error}"
    );
    let mut writer = CheckpointWriter::create(&dir, &config, &layout, false).unwrap();
    assert!(writer.write_f32("norm.weight", &[0.0]).is_err());
    assert!(matches!(
        writer.write_f32("norm.weight", &[f32::NAN; 12]),
        Err(Error::Store(StoreError::NotFinite { index: 0, .. }))
    ));
    assert!(writer.write_f32("nonsense", &[0.0]).is_err());
    drop(writer);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

    let mut writer = CheckpointWriter::create(&dir, &config, &layout, false).unwrap();
    fill(&mut writer, tensors.len());
    assert!(writer.write_f32("norm.weight", &[0.0; 12]).is_err(), "written twice");
    writer.finish(&SaveRequest::default()).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    for (index, tensor) in tensors.iter().enumerate() {
        let values = checkpoint.tensors().read_f32(&tensor.name).unwrap();
        assert!(values.iter().all(|&value| value == index as f32), "{}", tensor.name);
    }
}

#[test]
fn a_request_that_does_not_fit_the_model_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut model = small_model();
    let metadata = quantize(&mut model, affine_groups(), per_token(), &[]);
    let refused = |model: &Transformer, request: &SaveRequest<'_>| {
        let error = save(&dir, model, request, false).unwrap_err();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "{error}");
        error
    };
    assert!(matches!(refused(&model, &request(None)), Error::Store(StoreError::Missing { .. })));
    assert!(matches!(
        refused(&small_model(), &request(Some(&metadata))),
        Error::Store(StoreError::TensorSet { .. })
    ));
    let mut wrong = metadata.clone();
    wrong.layers[0].scales.max *= 2.0;
    assert!(matches!(
        refused(&model, &request(Some(&wrong))),
        Error::Store(StoreError::Metadata { field: "scales", .. })
    ));
    for name in ["config.json", "manifest.json", "../x", "a/b", ""] {
        let extra: [(&str, &[u8]); 1] = [(name, b"")];
        let request = SaveRequest { extra_files: &extra, ..request(Some(&metadata)) };
        assert!(matches!(refused(&model, &request), Error::Store(StoreError::Write { .. })), "{name}");
        let large: [(&str, &dyn WriteFile); 1] = [(name, &Alphabet)];
        let request = SaveRequest { extra_files: &[], large_files: &large, ..request };
        assert!(matches!(refused(&model, &request), Error::Store(StoreError::Write { .. })), "{name}");
    }
    let large: [(&str, &dyn WriteFile); 1] = [("letters", &Full)];
    let unwritable = SaveRequest { large_files: &large, ..request(Some(&metadata)) };
    let full = refused(&model, &unwritable).to_string();
    assert!(full.contains("letters") && full.contains("no space"), "{full}");
    let mut request = request(Some(&metadata));
    request.tokenizer.eos_token_ids = vec![11];
    assert!(matches!(refused(&model, &request), Error::Store(StoreError::Field { .. })));
}
