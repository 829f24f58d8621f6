use std::path::Path;

use super::*;
use crate::Precision;
use crate::loss::{cross_entropy, ids_tensor};
use crate::setup::check_precision;
use crate::testing::{cpu_devices, never, tiny_config};
use crate::{RunProgress, run_progress};
use slm_text::corpus::Corpus;

fn text() -> String {
    Corpus::new(1).text(120)
}

fn resume(config: TrainingConfig, text: &str, device: &Device, dir: impl AsRef<Path>) -> Result<Trainer> {
    Trainer::resume(config, crate::Corpus::Text(text), crate::Start::default(), device, dir)
}

/// Every weight, by name, as bits.
fn weights(model: &Transformer) -> Vec<(String, Vec<u32>)> {
    let mut all = Vec::new();
    model
        .for_each_tensor::<()>(&mut |name, data| {
            let values = data.try_into_vec::<f32>().unwrap();
            all.push((name.to_owned(), values.iter().map(|value| value.to_bits()).collect()));
            Ok(())
        })
        .unwrap();
    all
}

/// Stops a run after a number of steps, and records the reports.
#[derive(Default)]
struct Watch<'a> {
    stop_at: usize,
    stop: Option<&'a AtomicBool>,
    steps: Vec<usize>,
    validations: Vec<usize>,
    checkpoints: Vec<usize>,
}

impl TrainObserver for Watch<'_> {
    fn on_step(&mut self, report: &StepReport, seconds: f64) {
        assert!(seconds > 0.0);
        self.steps.push(report.step);
        if let (Some(stop), true) = (self.stop, report.step == self.stop_at) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn on_validation(&mut self, report: &ValidationReport) {
        self.validations.push(report.step);
    }

    fn on_checkpoint(&mut self, step: usize, dir: &Path) {
        assert!(dir.join("model.safetensors").exists());
        self.checkpoints.push(step);
    }
}

#[test]
fn a_run_learns_and_leaves_a_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = tiny_config();
    config.training.steps = 60;
    config.training.eval_interval = 0;
    let mut trainer = Trainer::new(config, &text(), &Device::flex(), &dir, false).unwrap();
    let before = slm_model::evaluate(&trainer.model(), &trainer.data().validation, 24, |_, _| {}).unwrap();
    let summary = trainer.run(&mut (), &never()).unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Finished, 60));
    let after = summary.validation.unwrap();
    assert!(before.mean_nll() > 5.5, "{}", before.mean_nll());
    assert!(after.nll < before.mean_nll() - 1.0, "{} {}", before.mean_nll(), after.nll);

    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(weights(&checkpoint.load_model(&Device::flex()).unwrap()), weights(&trainer.model()));
    assert_eq!(checkpoint.config().tokenizer.eos_token_ids, [0]);
    let metrics = std::fs::read_to_string(dir.join(METRICS)).unwrap();
    assert_eq!(metrics.lines().count(), 61);
    assert!(metrics.lines().next().unwrap().starts_with("{\"event\":\"step\",\"step\":1,"), "{metrics}");
}

#[test]
fn interrupted_and_resumed_is_the_same_bit_for_bit() {
    let devices = cpu_devices().into_iter().map(|device| (device, Precision::F32));
    let in_bf16 = Precision::Bf16.is_fast().then(|| (Device::flex(), Precision::Bf16));
    for (device, precision) in devices.chain(in_bf16) {
        let root = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| root.path().join(name));
        let mut config = tiny_config();
        config.training.accumulation_steps = 2;
        config.training.precision = precision;
        let mut watch = Watch::default();
        let mut straight = Trainer::new(config.clone(), &text(), &device, &whole, false).unwrap();
        straight.run(&mut watch, &never()).unwrap();
        assert_eq!(watch.steps, (1..=20).collect::<Vec<_>>());
        assert_eq!((watch.validations, watch.checkpoints), (vec![8, 16, 20], vec![6, 12, 18, 20]));

        let stop = never();
        let mut watch = Watch { stop_at: 10, stop: Some(&stop), ..Watch::default() };
        let mut first = Trainer::new(config.clone(), &text(), &device, &parts, false).unwrap();
        let summary = first.run(&mut watch, &stop).unwrap();
        assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, 10));
        assert_eq!(watch.checkpoints, [6, 10]);
        assert!(parts.join(OPTIMIZER).exists());
        drop(first);
        let mut second = resume(config, &text(), &device, &parts).unwrap();
        assert_eq!(second.step(), 10);
        second.run(&mut (), &never()).unwrap();

        assert_eq!(weights(&second.model()), weights(&straight.model()), "{device:?}, {precision:?}");
        assert_eq!(second.metrics(), straight.metrics());
        let read = |dir: &Path, file: &str| {
            std::fs::read(dir.join(file)).unwrap_or_else(|error| panic!("{}, {file}: {error}", dir.display()))
        };
        for file in ["model.safetensors", METRICS, STATE] {
            assert_eq!(read(&whole, file), read(&parts, file), "{file}");
        }
    }
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = tiny_config();
    config.training.log_interval = 0;
    let mut trainer = Trainer::new(config.clone(), &text(), &Device::flex(), &dir, false).unwrap();
    let summary = trainer.run(&mut (), &never()).unwrap();
    assert_eq!(summary.validation.unwrap().step, 20);
    assert_eq!(trainer.metrics().len(), 3, "validations alone");
    assert!(!dir.join(OPTIMIZER).exists());

    let mut watch = Watch::default();
    let mut again = resume(config, &text(), &Device::flex(), &dir).unwrap();
    assert_eq!(again.run(&mut watch, &never()).unwrap(), summary);
    assert!(watch.steps.is_empty() && watch.validations.is_empty() && watch.checkpoints.is_empty());
}

#[test]
fn a_run_stopped_before_its_first_step_can_be_resumed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let config = tiny_config();
    let device = Device::flex();
    let mut trainer = Trainer::new(config.clone(), &text(), &device, &dir, false).unwrap();
    let summary = trainer.run(&mut (), &AtomicBool::new(true)).unwrap();
    assert_eq!((summary.outcome, summary.step, summary.validation), (Outcome::Interrupted, 0, None));
    let mut again = resume(config, &text(), &device, &dir).unwrap();
    assert_eq!(again.run(&mut (), &never()).unwrap().outcome, Outcome::Finished);
}

#[test]
fn accumulating_is_a_larger_batch() {
    let root = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    config.training.accumulation_steps = 3;
    let mut trainer =
        Trainer::new(config.clone(), &text(), &Device::flex(), root.path().join("a"), false).unwrap();
    let mean = |model: &Transformer, data: &TrainingData| {
        let losses = (0..3).map(|index| {
            let batch = data.batch(1, index, 3, 24);
            let logits = model.forward(ids_tensor(&batch.inputs, 3, &Device::flex())).flatten(0, 1);
            f64::from(cross_entropy(logits, &batch.targets).into_scalar::<f32>())
        });
        losses.sum::<f64>() / 3.0
    };
    let expected = mean(&trainer.model(), trainer.data());
    let report = trainer.train_step(1e-3).unwrap();
    assert!((report.loss - expected).abs() < 1e-5, "{} {expected}", report.loss);
    assert_eq!(report.tokens, 3 * 3 * 24);
}

#[test]
fn a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let config = tiny_config();
    let stop = never();
    let mut watch = Watch { stop_at: 6, stop: Some(&stop), ..Watch::default() };
    let mut trainer = Trainer::new(config, &text(), &Device::flex(), &dir, false).unwrap();
    trainer.run(&mut watch, &stop).unwrap();
    let good = weights(&trainer.model());

    trainer.poison();
    let error = trainer.run(&mut (), &never()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { what: "loss", step: 7, .. }), "{error}");
    assert!(error.to_string().contains("step 7 (first in layer layers.0.self_attn.q_proj)"), "{error}");
    let kept = Checkpoint::open(&dir).unwrap().load_model(&Device::flex()).unwrap();
    assert_eq!(weights(&kept), good);
}

#[test]
fn what_cannot_be_resumed_says_why() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = tiny_config();
    config.training.steps = 6;
    let device = Device::flex();
    Trainer::new(config.clone(), &text(), &device, &dir, false).unwrap().run(&mut (), &never()).unwrap();

    let resume = |config: &TrainingConfig, text: &str, device: &Device| {
        self::resume(config.clone(), text, device, &dir).err().map(|error| error.to_string())
    };
    assert_eq!(resume(&config, &text(), &device), None);
    let mut shorter = config.clone();
    shorter.training.steps = 5;
    let changed = resume(&shorter, &text(), &device).unwrap();
    assert!(changed.contains("training.steps was 6, is now 5"), "{changed}");
    let mut skipping = config.clone();
    skipping.quantization.skip = vec!["lm_head".to_owned()];
    let changed = resume(&skipping, &text(), &device).unwrap();
    assert!(changed.contains(r#"quantization.skip was [], is now ["lm_head"]"#), "{changed}");
    let other_text = resume(&config, &Corpus::new(2).text(120), &device).unwrap();
    assert!(other_text.contains("the text is not the one"), "{other_text}");
    if let Some(ndarray) = slm_nn::ndarray_device() {
        let other_device = resume(&config, &text(), &ndarray).unwrap();
        assert!(other_device.contains("device"), "{other_device}");
    }

    let plain = root.path().join("plain");
    let model = Transformer::new(&config.model, 0, &device).unwrap();
    slm_checkpoint::save(&plain, &model, &SaveRequest::default(), false).unwrap();
    let error = self::resume(config, &text(), &device, &plain).err().unwrap();
    assert!(error.to_string().contains("training_state.json"), "{error}");
}

#[test]
fn more_steps_and_other_intervals_may_be_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = tiny_config();
    config.training.steps = 6;
    let device = Device::flex();
    let stop_at = |steps: usize, config: &TrainingConfig, again: bool| {
        let mut trainer = if again {
            self::resume(config.clone(), &text(), &device, &dir).unwrap()
        } else {
            Trainer::new(config.clone(), &text(), &device, &dir, false).unwrap()
        };
        let from = trainer.step();
        let stop = AtomicBool::new(false);
        let mut watch = StopAt { steps, stop: &stop, losses: Vec::new() };
        let summary = trainer.run(&mut watch, &stop).unwrap();
        (from, summary.step, watch.losses)
    };
    assert_eq!(stop_at(3, &config, false).1, 3);
    // A new run in the same directory would lose the unfinished one.
    let error = Trainer::new(config.clone(), &text(), &device, &dir, false).err().unwrap();
    assert!(matches!(error, Error::UnfinishedRun { step: 3, steps: 6, .. }), "{error}");
    assert!(error.to_string().contains("resume it"), "{error}");
    // More steps, before the run was finished and after.
    (config.training.steps, config.training.eval_interval, config.training.save_interval) = (8, 2, 1);
    assert_eq!(run_progress(&dir), Some(RunProgress { step: 3, steps: 6 }));
    let (from, to, losses) = stop_at(usize::MAX, &config, true);
    assert_eq!((from, to, losses.len()), (3, 8, 5));
    config.training.steps = 12;
    let (from, to, losses) = stop_at(usize::MAX, &config, true);
    assert_eq!((from, to, losses.len()), (8, 12, 4));
    assert!(losses.iter().all(|loss| loss.is_finite()));
    assert!(!run_progress(&dir).unwrap().is_unfinished());
}

/// Stops a run after a step.
struct StopAt<'a> {
    steps: usize,
    stop: &'a AtomicBool,
    losses: Vec<f64>,
}

impl TrainObserver for StopAt<'_> {
    fn on_step(&mut self, report: &StepReport, _seconds: f64) {
        self.losses.push(report.loss);
        self.stop.store(report.step >= self.steps, Ordering::Relaxed);
    }

    fn on_validation(&mut self, _report: &ValidationReport) {}

    fn on_checkpoint(&mut self, _step: usize, _dir: &Path) {}
}

#[test]
fn an_output_that_exists_is_refused_before_training() {
    let root = tempfile::tempdir().unwrap();
    let new = |overwrite| Trainer::new(tiny_config(), &text(), &Device::flex(), root.path(), overwrite).err();
    let error = new(false).unwrap();
    assert!(
        matches!(
            error,
            Error::Checkpoint(slm_checkpoint::Error::Store(slm_checkpoint::StoreError::OutputExists { .. }))
        ),
        "{error}"
    );
    assert!(new(true).is_none(), "an empty directory may be replaced");
    std::fs::write(root.path().join("letters.txt"), "dear").unwrap();
    assert!(matches!(
        new(true),
        Some(Error::Checkpoint(slm_checkpoint::Error::Store(
            slm_checkpoint::StoreError::OutputNotOurs { .. }
        )))
    ));
}

impl Trainer {
    /// Puts a NaN into every norm.
    pub(crate) fn poison(&mut self) {
        self.model = self.model.take().map(crate::testing::poisoned);
    }
}

/// Frozen embeddings keep their bits while the rest is trained, also over an interruption, and have no moments.
#[test]
fn frozen_embeddings_stay_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let text = text();
    let mut config = tiny_config();
    config.model.tie_word_embeddings = false;
    config.training.freeze_embeddings = true;
    let device = Device::flex();
    let dir = root.path().join("out");
    let stop = AtomicBool::new(false);
    let mut run = Trainer::new(config.clone(), &text, &device, &dir, false).unwrap();
    let before = slm_testing::read(run.model().float_embedding().unwrap());
    let head = |run: &Trainer| slm_nn::linear_names(&run.model()).len();
    assert_eq!(head(&run), 15);
    run.run(&mut crate::testing::StopAt(7, &stop), &stop).unwrap();
    let state = std::fs::read(dir.join(OPTIMIZER)).unwrap();
    let state = safetensors::SafeTensors::deserialize(&state).unwrap();
    assert!(state.names().iter().all(|name| !name.contains("embed")), "{:?}", state.names());
    let mut run = resume(config, &text, &device, &dir).unwrap();
    let loss = run.run(&mut (), &never()).unwrap().validation.unwrap().nll;
    assert!(loss < (320.0_f64).ln() - 0.3, "{loss}");
    assert_eq!(slm_testing::read(run.model().float_embedding().unwrap()), before);
}

/// A run in BF16 learns as one in f32 does, is the same on any number of threads, and only on a CPU that has BF16.
#[test]
fn products_may_be_in_bf16() {
    let refused =
        |on_cpu: bool| check_precision(Precision::Bf16, on_cpu).err().map(|error| error.to_string());
    let on_gpu = refused(false).unwrap();
    assert!(
        on_gpu.starts_with("`training.precision` in the training config: is \"bf16\", which only"),
        "{on_gpu}"
    );
    assert!(check_precision(Precision::F32, false).is_ok());
    let text = text();
    let root = tempfile::tempdir().unwrap();
    let run = |name: &str, precision: Precision, threads: usize| {
        let mut config = tiny_config();
        config.training.precision = precision;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let dir = root.path().join(name);
            let mut trainer = Trainer::new(config, &text, &Device::flex(), dir, false)?;
            let loss = trainer.run(&mut (), &never())?.validation.unwrap().nll;
            Ok::<_, Error>((loss, weights(&trainer.model())))
        })
    };
    let one = run("one", Precision::Bf16, 1);
    if !Precision::Bf16.is_fast() {
        let error = one.unwrap_err().to_string();
        assert!(error.contains("no instructions for it") && error.ends_with("leave it out"), "{error}");
        return;
    }
    let (one, three) = (one.unwrap(), run("three", Precision::Bf16, 3).unwrap());
    assert!(one == three);
    let (loss, float) = run("f32", Precision::F32, 1).unwrap();
    assert!(one.1 != float);
    assert!((one.0 / loss - 1.0).abs() < 0.01, "{} {loss}", one.0);
}
