//! The state of a training run in its checkpoint, next to the model.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use slm_checkpoint::{OutputLock, reserve_output};

use crate::difference::{Difference, first_difference};
use crate::setup::Source;
use crate::{Error, Metric, Result, TrainingConfig};

/// File of the checkpoint with the state of the run.
pub(crate) const STATE: &str = "training_state.json";
/// File of the checkpoint with the state of the optimizer.
pub(crate) const OPTIMIZER: &str = "training_optimizer.safetensors";
/// File of the checkpoint with scales and ranges of fake-quantized layers.
pub(crate) const QAT: &str = "training_qat.safetensors";
/// File of the checkpoint with rounding residuals, in fine-tuning of a quantized model.
pub(crate) const RESIDUAL: &str = "training_residual.safetensors";
/// File of the checkpoint with the plot of the run.
pub(crate) const PLOT: &str = "loss.svg";
/// File of the checkpoint with all metrics, one JSON object per line.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Version of the layout of [`TrainingState`].
const VERSION: u32 = 1;

/// State of a run. The order of the data and the learning rate follow from the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainingState {
    version: u32,
    /// Optimizer steps done.
    pub(crate) step: usize,
    /// The config of the run.
    pub(crate) config: TrainingConfig,
    /// SHA-256 of the text.
    pub(crate) data_sha256: String,
    /// Kind of the device: results are bit-identical only on the same kind.
    pub(crate) device: String,
    /// SHA-256 of the weights that the run started from; `None` for random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_sha256: Option<String>,
    /// SHA-256 of the weights of the teacher, if it is another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    teacher_sha256: Option<String>,
}

impl TrainingState {
    pub(crate) fn new(
        step: usize,
        config: &TrainingConfig,
        data_sha256: &str,
        device: &str,
        source: &Source,
    ) -> Self {
        Self {
            version: VERSION,
            step,
            config: config.clone(),
            data_sha256: data_sha256.to_owned(),
            device: device.to_owned(),
            source_sha256: source.source_sha256.clone(),
            teacher_sha256: source.teacher_sha256.clone(),
        }
    }

    /// Reads the state in a checkpoint directory.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotResumable {
                    dir: dir.to_owned(),
                    reason: format!("it has no {STATE}, so it is not the checkpoint of a training run"),
                });
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        let refuse = |reason: String| Error::NotResumable { dir: dir.to_owned(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| refuse(format!("{STATE}: {error}")))?;
        // The version is read first: the other fields depend on it.
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            other => {
                let found = other.map_or("none".to_owned(), |version| version.to_string());
                return Err(refuse(format!("{STATE} has version {found}, this program reads {VERSION}")));
            }
        }
        serde_json::from_value(value).map_err(|error| refuse(format!("{STATE}: {error}")))
    }

    /// Returns `true` if the end of the run converts the trained model, which cannot be trained further in its previous
    /// form then.
    pub(crate) fn converts(&self) -> bool {
        let quantization = &self.config.quantization;
        quantization.quantization_mode == slm_ptq::QuantizationMode::Qat
            || quantization.enable_quantized_finetuning
    }

    /// Rejects a resume with a config, text or device other than those that the run started with. Settings that do not
    /// affect the training may change: the intervals of validations and checkpoints. The number of steps may change
    /// too, if it is not below the steps already done.
    pub(crate) fn check_same(&self, other: &Self, dir: &Path) -> Result<()> {
        // Converted through JSON like the state on disk, because the parser may lose the last bit of a long fraction.
        let to_state_error = |error: serde_json::Error| Error::State { detail: error.to_string() };
        let json = serde_json::to_vec(other).map_err(to_state_error)?;
        let other: Self = serde_json::from_slice(&json).map_err(to_state_error)?;
        let refuse = |reason: String| Err(Error::NotResumable { dir: dir.to_owned(), reason });
        let mut before = self.config.clone();
        let (old, new) = (&mut before.training, &other.config.training);
        (old.eval_interval, old.save_interval) = (new.eval_interval, new.save_interval);
        (old.log_interval, old.validation_windows) = (new.log_interval, new.validation_windows);
        if new.steps > self.step {
            old.steps = new.steps;
        }
        if before != other.config {
            let [before, now] = [&before, &other.config].map(serde_json::to_value);
            let difference =
                first_difference(&before.map_err(to_state_error)?, &now.map_err(to_state_error)?);
            return refuse(match difference {
                Some(Difference { path, before, now }) => {
                    format!(
                        "{path} was {before}, is now {now}, and a resumed run needs the settings of the first"
                    )
                }
                None => "the config is not the one that the run started with".to_owned(),
            });
        }
        if self.data_sha256 != other.data_sha256 {
            return refuse("the text is not the one that the run started with".to_owned());
        }
        if self.source_sha256 != other.source_sha256 {
            return refuse("it did not start from the weights of this checkpoint".to_owned());
        }
        if self.teacher_sha256 != other.teacher_sha256 {
            return refuse("it did not learn from this teacher".to_owned());
        }
        if self.device != other.device {
            return refuse(format!("the run started on device {}, not {}", self.device, other.device));
        }
        Ok(())
    }
}

/// Progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// Steps done.
    pub step: usize,
    /// Total number of steps.
    pub steps: usize,
}

impl RunProgress {
    /// Returns `true` if steps are left.
    pub fn is_unfinished(&self) -> bool {
        self.step < self.steps
    }
}

/// The progress of the training run whose checkpoint is at `dir`; `None` if there is no such checkpoint.
pub fn run_progress(dir: impl AsRef<Path>) -> Option<RunProgress> {
    let state = TrainingState::read(dir.as_ref()).ok()?;
    Some(RunProgress { step: state.step, steps: state.config.training.steps })
}

/// Reserves `dir` for a new run, and keeps it from other processes until the result is dropped.
///
/// # Errors
/// [`Error::UnfinishedRun`] for a run that can be resumed, unless it is to be overwritten; otherwise those of
/// [`reserve_output`].
pub fn reserve_run(dir: impl AsRef<Path>, overwrite: bool) -> Result<OutputLock> {
    let dir = dir.as_ref();
    reserve_output(dir, overwrite).map_err(|error| match run_progress(dir) {
        Some(run) if !overwrite && run.is_unfinished() => {
            Error::UnfinishedRun { dir: dir.to_owned(), step: run.step, steps: run.steps }
        }
        _ => error.into(),
    })
}

/// Serializes metrics.
pub(crate) fn metrics_to_bytes(metrics: &[Metric]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for metric in metrics {
        serde_json::to_writer(&mut bytes, metric)
            .map_err(|error| Error::State { detail: error.to_string() })?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The metrics of the training run whose checkpoint is at `dir`, in the order of steps; empty if there are none.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read, and [`Error::NotResumable`] for a file with other content.
pub fn training_metrics(dir: impl AsRef<Path>) -> Result<Vec<Metric>> {
    match read_metrics(dir.as_ref()) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Reads the stored metrics.
pub(crate) fn read_metrics(dir: &Path) -> Result<Vec<Metric>> {
    let path = dir.join(METRICS);
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Error::NotResumable {
                dir: dir.to_owned(),
                reason: format!("{METRICS}: {error}"),
            })
        })
        .collect()
}
