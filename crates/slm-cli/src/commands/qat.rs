//! `slm qat`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, DynamicInputs, PtqConfig, Rotate, Smooth};
use slm_qat::ScaleMode;
use slm_train::{Outcome, QuantizationConfig, QuantizationMode, Start, Trainer, TrainingConfig};

use crate::commands::run_args::{HeldOut, RunArgs};
use crate::commands::run_page::{RunPage, fact};
use crate::commands::scheme_args::SchemeArgs;
use crate::commands::train::watched;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::Page;
use crate::text::{Windowing, evaluate_with_progress};

/// Train a model with fake-quantized layers, and convert it (quantization-aware training).
///
/// Starts from a float checkpoint, from the codes and scales of a quantized one, or from random weights without
/// --checkpoint. Evaluates the float model, the same after post-training quantization, and the result of this run, on
/// the text held out (or --eval), and reports how much of the loss of post-training quantization was recovered. Ctrl-C
/// writes a checkpoint, from which --resume continues.
#[derive(Debug, Args)]
pub(crate) struct QatArgs {
    /// TOML file with [training], and optionally [quantization] and [qat]; with [model] if there is no --checkpoint. Options below
    /// override it, and --skip and --layer add to it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Checkpoint to start from: float, or quantized (for example by `slm ptq --method gptq`), whose layers keep their
    /// schemes (needs --learned-scales)
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Float checkpoint to compare with, and to train towards with --distill, where --checkpoint is quantized
    #[arg(long, value_name = "DIR", requires = "checkpoint")]
    teacher: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// Train the scales of weights along with them (LSQ)
    #[arg(long)]
    learned_scales: bool,
    /// Train towards the outputs of the float checkpoint (or of --teacher) instead of the tokens of the text
    #[arg(long)]
    distill: bool,
}

#[derive(Serialize)]
struct QatResult {
    output: PathBuf,
    finished: bool,
    step: usize,
    steps: usize,
    scheme: String,
    quantization_type: String,
    quantized_layers: usize,
    /// Perplexity of what was written.
    perplexity: Option<f64>,
    /// Perplexity on the same tokens, if the run began from a checkpoint.
    perplexity_float: Option<f64>,
    perplexity_ptq: Option<f64>,
    /// Share of the loss (nats per token) that post-training quantization added and training took away again; none
    /// where it added next to nothing.
    recovered: Option<f64>,
    evaluated_tokens: Option<usize>,
    /// The file that perplexities were measured on, and which part of it.
    evaluated_on: String,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &QatArgs, context: &Context) -> Result<()> {
    let clock = Instant::now();
    args.run.check()?;
    let open = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| context.open_checkpoint(dir)).transpose();
    let (checkpoint, teacher) = (open(&args.checkpoint)?, open(&args.teacher)?);
    let start = Start { checkpoint: checkpoint.as_ref(), teacher: teacher.as_ref() };
    let config = config(args, start.checkpoint)?;
    let steps = config.training.steps;
    let ptq = config.quantization.ptq();
    let data = args.run.data(&config)?;
    let mut trainer = args.run.trainer(config, &data, start, context)?;
    if start.checkpoint.is_some_and(Checkpoint::is_quantized) {
        let kept =
            format!("layers keep the schemes of the checkpoint: {} {}", ptq.scheme, ptq.quantization_type);
        context.output.say(kept)?;
    }
    let windowing = args.run.windowing(&trainer)?;
    let HeldOut { windows, part } = args.run.held_out(&trainer, &windowing, context)?;
    let before = match start.checkpoint {
        Some(checkpoint) if checkpoint.is_quantized() => {
            Some(Before::of_quantized(checkpoint, start.teacher, &windows, context)?)
        }
        Some(checkpoint) => {
            Some(Before::of_float(checkpoint, &ptq, &trainer, &windows, &windowing, context)?)
        }
        None => None,
    };
    if let Some(before) = &before {
        let float = before.float.as_ref().map(|float| format!("float {:.4}, ", float.perplexity()));
        context.output.say(format!(
            "before QAT: {}{} {} (PTQ) {:.4}",
            float.unwrap_or_default(),
            ptq.scheme,
            ptq.quantization_type,
            before.ptq.perplexity()
        ))?;
    }
    let summary = watched(&mut trainer, steps, context)?;
    let finished = summary.outcome == Outcome::Finished;
    let quantized_layers = trainer.layers().len();
    drop(trainer);
    let mut result = QatResult {
        output: summary.checkpoint,
        finished,
        step: summary.step,
        steps,
        scheme: ptq.scheme.to_string(),
        quantization_type: ptq.quantization_type.to_string(),
        quantized_layers,
        perplexity_float: before.as_ref().and_then(|before| Some(before.float.as_ref()?.perplexity())),
        perplexity_ptq: before.as_ref().map(|before| before.ptq.perplexity()),
        perplexity: None,
        recovered: None,
        evaluated_tokens: None,
        evaluated_on: part,
        device: context.device_name,
        seconds: 0.0,
    };
    let mut headline = format!("interrupted after {} of {steps} steps", result.step);
    if finished {
        // The figure is that of the checkpoint as it will be used, not of what was in memory.
        let model = context.load_model(&Checkpoint::open(&result.output)?)?;
        let after = evaluate_with_progress(context, "quantized perplexity", &model, &windows)?;
        result.perplexity = Some(after.perplexity());
        result.evaluated_tokens = Some(after.tokens);
        let mut line = format!(
            "perplexity after: {:.4} ({} tokens: {})",
            after.perplexity(),
            after.tokens,
            result.evaluated_on
        );
        if let Some(before) = &before {
            let gain = Gain {
                float: before.float.as_ref().map(slm_model::Evaluation::mean_nll),
                ptq: before.ptq.mean_nll(),
                qat: after.mean_nll(),
            };
            result.recovered = gain.recovered();
            line += &gain.in_words();
        }
        context.output.headline(&line)?;
        headline = line;
    }
    result.seconds = clock.elapsed().as_secs_f64();
    args.run.html.write(|| result.page(&headline))?;
    context.output.result(&result)?;
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

impl QatResult {
    fn page(&self, headline: &str) -> Result<Page> {
        let quality = [
            ("float", self.perplexity_float),
            ("post-training quantization", self.perplexity_ptq),
            ("after QAT", self.perplexity),
        ];
        RunPage {
            command: "qat",
            checkpoint: &self.output,
            verdict: headline,
            facts: vec![
                fact("weights", format!("{}, {} layers", self.scheme, self.quantized_layers)),
                fact("activations", &*self.quantization_type),
                fact("steps", format!("{} of {}", self.step, self.steps)),
                fact("time", format!("{:.1} s on {}", self.seconds, self.device)),
            ],
            quality: quality.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            measured_on: &self.evaluated_on,
        }
        .page()
    }
}

/// The config of the file, with what the options change.
fn config(args: &QatArgs, start: Option<&Checkpoint>) -> Result<TrainingConfig> {
    let mut config = match start {
        Some(checkpoint) => TrainingConfig::for_model(&args.config, checkpoint, &args.run.settings())?,
        None => TrainingConfig::from_file_with(&args.config, &args.run.settings())?,
    };
    config.quantization.quantization_mode = QuantizationMode::Qat;
    match start.and_then(Checkpoint::metadata) {
        Some(metadata) => {
            let kept = QuantizationConfig::of_metadata(metadata);
            if let Some(option) = args.scheme.first_given() {
                return Err(Error::Usage(format!(
                    "{option} cannot be given where --checkpoint is quantized: its layers keep their schemes ({} {}); \
                     quantize the float model anew with `slm ptq`, or leave {option} out",
                    kept.scheme(),
                    kept.quantization_type
                )));
            }
            config.quantization = QuantizationConfig { quantization_mode: QuantizationMode::Qat, ..kept };
        }
        None => args.scheme.apply(&mut config.quantization)?,
    }
    if args.learned_scales {
        config.qat.options.scale = ScaleMode::Learned;
    }
    config.qat.distill |= args.distill;
    config.validate_with(&args.config.display().to_string(), &args.run.settings())?;
    Ok(config)
}

/// Losses in nats per token: what training was worth.
struct Gain {
    /// `None` if no float model is at hand.
    float: Option<f64>,
    ptq: f64,
    qat: f64,
}

/// Loss in nats per token below which post-training quantization cost nothing that could be recovered.
const NEXT_TO_NOTHING: f64 = 1e-3;

impl Gain {
    /// Share of the loss of post-training quantization that was recovered.
    fn recovered(&self) -> Option<f64> {
        let lost = self.ptq - self.float?;
        (lost >= NEXT_TO_NOTHING).then(|| (self.ptq - self.qat) / lost)
    }

    fn in_words(&self) -> String {
        let worse = "worse than post-training quantization alone: lower the rate with --set \
                     training.learning_rate=..., or use `slm ptq`";
        match self.recovered() {
            Some(share) if share < 0.0 => format!(", {worse}"),
            None if self.qat > self.ptq + NEXT_TO_NOTHING => format!(", {worse}"),
            None if self.float.is_none() => format!(
                ", {:.4} nats a token less than before; give --teacher to compare with the float model",
                self.ptq - self.qat
            ),
            None => ", and post-training quantization loses next to nothing".to_owned(),
            Some(share) if share > 1.0 => ", which is better than the float model was".to_owned(),
            Some(share) => format!(", which recovers {:.1} % of the loss", 100.0 * share),
        }
    }
}

/// Losses before training.
struct Before {
    /// `None` if training starts with a quantized model and no other is given.
    float: Option<slm_model::Evaluation>,
    ptq: slm_model::Evaluation,
}

/// Tokens that static activations are calibrated on for the comparison.
const CALIBRATION_TOKENS: usize = 16_384;

impl Before {
    /// Of the quantized `checkpoint` that training starts with, and of its teacher.
    fn of_quantized(
        checkpoint: &Checkpoint,
        teacher: Option<&Checkpoint>,
        windows: &[Vec<u32>],
        context: &Context,
    ) -> Result<Self> {
        let evaluate = |name: &str, checkpoint: &Checkpoint| {
            evaluate_with_progress(context, name, &context.load_model(checkpoint)?, windows)
        };
        Ok(Self {
            float: teacher.map(|teacher| evaluate("float perplexity", teacher)).transpose()?,
            ptq: evaluate("PTQ perplexity", checkpoint)?,
        })
    }

    /// Of the float `checkpoint`, and of what post-training quantization makes of it.
    fn of_float(
        checkpoint: &Checkpoint,
        config: &PtqConfig,
        trainer: &Trainer,
        windows: &[Vec<u32>],
        windowing: &Windowing,
        context: &Context,
    ) -> Result<Self> {
        // Compared with what training starts from: the same model, with the same kind of activations.
        let config = PtqConfig {
            rotate: Rotate::Off,
            smooth: Smooth::Off,
            dynamic_inputs: DynamicInputs::None,
            ..config.clone()
        };
        let mut quantizer = CheckpointQuantizer::new(checkpoint, config)?;
        let model = context.load_model(checkpoint)?;
        let float = evaluate_with_progress(context, "float perplexity", &model, windows)?;
        drop(model);
        if quantizer.uses_calibration() {
            let data = trainer.data();
            let prefix = data.tokenizer.prefix()?;
            let most = trainer.config().model.max_position_embeddings.saturating_sub(prefix.len());
            let tokens = CalibrationTokens {
                ids: &data.train[..data.train.len().min(CALIBRATION_TOKENS)],
                window: windowing.len.min(most),
                prefix: &prefix,
                text_sha256: data.sha256.clone(),
            };
            quantizer.calibrate(&tokens, &context.device, &mut context.quantizing())?;
        }
        let (model, _) = quantizer.load(&context.device)?;
        let ptq = evaluate_with_progress(context, "PTQ perplexity", &model, windows)?;
        Ok(Self { float: Some(float), ptq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_where_they_mean_something() {
        let words = |float, ptq, qat| Gain { float: Some(float), ptq, qat }.in_words();
        assert_eq!(words(1.0, 1.4, 1.1), ", which recovers 75.0 % of the loss");
        assert!(words(1.0, 1.4, 0.9).contains("better than the float model"));
        assert!(words(1.0, 1.4, 13.0).contains("worse than post-training quantization"));
        assert!(words(1.0, 1.0001, 0.9).contains("next to nothing"));
        assert!(words(1.0, 0.9999, 1.3).contains("worse"));
        assert_eq!(Gain { float: Some(1.0), ptq: 1.0001, qat: 0.9 }.recovered(), None);
    }
}
