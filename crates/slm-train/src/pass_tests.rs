//! Tests gradients in stages against those of the whole model at once.

use std::collections::BTreeMap;

use super::*;
use crate::testing::{all_devices, by_path, never, tiny_config};
use slm_quant_core::{Bits, Granularity, QuantizationType};
use slm_text::corpus::Corpus as Stories;

/// The gradient of each parameter that has one, by path.
fn gradients(
    trainer: &Trainer,
    pass: impl Fn(&Pass<'_>, &mut GradientsAccumulator<Transformer>) -> Result<f64>,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    let options = &trainer.config.training;
    let batch = trainer.data.batch(options.seed, 0, options.batch_size, options.sequence_length);
    let teacher = trainer.teacher.as_ref();
    let model = trainer.trained();
    let described = Pass { model, teacher, batch: &batch, batch_size: options.batch_size, divisor: 2.0 };
    let mut sums = GradientsAccumulator::new();
    let loss = pass(&described, &mut sums).unwrap();
    (loss, by_path(model, Some(&sums.grads())))
}

/// Runs that differ in their trained parameters and losses: a description, a config, and whether the run starts from a
/// float checkpoint.
fn runs() -> Vec<(&'static str, TrainingConfig, bool)> {
    let float = || {
        let mut config = tiny_config();
        // Enough rows that products are the same operations with and without gradients.
        config.training.batch_size = 4;
        config
    };
    let qat = |quantization_type: QuantizationType| {
        let mut config = float();
        config.quantization.quantization_mode = QuantizationMode::Qat;
        config.quantization.quantization_bits = Bits::Int4;
        config.quantization.quantization_type = quantization_type;
        config.quantization.granularity = Granularity::PerGroup { group_size: 8 };
        config.qat.options.scale = slm_qat::ScaleMode::Learned;
        config
    };
    let untied = || {
        let mut config = float();
        config.model.tie_word_embeddings = false;
        config
    };
    let frozen = || {
        let mut config = qat(QuantizationType::WeightOnly);
        (config.training.freeze_embeddings, config.qat.distill) = (true, true);
        config
    };
    vec![
        ("float, tied", float(), false),
        ("float, untied", untied(), false),
        ("QAT, weight-only", qat(QuantizationType::WeightOnly), false),
        ("QAT, dynamic", qat(QuantizationType::Dynamic), false),
        ("QAT, distilled, frozen embeddings", frozen(), true),
    ]
}

#[test]
fn gradients_in_parts_are_those_of_the_whole_model() {
    let text = Stories::new(1).text(120);
    for device in all_devices() {
        for (name, config, from_float) in runs() {
            let root = tempfile::tempdir().unwrap();
            // The loss and gradients of two models that agree would be nothing but rounding errors.
            let [checkpoint, teacher] = [("float", 5), ("teacher", 20)].map(|(name, steps)| {
                from_float.then(|| {
                    let mut config = tiny_config();
                    config.training.steps = steps;
                    let path = root.path().join(name);
                    Trainer::new(config, &text, &device, &path, false)
                        .unwrap()
                        .run(&mut (), &never())
                        .unwrap();
                    Checkpoint::open(&path).unwrap()
                })
            });
            let start = Start { checkpoint: checkpoint.as_ref(), teacher: teacher.as_ref() };
            let out = root.path().join("out");
            let vocab_size = config.model.vocab_size;
            let trainer = Trainer::start(config, Corpus::Text(&text), start, &device, &out, false).unwrap();
            let (loss, whole) = gradients(&trainer, |pass, sums| pass.at_once(sums, |_| Ok(())));
            assert!(whole.len() > 10, "{name}: {:?}", whole.keys());
            assert!(loss > 0.01, "{name}: {loss}");
            // The loss of a distilled model is a difference of entropies, at most the logarithm of the vocabulary. Only CPUs
            // round them in the same way.
            let terms = if slm_nn::on_cpu(&device) { loss } else { (vocab_size as f64).ln() };
            // The head in one go, and for seven positions at a time.
            let ways = [LOGITS, 7 * vocab_size].map(|logits| [0, 1, 2].map(|kept| (logits, kept)));
            for (logits, kept) in ways.into_iter().flatten() {
                let (again, parts) =
                    gradients(&trainer, |pass, sums| pass.by_stages(kept, logits, sums, |_| Ok(())));
                let what = format!("{name}, {device:?}, {logits} logits, {kept} layers kept");
                assert!((again - loss).abs() < 1e-6 * terms, "{what}: {again} {loss}");
                assert!(whole.keys().eq(parts.keys()), "{what}: {:?} {:?}", whole.keys(), parts.keys());
                for (path, expected) in &whole {
                    let found = &parts[path];
                    if logits == LOGITS && slm_nn::on_cpu(&device) {
                        assert!(found == expected, "{what}, {path}");
                    }
                    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * largest);
                    assert!(close, "{what}, {path}");
                }
            }
        }
    }
}

#[test]
fn a_run_by_stages_is_the_same_run() {
    let text = Stories::new(1).text(120);
    let root = tempfile::tempdir().unwrap();
    let weights = [false, true].map(|gradient_checkpointing| {
        let mut config = tiny_config();
        config.training.accumulation_steps = 2;
        // The two gradients of a tied table would be added in another order.
        config.model.tie_word_embeddings = false;
        config.training.gradient_checkpointing = gradient_checkpointing;
        let dir = root.path().join(gradient_checkpointing.to_string());
        let mut trainer = Trainer::new(config, &text, &Device::flex(), &dir, false).unwrap();
        trainer.run(&mut (), &never()).unwrap();
        std::fs::read(dir.join("model.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1]);
}

#[test]
fn observers_that_would_see_a_batch_twice_are_refused() {
    let text = Stories::new(1).text(120);
    let root = tempfile::tempdir().unwrap();
    let start = |change: fn(&mut TrainingConfig)| {
        let mut config = tiny_config();
        config.training.gradient_checkpointing = true;
        config.quantization.quantization_mode = QuantizationMode::Qat;
        config.quantization.quantization_type = QuantizationType::WeightOnly;
        change(&mut config);
        Trainer::new(config, &text, &Device::flex(), root.path().join("out"), false).err()
    };
    assert!(start(|_| {}).is_none());
    let changes: [fn(&mut TrainingConfig); 2] = [
        |config| config.quantization.quantization_type = QuantizationType::Static,
        |config| config.qat.options.observer = Some("moving-average".parse().unwrap()),
    ];
    for change in changes {
        let refused = start(change).unwrap().to_string();
        assert!(
            refused.contains("`training.gradient_checkpointing` in the training config: is true"),
            "{refused}"
        );
        assert!(refused.contains("layers.0.self_attn.q_proj"), "{refused}");
    }
}
