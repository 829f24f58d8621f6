//! `slm bench`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_model::{
    GenerateOptions, GenerateOutput, LM_HEAD, ModelConfig, SamplingOptions, Transformer, generate,
};
use slm_ptq::{Plan, PtqConfig, convert};
use slm_quant_core::{
    Bits, Granularity, KernelKind, ObserverKind, QuantScheme, QuantizationType, ScaleDtype, measure_peak_ops,
    measure_read_bandwidth,
};
use slm_quant_nn::NamedLinears;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory;
use crate::table;

/// Measure how fast a model runs, and how near that is to what this machine can do.
///
/// Shapes by name have random weights: speed does not depend on their values. The memory bandwidth and the peak of
/// integer arithmetic are measured in the same run, with the same threads, before the model.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Checkpoint to measure as it is, float or quantized
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shape", "bits", "quantization_type", "granularity"])]
    checkpoint: Option<PathBuf>,
    /// Shape to measure, with random weights
    #[arg(long, value_enum, default_value_t = Shape::Stories15m)]
    shape: Shape,
    /// Width of the weights: 32 (float), 8 or 4
    #[arg(long, default_value_t = 8)]
    bits: u8,
    /// What is done with activations: dynamic or weight-only
    #[arg(long = "type", value_name = "TYPE", default_value_t = QuantizationType::Dynamic)]
    quantization_type: QuantizationType,
    /// Weights that share a scale: tensor, channel or group:N
    #[arg(long, default_value_t = Granularity::PerChannel)]
    granularity: Granularity,
    /// Type of stored scales: f32 or f16
    #[arg(long, default_value_t = ScaleDtype::F32)]
    scale_dtype: ScaleDtype,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to generate after it
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate: usize,
    /// Runs, of which the best counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Model shapes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// 288 wide, 6 layers, 6 heads, MLP 768, vocabulary 32000, tied
    #[value(name = "stories-15m")]
    Stories15m,
    /// 576 wide, 30 layers, 9 heads on 3, MLP 1536, vocabulary 49152, tied
    #[value(name = "smollm-135m")]
    Smollm135m,
    /// 2048 wide, 22 layers, 32 heads on 4, MLP 5632, vocabulary 32000
    #[value(name = "tinyllama-1.1b")]
    Tinyllama1b,
}

impl Shape {
    fn config(self, positions: usize) -> ModelConfig {
        let (vocab, hidden, mlp, layers, heads, kv_heads, tied) = match self {
            Self::Stories15m => (32_000, 288, 768, 6, 6, 6, true),
            Self::Smollm135m => (49_152, 576, 1536, 30, 9, 3, true),
            Self::Tinyllama1b => (32_000, 2048, 5632, 22, 32, 4, false),
        };
        let mut config = ModelConfig::new(vocab, hidden, mlp, layers, heads, positions);
        config.num_kv_heads = kv_heads;
        config.tie_word_embeddings = tied;
        config
    }
}

#[derive(Serialize)]
struct BenchResult {
    model: String,
    parameters: u64,
    weights: String,
    device: &'static str,
    threads: usize,
    kernels: Vec<KernelUse>,
    prompt_tokens: usize,
    prefill_tokens_per_second: f64,
    time_to_first_token_ms: f64,
    decode_tokens: usize,
    decode_tokens_per_second: f64,
    weight_bytes_per_token: u64,
    decode_bytes_per_second: f64,
    read_bytes_per_second: f64,
    /// Share of the bandwidth that was measured on the spot.
    decode_bandwidth_share: f64,
    prefill_ops_per_second: f64,
    /// Best rate of the kernel's multiplications on registers alone; none without an integer kernel.
    peak_ops_per_second: Option<f64>,
    prefill_peak_share: Option<f64>,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct KernelUse {
    kernel: String,
    layers: usize,
}

pub(crate) fn run(args: &BenchArgs, context: &Context) -> Result<()> {
    for (option, value) in
        [("--prompt", args.prompt), ("--generate", args.generate), ("--repeats", args.repeats)]
    {
        if value == 0 {
            return Err(Error::Usage(format!("{option} 0: use 1 or more")));
        }
    }
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| Error::Usage(format!("--threads {threads}: {error}")))?;
    }
    let (name, model) = model(args, context)?;
    let kernel = KernelKind::select()?;
    let bar = context.progress.bar("measuring the machine", 2);
    let read_bytes_per_second = measure_read_bandwidth(args.repeats);
    bar.inc(1);
    let peak_ops_per_second = measure_peak_ops(kernel, args.repeats)?;
    bar.finish_and_clear();
    let output = best_run(&model, args, context)?;

    let cost = Cost::of(&model, context);
    let prefill_seconds = output.prompt_time.as_secs_f64();
    let decode_tokens_per_second = output.decode_passes as f64 / output.decode_time.as_secs_f64();
    let decode_bytes_per_second = cost.bytes_per_token as f64 * decode_tokens_per_second;
    // The head runs on the last position alone.
    let operations = 2.0 * (cost.body_weights * args.prompt as u64 + cost.head_weights) as f64;
    let prefill_ops_per_second = operations / prefill_seconds;
    let result = BenchResult {
        model: name,
        parameters: model.config().parameter_count(),
        weights: cost.form,
        device: context.device_name,
        threads: rayon::current_num_threads(),
        kernels: cost.kernels,
        prompt_tokens: args.prompt,
        prefill_tokens_per_second: args.prompt as f64 / prefill_seconds,
        time_to_first_token_ms: prefill_seconds * 1e3,
        decode_tokens: output.decode_passes,
        decode_tokens_per_second,
        weight_bytes_per_token: cost.bytes_per_token,
        decode_bytes_per_second,
        read_bytes_per_second,
        decode_bandwidth_share: decode_bytes_per_second / read_bytes_per_second,
        prefill_ops_per_second,
        peak_ops_per_second,
        prefill_peak_share: peak_ops_per_second.map(|peak| prefill_ops_per_second / peak),
        peak_memory_bytes: memory::peak_bytes(),
    };
    result.say(context)?;
    context.output.result(&result)
}

fn model(args: &BenchArgs, context: &Context) -> Result<(String, Transformer)> {
    let positions = args.prompt + args.generate;
    if let Some(dir) = &args.checkpoint {
        let model = Checkpoint::open(dir)?.load_model(&context.device)?;
        model.check_positions(positions)?;
        return Ok((dir.display().to_string(), model));
    }
    let bits = match args.bits {
        32 => None,
        bits => {
            Some(Bits::try_from(bits).map_err(|_| Error::Usage(format!("--bits {bits}: use 32, 8 or 4")))?)
        }
    };
    if args.quantization_type == QuantizationType::Static {
        return Err(Error::Usage(
            "--type static: random weights have no text to calibrate on; quantize a model with `slm ptq` and \
             name it with --checkpoint"
                .to_owned(),
        ));
    }
    let name = args.shape.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let mut model = Transformer::new(&args.shape.config(positions), 0, &context.device)?;
    if let Some(bits) = bits {
        let scheme = QuantScheme::per_tensor(bits)
            .with_granularity(args.granularity)
            .with_scale_dtype(args.scale_dtype);
        let mut config = PtqConfig::new(scheme, args.quantization_type);
        config.observer = ObserverKind::MinMax;
        model.untie_head();
        let plan = Plan::new(&model, &config)?;
        let bar = context.progress.bar("quantizing layers", plan.layers.len());
        convert(&mut model, &plan, &config, None, &mut |_| bar.inc(1))?;
        bar.finish_and_clear();
    }
    Ok((name, model))
}

/// The run with the fastest decode, with the fastest prefill of all runs.
fn best_run(model: &Transformer, args: &BenchArgs, context: &Context) -> Result<GenerateOutput> {
    let vocab_size = model.config().vocab_size;
    let prompt: Vec<u32> = (0..args.prompt).map(|i| ((i * 7919 + 13) % vocab_size) as u32).collect();
    let options = GenerateOptions {
        // The first new token comes from the prompt's pass.
        max_new_tokens: args.generate + 1,
        sampling: SamplingOptions::default(),
        stop_ids: Vec::new(),
    };
    let bar = context.progress.bar("running the model", args.repeats);
    let mut best: Option<GenerateOutput> = None;
    for _ in 0..args.repeats {
        context.interrupt.check()?;
        let mut output = generate(model, &prompt, &options, |_| std::ops::ControlFlow::Continue(()))?;
        bar.inc(1);
        if let Some(before) = &best {
            output.prompt_time = output.prompt_time.min(before.prompt_time);
            output.decode_time = output.decode_time.min(before.decode_time);
        }
        best = Some(output);
    }
    bar.finish_and_clear();
    best.ok_or(Error::Interrupted)
}

/// What a token costs.
struct Cost {
    form: String,
    kernels: Vec<KernelUse>,
    /// Bytes of weights that a decoded token reads: every linear layer and the head once.
    bytes_per_token: u64,
    body_weights: u64,
    head_weights: u64,
}

impl Cost {
    fn of(model: &Transformer, context: &Context) -> Self {
        let device = &context.device;
        let mut cost = Self {
            form: "f32".to_owned(),
            kernels: Vec::new(),
            bytes_per_token: 0,
            body_weights: 0,
            head_weights: 0,
        };
        model.for_each_linear(&mut |name, linear| {
            let weights = (linear.in_features() * linear.out_features()) as u64;
            let (bytes, kernel) = match linear.packed() {
                Some(packed) => {
                    cost.form = packed.matrix().scheme().to_string();
                    (packed.matrix().byte_size() as u64, packed.execution(device).to_string())
                }
                None => (weights * 4, "float".to_owned()),
            };
            cost.bytes_per_token += bytes;
            *if name == LM_HEAD { &mut cost.head_weights } else { &mut cost.body_weights } += weights;
            match cost.kernels.iter_mut().find(|used| used.kernel == kernel) {
                Some(used) => used.layers += 1,
                None => cost.kernels.push(KernelUse { kernel, layers: 1 }),
            }
        });
        if model.head_is_tied() {
            let config = model.config();
            cost.head_weights = (config.vocab_size * config.hidden_size) as u64;
            cost.bytes_per_token += cost.head_weights * 4;
        }
        cost
    }
}

impl BenchResult {
    fn say(&self, context: &Context) -> Result<()> {
        let kernels = self.kernels.iter().map(|used| format!("{} ({} layers)", used.kernel, used.layers));
        let peak = match (self.peak_ops_per_second, self.prefill_peak_share) {
            (Some(peak), Some(share)) => format!(", {:.0} % of {:.0} GOP/s", share * 100.0, peak / 1e9),
            _ => String::new(),
        };
        context.output.say(format!(
            "{}: {} parameters, {} on {}, {} threads\n\
             kernels           {}\n\
             prefill           {:.1} tokens/s ({} tokens in {:.1} ms; {:.0} GOP/s{peak})\n\
             decode            {:.1} tokens/s over {} tokens\n\
             weights per token {}, {:.1} GB/s: {:.0} % of the {:.1} GB/s measured here\n\
             peak memory       {}",
            self.model,
            self.parameters,
            self.weights,
            self.device,
            self.threads,
            kernels.collect::<Vec<_>>().join(", "),
            self.prefill_tokens_per_second,
            self.prompt_tokens,
            self.time_to_first_token_ms,
            self.prefill_ops_per_second / 1e9,
            self.decode_tokens_per_second,
            self.decode_tokens,
            table::bytes(self.weight_bytes_per_token),
            self.decode_bytes_per_second / 1e9,
            self.decode_bandwidth_share * 100.0,
            self.read_bytes_per_second / 1e9,
            self.peak_memory_bytes.map_or("not known here".to_owned(), table::bytes),
        ))
    }
}
