//! Tests of the quantization of checkpoints: written files, loaded models, and interruptions.
#![cfg(feature = "checkpoint")]

use std::path::Path;

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, QuantizationMode, SaveRequest, save};
use slm_model::{ModelConfig, Transformer, window_logits};
use slm_ptq::{
    CalibrationTokens, CheckpointQuantizer, Error, KeepLayers, Progress, PtqConfig, Rotate, RoundingMethod,
    Smooth, Stage,
};
use slm_quant_core::{Bits, Granularity, ObserverKind, QuantScheme, QuantizationType};
use tempfile::TempDir;

const LAYERS: usize = 2 * 7 + 1;

/// A float checkpoint whose head is tied or not.
fn float(root: &TempDir, tied: bool) -> Checkpoint {
    let mut config = ModelConfig::new(60, 16, 36, 2, 2, 32);
    config.tie_word_embeddings = tied;
    let model = Transformer::new(&config, 4, &Device::flex()).unwrap();
    let name = if tied { "tied" } else { "untied" };
    Checkpoint::open(save(root.path().join(name), &model, &SaveRequest::default(), false).unwrap()).unwrap()
}

fn config(quantization_type: QuantizationType) -> PtqConfig {
    let scheme =
        QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 8 });
    PtqConfig::new(scheme, quantization_type)
}

fn ids() -> Vec<u32> {
    (0..70).map(|i| (i * i * 7 + i * 13) % 60).collect()
}

fn ignore_progress(_: Progress) -> Result<(), Error> {
    Ok(())
}

fn calibrate(quantizer: &mut CheckpointQuantizer<'_>) {
    let ids = ids();
    let tokens = CalibrationTokens { ids: &ids, window: 24, prefix: &[], text_sha256: "a".repeat(64) };
    quantizer.calibrate(&tokens, &Device::flex(), &mut ignore_progress).unwrap();
}

fn logits(model: &Transformer) -> Vec<f32> {
    window_logits(model, &ids()[..20]).unwrap()
}

#[test]
fn the_checkpoint_and_the_model_in_memory_compute_the_same() {
    let root = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let source = float(&root, tied);
        for quantization_type in
            [QuantizationType::WeightOnly, QuantizationType::Dynamic, QuantizationType::Static]
        {
            for (skip, method) in [
                ("", RoundingMethod::Rtn),
                ("lm_*", RoundingMethod::Rtn),
                ("layers.1.mlp.*", RoundingMethod::Rtn),
                ("", RoundingMethod::Gptq),
                ("lm_*", RoundingMethod::Gptq),
                ("layers.1.mlp.*", RoundingMethod::Gptq),
                ("", RoundingMethod::Tune),
                ("layers.1.*", RoundingMethod::Tune),
            ] {
                let mut config = config(quantization_type);
                config.method = method;
                config.tune.steps = 3;
                config.skip = Some(skip.to_owned()).filter(|skip| !skip.is_empty()).into_iter().collect();
                let what = format!("{quantization_type}, tied: {tied}, skip: {skip:?}, {method}");
                let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
                if quantizer.needs_calibration() {
                    calibrate(&mut quantizer);
                }
                let written = quantizer.write(root.path().join("out"), true, &mut ignore_progress).unwrap();
                let checkpoint = Checkpoint::open(&written.path).unwrap();
                let (model, layers) = quantizer.load(&Device::flex()).unwrap();
                assert_eq!(written.layers, layers, "{what}");
                assert_eq!(layers.len(), quantizer.plan().layers.len(), "{what}");
                let loaded = checkpoint.load_model(&Device::flex()).unwrap();
                assert_eq!(logits(&loaded), logits(&model), "{what}");
                assert_eq!(loaded.head_is_tied(), tied && skip == "lm_*", "{what}");
                assert_eq!(quantizer.copies_tied_head(), tied && skip != "lm_*", "{what}");

                let metadata = checkpoint.metadata().unwrap();
                assert_eq!(metadata.mode, QuantizationMode::Ptq);
                assert_eq!(metadata.method, method.to_string());
                let observer = if quantizer.is_calibrated() { "weighted-mse" } else { "min-max" };
                assert_eq!(metadata.weight_observer, observer, "{what}");
                assert_eq!(metadata.layers.len() + metadata.skipped.len(), LAYERS, "{what}");
                assert_eq!(metadata.lineage.source_sha256, Some(source.weights_sha256().unwrap()));
                let calibration = metadata.lineage.calibration.as_ref().map(|record| record.tokens);
                assert_eq!(calibration, quantizer.is_calibrated().then_some(70), "{what}");
            }
        }
    }
}

#[test]
fn inputs_of_a_rotated_model_are_taken_as_alike_until_text_tells() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, false);
    let quantize = |bits, rotate, observer, assumes| {
        let scheme = QuantScheme::per_tensor(bits);
        let config = PtqConfig {
            rotate,
            observer,
            smooth: Smooth::Off,
            ..PtqConfig::new(scheme, QuantizationType::WeightOnly)
        };
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        if assumes {
            quantizer.assume_inputs(&Device::flex()).unwrap();
        }
        let written = quantizer.write(root.path().join("out"), true, &mut ignore_progress).unwrap();
        let (_, layers) = quantizer.load(&Device::flex()).unwrap();
        assert_eq!(written.layers, layers);
        let observer = Checkpoint::open(&written.path).unwrap().metadata().unwrap().weight_observer.clone();
        assert_eq!(observer, quantizer.weight_observer().to_string());
        (layers, quantizer.assumes_inputs(), observer)
    };
    for bits in [Bits::Int8, Bits::Int4] {
        let (assumed, assumes, observer) = quantize(bits, Rotate::On, None, true);
        assert_eq!((assumes, observer.as_str()), (true, "weighted-mse"), "{bits:?}");
        let (plain, assumes, observer) = quantize(bits, Rotate::On, None, false);
        assert_eq!((assumes, observer.as_str()), (false, "min-max"), "{bits:?}");
        for (assumed, plain) in assumed.iter().zip(&plain) {
            // The inputs of down_proj differ, so that its largest error is not where its weights are largest.
            let is_down = assumed.name.ends_with("down_proj");
            assert!(is_down || assumed.error.sqnr_db() >= plain.error.sqnr_db(), "{}", assumed.name);
        }
        assert_ne!(assumed, plain);
    }
    for (rotate, observer) in [(Rotate::Off, None), (Rotate::On, Some(ObserverKind::MinMax))] {
        let (_, assumes, observer) = quantize(Bits::Int8, rotate, observer, true);
        assert_eq!((assumes, observer.as_str()), (false, "min-max"), "{rotate:?}");
    }
}

/// With an activation function in between, the channels of an MLP differ even if its inputs do not.
#[test]
fn the_channels_of_a_rotated_model_are_equalized_without_a_text() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, false);
    let config = PtqConfig {
        rotate: Rotate::On,
        ..PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::Dynamic)
    };
    let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
    assert!(quantizer.lacks_text_to_equalize());
    quantizer.assume_inputs(&Device::flex()).unwrap();
    assert!(!quantizer.lacks_text_to_equalize() && !quantizer.is_calibrated());
    let first = quantizer.transforms().record();
    assert!(first.is_some_and(|record| record.equalized_mlps > Some(0)), "{first:?}");
    quantizer.assume_inputs(&Device::flex()).unwrap();
    assert_eq!(quantizer.transforms().record(), first, "the same inputs are assumed again");
    assert!(quantizer.load(&Device::flex()).is_ok());
}

/// The progress calls of a run: (stage, done, total), from the first to the last.
#[test]
fn progress_goes_up_to_the_total() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let mut quantizer = CheckpointQuantizer::new(&source, config(QuantizationType::Static)).unwrap();
    let ids = ids();
    let tokens = CalibrationTokens { ids: &ids, window: 24, prefix: &[], text_sha256: "a".repeat(64) };
    let mut seen = Vec::new();
    let mut note = |progress| {
        seen.push(progress);
        Ok::<_, Error>(())
    };
    quantizer.calibrate(&tokens, &Device::flex(), &mut note).unwrap();
    quantizer.write(root.path().join("out"), false, &mut note).unwrap();
    // Once for the equalization, once for ranges.
    check_stages(&seen, [(Stage::Calibrating, 2 * 3 * 3), (Stage::Quantizing, LAYERS)]);

    // GPTQ runs every layer except the head twice, and quantizes meanwhile.
    let mut config = config(QuantizationType::WeightOnly);
    config.method = RoundingMethod::Gptq;
    let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
    let mut seen = Vec::new();
    let mut note = |progress| {
        seen.push(progress);
        Ok::<_, Error>(())
    };
    quantizer.calibrate(&tokens, &Device::flex(), &mut note).unwrap();
    quantizer.write(root.path().join("gptq"), false, &mut note).unwrap();
    check_stages(&seen, [(Stage::Calibrating, 3 * 5), (Stage::Quantizing, LAYERS)]);
}

#[test]
fn learned_rounding_counts_the_steps_of_its_training() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let ids = ids();
    let tokens = CalibrationTokens { ids: &ids, window: 24, prefix: &[], text_sha256: "a".repeat(64) };
    for (skip, layers) in [(vec![], LAYERS), (vec!["layers.0.*".to_owned()], LAYERS - 7)] {
        let mut config = config(QuantizationType::WeightOnly);
        (config.method, config.tune.steps, config.skip) = (RoundingMethod::Tune, 5, skip);
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        quantizer.calibrate(&tokens, &Device::flex(), &mut ignore_progress).unwrap();
        let mut seen = Vec::new();
        let mut note = |progress| {
            seen.push(progress);
            Ok::<_, Error>(())
        };
        quantizer.write(root.path().join("out"), true, &mut note).unwrap();
        check_stages(&seen, [(Stage::Calibrating, 2 * (3 * 3 + 5) + 3), (Stage::Quantizing, layers)]);
    }
}

/// Every stage goes up to its total. 70 tokens in windows of 24 are 3, through two layers and the head.
fn check_stages(seen: &[Progress], stages: [(Stage, usize); 2]) {
    for (stage, total) in stages {
        let of_stage: Vec<&Progress> = seen.iter().filter(|progress| progress.stage == stage).collect();
        assert!(of_stage.iter().all(|progress| progress.total == total), "{of_stage:?}");
        assert!(of_stage.is_sorted_by_key(|progress| progress.done), "{of_stage:?}");
        assert_eq!(of_stage.last().unwrap().done, total);
    }
}

#[derive(Debug)]
enum Ended {
    Asked,
    Failed(#[expect(dead_code, reason = "shown if the test fails")] Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[test]
fn an_interrupted_run_ends_with_the_error_of_the_callback_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let mut quantizer = CheckpointQuantizer::new(&source, config(QuantizationType::Static)).unwrap();
    let ids = ids();
    let tokens = CalibrationTokens { ids: &ids, window: 24, prefix: &[], text_sha256: "a".repeat(64) };
    let stop_at = |at: usize| {
        move |progress: Progress| {
            if progress.done == at { Err(Ended::Asked) } else { Ok(()) }
        }
    };
    let ended = quantizer.calibrate(&tokens, &Device::flex(), &mut stop_at(4)).unwrap_err();
    assert!(matches!(ended, Ended::Asked), "{ended:?}");
    calibrate(&mut quantizer);
    let entries = || std::fs::read_dir(root.path()).unwrap().count();
    let before = entries();
    for at in [0, 5, LAYERS] {
        let ended = quantizer.write(root.path().join("out"), false, &mut stop_at(at)).unwrap_err();
        assert!(matches!(ended, Ended::Asked), "{at}: {ended:?}");
        assert_eq!(entries(), before, "{at}");
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let out: &Path = &root.path().join("out");
    let quantizer = CheckpointQuantizer::new(&source, config(QuantizationType::Static)).unwrap();
    let uncalibrated = quantizer.write(out, false, &mut ignore_progress).unwrap_err();
    assert!(
        matches!(uncalibrated, Error::NotCalibrated { ref layer } if layer == "layers.0.self_attn.q_proj")
    );
    assert!(!out.exists());

    let mut quantizer = CheckpointQuantizer::new(&source, config(QuantizationType::Static)).unwrap();
    let ids = ids();
    let none = CalibrationTokens { ids: &ids, window: 0, prefix: &[], text_sha256: String::new() };
    let window = quantizer.calibrate(&none, &Device::flex(), &mut ignore_progress).unwrap_err();
    assert!(window.to_string().contains("use at least 1"), "{window}");
    let long = CalibrationTokens { ids: &ids, window: 33, prefix: &[], text_sha256: String::new() };
    let positions = quantizer.calibrate(&long, &Device::flex(), &mut ignore_progress).unwrap_err();
    assert!(positions.to_string().contains("max_position_embeddings"), "{positions}");

    let quantizer = CheckpointQuantizer::new(&source, config(QuantizationType::Dynamic)).unwrap();
    let written = quantizer.write(out, false, &mut ignore_progress).unwrap();
    let quantized = Checkpoint::open(&written.path).unwrap();
    let again = CheckpointQuantizer::new(&quantized, config(QuantizationType::Dynamic)).unwrap_err();
    assert!(matches!(again, Error::Checkpoint(slm_checkpoint::Error::NeedsFloat { .. })), "{again}");
    assert!(matches!(
        quantizer.write(out, false, &mut ignore_progress).unwrap_err(),
        Error::Checkpoint(slm_checkpoint::Error::Store(slm_checkpoint::StoreError::OutputExists { .. }))
    ));
}

/// Settings have the text forms that config files use, and errors name accepted values.
#[test]
fn settings_are_validated() {
    use slm_ptq::QuantizationConfig;

    let refused = |text: &str| {
        let config: QuantizationConfig = serde_json::from_str(text).unwrap();
        config.validate().unwrap_err().to_string()
    };
    assert!(refused(r#"{"skip": ["lm_head", " "]}"#).contains("`skip` holds an empty pattern"));
    let both = refused(r#"{"quantization_mode": "qat", "enable_quantized_finetuning": true}"#);
    assert!(both.contains("`enable_quantized_finetuning`") && both.contains("use one"), "{both}");
    QuantizationConfig::default().validate().unwrap();
}

#[test]
fn gptq_makes_up_for_the_rounding_of_inputs_in_earlier_layers() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let [weight_only, dynamic] =
        [QuantizationType::WeightOnly, QuantizationType::Dynamic].map(|quantization_type| {
            let mut config = config(quantization_type);
            config.method = RoundingMethod::Gptq;
            let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
            calibrate(&mut quantizer);
            quantizer.load(&Device::flex()).unwrap().1
        });
    let same = |index: usize| {
        let (a, b) = (&weight_only[index], &dynamic[index]);
        assert_eq!(a.name, b.name);
        (&a.qparams, &a.error) == (&b.qparams, &b.error)
    };
    // The first three layers have no layer before them.
    assert!((0..3).all(same));
    assert!(!(3..LAYERS).all(same));
}

#[test]
fn gptq_can_be_interrupted_and_refuses_what_calibration_refuses() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let mut config = config(QuantizationType::WeightOnly);
    config.method = RoundingMethod::Gptq;
    let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
    let out = root.path().join("out");
    let uncalibrated = quantizer.write(&out, false, &mut ignore_progress).unwrap_err();
    assert!(matches!(uncalibrated, Error::NotCalibrated { .. }), "{uncalibrated}");
    calibrate(&mut quantizer);
    let entries = || std::fs::read_dir(root.path()).unwrap().count();
    let before = entries();
    for at in [1, 4, 15] {
        let ended = quantizer.write(&out, false, &mut |progress| match progress {
            Progress { stage: Stage::Calibrating, done, .. } if done == at => Err(Ended::Asked),
            _ => Ok(()),
        });
        assert!(matches!(ended.unwrap_err(), Ended::Asked), "{at}");
        assert_eq!(entries(), before, "{at}");
    }
    let ids = ids();
    let long = CalibrationTokens { ids: &ids, window: 33, prefix: &[], text_sha256: String::new() };
    quantizer.calibrate(&long, &Device::flex(), &mut ignore_progress).unwrap();
    let positions = quantizer.write(&out, false, &mut ignore_progress).unwrap_err();
    assert!(positions.to_string().contains("max_position_embeddings"), "{positions}");
    assert_eq!(entries(), before);
}

/// A run that is interrupted after any layer can be resumed, and gives the same result as an uninterrupted run.
#[test]
fn an_interrupted_run_is_resumed_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let (out, kept) = (root.path().join("out"), root.path().join("out.unfinished"));
    for (method, quantization_type) in [
        (RoundingMethod::Gptq, QuantizationType::WeightOnly),
        (RoundingMethod::Gptq, QuantizationType::Static),
        (RoundingMethod::Tune, QuantizationType::Dynamic),
    ] {
        let quantizer = |keep: KeepLayers| {
            let mut config = config(quantization_type);
            config.method = method;
            config.tune.steps = 3;
            let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
            let outcome = quantizer.keep_layers(&kept, keep);
            calibrate(&mut quantizer);
            outcome.map(|()| quantizer)
        };
        let whole = quantizer(KeepLayers::New).unwrap().write(&out, true, &mut ignore_progress).unwrap();
        let weights = std::fs::read(out.join("model.safetensors")).unwrap();
        assert!(!kept.exists(), "the journal of a finished run");
        let mut kept_counts = Vec::new();
        for step in [1, 4, 7, 10, 14, 26] {
            let first = quantizer(KeepLayers::New).unwrap();
            let mut stop = |progress: Progress| match progress.stage {
                Stage::Calibrating if progress.done >= step => Err(Error::EmptyWindow),
                _ => Ok(()),
            };
            if first.write(&out, true, &mut stop).is_ok() {
                continue;
            }
            let Some((dir, last)) = first.kept_layers() else {
                assert!(!kept.exists(), "an empty journal");
                continue;
            };
            assert_eq!(dir, kept.as_path());
            kept_counts.push(last);
            let refused = quantizer(KeepLayers::New).unwrap_err().to_string();
            assert!(
                refused.contains("resume that run") && refused.contains(&format!("{last} layers")),
                "{refused}"
            );

            // Interrupted once more, and then to its end.
            let mut at_once = |progress: Progress| match progress.stage {
                Stage::Calibrating => Err(Error::EmptyWindow),
                Stage::Quantizing => Ok(()),
            };
            let second = quantizer(KeepLayers::Resume).unwrap();
            assert!(second.write(&out, true, &mut at_once).is_err());
            assert_eq!(second.kept_layers().unwrap().1, last, "{method}");
            let resumed = quantizer(KeepLayers::Resume).unwrap();
            let resumed = resumed.write(&out, true, &mut ignore_progress).unwrap();
            assert_eq!(resumed.layers, whole.layers, "{method}");
            assert!(std::fs::read(out.join("model.safetensors")).unwrap() == weights, "{method}, {last}");
            assert!(!kept.exists());
        }
        // Half blocks and the head by GPTQ, whole blocks where they are trained.
        let expected: &[usize] =
            if method == RoundingMethod::Tune { &[7, 7, 14] } else { &[4, 7, 11, 14, 14] };
        assert_eq!(kept_counts, expected, "{method}");
        assert!(quantizer(KeepLayers::Resume).unwrap_err().to_string().contains("no interrupted run"));
    }
}

/// Kept layers of another run, damaged layers and foreign files are rejected, and none of them is lost.
#[test]
fn kept_layers_that_do_not_fit_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let source = float(&root, true);
    let (out, kept) = (root.path().join("out"), root.path().join("out.unfinished"));
    let quantizer = |group_size: usize, ids: &[u32], keep: KeepLayers| {
        let mut config = config(QuantizationType::WeightOnly);
        config.method = RoundingMethod::Gptq;
        config.scheme.granularity = Granularity::PerGroup { group_size };
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        quantizer.keep_layers(&kept, keep)?;
        let tokens = CalibrationTokens { ids, window: 24, prefix: &[], text_sha256: "a".repeat(64) };
        quantizer.calibrate(&tokens, &Device::flex(), &mut ignore_progress)?;
        Ok::<_, Error>(quantizer)
    };
    let mut stop = |progress: Progress| match progress.stage {
        Stage::Calibrating if progress.done >= 8 => Err(Error::EmptyWindow),
        _ => Ok(()),
    };
    let ids = ids();
    quantizer(8, &ids, KeepLayers::New).unwrap().write(&out, false, &mut stop).unwrap_err();
    let resume = |group_size, ids: &[u32]| {
        let quantizer = match quantizer(group_size, ids, KeepLayers::Resume) {
            Ok(quantizer) => quantizer,
            Err(early) => return early.to_string(),
        };
        quantizer.write(&out, false, &mut ignore_progress).unwrap_err().to_string()
    };
    assert!(resume(4, &ids).contains("different setting"), "{}", resume(4, &ids));
    assert!(resume(8, &ids[1..]).contains("different calibration text"), "{}", resume(8, &ids[1..]));
    let layer = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
    let layer = layer.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).min().unwrap();
    let whole = std::fs::read(&layer).unwrap();
    for at in [0, 9, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(&layer, damaged).unwrap();
        assert!(resume(8, &ids).contains("is damaged"), "{}", resume(8, &ids));
    }
    std::fs::write(&layer, &whole[..whole.len() / 2]).unwrap();
    assert!(resume(8, &ids).contains("is damaged"));
    std::fs::write(&layer, whole).unwrap();
    std::fs::write(kept.join("run.json"), "{").unwrap();
    assert!(resume(8, &ids).contains("run.json"), "{}", resume(8, &ids));

    std::fs::write(kept.join("notes.txt"), "mine").unwrap();
    for keep in [KeepLayers::New, KeepLayers::Resume, KeepLayers::Replace] {
        let refused = quantizer(8, &ids, keep).unwrap_err().to_string();
        assert!(refused.contains("notes.txt"), "{refused}");
    }
    std::fs::remove_file(kept.join("notes.txt")).unwrap();
    std::fs::create_dir(kept.join("run.json.d")).unwrap();
    assert!(quantizer(8, &ids, KeepLayers::Replace).unwrap_err().to_string().contains("run.json.d"));
    std::fs::remove_dir(kept.join("run.json.d")).unwrap();
    #[cfg(unix)]
    {
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        let mut config = config(QuantizationType::WeightOnly);
        config.method = RoundingMethod::Gptq;
        let mut quantizer = CheckpointQuantizer::new(&source, config).unwrap();
        let refused = quantizer.keep_layers(&link, KeepLayers::Replace).unwrap_err().to_string();
        assert!(refused.contains("does not belong"), "{refused}");
    }
    // The remains of a file that a killed run was writing, and of a look at the directory.
    std::fs::write(kept.join(".writing-lm_head"), "half").unwrap();
    std::fs::write(kept.join(".DS_Store"), "view").unwrap();
    let replaced = quantizer(8, &ids, KeepLayers::Replace).unwrap();
    assert!(kept.exists(), "removed before the run begins");
    replaced.write(&out, false, &mut ignore_progress).unwrap();
    assert!(!kept.exists() && Checkpoint::open(&out).unwrap().is_quantized());
}
