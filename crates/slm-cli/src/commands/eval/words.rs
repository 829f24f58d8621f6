//! The text report of `slm eval`.

use super::choices::ChoicesResult;
use super::{DivergenceView, EvalResult};
use crate::context::Context;
use crate::error::Result;
use crate::table;

pub(super) fn say(result: &EvalResult, context: &Context) -> Result<()> {
    let report = report(result);
    let (first, rest) = report.split_once('\n').unwrap_or((&report, ""));
    context.output.headline(first)?;
    if !rest.is_empty() {
        context.output.say(rest)?;
    }
    result.warning.iter().try_for_each(|warning| context.output.warning(warning))
}

/// Returns the report: the result in the first line, then one line for each fact.
pub(super) fn report(result: &EvalResult) -> String {
    let mut lines = Vec::new();
    if let (Some(perplexity), Some(nll)) = (result.perplexity, result.nll) {
        let bits = result.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.5} bits per byte"));
        lines.push(format!("perplexity        {perplexity:.4} ({nll:.5} nats per token{bits})"));
        let bos = if result.bos { " behind the beginning-of-sequence token" } else { "" };
        let stride = result.stride.map_or(String::new(), |stride| format!(", {stride} apart"));
        let speed = match result.divergence {
            // The time is that of two models.
            Some(_) => {
                format!("time              {:.1} s on {}, reference included", result.seconds, result.device)
            }
            None => {
                format!(
                    "speed             {:.0} tokens/s on {}",
                    result.tokens as f64 / result.seconds,
                    result.device
                )
            }
        };
        let reference = result.weight_bytes_reference;
        let reference =
            reference.map_or(String::new(), |size| format!(", the reference's {}", table::bytes(size)));
        lines.push(format!(
            "measured on       {} tokens of {}, in {} windows of {}{stride}{bos}\n{speed}\n\
             weights           {}{reference}",
            result.tokens,
            result.measured_on,
            result.windows,
            result.window,
            table::bytes(result.weight_bytes)
        ));
    }
    lines.extend(result.divergence.iter().map(divergence));
    if let Some(noise) = &result.noise_floor {
        lines.push(format!(
            "noise floor       the reference computed by Burn's operations diverges by {:.3e} nats mean, {:.3e} largest",
            noise.kl_mean, noise.kl_max
        ));
    }
    for text in &result.texts {
        lines.push(format!(
            "\n{}: perplexity {:.4} over {} tokens",
            text.path.display(),
            text.perplexity,
            text.tokens
        ));
        lines.extend(text.divergence.iter().map(divergence));
    }
    lines.extend(result.choices.iter().map(ChoicesResult::line));
    lines.join("\n")
}

fn divergence(view: &DivergenceView) -> String {
    format!(
        "reference         perplexity {:.4}\n\
         KL divergence     {:.6} nats mean, {:.6} median, {:.6} p90, {:.6} p99, {:.6} largest\n\
         same top token    at {:.2} % of positions\n\
         right token       its probability changes by {:.3} % (RMS)",
        view.perplexity_reference,
        view.kl_mean,
        view.kl_median,
        view.kl_p90,
        view.kl_p99,
        view.kl_max,
        view.top1_agreement * 100.0,
        view.rms_probability_change * 100.0,
    )
}
