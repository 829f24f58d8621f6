//! Runs of the model in turns with measurements of the machine.

use serde::Serialize;
use slm_model::{GenerateOptions, GenerateOutput, SamplingOptions, Transformer, generate};
use slm_quant_core::{KernelKind, measure_peak_ops, measure_read_bandwidth};

use super::BenchArgs;
use super::cost::Cost;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory;

/// What this machine can do at most.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) read_bytes_per_second: f64,
    /// None without an integer kernel in vector instructions.
    pub(super) peak_ops_per_second: Option<f64>,
}

impl Limits {
    pub(super) fn measure(kernel: KernelKind, args: &BenchArgs) -> Result<Self> {
        Ok(Self {
            read_bytes_per_second: measure_read_bandwidth(args.repeats),
            peak_ops_per_second: measure_peak_ops(kernel, args.repeats)?,
        })
    }

    fn or_better(self, other: Self) -> Self {
        let better = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?));
        Self {
            read_bytes_per_second: self.read_bytes_per_second.max(other.read_bytes_per_second),
            peak_ops_per_second: better(self.peak_ops_per_second, other.peak_ops_per_second),
        }
    }
}

/// One run of the model, beside what the machine did just before and after it.
#[derive(Serialize)]
pub(super) struct RunResult {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    read_bytes_per_second: f64,
    pub(super) decode_bandwidth_share: f64,
    pub(super) prefill_peak_share: Option<f64>,
}

pub(super) struct Measured {
    /// The fastest prefill and the fastest decode of all runs, each with its profile.
    pub(super) best: GenerateOutput,
    pub(super) runs: Vec<RunResult>,
    /// The best of all measurements.
    pub(super) limits: Limits,
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Runs the model and measures the machine in turns: on a machine with neighbours, what memory gives changes within
/// seconds.
pub(super) fn measure(
    model: &Transformer,
    cost: &Cost,
    kernel: KernelKind,
    mut before: Limits,
    args: &BenchArgs,
    context: &Context,
) -> Result<Measured> {
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
    let mut runs = Vec::new();
    let mut limits = before;
    let mut peak_memory_bytes = None;
    for _ in 0..args.repeats {
        context.interrupt.check()?;
        let mut output = generate(model, &prompt, &options, |_| std::ops::ControlFlow::Continue(()))?;
        // Before measuring memory takes memory.
        peak_memory_bytes = peak_memory_bytes.or_else(memory::peak_bytes);
        let after = Limits::measure(kernel, args)?;
        let around = before.or_better(after);
        (before, limits) = (after, limits.or_better(after));
        bar.inc(1);

        let (prefill_seconds, decode_tokens_per_second) =
            (output.prompt_time.as_secs_f64(), decode_rate(&output));
        runs.push(RunResult {
            prefill_tokens_per_second: args.prompt as f64 / prefill_seconds,
            decode_tokens_per_second,
            read_bytes_per_second: around.read_bytes_per_second,
            decode_bandwidth_share: cost.bytes_per_token as f64 * decode_tokens_per_second
                / around.read_bytes_per_second,
            prefill_peak_share: around
                .peak_ops_per_second
                .map(|peak| prefill_operations(cost, args) / prefill_seconds / peak),
        });
        if let Some(before) = best {
            if before.prompt_time < output.prompt_time {
                (output.prompt_time, output.prompt_profile) = (before.prompt_time, before.prompt_profile);
            }
            if before.decode_time < output.decode_time {
                (output.decode_time, output.decode_profile) = (before.decode_time, before.decode_profile);
            }
        }
        best = Some(output);
    }
    bar.finish_and_clear();
    let best = best.ok_or(Error::Interrupted)?;
    Ok(Measured { best, runs, limits, peak_memory_bytes })
}

/// Tokens per second.
pub(super) fn decode_rate(output: &GenerateOutput) -> f64 {
    output.decode_passes as f64 / output.decode_time.as_secs_f64()
}

/// Multiplications and additions of the prompt's products. The head runs on the last position alone.
pub(super) fn prefill_operations(cost: &Cost, args: &BenchArgs) -> f64 {
    2.0 * (cost.body_weights * args.prompt as u64 + cost.head_weights) as f64
}

/// The middle of at least one value, the lower one of two.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
