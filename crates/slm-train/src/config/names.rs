//! Names of config keys in other programs.

/// A section, a key in it, and the names of the key in other programs.
type Key = (&'static str, &'static str, &'static [&'static str]);

const KEYS: [Key; 28] = [
    ("model", "vocab_size", &["n_vocab"]),
    ("model", "hidden_size", &["n_embd", "d_model", "dim", "hidden_dim"]),
    ("model", "intermediate_size", &["n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"]),
    ("model", "num_layers", &["num_hidden_layers", "n_layer", "n_layers"]),
    ("model", "num_heads", &["num_attention_heads", "n_head", "n_heads"]),
    ("model", "num_kv_heads", &["num_key_value_heads", "n_kv_heads", "n_head_kv"]),
    ("model", "max_position_embeddings", &["n_positions", "n_ctx", "max_seq_len", "context_length"]),
    ("model", "norm_eps", &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"]),
    ("training", "steps", &["max_steps", "max_iters", "num_steps", "total_steps", "num_iterations"]),
    (
        "training",
        "batch_size",
        &["per_device_train_batch_size", "micro_batch_size", "bsz", "train_batch_size"],
    ),
    (
        "training",
        "sequence_length",
        &[
            "seq_len",
            "seq_length",
            "max_seq_length",
            "block_size",
            "sequence_len",
            "max_length",
            "context_length",
        ],
    ),
    (
        "training",
        "accumulation_steps",
        &["gradient_accumulation_steps", "grad_accum", "gradient_accumulation"],
    ),
    (
        "training",
        "gradient_checkpointing",
        &["activation_checkpointing", "checkpoint_activations", "recompute", "grad_checkpointing"],
    ),
    ("training", "precision", &["mixed_precision", "bf16", "amp", "autocast", "dtype", "torch_dtype"]),
    ("training", "learning_rate", &["lr", "max_lr", "base_lr"]),
    ("training", "min_learning_rate", &["min_lr"]),
    ("training", "warmup_steps", &["num_warmup_steps", "warmup", "warmup_iters"]),
    ("training", "weight_decay", &["wd"]),
    ("training", "grad_clip", &["max_grad_norm", "clip_grad", "gradient_clipping", "clip_grad_norm"]),
    ("training", "eval_interval", &["eval_steps", "eval_every"]),
    ("training", "save_interval", &["save_steps", "save_every"]),
    ("training", "log_interval", &["logging_steps", "log_every"]),
    ("training", "seed", &[]),
    ("quantization", "quantization_bits", &["bits", "num_bits", "wbits", "w_bit", "weight_bits"]),
    ("quantization", "quantization_type", &["type", "activations"]),
    ("quantization", "granularity", &["group_size", "q_group_size", "strategy"]),
    ("quantization", "mapping", &["symmetric", "sym"]),
    ("quantization", "skip", &["ignore", "exclude", "modules_to_not_convert", "ignored_layers"]),
];

/// The key that was probably meant by `found`: one of `known` under another name, or `section.key` for a key of a
/// section in `known`.
pub(super) fn meant(found: &str, known: &[&str]) -> Option<String> {
    let found = found.to_ascii_lowercase().replace('-', "_");
    let mut fitting =
        KEYS.iter().filter(|(_, name, others)| *name == found || others.contains(&found.as_str()));
    if let Some((_, name, _)) = fitting.clone().find(|(_, name, _)| known.contains(name)) {
        return Some((*name).to_owned());
    }
    let (section, name, _) = fitting.find(|(section, ..)| known.contains(section))?;
    Some(format!("{section}.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_are_understood() {
        let model = ["num_layers", "num_heads", "num_kv_heads"];
        assert_eq!(meant("num_attention_heads", &model).as_deref(), Some("num_heads"));
        assert_eq!(meant("n-layer", &model).as_deref(), Some("num_layers"));
        let sections = ["model", "training", "quantization"];
        assert_eq!(meant("steps", &sections).as_deref(), Some("training.steps"));
        assert_eq!(meant("bits", &sections).as_deref(), Some("quantization.quantization_bits"));
        assert_eq!(meant("lr", &["quantization"]), None);
        assert_eq!(meant("colour", &sections), None);
    }
}
