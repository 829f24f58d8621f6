//! Options whose values are words: accepted in any case (`--method GPTQ`), and offered by shell completions.

use std::any::TypeId;
use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};
use slm_exchange::{FloatType, Format, OnnxProfile};
use slm_model::KvCacheType;
use slm_ptq::{DynamicInputs, LayerRule, LayerScheme, Rotate, RoundingMethod, Smooth};
use slm_quant_core::{
    ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QuantizationType, ScaleDtype,
};

/// A type of values that are words.
trait Words: Clone + Send + Sync + 'static {
    /// The words to offer. Some types have more, such as words followed by a number.
    const WORDS: &'static [&'static str];

    /// Parses a word in any case.
    fn parse(text: &str) -> Result<Self, String>;
}

/// Implements [`Words`], and lists the types in [`in_any_case`].
macro_rules! words {
    ($($parse:ident $type:ty: [$($word:literal),*];)*) => {
        $(impl Words for $type {
            const WORDS: &'static [&'static str] = &[$($word),*];

            fn parse(text: &str) -> Result<Self, String> {
                $parse(text)
            }
        })*

        /// Lets `argument` take its value in any case, if its values are words.
        pub(crate) fn in_any_case(argument: Arg) -> Arg {
            let is_listed = !argument.get_possible_values().is_empty();
            let argument = if is_listed { argument.ignore_case(true) } else { argument };
            $(let argument = words::<$type>(argument);)*
            argument
        }

        #[cfg(test)]
        const TYPES: &[fn()] = &[$(tests::every_word_is_valid::<$type>),*];
    };
}

words! {
    lenient Granularity: ["tensor", "channel", "group:32", "group:64", "group:128"];
    lenient Mapping: ["symmetric", "symmetric-torch", "affine"];
    lenient ScaleDtype: ["f32", "f16"];
    lenient ActivationGranularity: ["token", "tensor"];
    lenient QuantizationType: ["static", "dynamic", "weight-only"];
    lenient ObserverKind: ["min-max", "moving-average", "histogram", "percentile", "mse", "weighted-mse"];
    lenient RoundingMethod: ["rtn", "gptq", "awq", "tune"];
    lenient LayerScheme: ["int8", "int4"];
    lenient DynamicInputs: ["auto", "none"];
    lenient Rotate: ["auto", "on", "off"];
    lenient Smooth: ["auto", "off"];
    lenient KvCacheType: ["f32", "f16", "int8", "int4"];
    lenient Format: ["gguf", "hf", "compressed-tensors", "mlx", "onnx"];
    lenient FloatType: ["f32", "f16", "bf16"];
    lenient OnnxProfile: ["standard", "ort-genai"];
    bits Bits: ["8", "4"];
    lenient Width: ["32", "8", "4"];
    rule LayerRule: [];
}

/// Replaces the parser of an argument of type `T`. The help says in words what the values mean, so it does not list them.
fn words<T: Words>(argument: Arg) -> Arg {
    if argument.get_value_parser().type_id() == TypeId::of::<T>() {
        argument.value_parser(WordParser::<T>(PhantomData)).hide_possible_values(true)
    } else {
        argument
    }
}

struct WordParser<T>(PhantomData<fn() -> T>);

impl<T> Clone for WordParser<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T: Words> TypedValueParser for WordParser<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        T::parse.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(T::WORDS.iter().map(PossibleValue::new)))
    }
}

/// Parses `text` as it is written, or else in lower case.
fn lenient<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().or_else(|error: T::Err| text.to_ascii_lowercase().parse().map_err(|_| error.to_string()))
}

/// Parses a code width, which may be the name of a type: `int4`.
pub(crate) fn bits(text: &str) -> Result<Bits, String> {
    let digits = text.to_ascii_lowercase();
    let digits = digits.trim_start_matches("int").trim_end_matches("-bit").trim_end_matches("bit");
    let bits = digits.parse::<u8>().ok().and_then(|bits| Bits::try_from(bits).ok());
    bits.ok_or_else(|| "it must be 8 or 4".to_owned())
}

/// Width of weights: that of codes, or `None` for 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width(pub(crate) Option<Bits>);

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "32" => Ok(Self(None)),
            _ => bits(text).map(|bits| Self(Some(bits))).map_err(|_| "it must be 32, 8 or 4".to_owned()),
        }
    }
}

/// Parses `PATTERN=SCHEME`. The pattern keeps its case: it names layers.
fn rule(text: &str) -> Result<LayerRule, String> {
    let lower = |(pattern, scheme): (&str, &str)| format!("{pattern}={}", scheme.to_ascii_lowercase());
    text.parse().or_else(|error: slm_ptq::Error| {
        let text = text.split_once('=').map(lower).unwrap_or_default();
        text.parse().map_err(|_| error.to_string())
    })
}

/// A parser of any text, for which completions offer some words.
#[derive(Debug, Clone)]
pub(crate) struct Suggesting(pub(crate) Vec<String>);

impl TypedValueParser for Suggesting {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::error::ErrorKind;
    use slm_train::Setting;

    use super::*;
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

    /// Options and arguments that take values, each with the names of its command.
    fn arguments(command: &Command, path: &str) -> Vec<(String, Arg)> {
        let path = format!("{path} {}", command.get_name());
        let own = command.get_arguments().filter(|argument| argument.get_action().takes_values());
        let own: Vec<_> = own.map(|argument| (path.clone(), argument.clone())).collect();
        let below = command.get_subcommands().flat_map(|command| arguments(command, &path));
        own.into_iter().chain(below).collect()
    }

    pub(super) fn every_word_is_valid<T: Words>() {
        for word in T::WORDS {
            assert!(T::parse(word).is_ok(), "{word}");
        }
    }

    /// An option of a new type must be added to the words, or is free.
    #[test]
    fn completions_know_the_words_of_every_option() {
        let free = [
            TypeId::of::<String>(),
            TypeId::of::<PathBuf>(),
            TypeId::of::<usize>(),
            TypeId::of::<u64>(),
            TypeId::of::<u32>(),
            TypeId::of::<u16>(),
            TypeId::of::<i64>(),
            TypeId::of::<f64>(),
            TypeId::of::<std::net::IpAddr>(),
            TypeId::of::<Setting>(),
            TypeId::of::<LayerRule>(),
        ];
        let arguments = arguments(&command(), "");
        assert!(arguments.len() > 100);
        for (path, argument) in arguments {
            let kind = argument.get_value_parser().type_id();
            assert!(
                free.iter().any(|free| kind == *free) || !argument.get_possible_values().is_empty(),
                "{path}: {}",
                argument.get_id()
            );
        }
        TYPES.iter().for_each(|check| check());
    }
}
