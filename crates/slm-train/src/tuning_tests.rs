//! Tests of fine-tuning of quantized checkpoints.

use std::path::Path;

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, QuantizationMode as CheckpointMode};
use slm_quant_core::{Bits, Granularity, QuantizationType};
use slm_text::corpus::Corpus as Stories;

use crate::testing::{StopAt, all_devices, never, tiny_config};
use crate::{
    Corpus, Error, Metric, Outcome, Precision, QuantizationMode, RoundingKind, Trainer, TrainingConfig,
};

/// A quantized checkpoint of a briefly trained model.
fn quantized(dir: &Path, device: &Device, quantization_type: QuantizationType) -> Checkpoint {
    let mut config = tiny_config();
    config.quantization.quantization_mode = QuantizationMode::Qat;
    config.quantization.quantization_bits = Bits::Int8;
    config.quantization.quantization_type = quantization_type;
    config.quantization.granularity = Granularity::PerGroup { group_size: 16 };
    config.training.eval_interval = 0;
    let text = Stories::new(1).text(120);
    Trainer::new(config, &text, device, dir, false).unwrap().run(&mut (), &never()).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn tuning_config(start: &Checkpoint, rounding: RoundingKind) -> TrainingConfig {
    let mut config = tiny_config();
    config.model = start.config().model.clone();
    config.training.weight_decay = 0.0;
    config.training.learning_rate = 1e-3;
    config.quantization.enable_quantized_finetuning = true;
    config.finetune.rounding = rounding;
    config
}

#[test]
fn interrupted_and_resumed_is_the_same_bit_for_bit_and_stays_quantized() {
    let other = Stories::new(2).text(120);
    let source = tempfile::tempdir().unwrap();
    let start = quantized(&source.path().join("source"), &Device::flex(), QuantizationType::Static);
    let in_bf16 = Precision::Bf16.is_fast().then(|| (Device::flex(), RoundingKind::ErrorFeedback));
    let in_bf16 = in_bf16.map(|(device, rounding)| (device, rounding, Precision::Bf16));
    let in_f32 = all_devices().into_iter().flat_map(|device| {
        let all = [RoundingKind::ErrorFeedback, RoundingKind::Nearest, RoundingKind::Stochastic];
        // A software GPU is slow, so it tests only the first kind, which keeps the most state between steps.
        let count = if slm_nn::on_cpu(&device) { all.len() } else { 1 };
        all.into_iter().take(count).map(move |rounding| (device.clone(), rounding, Precision::F32))
    });
    let mut trained = Vec::new();
    for (device, rounding, precision) in in_f32.chain(in_bf16) {
        let root = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| root.path().join(name));
        let mut config = tuning_config(&start, rounding);
        config.training.steps = 7;
        config.training.precision = precision;
        (config.training.eval_interval, config.training.save_interval) = (3, 2);
        let corpus = Corpus::Text(&other);
        let begin =
            |dir: &Path| Trainer::start(config.clone(), corpus, Some(&start), &device, dir, false).unwrap();
        begin(&whole).run(&mut (), &never()).unwrap();
        let stop = never();
        let summary = begin(&parts).run(&mut StopAt(3, &stop), &stop).unwrap();
        assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, 3));
        let residual = parts.join("training_residual.safetensors");
        assert_eq!(residual.exists(), rounding == RoundingKind::ErrorFeedback);
        let mut rest = Trainer::resume(config.clone(), corpus, Some(&start), &device, &parts).unwrap();
        assert_eq!(rest.run(&mut (), &never()).unwrap().outcome, Outcome::Finished);
        for file in ["model.safetensors", "metrics.jsonl", "quantization_metadata.json"] {
            let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
            assert_eq!(read(&whole), read(&parts), "{file}, {device:?}, {rounding:?}");
        }
        assert!(!residual.exists());
        assert_ne!(
            std::fs::read(start.dir().join("model.safetensors")).unwrap(),
            std::fs::read(whole.join("model.safetensors")).unwrap()
        );

        trained.push((precision, std::fs::read(whole.join("model.safetensors")).unwrap()));
        let tuned = Checkpoint::open(&whole).unwrap();
        let (before, after) = (start.metadata().unwrap(), tuned.metadata().unwrap());
        assert_eq!(after.mode, CheckpointMode::Finetuned);
        assert_eq!(after.lineage.source_sha256, Some(start.weights_sha256().unwrap()));
        assert_eq!(after.lineage.training.as_ref().unwrap().steps, 7);
        assert_eq!(before.layers.len(), after.layers.len());
        for (before, after) in before.layers.iter().zip(&after.layers) {
            assert_eq!((before.scheme, before.activation), (after.scheme, after.activation));
            assert_eq!(before.scales, after.scales, "{}", before.name);
        }
    }
    // The first run has the settings of the one in BF16, which is another run.
    let (_, in_f32) = &trained[0];
    let in_bf16 = trained.iter().find(|(precision, _)| *precision == Precision::Bf16);
    assert!(in_bf16.is_none_or(|(_, weights)| weights != in_f32));
}

/// Fine-tuning one checkpoint on every device gives the same losses, up to rounding of float sums and the codes that it
/// moves.
#[test]
fn devices_learn_the_same() {
    let root = tempfile::tempdir().unwrap();
    let flex = Device::flex();
    let start = quantized(&root.path().join("source"), &flex, QuantizationType::WeightOnly);
    let other = Stories::new(2).text(120);
    let losses = |device: &Device, name: usize| -> Vec<f64> {
        let mut config = tuning_config(&start, RoundingKind::Stochastic);
        config.training.steps = 8;
        let dir = root.path().join(name.to_string());
        let mut run = Trainer::start(config, Corpus::Text(&other), Some(&start), device, dir, false).unwrap();
        run.run(&mut (), &never()).unwrap();
        let loss = |metric: &Metric| match metric {
            Metric::Step(report) => report.loss,
            Metric::Validation(report) => report.nll,
        };
        run.metrics().iter().map(loss).collect()
    };
    let expected = losses(&flex, 0);
    assert!(expected[expected.len() - 1] < expected[0] - 0.05, "{expected:?}");
    for (index, device) in all_devices().iter().enumerate() {
        let found = losses(device, index + 1);
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-2, "{device:?}: {worst} between {found:?} and {expected:?}");
    }
}

#[test]
fn tuning_learns_with_less_memory_than_floats_and_rounding_to_nearest_learns_least() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let start = quantized(&root.path().join("source"), &device, QuantizationType::WeightOnly);
    let text = Stories::new(2).text(120);
    let run = |rounding: RoundingKind, name: &str| {
        let mut config = tuning_config(&start, rounding);
        // Only small steps show the difference, and only the linear layers can take them.
        (config.training.steps, config.training.learning_rate) = (60, 3e-4);
        let corpus = Corpus::Text(&text);
        let dir = root.path().join(name);
        let mut trainer = Trainer::start(config, corpus, Some(&start), &device, dir, false).unwrap();
        let memory = trainer.tuning_memory().unwrap();
        assert!(memory.total < memory.float_total, "{memory:?}");
        assert_eq!(memory.residual, f64::from(u8::from(rounding == RoundingKind::ErrorFeedback)));
        trainer.run(&mut (), &never()).unwrap().validation.unwrap().nll
    };
    let nearest = run(RoundingKind::Nearest, "nearest");
    let stochastic = run(RoundingKind::Stochastic, "stochastic");
    let feedback = run(RoundingKind::ErrorFeedback, "feedback");
    assert!(feedback < nearest - 0.01, "{feedback} {nearest}");
    assert!(stochastic < nearest, "{stochastic} {nearest}");
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let start = quantized(&root.path().join("source"), &device, QuantizationType::Dynamic);
    let text = Stories::new(2).text(120);
    let refuse = |config: TrainingConfig, start: Option<&Checkpoint>| {
        let out = root.path().join("out");
        Trainer::start(config, Corpus::Text(&text), start, &device, out, false).err().unwrap()
    };
    let config = tuning_config(&start, RoundingKind::default());
    assert!(matches!(refuse(config.clone(), None), Error::NotQuantized));
    let mut decayed = config.clone();
    decayed.training.weight_decay = 0.1;
    assert!(refuse(decayed, Some(&start)).to_string().contains("set it to 0"));
    let mut float = config;
    float.quantization.enable_quantized_finetuning = false;
    assert!(matches!(refuse(float, Some(&start)), Error::Checkpoint(_)));
}

#[test]
fn activations_that_are_not_finite_end_the_run_with_the_layer() {
    let root = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let text = Stories::new(2).text(120);
    for quantization_type in [QuantizationType::Static, QuantizationType::Dynamic] {
        let start = quantized(&root.path().join(quantization_type.to_string()), &device, quantization_type);
        let config = tuning_config(&start, RoundingKind::Nearest);
        let dir = root.path().join(format!("{quantization_type}-out"));
        let mut trainer =
            Trainer::start(config, Corpus::Text(&text), Some(&start), &device, &dir, false).unwrap();
        trainer.poison();
        let message = trainer.run(&mut (), &never()).unwrap_err().to_string();
        assert!(message.contains("step 1: input of layer layers.0.self_attn.q_proj: "), "{message}");
        assert!(message.contains("is not finite") && message.contains("lower learning_rate"), "{message}");
    }
}
