//! Explanations of all config keys: the source of `slm config` and of docs/config.md.

use serde::Serialize;
use serde_json::Value;
use slm_model::ModelConfig;
use slm_train::{FinetuneOptions, QatTrainingOptions, QuantizationConfig, TokenizerConfig, TrainingOptions};

/// A section and its purpose.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) keys: &'static [Key],
}

/// A key of a section.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The accepted values.
    pub(crate) values: &'static str,
    pub(crate) text: &'static str,
}

const fn key(name: &'static str, values: &'static str, text: &'static str) -> Key {
    Key { name, values, text }
}

/// All sections, in the order of a file.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        name: "model",
        text: "The model. `slm train` needs this section; with --checkpoint the model comes from the checkpoint.",
        keys: &[
            key("vocab_size", "number", "Size of the vocabulary: rows of the embedding, logits per position"),
            key("hidden_size", "number", "Width of the residual stream"),
            key("intermediate_size", "number", "Width inside the MLP"),
            key("num_layers", "number", "Number of layers"),
            key("num_heads", "number", "Number of query heads"),
            key("num_kv_heads", "number", "Number of key and value heads [default: num_heads]"),
            key("head_dim", "number", "Width of a head [default: hidden_size / num_heads]"),
            key("max_position_embeddings", "number", "Maximum number of positions"),
            key(
                "norm",
                "\"rms_norm\", \"layer_norm\"",
                "Kind of every norm except those of queries and keys",
            ),
            key("norm_eps", "number", "Added to the mean square or variance inside every norm"),
            key("position", "{ rotary = { theta = N } }, \"learned\", \"none\"", "Position encoding"),
            key(
                "mlp",
                "\"swiglu\", \"geglu\", \"geglu_tanh\", \"silu\", \"gelu\", \"gelu_tanh\"",
                "Kind of MLP; the first three are gated",
            ),
            key("attention_bias", "\"none\", \"qkv\", \"all\"", "Attention projections that have a bias"),
            key("mlp_bias", "true, false", "Add biases to the linear layers of the MLP"),
            key(
                "qk_norm",
                "false, true, \"full\"",
                "Norm of queries and keys: none, per head, or over all heads",
            ),
            key("tie_word_embeddings", "true, false", "Use the transposed embedding as the head"),
            key(
                "sliding_window",
                "number",
                "Number of positions that a position attends to, itself included [default: all up to itself]",
            ),
            key(
                "norm_placement",
                "\"pre\", \"post\", \"both\"",
                "Placement of the norms around attention and MLP",
            ),
            key("parallel_residual", "true, false", "Let attention and MLP read the same input"),
            key("embedding_multiplier", "number", "Factor applied to the token embedding"),
            key("residual_multiplier", "number", "Factor applied to the outputs of attention and MLP"),
            key(
                "attention_scale",
                "number",
                "Factor applied to attention scores [default: 1 / sqrt(head_dim)]",
            ),
            key("logit_multiplier", "number", "Factor applied to the logits"),
            key(
                "layer_overrides",
                "list of tables",
                "Layers that differ from the rest: `layers = [0, 2]` and the fields that differ",
            ),
        ],
    },
    Section {
        name: "tokenizer",
        text: "The source of the tokenizer, for `slm train`.",
        keys: &[
            key(
                "file",
                "path",
                "A tokenizer.json, relative to the config [default: a byte-level BPE tokenizer is trained]",
            ),
            key("train_bytes", "number", "Bytes at the start of the text that the tokenizer is trained on"),
        ],
    },
    Section {
        name: "training",
        text: "Training with AdamW: linear warm-up, then a cosine schedule. Only `steps` must be given.",
        keys: &[
            key("steps", "number", "Optimizer steps"),
            key("batch_size", "number", "Sequences per forward pass"),
            key("sequence_length", "number", "Number of tokens predicted in each sequence"),
            key("accumulation_steps", "number", "Forward passes per optimizer step"),
            key("learning_rate", "0 to 1", "Highest learning rate, at the end of the warm-up"),
            key("min_learning_rate", "0 to learning_rate", "Learning rate at the end of the cosine schedule"),
            key("warmup_steps", "number below steps", "Steps of linear warm-up"),
            key(
                "weight_decay",
                "0 to 1",
                "Decoupled weight decay of linear layers; must be 0 for a quantized model",
            ),
            key("beta1", "0 to 0.999999", "Decay of the mean of the gradient"),
            key("beta2", "0 to 0.999999", "Decay of the mean of the squared gradient"),
            key("epsilon", "1e-30 to 1", "Added to the root of the squared gradient's mean"),
            key("grad_clip", "number", "Maximum global norm of the gradients; 0 turns clipping off"),
            key(
                "freeze_embeddings",
                "true, false",
                "Do not train embeddings and a head tied to them; saves memory",
            ),
            key(
                "gradient_checkpointing",
                "true, false",
                "Compute layers a second time for their gradients, as many as saves memory: a fifth more time, a fifth less memory",
            ),
            key(
                "precision",
                "\"f32\", \"bf16\"",
                "Round the operands of matrix products to BF16: less time and memory where the processor has AVX-512BF16",
            ),
            key("validation_fraction", "0 to 0.9", "Share of the text, at its end, that is held out"),
            key("validation_windows", "number", "Maximum number of windows that a validation scores"),
            key("eval_interval", "number", "Steps between validations; 0 for one at the end"),
            key("save_interval", "number", "Steps between checkpoints; 0 for one at the end"),
            key("log_interval", "number", "Steps between lines of metrics.jsonl; 0 for none"),
            key("seed", "number", "Seed of the weights and of the order of the data"),
        ],
    },
    Section {
        name: "quantization",
        text: "The quantization, for `slm ptq --config` and `slm qat`.",
        keys: &[
            key(
                "quantization_mode",
                "\"none\", \"ptq\", \"qat\"",
                "When `slm train` quantizes: never, after or during training; other commands set it themselves",
            ),
            key("quantization_bits", "8, 4", "Bits per weight; activations have 8 bits in either case"),
            key(
                "quantization_type",
                "\"static\", \"dynamic\", \"weight-only\"",
                "Quantization of activations",
            ),
            key(
                "enable_quantized_finetuning",
                "true, false",
                "Let `slm train` fine-tune a quantized model; `slm finetune` sets it itself",
            ),
            key("granularity", "\"tensor\", \"channel\", \"group:N\"", "Weights that share a scale"),
            key("mapping", "\"symmetric\", \"symmetric-torch\", \"affine\"", "Mapping of ranges to codes"),
            key("scale_dtype", "\"f32\", \"f16\"", "Type in which scales are stored"),
            key(
                "method",
                "\"rtn\", \"gptq\", \"awq\", \"tune\"",
                "Rounding of weights: to nearest, by GPTQ, to nearest with scaled channels (AWQ), or by GPTQ and then \
                 trained block by block",
            ),
            key("tune_steps", "a number above 0", "Training steps per block, with method = \"tune\""),
            key(
                "observer",
                "name of an observer",
                "Chooses weight ranges [default: weighted-mse for 4 bits, and for 8 bits per tensor by rtn, with a text or a rotated model; otherwise min-max]",
            ),
            key("activation_observer", "name of an observer", "Chooses static activation ranges"),
            key("activation_granularity", "\"token\", \"tensor\"", "Activations that share a dynamic scale"),
            key(
                "dynamic_inputs",
                "\"auto\", \"none\", list of names",
                "Layers whose inputs are dynamic even though the type is static",
            ),
            key("rotate", "\"auto\", \"on\", \"off\"", "Rotate the model first, for ptq"),
            key("smooth", "\"auto\", \"off\", 0 to 1", "Smooth channels first, for ptq"),
            key("skip", "list of names with *", "Linear layers that stay float"),
            key(
                "layers",
                "list of { pattern, scheme }",
                "Schemes of single layers; the last rule that matches wins",
            ),
            key(
                "embeddings",
                "scheme such as \"int8:channel\"",
                "Scheme of the token embedding [default: it stays float]",
            ),
        ],
    },
    Section {
        name: "qat",
        text: "Ranges, scales and distillation in `slm qat`.",
        keys: &[
            key(
                "scale",
                "\"observed\", \"learned\"",
                "Source of the weight scales: observed, or trained (LSQ)",
            ),
            key(
                "observer",
                "name of an observer",
                "Chooses weight ranges [default: min-max; mse for learned scales]",
            ),
            key(
                "averaging_constant",
                "above 0, at most 1",
                "Weight of a new batch in the moving average of activation ranges",
            ),
            key(
                "observe_steps",
                "number",
                "Steps at the start in which observers watch and nothing is rounded",
            ),
            key("freeze_steps", "number", "Steps at the end in which observed ranges no longer change"),
            key(
                "scale_learning_rate",
                "above 0, at most 100",
                "Learning rate of learned scales as a multiple of that of the weights",
            ),
            key("distill", "true, false", "Train towards the float model's outputs"),
        ],
    },
    Section {
        name: "finetune",
        text: "The rounding of updated weights, for `slm finetune`.",
        keys: &[key(
            "rounding",
            "\"nearest\", \"stochastic\", \"error-feedback\"",
            "Rounding of updated weights back to codes",
        )],
    },
];

/// Returns the default of a key as TOML; `None` if the key is required or has no default.
pub(crate) fn default(section: &str, key: &str) -> Option<String> {
    if REQUIRED.contains(&(section, key)) || (section, key) == ("model", "num_kv_heads") {
        return None;
    }
    let defaults = match section {
        // Defaults that all architectures share; the sizes are only examples.
        "model" => value(&ModelConfig::new(1024, 128, 256, 4, 4, 256)),
        "tokenizer" => value(&TokenizerConfig::default()),
        "training" => value(&TrainingOptions::default()),
        "quantization" => value(&QuantizationConfig::default()),
        "qat" => value(&QatTrainingOptions::default()),
        "finetune" => value(&FinetuneOptions::default()),
        _ => Value::Null,
    };
    match (section, key) {
        ("model", "head_dim") => None,
        ("model", "norm_placement") => Some("\"pre\"".to_owned()),
        ("model", "parallel_residual") => Some("false".to_owned()),
        ("model", "embedding_multiplier" | "residual_multiplier" | "logit_multiplier") => {
            Some("1.0".to_owned())
        }
        _ => toml(defaults.get(key)?),
    }
}

/// Required keys of sections that are present.
pub(crate) const REQUIRED: [(&str, &str); 7] = [
    ("model", "vocab_size"),
    ("model", "hidden_size"),
    ("model", "intermediate_size"),
    ("model", "num_layers"),
    ("model", "num_heads"),
    ("model", "max_position_embeddings"),
    ("training", "steps"),
];

fn value(config: &impl Serialize) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// Formats a value as TOML; `None` for null.
fn toml(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Number(number) => match number.as_f64() {
            // A 32-bit number, written with as many digits as it needs.
            Some(float) if number.is_f64() && f64::from(float as f32) == float => {
                format!("{:?}", float as f32)
            }
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().filter_map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(key, value)| Some(format!("{key} = {}", toml(value)?)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    })
}

/// All keys, with their sections.
pub(crate) fn all() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}

/// Finds the keys that `path` names, such as `training.steps`, with their sections.
pub(crate) fn find(path: &str) -> Vec<(&'static Section, &'static Key)> {
    let (section, name) = path.rsplit_once('.').map_or((None, path), |(section, name)| (Some(section), name));
    all()
        .filter(|(found, key)| key.name == name && section.is_none_or(|section| section == found.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde::de::{self, Deserialize, Visitor};

    use super::*;

    /// A deserializer that only collects the names of a type's fields.
    struct Fields<'a>(&'a mut Vec<String>);

    #[derive(Debug)]
    struct Stop;

    impl fmt::Display for Stop {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the fields are known")
        }
    }

    impl std::error::Error for Stop {}

    impl de::Error for Stop {
        fn custom<T: fmt::Display>(_: T) -> Self {
            Self
        }
    }

    impl<'de> de::Deserializer<'de> for Fields<'_> {
        type Error = Stop;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Stop> {
            self.0.extend(fields.iter().map(|&field| field.to_owned()));
            Err(Stop)
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            Err(Stop)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields<T: for<'de> Deserialize<'de>>() -> Vec<String> {
        let mut fields = Vec::new();
        assert!(T::deserialize(Fields(&mut fields)).is_err());
        fields.sort();
        fields
    }

    #[test]
    fn every_key_is_explained_and_no_other() {
        let of = |name: &str| match name {
            "model" => fields::<ModelConfig>(),
            "tokenizer" => fields::<TokenizerConfig>(),
            "training" => fields::<TrainingOptions>(),
            "quantization" => fields::<QuantizationConfig>(),
            "qat" => fields::<QatTrainingOptions>(),
            _ => fields::<FinetuneOptions>(),
        };
        let sections = fields::<slm_train::TrainingConfig>();
        let mut names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        names.sort_unstable();
        assert_eq!(names, sections);
        for section in SECTIONS {
            let mut keys: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
            keys.sort_unstable();
            assert_eq!(keys, of(section.name), "[{}]", section.name);
        }
    }

    #[test]
    fn defaults_are_those_of_the_program() {
        for (section, key, expected) in [
            ("training", "learning_rate", Some("0.001")),
            ("training", "epsilon", Some("1e-8")),
            ("training", "precision", Some("\"f32\"")),
            ("training", "steps", None),
            ("qat", "averaging_constant", Some("0.01")),
            ("quantization", "granularity", Some("\"tensor\"")),
            ("quantization", "observer", None),
            ("quantization", "skip", Some("[]")),
            ("model", "position", Some("{ rotary = { theta = 10000.0 } }")),
            ("model", "num_kv_heads", None),
            ("model", "logit_multiplier", Some("1.0")),
        ] {
            assert_eq!(default(section, key).as_deref(), expected, "{section}.{key}");
        }
        // The defaults written by hand above must match the types.
        let model = ModelConfig::new(1024, 128, 256, 4, 4, 256);
        assert_eq!((model.logit_multiplier, model.parallel_residual), (1.0, false));
        assert_eq!(find("steps").len(), 1);
        assert_eq!(find("observer").len(), 2);
        assert_eq!(find("qat.observer").len(), 1);
    }
}
