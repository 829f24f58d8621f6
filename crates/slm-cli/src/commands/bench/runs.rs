//! Runs of the model, alternating with measurements of the machine.

use std::time::{Duration, Instant};

use serde::Serialize;
use slm_kernels::{KernelKind, ReadMeter};
use slm_model::{GenerateOptions, GenerateOutput, SamplingOptions, Transformer, generate};

use super::BenchArgs;
use super::cost::Cost;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::memory;

/// One run of the model, and the measurements of the machine during it.
#[derive(Serialize)]
pub(super) struct RunResult {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    /// Shortest, median and longest time of a pass over one token, in milliseconds.
    fastest_token_ms: f64,
    median_token_ms: f64,
    slowest_token_ms: f64,
    /// Memory bandwidth measured after each token, in bytes per second.
    read_bytes_per_second: f64,
    pub(super) decode_bandwidth_share: f64,
    pub(super) prefill_peak_share: Option<f64>,
}

pub(super) struct Measured {
    /// The fastest prefill and the fastest decode of all runs, each with its profile.
    pub(super) best: GenerateOutput,
    pub(super) runs: Vec<RunResult>,
    /// Highest bandwidth of all measurements, in bytes per second.
    pub(super) read_bytes_per_second: f64,
    /// Peak rate in operations per second of the model's arithmetic; `None` without a kernel in vector instructions.
    pub(super) peak_ops_per_second: Option<f64>,
    /// Peak memory of the model in bytes, without that of the measurements.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Runs the model and measures the machine in turns: memory after every token, arithmetic after every run. On a shared
/// machine, both change within seconds.
pub(super) fn measure(
    model: &Transformer,
    cost: &Cost,
    kernel: KernelKind,
    meter: &mut ReadMeter,
    prompt_tokens: usize,
    args: &BenchArgs,
    context: &Context,
) -> Result<Measured> {
    let vocab_size = model.config().vocab_size;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|i| ((i * 7919 + 13) % vocab_size) as u32).collect();
    let options = GenerateOptions {
        // The pass over the prompt also gives the first new token.
        max_new_tokens: args.generate + 1,
        sampling: SamplingOptions::default(),
        stop_ids: Vec::new(),
    };
    let spinner = context.progress.spinner("measuring this machine");
    let mut peak_ops = cost.arithmetic.measure_peak(kernel, args.repeats)?;
    drop(spinner);
    let bar = context.progress.bar("running the model", args.repeats);
    bar.tick();
    let mut best: Option<GenerateOutput> = None;
    let mut runs = Vec::new();
    let mut best_peak_ops = peak_ops;
    let mut peak_memory_bytes = None;
    for _ in 0..args.repeats {
        context.interrupt.check()?;
        let mut reads = Reads::new(meter);
        let mut output = generate(model, &prompt, &options, |_| {
            reads.token();
            std::ops::ControlFlow::Continue(())
        })?;
        peak_memory_bytes = peak_memory_bytes.or_else(memory::peak_bytes);
        let after = cost.arithmetic.measure_peak(kernel, args.repeats)?;
        let better = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?));
        let around = better(peak_ops, after);
        (peak_ops, best_peak_ops) = (after, better(best_peak_ops, after));
        bar.inc(1);

        let (prefill_seconds, decode_tokens_per_second) =
            (output.prompt_time.as_secs_f64(), output.decode_tokens_per_second());
        let read_bytes_per_second = reads.bytes_per_second();
        reads.token_ms.sort_by(f64::total_cmp);
        let token_ms = |share: usize| reads.token_ms[(reads.token_ms.len() - 1) * share / 2];
        runs.push(RunResult {
            prefill_tokens_per_second: prompt_tokens as f64 / prefill_seconds,
            decode_tokens_per_second,
            fastest_token_ms: token_ms(0),
            median_token_ms: token_ms(1),
            slowest_token_ms: token_ms(2),
            read_bytes_per_second,
            decode_bandwidth_share: cost.bytes_per_token as f64 * decode_tokens_per_second
                / read_bytes_per_second,
            prefill_peak_share: around
                .map(|peak| prefill_operations(cost, prompt_tokens) / prefill_seconds / peak),
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
    Ok(Measured {
        best,
        runs,
        read_bytes_per_second: meter.best_bytes_per_second(),
        peak_ops_per_second: best_peak_ops,
        peak_memory_bytes: peak_memory_bytes.map(|bytes| bytes.saturating_sub(meter.held_bytes() as u64)),
    })
}

/// Memory reads that alternate with the tokens of a run.
struct Reads<'a> {
    meter: &'a mut ReadMeter,
    bytes: usize,
    time: Duration,
    /// End of the last read; `None` before the first one.
    ended: Option<Instant>,
    /// Time between the end of a read and the next token, in milliseconds.
    token_ms: Vec<f64>,
}

impl<'a> Reads<'a> {
    fn new(meter: &'a mut ReadMeter) -> Self {
        Self { meter, bytes: 0, time: Duration::ZERO, ended: None, token_ms: Vec::new() }
    }

    /// Called after each token.
    fn token(&mut self) {
        if let Some(ended) = self.ended {
            self.token_ms.push(ended.elapsed().as_secs_f64() * 1e3);
        }
        let (bytes, time) = self.meter.pass();
        (self.bytes, self.time) = (self.bytes + bytes, self.time + time);
        self.ended = Some(Instant::now());
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}

/// Number of multiplications and additions for the prompt. The head runs only on the last position.
pub(super) fn prefill_operations(cost: &Cost, prompt_tokens: usize) -> f64 {
    2.0 * (cost.body_weights * prompt_tokens as u64 + cost.head_weights) as f64
}

/// Median of at least one value; the lower of the two middle values if their number is even.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
