//! `slm qat`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, DynamicInputs, PtqConfig, Rotate, Smooth};
use slm_qat::ScaleMode;
use slm_train::{Outcome, Precision, QuantizationConfig, QuantizationMode, Start, Trainer, TrainingConfig};

use crate::commands::ptq::{Rise, grade, grade_alone};
use crate::commands::run_args::{HeldOut, RunArgs};
use crate::commands::run_page::{RunPage, fact, precision_fact};
use crate::commands::run_quality::RunQuality;
use crate::commands::scheme_args::SchemeArgs;
use crate::commands::train::{interrupted, watched};
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
    /// Precision of the matrix products of training.
    precision: Precision,
    scheme: String,
    quantization_type: String,
    quantized_layers: usize,
    /// Perplexity of the written checkpoint.
    perplexity: Option<f64>,
    /// Perplexity of the float model on the same tokens, if the run began from a checkpoint.
    perplexity_float: Option<f64>,
    perplexity_ptq: Option<f64>,
    /// Share of the loss (nats per token) added by post-training quantization that training removed; `None` if it added
    /// almost nothing.
    recovered: Option<f64>,
    evaluated_tokens: Option<usize>,
    /// The file on which perplexities were measured, and which part of it.
    evaluated_on: String,
    /// The verdict, and the rise over the float model; `None` for an interrupted run.
    quality: Option<RunQuality>,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &QatArgs, context: &Context) -> Result<()> {
    let clock = Instant::now();
    let _reserved = args.run.output.reserve()?;
    let open = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| context.open_checkpoint(dir)).transpose();
    let (checkpoint, teacher) = (open(&args.checkpoint)?, open(&args.teacher)?);
    let start = Start { checkpoint: checkpoint.as_ref(), teacher: teacher.as_ref() };
    let config = config(args, start.checkpoint)?;
    let (steps, precision) = (config.training.steps, config.training.precision);
    let ptq = config.quantization.ptq();
    let data = args.run.data(&config, context)?;
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
    let summary = watched(&mut trainer, steps, &args.run.data, context)?;
    let finished = summary.outcome == Outcome::Finished;
    let quantized_layers = trainer.layers().len();
    drop(trainer);
    let mut result = QatResult {
        output: summary.checkpoint,
        finished,
        step: summary.step,
        steps,
        precision,
        scheme: ptq.scheme.to_string(),
        quantization_type: ptq.quantization_type.to_string(),
        quantized_layers,
        perplexity_float: before.as_ref().and_then(|before| Some(before.float.as_ref()?.perplexity())),
        perplexity_ptq: before.as_ref().map(|before| before.ptq.perplexity()),
        perplexity: None,
        recovered: None,
        evaluated_tokens: None,
        evaluated_on: part,
        quality: None,
        device: context.device_name,
        seconds: 0.0,
    };
    let mut headline = interrupted(result.step, steps);
    if finished {
        // Measured on the written checkpoint, not on the model in memory.
        let model = context.load_model(&Checkpoint::open(&result.output)?)?;
        let after = evaluate_with_progress(context, "quantized perplexity", &model, &windows)?;
        result.perplexity = Some(after.perplexity());
        result.evaluated_tokens = Some(after.tokens);
        let measured = format!("({} tokens: {})", after.tokens, result.evaluated_on);
        headline = match &before {
            Some(before) => {
                let gain = Gain {
                    float: before.float.as_ref().map(slm_model::Evaluation::mean_nll),
                    ptq: before.ptq.mean_nll(),
                    qat: after.mean_nll(),
                };
                result.recovered = gain.recovered();
                gain.headline(&measured)
            }
            None => {
                let (grade, reason) = grade_alone(after.mean_nll(), model.config().vocab_size);
                format!("{grade}: perplexity {:.4} after QAT {measured}{reason}", after.perplexity())
            }
        };
        let float = before.as_ref().and_then(|before| before.float.as_ref());
        let rise = float.map(|float| Rise::between(float, &after, &windows));
        result.quality = Some(RunQuality::new(&result.evaluated_on, after.tokens, rise, &headline));
        context.output.headline(&headline)?;
    }
    result.seconds = clock.elapsed().as_secs_f64();
    args.run.output.html.write(&context.output, || result.page(&headline, context))?;
    context.output.result(&result)?;
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

impl QatResult {
    fn page(&self, headline: &str, context: &Context) -> Result<Page> {
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
                precision_fact(self.precision),
                fact("steps", format!("{} of {}", self.step, self.steps)),
                fact("time", format!("{:.1} s on {}", self.seconds, self.device)),
            ],
            quality: quality.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            measured_on: &self.evaluated_on,
        }
        .page(context)
    }
}

/// Reads the config file and applies the options.
fn config(args: &QatArgs, start: Option<&Checkpoint>) -> Result<TrainingConfig> {
    let mut config = match start {
        Some(checkpoint) => TrainingConfig::for_model(&args.config, checkpoint, &args.run.output.settings())?,
        None => TrainingConfig::from_file_with(&args.config, &args.run.output.settings())?,
    };
    config.quantization.quantization_mode = QuantizationMode::Qat;
    match start.and_then(Checkpoint::metadata) {
        Some(metadata) => {
            let kept = QuantizationConfig::of_metadata(metadata);
            if let Some(option) = args.scheme.first_given() {
                return Err(Error::Usage(format!(
                    "{option} cannot be given where --checkpoint is quantized: its layers keep their schemes ({} {}); \
                     quantize the float model again with `slm ptq`, or leave {option} out",
                    kept.scheme(),
                    kept.quantization_type
                )));
            }
            config.quantization = QuantizationConfig { quantization_mode: QuantizationMode::Qat, ..kept };
        }
        None => args.scheme.apply(&mut config.quantization),
    }
    if args.learned_scales {
        config.qat.options.scale = ScaleMode::Learned;
    }
    config.qat.distill |= args.distill;
    config.validate_with(&args.config.display().to_string(), &args.run.output.settings())?;
    Ok(config)
}

/// Losses in nats per token, before and after training.
struct Gain {
    /// Loss of the float model; `None` if there is none.
    float: Option<f64>,
    ptq: f64,
    qat: f64,
}

/// Loss in nats per token below which post-training quantization has no loss to recover.
const NEXT_TO_NOTHING: f64 = 1e-3;

impl Gain {
    /// Share of the loss of post-training quantization that training recovered.
    fn recovered(&self) -> Option<f64> {
        let lost = self.ptq - self.float?;
        (lost >= NEXT_TO_NOTHING).then(|| (self.ptq - self.qat) / lost)
    }

    /// Returns `true` if the model is worse after training than after post-training quantization.
    fn is_negative(&self) -> bool {
        match self.recovered() {
            Some(share) => share < 0.0,
            None => self.qat > self.ptq + NEXT_TO_NOTHING,
        }
    }

    /// The verdict, the perplexities, the text, and the gain of training.
    fn headline(&self, measured: &str) -> String {
        let grade = match self.float.map(|float| grade((self.qat - float).exp() - 1.0)) {
            Some("BROKEN") => "BROKEN",
            _ if self.is_negative() => "WORSE",
            Some(grade) => grade,
            None => "TRAINED",
        };
        let float = self.float.map_or(String::new(), |float| format!(", {:.4} float", float.exp()));
        let (qat, ptq) = (self.qat.exp(), self.ptq.exp());
        format!(
            "{grade}: perplexity {qat:.4} after QAT, {ptq:.4} after PTQ{float} {measured}\n{}",
            self.in_words()
        )
    }

    fn in_words(&self) -> String {
        match self.recovered() {
            _ if self.is_negative() => {
                "QAT made it worse than post-training quantization alone: lower the rate with --set \
                 training.learning_rate=..., or use `slm ptq`"
                    .to_owned()
            }
            None if self.float.is_none() => format!(
                "QAT lowers the loss by {:.4} nats per token; give --teacher to compare with the float model",
                self.ptq - self.qat
            ),
            None => "post-training quantization loses next to nothing".to_owned(),
            Some(share) if share > 1.0 => "QAT made it better than the float model".to_owned(),
            Some(share) => format!("QAT recovers {:.1} % of what PTQ lost", 100.0 * share),
        }
    }
}

/// Losses before training.
struct Before {
    /// Evaluation of the float model; `None` if training starts with a quantized model and there is no teacher.
    float: Option<slm_model::Evaluation>,
    ptq: slm_model::Evaluation,
}

/// Number of tokens for calibrating static activations in the comparison.
const CALIBRATION_TOKENS: usize = 16_384;

impl Before {
    /// Evaluates the quantized `checkpoint` from which training starts, and its teacher.
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

    /// Evaluates the float `checkpoint`, and its post-training quantization.
    fn of_float(
        checkpoint: &Checkpoint,
        config: &PtqConfig,
        trainer: &Trainer,
        windows: &[Vec<u32>],
        windowing: &Windowing,
        context: &Context,
    ) -> Result<Self> {
        // The comparison uses the same starting model and the same kind of activations.
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
        let words = |float, ptq, qat| Gain { float: Some(float), ptq, qat }.headline("(9 tokens: t.txt)");
        assert_eq!(
            words(1.0, 1.4, 1.1),
            "WORSE: perplexity 3.0042 after QAT, 4.0552 after PTQ, 2.7183 float (9 tokens: t.txt)\nQAT recovers 75.0 % \
             of what PTQ lost"
        );
        for (qat, grade) in [(1.01, "GOOD: "), (1.39, "WORSE: "), (1.41, "WORSE: "), (1.8, "BROKEN: ")] {
            assert!(words(1.0, 1.4, qat).starts_with(grade), "{qat}");
        }
        assert!(Gain { float: None, ptq: 1.4, qat: 1.1 }.headline("").starts_with("TRAINED: "));
        assert!(Gain { float: None, ptq: 1.4, qat: 1.5 }.headline("").starts_with("WORSE: "));
        assert!(words(1.0, 1.4, 0.9).contains("better than the float model"));
        assert!(words(1.0, 1.4, 13.0).contains("worse than post-training quantization"));
        assert!(words(1.0, 1.0001, 0.9).contains("next to nothing"));
        assert!(words(1.0, 0.9999, 1.3).contains("worse"));
        assert_eq!(Gain { float: Some(1.0), ptq: 1.0001, qat: 0.9 }.recovered(), None);
    }
}
