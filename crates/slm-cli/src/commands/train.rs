//! `slm train`

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use slm_train::{
    Outcome, Precision, QuantizationMode, Start, StepReport, TrainObserver, Trainer, TrainingConfig,
    TrainingSummary, ValidationReport,
};

use crate::commands::ptq::grade_alone;
use crate::commands::run_args::Data;
use crate::commands::run_output_args::RunOutputArgs;
use crate::commands::run_page::{RunPage, fact, precision_fact};
use crate::commands::run_quality::RunQuality;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::Page;
use crate::out_file::relative;
use crate::output::Output;

/// Train a model from scratch: in 32-bit floats, or, with quantization_mode = "qat", quantization-aware.
///
/// The config describes the model and its training (see configs/). The last part of the text is held out, and the
/// perplexity on it is measured during training. Ctrl-C writes a checkpoint, from which --resume continues; on the same
/// kind of device the result is the same bit for bit as if it had never stopped.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// TOML file with [model], [tokenizer] and [training]
    #[arg(long)]
    config: PathBuf,
    /// Text to train on, or texts or token ids as JSON or JSON Lines
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    output: RunOutputArgs,
}

#[derive(Serialize)]
struct TrainResult {
    output: PathBuf,
    finished: bool,
    step: usize,
    steps: usize,
    /// Precision of the matrix products of training.
    precision: Precision,
    /// Perplexity of the last validation.
    perplexity: Option<f64>,
    validation: Option<ValidationReport>,
    /// The verdict; `None` for an interrupted run.
    quality: Option<RunQuality>,
    parameters: u64,
    training_tokens: usize,
    validation_tokens: usize,
    #[serde(skip)]
    vocab_size: usize,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &TrainArgs, context: &Context) -> Result<()> {
    let start = std::time::Instant::now();
    let _reserved = args.output.reserve()?;
    let config = TrainingConfig::from_file_with(&args.config, &args.output.settings())?;
    let (steps, precision) = (config.training.steps, config.training.precision);
    if config.quantization.quantization_mode == QuantizationMode::Ptq {
        let message = "the config sets quantization_mode = \"ptq\": this trains the FP32 model; quantize it \
                       afterwards with `slm ptq --config` and the same file";
        tracing::warn!("{message}");
    }
    let data = Data::read(&args.data, config.model.vocab_size, context)?;
    let mut trainer = args.output.trainer(config, &data, &args.data, Start::default(), context)?;
    drop(data);
    let parameters = trainer.model().config().parameter_count();
    let (training_tokens, validation_tokens) = (trainer.data().train.len(), trainer.data().validation.len());
    let summary = watched(&mut trainer, steps, &args.data, context)?;
    let finished = summary.outcome == Outcome::Finished;
    let mut result = TrainResult {
        output: summary.checkpoint,
        perplexity: summary.validation.map(|report| report.perplexity),
        finished,
        step: summary.step,
        steps,
        precision,
        validation: summary.validation,
        quality: None,
        parameters,
        training_tokens,
        validation_tokens,
        vocab_size: trainer.config().model.vocab_size,
        device: context.device_name,
        seconds: start.elapsed().as_secs_f64(),
    };
    if finished {
        let verdict = result.headline();
        let tokens = result.validation.map_or(0, |report| report.tokens);
        let text = format!("the end of {}", args.data.display());
        result.quality = Some(RunQuality::new(&text, tokens, None, &verdict));
        context.output.headline(verdict)?;
    }
    args.output.html.write(&context.output, || result.page(context))?;
    context.output.result(&result)?;
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

impl TrainResult {
    /// Describes the result.
    fn headline(&self) -> String {
        let Self { step, steps, .. } = self;
        if !self.finished {
            return interrupted(*step, *steps);
        }
        match &self.validation {
            Some(ValidationReport { nll, perplexity, .. }) => {
                let (grade, reason) = grade_alone(*nll, self.vocab_size);
                let tokens = self.validation_tokens;
                format!(
                    "{grade}: perplexity {perplexity:.4} ({nll:.4} nats per token) on {tokens} held-out tokens after {step} \
                     steps{reason}"
                )
            }
            None => format!("TRAINED: {step} steps; no text was held out to measure the quality on"),
        }
    }

    fn page(&self, context: &Context) -> Result<Page> {
        RunPage {
            command: "train",
            checkpoint: &self.output,
            verdict: &self.headline(),
            facts: vec![
                fact("parameters", self.parameters.to_string()),
                fact("text", format!("{} tokens, {} held out", self.training_tokens, self.validation_tokens)),
                precision_fact(self.precision),
                fact("time", format!("{:.1} s on {}", self.seconds, self.device)),
            ],
            quality: Vec::new(),
            measured_on: "",
        }
        .page(context)
    }
}

/// Runs `trainer`, which reads the text `data`, to step `steps` or Ctrl-C, showing its progress.
pub(crate) fn watched(
    trainer: &mut Trainer,
    steps: usize,
    data: &Path,
    context: &Context,
) -> Result<TrainingSummary> {
    context.output.say(format!(
        "training {} parameters on {} tokens of {}, from step {} to {steps}; validation on the {} tokens at its end",
        trainer.model().config().parameter_count(),
        trainer.data().train.len(),
        data.display(),
        trainer.step(),
        trainer.data().validation.len(),
    ))?;
    if trainer.config().training.precision == Precision::Bf16 {
        context.output.say("training multiplies in BF16; sums, weights and the optimizer are in FP32")?;
    }
    let bar = context.progress.bar_with_message("training", trainer.step(), steps);
    let mut watcher = Watcher { bar: &bar, output: &context.output, seconds: 0.0, tokens_per_second: 0.0 };
    let summary = trainer.run(&mut watcher, context.interrupt.flag())?;
    bar.finish_and_clear();
    let checkpoint = relative(&summary.checkpoint);
    match summary.outcome {
        Outcome::Finished => context.output.say(format!("checkpoint in {}", checkpoint.display()))?,
        Outcome::Interrupted => {
            let headline = interrupted(summary.step, steps);
            context.output.headline(format!("{headline}; checkpoint in {}", checkpoint.display()))?;
            context.output.say("run the same command with --resume to continue")?;
        }
    }
    Ok(summary)
}

/// Describes a run that Ctrl-C ended.
pub(crate) fn interrupted(step: usize, steps: usize) -> String {
    format!("INTERRUPTED after {step} of {steps} steps")
}

/// Shows the progress of a run: the bar at every step, a line at every validation.
struct Watcher<'a> {
    bar: &'a ProgressBar,
    output: &'a Output,
    /// Smoothed time of a step, in seconds.
    seconds: f64,
    tokens_per_second: f64,
}

/// Weight of a new step in the displayed speed, which would fluctuate too much otherwise.
const SMOOTHING: f64 = 0.1;

impl TrainObserver for Watcher<'_> {
    fn on_step(&mut self, report: &StepReport, seconds: f64) {
        let smooth = |before: f64, now: f64| match before {
            0.0 => now,
            before => before + SMOOTHING * (now - before),
        };
        self.seconds = smooth(self.seconds, seconds);
        self.tokens_per_second = smooth(self.tokens_per_second, report.tokens as f64 / seconds);
        self.bar.set_position(report.step as u64);
        self.bar.set_message(format!(
            "loss {:.4}, {:.2} steps/s, {:.0} tokens/s",
            report.loss,
            1.0 / self.seconds,
            self.tokens_per_second
        ));
    }

    fn on_validation(&mut self, report: &ValidationReport) {
        let line = format!(
            "step {:>6}  validation loss {:.4}, perplexity {:.4}, {:.0} tokens/s",
            report.step, report.nll, report.perplexity, self.tokens_per_second
        );
        // A failure to print must not end a training run.
        if let Err(error) = self.bar.suspend(|| self.output.say(line)) {
            tracing::warn!("{error}; training continues");
        }
    }

    fn on_checkpoint(&mut self, step: usize, dir: &Path) {
        tracing::info!("step {step}: checkpoint written to {}", dir.display());
    }
}
