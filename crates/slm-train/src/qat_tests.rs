//! Tests of quantization-aware runs of the trainer.

use super::*;
use crate::Sequences;
use crate::testing::{StopAt, all_devices, never, tiny_config};
use slm_checkpoint::QuantizationMode as CheckpointMode;
use slm_nn::NamedLinears;
use slm_ptq::RoundingMethod;
use slm_quant_core::{Bits, Granularity, QuantizationType};
use slm_text::corpus::Corpus as Stories;

fn text() -> String {
    Stories::new(1).text(120)
}

/// A config that trains static INT4 with learned scales per group.
fn qat_config() -> TrainingConfig {
    let mut config = tiny_config();
    config.quantization.quantization_mode = QuantizationMode::Qat;
    config.quantization.quantization_bits = Bits::Int4;
    config.quantization.granularity = Granularity::PerGroup { group_size: 16 };
    config.qat.options.scale = slm_qat::ScaleMode::Learned;
    (config.qat.options.observe_steps, config.qat.options.freeze_steps) = (3, 4);
    config
}

#[test]
fn from_random_weights_to_a_quantized_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = qat_config();
    config.training.steps = 40;
    let mut trainer = Trainer::new(config, &text(), &Device::flex(), &dir, false).unwrap();
    let before = slm_model::evaluate(&trainer.model(), &trainer.data().validation, 24, |_, _| {}).unwrap();
    let summary = trainer.run(&mut (), &never()).unwrap();
    let trained = summary.validation.unwrap();
    assert!(trained.nll < before.mean_nll() - 0.7, "{} {}", before.mean_nll(), trained.nll);
    assert_eq!(trainer.layers().len(), 2 * 7 + 1, "the layers and the head");

    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert!(checkpoint.is_quantized());
    let metadata = checkpoint.metadata().unwrap();
    assert_eq!((metadata.mode, metadata.layers.len()), (CheckpointMode::Qat, trainer.layers().len()));
    let model = checkpoint.load_model(&Device::flex()).unwrap();
    model.for_each_linear(&mut |name, linear| assert!(linear.packed().is_some(), "{name}"));
    let scored = &trainer.data().validation[..4 * 24];
    let shipped = slm_model::evaluate(&model, scored, 24, |_, _| {}).unwrap();
    assert_eq!(shipped.mean_nll(), trained.nll, "what was validated is what is in the checkpoint");
    assert!(std::fs::read_to_string(dir.join(PLOT)).unwrap().starts_with("<svg"));
}

#[test]
fn interrupted_and_resumed_is_the_same_bit_for_bit() {
    for device in all_devices() {
        // While observers watch, and while layers are rounded. A GPU does not support the observer of the second case.
        let cases: &[(bool, usize)] =
            if slm_nn::on_cpu(&device) { &[(true, 2), (false, 11)] } else { &[(true, 2)] };
        for &(learned, stop_at) in cases {
            let root = tempfile::tempdir().unwrap();
            let [float, whole, parts] = ["float", "whole", "parts"].map(|name| root.path().join(name));
            let mut base = tiny_config();
            base.training.steps = 5;
            Trainer::new(base.clone(), &text(), &device, &float, false)
                .unwrap()
                .run(&mut (), &never())
                .unwrap();
            let start = Checkpoint::open(&float).unwrap();

            let mut config = TrainingConfig { training: qat_config().training, ..qat_config() };
            config.qat.distill = learned;
            if !slm_nn::on_cpu(&device) {
                // A software GPU is slow.
                config.training.steps = 9;
            }
            if !learned {
                config.qat.options.scale = slm_qat::ScaleMode::Observed;
                config.qat.options.observer = Some("moving-average".parse().unwrap());
            }
            let text = text();
            let corpus = Corpus::Text(&text);
            let begin = |dir: &Path| {
                Trainer::start(config.clone(), corpus, Some(&start), &device, dir, false).unwrap()
            };
            begin(&whole).run(&mut (), &never()).unwrap();
            let stop = never();
            let summary = begin(&parts).run(&mut StopAt(stop_at, &stop), &stop).unwrap();
            assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, stop_at));
            let mut rest = Trainer::resume(config.clone(), corpus, Some(&start), &device, &parts).unwrap();
            assert_eq!(rest.run(&mut (), &never()).unwrap().outcome, Outcome::Finished);
            for file in ["model.safetensors", METRICS, STATE, "quantization_metadata.json", PLOT] {
                let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
                assert_eq!(read(&whole), read(&parts), "{file}, {device:?}, learned: {learned}");
            }
            assert!(!parts.join(QAT).exists() && !parts.join(OPTIMIZER).exists());
            let mut again = Trainer::resume(config.clone(), corpus, Some(&start), &device, &parts).unwrap();
            assert_eq!(again.run(&mut (), &never()).unwrap().step, config.training.steps);

            let other =
                Trainer::resume(config, corpus, Start::default(), &device, &parts).err().unwrap().to_string();
            assert!(other.contains("did not start from the weights of this checkpoint"), "{other}");
        }
    }
}

#[test]
fn distillation_comes_nearer_to_the_float_model() {
    let root = tempfile::tempdir().unwrap();
    let float = root.path().join("float");
    let mut base = tiny_config();
    base.training.steps = 30;
    let device = Device::flex();
    Trainer::new(base, &text(), &device, &float, false).unwrap().run(&mut (), &never()).unwrap();
    let start = Checkpoint::open(&float).unwrap();
    let ids: Vec<Vec<u32>> = (0..40).map(|i| (0..30).map(|j| (i * 31 + j * j) % 320).collect()).collect();
    let sequences = Sequences { ids, sha256: "0".to_owned() };
    let mut config = qat_config();
    config.qat.distill = true;
    config.training.steps = 30;
    (config.training.weight_decay, config.training.learning_rate) = (0.0, 1e-4);
    config.quantization.quantization_type = QuantizationType::WeightOnly;
    let dir = root.path().join("out");
    let corpus = Corpus::Sequences(&sequences);
    let mut trainer = Trainer::start(config.clone(), corpus, Some(&start), &device, &dir, false).unwrap();
    trainer.run(&mut (), &never()).unwrap();
    let losses: Vec<f64> = trainer
        .metrics()
        .iter()
        .filter_map(|metric| match metric {
            Metric::Step(report) => Some(report.loss),
            Metric::Validation(_) => None,
        })
        .collect();
    assert_eq!(losses[..3], [0.0; 3], "nothing is rounded yet, so both models are the same");
    let (first, last) = (losses[3], losses[25..].iter().sum::<f64>() / 5.0);
    assert!(first > 0.0 && last < 0.7 * first, "{losses:?}");

    let alone = Trainer::start(
        config,
        Corpus::Text(&text()),
        Start::default(),
        &device,
        root.path().join("b"),
        false,
    );
    assert!(matches!(alone.err().unwrap(), Error::NoTeacher));
}

/// A float checkpoint of a briefly trained model, and the same model quantized by GPTQ.
fn float_and_quantized(root: &Path) -> [Checkpoint; 2] {
    let device = Device::flex();
    let (float, quantized) = (root.join("float"), root.join("gptq"));
    let mut base = tiny_config();
    base.training.steps = 30;
    let mut trainer = Trainer::new(base, &text(), &device, &float, false).unwrap();
    trainer.run(&mut (), &never()).unwrap();
    let float = Checkpoint::open(&float).unwrap();
    let mut config = qat_config().quantization;
    config.quantization_type = QuantizationType::WeightOnly;
    config.method = RoundingMethod::Gptq;
    config.rotate = slm_ptq::Rotate::On;
    let mut quantizer = slm_ptq::CheckpointQuantizer::new(&float, config.ptq()).unwrap();
    let tokens = slm_ptq::CalibrationTokens {
        ids: &trainer.data().train[..480],
        window: 24,
        prefix: &[],
        text_sha256: "a".repeat(64),
    };
    quantizer.calibrate(&tokens, &device, &mut |_| Ok::<_, slm_ptq::Error>(())).unwrap();
    quantizer.write(&quantized, false, &mut |_| Ok::<_, slm_ptq::Error>(())).unwrap();
    [float, Checkpoint::open(&quantized).unwrap()]
}

/// A config that trains from the quantized checkpoint of [`float_and_quantized`].
fn quantized_config(quantized: &Checkpoint) -> TrainingConfig {
    let mut config = qat_config();
    config.model = quantized.config().model.clone();
    config.qat.options.observe_steps = 0;
    config.qat.distill = true;
    config.quantization.quantization_type = QuantizationType::WeightOnly;
    config
}

#[test]
fn training_goes_on_from_the_codes_of_gptq_and_resumes_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let [float, quantized] = float_and_quantized(root.path());
    let start = Start { checkpoint: Some(&quantized), teacher: Some(&float) };
    let config = quantized_config(&quantized);
    let text = text();
    let corpus = Corpus::Text(&text);
    let [whole, parts] = ["whole", "parts"].map(|name| root.path().join(name));
    let mut run = Trainer::start(config.clone(), corpus, start, &device, &whole, false).unwrap();
    let scored = run.data().validation[..4 * 24].to_vec();
    let loss = |model: &Transformer| slm_model::evaluate(model, &scored, 24, |_, _| {}).unwrap().mean_nll();
    let before = loss(&quantized.load_model(&device).unwrap());
    assert!((loss(&run.model()) - before).abs() < 1e-5, "{} {before}", loss(&run.model()));
    run.run(&mut (), &never()).unwrap();

    let stop = AtomicBool::new(false);
    let mut part = Trainer::start(config.clone(), corpus, start, &device, &parts, false).unwrap();
    assert_eq!(part.run(&mut StopAt(11, &stop), &stop).unwrap().outcome, Outcome::Interrupted);
    let resumed = Trainer::resume(config.clone(), corpus, start, &device, &parts);
    resumed.unwrap().run(&mut (), &never()).unwrap();
    for file in ["model.safetensors", "quantization_metadata.json"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        assert_eq!(read(&whole), read(&parts), "{file}");
    }

    let trained = Checkpoint::open(&whole).unwrap();
    let (metadata, source) = (trained.metadata().unwrap(), quantized.metadata().unwrap());
    assert_eq!(metadata.mode, CheckpointMode::Qat);
    assert!(source.lineage.transforms.is_some(), "the quantized model is rotated");
    assert_eq!(metadata.lineage.transforms, source.lineage.transforms);
    assert_eq!(metadata.lineage.source_sha256, Some(quantized.weights_sha256().unwrap()));
    let scheme = |metadata: &slm_checkpoint::QuantizationMetadata| -> Vec<_> {
        metadata.layers.iter().map(|layer| (layer.name.clone(), layer.scheme)).collect()
    };
    assert_eq!(scheme(metadata), scheme(source));

    let other = Start { teacher: None, ..start };
    let mut alone = config;
    let refused = Trainer::start(alone.clone(), corpus, other, &device, root.path().join("b"), false);
    assert!(matches!(refused.err().unwrap(), Error::NoTeacher));
    alone.quantization.quantization_bits = Bits::Int8;
    let refused = Trainer::start(alone, corpus, start, &device, root.path().join("b"), false);
    assert!(matches!(refused.err().unwrap(), Error::CheckpointScheme { .. }));
}

#[test]
fn a_config_that_cannot_work_is_refused_before_training() {
    let refuse = |change: &dyn Fn(&mut TrainingConfig)| {
        let root = tempfile::tempdir().unwrap();
        let mut config = qat_config();
        change(&mut config);
        let dir = root.path().join("out");
        Trainer::new(config, &text(), &Device::flex(), dir, false).err().unwrap().to_string()
    };
    let frozen = refuse(&|config| config.qat.options.freeze_steps = 18);
    assert!(frozen.contains("`qat.freeze_steps`") && frozen.contains("use fewer"), "{frozen}");
    let all = refuse(&|config| config.quantization.skip = vec!["*".to_owned()]);
    assert!(all.contains("no layer to quantize"), "{all}");
    let group = refuse(&|config| {
        config.quantization.granularity = Granularity::PerGroup { group_size: 25 };
    });
    assert!(group.contains("25"), "{group}");
}

#[test]
fn a_scale_that_its_type_does_not_hold_ends_the_run_with_the_layer_and_the_cause() {
    use burn::module::{ModuleMapper, Param};
    use burn::tensor::Tensor;

    struct Grow;
    impl ModuleMapper for Grow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| Tensor::from_inner(tensor.inner() * 1e9).require_grad())
        }
    }

    for learned in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("out");
        let mut config = qat_config();
        config.quantization.scale_dtype = slm_quant_core::ScaleDtype::F16;
        config.quantization.granularity = Granularity::PerTensor;
        config.qat.options.observe_steps = 0;
        if !learned {
            config.qat.options.scale = slm_qat::ScaleMode::Observed;
        }
        let mut trainer = Trainer::new(config, &text(), &Device::flex(), &dir, false).unwrap();
        let stop = never();
        trainer.run(&mut StopAt(2, &stop), &stop).unwrap();
        trainer.model = trainer.model.take().map(|model| model.map(&mut Grow));
        let error = trainer.run(&mut (), &never()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Pass { step: 3, .. }), "{message}");
        assert!(message.contains("weight of layer layers.0.self_attn.q_proj: "), "{message}");
        assert!(message.contains("f16") && message.contains("use f32 scales"), "{message}");
        assert_eq!(TrainingState::read(&dir).unwrap().step, 2, "the last checkpoint is kept");
    }
}
