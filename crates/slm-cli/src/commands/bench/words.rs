//! The text report of `slm bench`: the result in words first, then the details.

use super::BenchResult;
use crate::error::Result;
use crate::output::Output;
use crate::table;

pub(super) fn say(result: &BenchResult, output: &Output) -> Result<()> {
    output.headline(headline(result))?;
    output.say(format!("\n{}", summary(result)))?;
    output
        .say(format!("\nDetails; `slm explain prefill` and the like explain the terms:\n{}", details(result)))
}

/// Names the model and its two speeds.
fn headline(result: &BenchResult) -> String {
    format!(
        "reads a prompt at {:.1} tokens/s and generates {:.1} tokens/s: {}, {}, on {} with {}",
        result.prefill_tokens_per_second,
        result.decode_tokens_per_second,
        result.model,
        result.weights,
        result.device,
        counted(result.threads, "thread")
    )
}

/// The speeds as shares of the machine's limits, and the memory.
fn summary(result: &BenchResult) -> String {
    let runs = match result.runs.len() {
        1 => String::new(),
        count => format!(" (median of {count} runs)"),
    };
    let peak = result.prefill_peak_share.map_or(String::new(), |share| {
        let arithmetic = result.arithmetic.name();
        format!("; {:.0} % of the measured peak of {arithmetic} arithmetic{runs}", share * 100.0)
    });
    let memory = result
        .peak_memory_bytes
        .map_or("peak not known here".to_owned(), |bytes| format!("peak {}", table::bytes(bytes)));
    format!(
        "prefill           reading a prompt of {} took {:.1} ms{peak}\n\
         decode            generating {} took {:.2} ms each; {:.0} % of the measured memory bandwidth{runs}\n\
         memory            {memory}, of which {} are weights",
        counted(result.prompt_tokens, "token"),
        result.time_to_first_token_ms,
        counted(result.decode_tokens, "token"),
        1e3 / result.decode_tokens_per_second,
        result.decode_bandwidth_share * 100.0,
        table::bytes(result.weight_bytes),
    )
}

/// One line for each fact that explains the speeds.
fn details(result: &BenchResult) -> String {
    let kernels: Vec<_> =
        result.kernels.iter().map(|used| format!("{} ({} layers)", used.kernel, used.layers)).collect();
    let shares: Vec<_> =
        result.runs.iter().map(|run| format!("{:.0} %", run.decode_bandwidth_share * 100.0)).collect();
    let peak =
        result.peak_ops_per_second.map_or(String::new(), |peak| format!(" of at best {:.0}", peak / 1e9));
    let mut lines = vec![
        format!("parameters        {}", result.parameters),
        format!("kernel            {}; inference path {}", kernels.join(", "), result.inference_path),
        format!("KV cache          {}", result.kv_cache),
        format!(
            "arithmetic        {}; prefill: {:.0}{peak} GOP/s",
            result.arithmetic.name(),
            result.prefill_ops_per_second / 1e9
        ),
        format!(
            "bandwidth         decode: {} of weights per token, {:.1} of at best {:.1} GB/s (runs: {})",
            table::bytes(result.weight_bytes_per_token),
            result.decode_bytes_per_second / 1e9,
            result.read_bytes_per_second / 1e9,
            shares.join(", ")
        ),
    ];
    lines.extend(result.prefill_profile.map(|profile| format!("prefill time      {profile}")));
    lines.extend(result.decode_profile.map(|profile| format!("decode time       {profile}")));
    lines.join("\n")
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
