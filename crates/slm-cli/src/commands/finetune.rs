//! `slm finetune`

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_train::{Outcome, Precision, QuantizationMode, RoundingKind, TrainingConfig, TuningMemory};

use crate::commands::ptq::Rise;
use crate::commands::run_args::{HeldOut, RunArgs};
use crate::commands::run_page::{RunPage, fact, precision_fact};
use crate::commands::run_quality::RunQuality;
use crate::commands::train::{interrupted, watched};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::Page;
use crate::limits::NEGLIGIBLE;
use crate::memory;
use crate::text::evaluate_with_progress;

/// Train a checkpoint further on another text; a quantized one stays quantized.
///
/// The weights of a quantized checkpoint are stored as codes. Gradients are computed in float, and after every
/// optimizer step the weights are quantized again with the same scales, as --rounding says. Embeddings, norms and
/// biases are float and train as such. A float checkpoint is trained in 32-bit floats. Ctrl-C writes a checkpoint, from
/// which --resume continues.
#[derive(Debug, Args)]
pub(crate) struct FinetuneArgs {
    /// Checkpoint to start from, quantized or float
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// TOML file with [training], and optionally [finetune] [default: 300 steps of 8 x 128 tokens]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
    /// Rounding of updated weights back to codes [default: stochastic]
    #[arg(long, value_enum)]
    rounding: Option<Rounding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rounding {
    /// Round to the nearest code: most updates are lost
    Nearest,
    /// Round at random, so that the mean is right
    Stochastic,
    /// Round to the nearest code and keep the rest for the next step
    ErrorFeedback,
}

impl From<Rounding> for RoundingKind {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::Nearest => Self::Nearest,
            Rounding::Stochastic => Self::Stochastic,
            Rounding::ErrorFeedback => Self::ErrorFeedback,
        }
    }
}

#[derive(Serialize)]
struct FinetuneResult {
    output: PathBuf,
    finished: bool,
    step: usize,
    steps: usize,
    /// Precision of the matrix products of training.
    precision: Precision,
    /// Rounding of updated weights; `None` for a float checkpoint.
    rounding: Option<RoundingKind>,
    bytes_per_weight: Option<TuningMemory>,
    /// Perplexity of the written checkpoint.
    perplexity: Option<f64>,
    nll: Option<f64>,
    perplexity_before: f64,
    nll_before: f64,
    evaluated_tokens: usize,
    /// The file on which perplexities were measured, and which part of it.
    evaluated_on: String,
    /// The verdict, and the rise over the model before training; `None` for an interrupted run.
    quality: Option<RunQuality>,
    peak_memory_bytes: Option<u64>,
    device: &'static str,
    seconds: f64,
}

/// The default config. Runs of fewer than 200 steps warm up for a tenth of them.
const DEFAULT: &str = "
[training]
steps = 300
batch_size = 8
sequence_length = 128
learning_rate = 5e-4
min_learning_rate = 5e-5
weight_decay = 0.0
validation_fraction = 0.1
eval_interval = 50
warmup_steps = 20
";

pub(crate) fn run(args: &FinetuneArgs, context: &Context) -> Result<()> {
    let clock = Instant::now();
    let _reserved = args.run.output.reserve()?;
    let start = context.open_checkpoint(&args.checkpoint)?;
    let config = config(args, &start)?;
    let (steps, precision) = (config.training.steps, config.training.precision);
    let rounding = start.is_quantized().then_some(config.finetune.rounding);
    let data = args.run.data(&config, context)?;
    let mut trainer = args.run.trainer(config, &data, Some(&start).into(), context)?;
    let HeldOut { windows, part } = args.run.held_out(&trainer, &args.run.windowing(&trainer)?, context)?;
    let model = context.load_model(&start)?;
    let before = evaluate_with_progress(context, "perplexity before", &model, &windows)?;
    drop(model);
    let bytes_per_weight = trainer.tuning_memory();
    let summary = watched(&mut trainer, steps, &args.run.data, context)?;
    let finished = summary.outcome == Outcome::Finished;
    drop(trainer);
    let after = if finished {
        // Measured on the written checkpoint, not on the model in memory.
        let model = context.load_model(&Checkpoint::open(&summary.checkpoint)?)?;
        Some(evaluate_with_progress(context, "perplexity after", &model, &windows)?)
    } else {
        None
    };
    let mut result = FinetuneResult {
        output: summary.checkpoint,
        finished,
        step: summary.step,
        steps,
        precision,
        rounding,
        bytes_per_weight,
        perplexity: after.as_ref().map(slm_model::Evaluation::perplexity),
        nll: after.as_ref().map(slm_model::Evaluation::mean_nll),
        perplexity_before: before.perplexity(),
        nll_before: before.mean_nll(),
        evaluated_tokens: before.tokens,
        evaluated_on: part,
        quality: None,
        peak_memory_bytes: memory::peak_bytes(),
        device: context.device_name,
        seconds: clock.elapsed().as_secs_f64(),
    };
    if let Some(after) = &after {
        let verdict = result.headline();
        let rise = Rise::between(&before, after, &windows);
        result.quality = Some(RunQuality::new(&result.evaluated_on, after.tokens, Some(rise), &verdict));
        context.output.headline(verdict)?;
    }
    if let Some(memory) = &result.bytes_per_weight {
        context.output.say(format!(
            "training takes {:.2} bytes per quantized weight ({:.2} codes and scales, {:.2} residual, {:.2} \
             optimizer and gradient); in 32-bit floats it takes {:.2}",
            memory.total, memory.weights, memory.residual, memory.optimizer, memory.float_total
        ))?;
    }
    args.run.output.html.write(&context.output, || result.page(context))?;
    context.output.result(&result)?;
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

impl FinetuneResult {
    /// The verdict on the run.
    fn headline(&self) -> String {
        let before = self.perplexity_before;
        let Some(after) = self.perplexity else {
            return interrupted(self.step, self.steps);
        };
        let (grade, remedy) = match after / before - 1.0 {
            rise if rise < -NEGLIGIBLE => ("BETTER", ""),
            rise if rise <= NEGLIGIBLE => ("UNCHANGED", ""),
            _ => (
                "WORSE",
                "\nLower the rates: --set training.learning_rate=... --set training.min_learning_rate=...",
            ),
        };
        let measured = format!("({} tokens: {})", self.evaluated_tokens, self.evaluated_on);
        format!("{grade}: perplexity {after:.4} after training, {before:.4} before {measured}{remedy}")
    }

    fn page(&self, context: &Context) -> Result<Page> {
        let mut facts = vec![
            fact("steps", format!("{} of {}", self.step, self.steps)),
            precision_fact(self.precision),
            fact("time", format!("{:.1} s on {}", self.seconds, self.device)),
        ];
        if let Some(rounding) = self.rounding {
            facts.insert(0, fact("rounding", words(rounding)));
        }
        RunPage {
            command: "finetune",
            checkpoint: &self.output,
            verdict: &self.headline(),
            facts,
            quality: std::iter::once(("before", self.perplexity_before))
                .chain(self.perplexity.map(|after| ("after", after)))
                .collect(),
            measured_on: &self.evaluated_on,
        }
        .page(context)
    }
}

fn words(rounding: RoundingKind) -> &'static str {
    match rounding {
        RoundingKind::Nearest => "to the nearest code",
        RoundingKind::Stochastic => "stochastic",
        RoundingKind::ErrorFeedback => "to the nearest code, with error feedback",
    }
}

/// Reads the config file or the default config for this checkpoint, and applies the options.
fn config(args: &FinetuneArgs, start: &Checkpoint) -> Result<TrainingConfig> {
    let settings = args.run.output.settings();
    let (mut config, origin) = match &args.config {
        Some(path) => (TrainingConfig::for_model(path, start, &settings)?, path.display().to_string()),
        None => {
            let origin = "the default config";
            let mut config = TrainingConfig::parse_for_model(DEFAULT, origin, start, &settings)?;
            let training = &mut config.training;
            if !settings.iter().any(|setting| setting.sets("training.warmup_steps")) {
                training.warmup_steps = training.warmup_steps.min(training.steps / 10);
            }
            (config, origin.to_owned())
        }
    };
    config.quantization.quantization_mode = QuantizationMode::None;
    config.quantization.enable_quantized_finetuning = start.is_quantized();
    match args.rounding {
        Some(_) if !start.is_quantized() => {
            let message = "--rounding is for quantized checkpoints, and this one is float; leave it out";
            return Err(Error::Usage(message.to_owned()));
        }
        Some(rounding) => config.finetune.rounding = rounding.into(),
        None => {}
    }
    config.validate_with(&origin, &settings)?;
    Ok(config)
}
