//! `slm bench`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_kernels::{KernelKind, ReadMeter};
use slm_model::Transformer;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Granularity, QuantScheme, QuantizationType, ScaleDtype,
};

use crate::commands::kv_cache_args::KvCacheArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory;
use crate::numbers::count;
use crate::words::Width;
use cost::{Arithmetic, Cost, KernelUse, LayerCost};
use profile::Profile;
use random::{Quantization, RandomWeights};
use runs::{Measured, RunResult, measure, median, prefill_operations};
use shape::Shape;

mod cost;
mod profile;
mod random;
mod runs;
mod shape;
mod words;

/// Maximum number of tokens in a prompt, and to generate.
const MOST_TOKENS: u64 = 1 << 20;

/// Default number of tokens in the prompt.
const PROMPT_TOKENS: usize = 512;

/// Measure the speed of a model, and compare it with the limits of this machine.
///
/// Named shapes get random weights: speed does not depend on their values. The limits of the machine are measured in
/// the same process and with the same threads, alternating with the model: memory bandwidth after every token, by the
/// fastest of several methods, and the peak rate of arithmetic (integer, or float for a float model) before and after
/// each run, of which the better one counts. Peak memory is that of the model, from its creation to the last token of
/// the first run.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Checkpoint to measure as it is, float or quantized
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shape", "bits", "quantization_type", "granularity"])]
    checkpoint: Option<PathBuf>,
    /// Shape to measure, with random weights
    #[arg(long, value_enum, default_value_t = Shape::Stories15m)]
    shape: Shape,
    /// Width of the weights: 32 (float), 8 or 4
    #[arg(long, default_value = "8")]
    bits: Width,
    /// Quantization of activations: dynamic or weight-only
    #[arg(long = "type", value_name = "TYPE", default_value_t = QuantizationType::Dynamic)]
    quantization_type: QuantizationType,
    /// Weights that share a scale: tensor, channel or group:N
    #[arg(long, default_value_t = Granularity::PerChannel)]
    granularity: Granularity,
    /// Type of stored scales: f32 or f16
    #[arg(long, default_value_t = ScaleDtype::F32)]
    scale_dtype: ScaleDtype,
    /// Number of tokens in the prompt [default: 512, or as many as the model has positions for]
    #[arg(long, value_name = "N", value_parser = count(MOST_TOKENS))]
    prompt: Option<usize>,
    /// Number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(MOST_TOKENS))]
    generate: usize,
    /// Number of runs: the fastest gives the speed, and the median its share of the machine's limits
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count(1000))]
    repeats: usize,
    #[command(flatten)]
    kv_cache: KvCacheArgs,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = count(1024))]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct BenchResult {
    model: String,
    parameters: u64,
    weights: String,
    arithmetic: Arithmetic,
    device: &'static str,
    threads: usize,
    inference_path: String,
    kv_cache: &'static str,
    kernels: Vec<KernelUse>,
    layers: Vec<LayerCost>,
    prompt_tokens: usize,
    prefill_tokens_per_second: f64,
    time_to_first_token_ms: f64,
    decode_tokens: usize,
    decode_tokens_per_second: f64,
    weight_bytes_per_token: u64,
    decode_bytes_per_second: f64,
    /// Highest bandwidth measured at any time, in bytes per second.
    read_bytes_per_second: f64,
    /// Median over the runs of the share of the bandwidth measured between the run's tokens.
    decode_bandwidth_share: f64,
    prefill_ops_per_second: f64,
    /// Peak rate of multiplications on registers, integer or float as the model's; `None` without vector instructions.
    peak_ops_per_second: Option<f64>,
    /// Median over the runs of the share of the peak rate.
    prefill_peak_share: Option<f64>,
    runs: Vec<RunResult>,
    /// One pass over the prompt; `None` if passes are tensor operations.
    prefill_profile: Option<Profile>,
    /// The mean pass over one token.
    decode_profile: Option<Profile>,
    /// Size in bytes of all weights of the model, including embeddings.
    weight_bytes: u64,
    peak_memory_bytes: Option<u64>,
}

pub(crate) fn run(args: &BenchArgs, context: &Context) -> Result<()> {
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| Error::Usage(format!("--threads {threads}: {error}")))?;
    }
    let kernel = KernelKind::selected();
    let checkpoint = args.checkpoint.as_deref().map(|dir| context.open_to_load(dir)).transpose()?;
    let prompt_tokens = prompt_tokens(args, checkpoint.as_ref())?;
    let mut meter = ReadMeter::new(args.repeats);
    memory::reset_peak();
    let (name, mut model) = match &checkpoint {
        Some(checkpoint) => (checkpoint.dir().display().to_string(), context.load_model(checkpoint)?),
        None => random_model(args, prompt_tokens, kernel, context)?,
    };
    args.kv_cache.apply(&mut model);
    let cost = Cost::of(&model, &context.device);
    let (parameters, kv_cache) = (model.config().parameter_count(), model.kv_cache_type().name());
    let Measured { best: output, runs, read_bytes_per_second, peak_ops_per_second, peak_memory_bytes } =
        measure(&model, &cost, kernel, &mut meter, prompt_tokens, args, context)?;
    drop(model);

    let kernels = cost.kernels();
    let prefill_seconds = output.prompt_time.as_secs_f64();
    let decode_tokens_per_second = output.decode_tokens_per_second();
    let decode_bytes_per_second = cost.bytes_per_token as f64 * decode_tokens_per_second;
    let prefill_ops_per_second = prefill_operations(&cost, prompt_tokens) / prefill_seconds;
    let result = BenchResult {
        model: name,
        parameters,
        weights: cost.form,
        arithmetic: cost.arithmetic,
        device: context.device_name,
        threads: rayon::current_num_threads(),
        inference_path: output.path.to_string(),
        kv_cache,
        kernels,
        layers: cost.layers,
        prompt_tokens,
        prefill_tokens_per_second: prompt_tokens as f64 / prefill_seconds,
        time_to_first_token_ms: prefill_seconds * 1e3,
        decode_tokens: output.decode_passes,
        decode_tokens_per_second,
        weight_bytes_per_token: cost.bytes_per_token,
        decode_bytes_per_second,
        read_bytes_per_second,
        decode_bandwidth_share: median(runs.iter().map(|run| run.decode_bandwidth_share)),
        prefill_ops_per_second,
        peak_ops_per_second,
        prefill_peak_share: peak_ops_per_second
            .is_some()
            .then(|| median(runs.iter().filter_map(|run| run.prefill_peak_share))),
        runs,
        prefill_profile: output.prompt_profile.map(|times| Profile::new(times, output.prompt_time, 1)),
        decode_profile: output
            .decode_profile
            .map(|times| Profile::new(times, output.decode_time, output.decode_passes)),
        weight_bytes: cost.bytes_held,
        peak_memory_bytes,
    };
    words::say(&result, &context.output)?;
    context.output.result(&result)
}

/// Returns the number of tokens in the prompt. Fails before anything is measured if the checkpoint's model has too few
/// positions.
fn prompt_tokens(args: &BenchArgs, checkpoint: Option<&Checkpoint>) -> Result<usize> {
    let Some(checkpoint) = checkpoint else { return Ok(args.prompt.unwrap_or(PROMPT_TOKENS)) };
    let positions = checkpoint.config().model.max_position_embeddings;
    let most = positions.saturating_sub(args.generate);
    let prompt = args.prompt.unwrap_or(PROMPT_TOKENS.min(most));
    if prompt == 0 || prompt > most {
        let (dir, generate) = (checkpoint.dir().display(), args.generate);
        let (option, limit) = match most {
            0 => ("--generate", format!("give --generate {} or less", positions.saturating_sub(1))),
            _ => ("--prompt", format!("give --prompt {most} or less, or a smaller --generate")),
        };
        return Err(Error::Usage(format!(
            "{option}: the model in {dir} has {positions} positions for the prompt and {generate} generated tokens \
             together; {limit}"
        )));
    }
    Ok(prompt)
}

fn random_model(
    args: &BenchArgs,
    prompt_tokens: usize,
    kernel: KernelKind,
    context: &Context,
) -> Result<(String, Transformer)> {
    let Width(bits) = args.bits;
    let activation = match args.quantization_type {
        QuantizationType::WeightOnly => ActivationQuant::Float,
        QuantizationType::Dynamic => ActivationQuant::Dynamic(ActivationGranularity::default()),
        QuantizationType::Static => {
            return Err(Error::Usage(
                "--type static: random weights have no text to calibrate on; quantize a model with `slm ptq` and \
                 name it with --checkpoint"
                    .to_owned(),
            ));
        }
    };
    let quantization = bits.map(|bits| {
        let scheme = QuantScheme::per_tensor(bits)
            .with_granularity(args.granularity)
            .with_scale_dtype(args.scale_dtype);
        Quantization { scheme, activation, kernel }
    });
    let mut config = args.shape.config(prompt_tokens + args.generate);
    // A quantized head is a separate layer.
    config.tie_word_embeddings &= quantization.is_none();
    let name = args.shape.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let mut weights = RandomWeights::new(&config, quantization);
    Ok((name, Transformer::from_tensors(&config, &mut weights, &context.device)?))
}
