//! Values of options in any case: `--method GPTQ`, `--format GGUF`, `--type Dynamic`.

use std::any::TypeId;
use std::fmt::Display;
use std::str::FromStr;

use clap::Arg;
use slm_exchange::{FloatType, Format, OnnxProfile};
use slm_model::KvCacheType;
use slm_ptq::{LayerRule, LayerScheme, Rotate, RoundingMethod, Smooth};
use slm_quant_core::{
    ActivationGranularity, Granularity, Mapping, ObserverKind, QuantizationType, ScaleDtype,
};

/// Lets `argument` take its value in any case, if its values are words that are written in lower case.
pub(crate) fn in_any_case(argument: Arg) -> Arg {
    // Every type of words that an option parses.
    let argument = words::<Granularity>(argument);
    let argument = words::<Mapping>(argument);
    let argument = words::<ScaleDtype>(argument);
    let argument = words::<ActivationGranularity>(argument);
    let argument = words::<QuantizationType>(argument);
    let argument = words::<ObserverKind>(argument);
    let argument = words::<RoundingMethod>(argument);
    let argument = words::<LayerScheme>(argument);
    let argument = words::<Rotate>(argument);
    let argument = words::<Smooth>(argument);
    let argument = words::<KvCacheType>(argument);
    let argument = words::<Format>(argument);
    let argument = words::<FloatType>(argument);
    let argument = words::<OnnxProfile>(argument);
    let argument = with_parser(argument, rule);
    let listed = !argument.get_possible_values().is_empty();
    if listed { argument.ignore_case(true) } else { argument }
}

/// Replaces the parser of an argument of type `T` by one that accepts any case.
fn words<T>(argument: Arg) -> Arg
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    with_parser(argument, lenient::<T>)
}

/// Replaces the parser of an argument of type `T`.
fn with_parser<T>(argument: Arg, parser: fn(&str) -> Result<T, String>) -> Arg
where
    T: Clone + Send + Sync + 'static,
{
    if argument.get_value_parser().type_id() == TypeId::of::<T>() {
        argument.value_parser(parser)
    } else {
        argument
    }
}

/// Parses `text` as it is written, or else in lower case.
fn lenient<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().or_else(|error: T::Err| text.to_ascii_lowercase().parse().map_err(|_| error.to_string()))
}

/// Parses `PATTERN=SCHEME`. The pattern keeps its case: it names layers.
fn rule(text: &str) -> Result<LayerRule, String> {
    let lower = |(pattern, scheme): (&str, &str)| format!("{pattern}={}", scheme.to_ascii_lowercase());
    text.parse().or_else(|error: slm_ptq::Error| {
        let text = text.split_once('=').map(lower).unwrap_or_default();
        text.parse().map_err(|_| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use crate::command_line::command;

    /// Returns the kind of the error of a command line, or `None` if it is valid.
    fn refusal(line: &str) -> Option<ErrorKind> {
        let words = ["slm"].into_iter().chain(line.split_whitespace());
        command().try_get_matches_from(words).err().map(|error| error.kind())
    }

    #[test]
    fn words_are_accepted_in_any_case() {
        let ptq = [
            "--bits INT4",
            "--granularity Group:32",
            "--mapping AFFINE",
            "--scale-dtype F16",
            "--type Weight-Only",
            "--method GPTQ",
            "--embeddings INT8:Channel",
            "--observer MIN-MAX",
            "--activation-observer MSE",
            "--activation-granularity Token",
            "--dynamic-inputs AUTO",
            "--rotate ON",
            "--smooth Auto",
            "--layer layers.*.Odd=INT8:Channel",
            "--device FLEX",
        ];
        for options in ptq {
            assert_eq!(refusal(&format!("ptq {options}")), None, "{options}");
        }
        for line in [
            "export dir --out x --format GGUF --dtype BF16",
            "export dir --out x --format ONNX --profile ORT-GenAI",
            "generate --checkpoint dir --kv-cache INT8",
            "eval --checkpoint dir --data x --kv-cache F16",
            "finetune --checkpoint dir --data x --out y --rounding Nearest",
            "sensitivity --checkpoint dir --data x --by LAYER",
            "bench --shape SmolLM-135M --type Dynamic",
            "config init PTQ",
            "completions BASH",
        ] {
            assert_eq!(refusal(line), None, "{line}");
        }
        for line in [
            "ptq --method GPTQ2",
            "ptq --layer head=INT3",
            "ptq --layer INT8",
            "export d --out x --format GG",
        ] {
            assert_eq!(refusal(line), Some(ErrorKind::ValueValidation), "{line}");
        }
    }
}
