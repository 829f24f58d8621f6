//! `slm qat`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, DynamicInputs, PtqConfig, Rotate};
use slm_qat::ScaleMode;
use slm_train::{Outcome, QuantizationMode, Trainer, TrainingConfig};

use crate::commands::run_args::RunArgs;
use crate::commands::scheme_args::SchemeArgs;
use crate::commands::train::watched;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::{evaluate_with_progress, window};

/// Train a model while its layers act as their quantized selves, and convert it (quantization-aware training).
///
/// Starts from a float checkpoint, or from random weights without --checkpoint. Evaluates the float model, what
/// post-training quantization makes of it, and what this run does, on the text held out (or --eval), and says how
/// much of the loss of post-training quantization was recovered. Ctrl-C writes a checkpoint that --resume goes on
/// from.
#[derive(Debug, Args)]
pub(crate) struct QatArgs {
    /// TOML file with [training], and optionally [quantization] and [qat]; with [model] where there is no
    /// --checkpoint
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Float checkpoint to begin with
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// Train the scales of weights along with them (LSQ)
    #[arg(long)]
    learned_scales: bool,
    /// Train towards the outputs of the float checkpoint instead of the tokens of the text
    #[arg(long)]
    distill: bool,
}

#[derive(Serialize)]
struct QatResult {
    checkpoint: PathBuf,
    finished: bool,
    step: usize,
    steps: usize,
    scheme: String,
    quantization_type: String,
    quantized_layers: usize,
    /// Perplexities on the same tokens; the first two where the run began from a checkpoint.
    perplexity_float: Option<f64>,
    perplexity_ptq: Option<f64>,
    perplexity_qat: Option<f64>,
    /// Share of the loss (nats per token) that post-training quantization added and training took away again.
    recovered: Option<f64>,
    eval_tokens: Option<usize>,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &QatArgs, context: &Context) -> Result<()> {
    let clock = Instant::now();
    args.run.check()?;
    let start = args.checkpoint.as_ref().map(|dir| context.open_checkpoint(dir)).transpose()?;
    let config = config(args, start.as_ref())?;
    let steps = config.training.steps;
    let ptq = config.quantization.ptq();
    let data = args.run.data(&config)?;
    let window = window(args.run.window, &config.model)?;
    let mut trainer = args.run.trainer(config, &data, start.as_ref(), context)?;
    let held_out = args.run.held_out(&trainer, window)?;
    let before = match &start {
        Some(checkpoint) => Some(before(checkpoint, &ptq, &trainer, &held_out, window, context)?),
        None => None,
    };
    if let Some(before) = &before {
        context.output.say(format!(
            "perplexity before: float {:.4}, {} {} after training {:.4}",
            before.float.perplexity(),
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
        checkpoint: summary.checkpoint,
        finished,
        step: summary.step,
        steps,
        scheme: ptq.scheme.to_string(),
        quantization_type: ptq.quantization_type.to_string(),
        quantized_layers,
        perplexity_float: before.as_ref().map(|before| before.float.perplexity()),
        perplexity_ptq: before.as_ref().map(|before| before.ptq.perplexity()),
        perplexity_qat: None,
        recovered: None,
        eval_tokens: None,
        device: context.device_name,
        seconds: 0.0,
    };
    if finished {
        // The figure is that of the checkpoint as it will be used, not of what was in memory.
        let model = Checkpoint::open(&result.checkpoint)?.load_model(&context.device)?;
        let after = evaluate_with_progress(context, "quantized perplexity", &model, &held_out, window)?;
        result.perplexity_qat = Some(after.perplexity());
        result.eval_tokens = Some(after.tokens);
        let mut line = format!("perplexity after: {:.4} ({} tokens)", after.perplexity(), after.tokens);
        if let Some(before) = &before {
            let lost = before.ptq.mean_nll() - before.float.mean_nll();
            // Where post-training quantization lost nothing there is nothing to recover.
            if lost > 0.0 {
                let recovered = (before.ptq.mean_nll() - after.mean_nll()) / lost;
                line += &format!(", which recovers {:.1} % of the loss", 100.0 * recovered);
                result.recovered = Some(recovered);
            }
        }
        context.output.say(line)?;
    }
    result.seconds = clock.elapsed().as_secs_f64();
    context.output.result(&result)?;
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

/// The config of the file, with what the options change.
fn config(args: &QatArgs, start: Option<&Checkpoint>) -> Result<TrainingConfig> {
    let mut config = match start {
        Some(checkpoint) => TrainingConfig::for_model(&args.config, &checkpoint.config().model)?,
        None => TrainingConfig::from_file(&args.config)?,
    };
    config.quantization.quantization_mode = QuantizationMode::Qat;
    args.scheme.apply(&mut config.quantization)?;
    if args.learned_scales {
        config.qat.options.scale = ScaleMode::Learned;
    }
    config.qat.distill |= args.distill;
    config.validate(&args.config.display().to_string())?;
    Ok(config)
}

/// Losses before training.
struct Before {
    float: slm_model::Evaluation,
    ptq: slm_model::Evaluation,
}

/// Tokens that static activations are calibrated on for the comparison.
const CALIBRATION_TOKENS: usize = 16_384;

fn before(
    checkpoint: &Checkpoint,
    config: &PtqConfig,
    trainer: &Trainer,
    held_out: &[u32],
    window: usize,
    context: &Context,
) -> Result<Before> {
    // Compared with what training starts from: the same model, with the same kind of activations.
    let config = PtqConfig {
        rotate: Rotate::Off,
        smooth: None,
        dynamic_inputs: DynamicInputs::None,
        ..config.clone()
    };
    let mut quantizer = CheckpointQuantizer::new(checkpoint, config)?;
    let model = checkpoint.load_model(&context.device)?;
    let float = evaluate_with_progress(context, "float perplexity", &model, held_out, window)?;
    drop(model);
    if quantizer.needs_calibration() {
        let data = trainer.data();
        let tokens = CalibrationTokens {
            ids: &data.train[..data.train.len().min(CALIBRATION_TOKENS)],
            window,
            text_sha256: data.sha256.clone(),
        };
        quantizer.calibrate(&tokens, &context.device, &mut context.quantizing())?;
    }
    let (model, _) = quantizer.load(&context.device)?;
    let ptq = evaluate_with_progress(context, "PTQ perplexity", &model, held_out, window)?;
    Ok(Before { float, ptq })
}
