//! Inputs of a run of `slm ptq`: options, a config file, and defaults.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use slm_checkpoint::{Checkpoint, OpenOptions};
use slm_ptq::PtqConfig;
use slm_quant_core::QuantizationType;
use slm_train::{QuantizationConfig, TrainingConfig};

use super::PtqArgs;
use crate::error::{Error, Result};
use crate::shipped::Shipped;

/// Source of a calibration text.
pub(super) enum CalibrationSource {
    File(PathBuf),
    /// The float model, which draws the text from its own distribution.
    Model,
}

impl CalibrationSource {
    fn of(args: &PtqArgs) -> Option<Self> {
        match &args.calibration {
            Some(path) => Some(Self::File(path.clone())),
            None => args.sample_calibration.then_some(Self::Model),
        }
    }

    /// The path of a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Model => None,
        }
    }
}

pub(super) struct RunInputs {
    pub(super) checkpoint: PathBuf,
    /// Source of the calibration text; `None` if no text is needed.
    pub(super) calibration: Option<CalibrationSource>,
    pub(super) eval: Option<PathBuf>,
    pub(super) out: PathBuf,
    pub(super) overwrite: bool,
    pub(super) config: PtqConfig,
}

impl RunInputs {
    pub(super) fn new(args: &PtqArgs) -> Result<Self> {
        let config = quantization(args)?;
        let needs_text = !args.no_eval || config.needs_calibration();
        let calibrates = config.needs_calibration();
        let (checkpoint, calibration, eval) = match (&args.checkpoint, CalibrationSource::of(args)) {
            (Some(checkpoint), None) if !needs_text => (checkpoint.clone(), None, None),
            (Some(checkpoint), None) if !calibrates && args.eval.is_some() => {
                (checkpoint.clone(), None, args.eval.clone())
            }
            (Some(checkpoint), Some(CalibrationSource::Model)) if !args.no_eval && args.eval.is_none() => {
                Checkpoint::open_to_load(checkpoint, &OpenOptions::UNVERIFIED)?;
                return Err(Error::Usage(
                    "perplexities need a text that the model did not write: add --eval FILE, or leave them out with \
                     --no-eval"
                        .to_owned(),
                ));
            }
            (Some(checkpoint), Some(calibration)) => {
                (checkpoint.clone(), Some(calibration), args.eval.clone())
            }
            (Some(checkpoint), None) => {
                // A checkpoint that cannot be opened is reported first.
                Checkpoint::open_to_load(checkpoint, &OpenOptions::UNVERIFIED)?;
                return Err(Error::Usage(needs_text_because(&config)));
            }
            (None, calibration) => {
                let shipped = Shipped::find()?;
                let eval = match (&calibration, &args.eval) {
                    (_, Some(eval)) => Some(eval.clone()),
                    (None | Some(CalibrationSource::Model), None) => Some(shipped.held_out()),
                    (Some(CalibrationSource::File(_)), None) => None,
                };
                let calibration =
                    calibration.unwrap_or_else(|| CalibrationSource::File(shipped.calibration()));
                (shipped.model(), Some(calibration), eval)
            }
        };
        // The default output may be replaced; an output that the user names only with --overwrite.
        let (out, overwrite) = match &args.out {
            Some(out) => (out.clone(), args.overwrite),
            None => (default_output(&config), true),
        };
        let place = |path: &PathBuf| path.canonicalize().ok();
        if place(&out).is_some_and(|place_of_out| place(&checkpoint) == Some(place_of_out)) {
            return Err(Error::Usage(format!(
                "--out {} is the checkpoint itself, which would be lost; choose another --out",
                out.display()
            )));
        }
        Ok(Self { checkpoint, calibration, eval, out, overwrite, config })
    }
}

/// Returns the error for a run that needs a text and has none.
fn needs_text_because(config: &PtqConfig) -> String {
    let text = "add --calibration FILE, a text like the model's later input, or --sample-calibration, with which the \
                model writes one";
    match (config.quantization_type, config.needs_calibration()) {
        (QuantizationType::Static, _) => {
            format!("static quantization needs a text: {text}; without one, use --type weight-only --no-eval")
        }
        (_, true) => {
            format!("these options need a text: {text}; --method rtn with --observer min-max needs none")
        }
        (_, false) => {
            "perplexities need a text: add --calibration FILE, a text like the model's later input, or --eval FILE; or \
             leave them out with --no-eval"
                .to_owned()
        }
    }
}

fn default_output(config: &PtqConfig) -> PathBuf {
    let granularity = config.scheme.granularity.to_string().replace(':', "-");
    let bits = config.scheme.bits.count();
    PathBuf::from(format!("out/ptq-int{bits}-{}-{granularity}", config.quantization_type))
}

/// A config without a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    quantization: QuantizationConfig,
}

fn quantization(args: &PtqArgs) -> Result<PtqConfig> {
    let mut config = match &args.config {
        Some(path) => TrainingConfig::quantization_of_file_with(path, &args.set)?,
        None => slm_train::parse_toml::<Defaults>("[quantization]", "--set", &args.set)?.quantization,
    };
    args.scheme.apply(&mut config);
    config.method = args.method.unwrap_or(config.method);
    config.tune_steps = args.tune_steps.map_or(config.tune_steps, |steps| steps as usize);
    config.embeddings = args.embeddings.or(config.embeddings);
    config.observer = args.observer.or(config.observer);
    config.activation_observer = args.activation_observer.unwrap_or(config.activation_observer);
    config.activation_granularity = args.activation_granularity.unwrap_or(config.activation_granularity);
    config.dynamic_inputs = args.dynamic_inputs.clone().unwrap_or(config.dynamic_inputs);
    config.rotate = args.rotate.unwrap_or(config.rotate);
    config.smooth = args.smooth.unwrap_or(config.smooth);
    config.validate().map_err(|error| Error::Usage(error.to_string()))?;
    Ok(config.ptq())
}
