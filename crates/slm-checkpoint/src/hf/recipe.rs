//! How each tensor of a model is made from those in a Hugging Face file.

use slm_model::{EMBED_POSITIONS, EMBED_TOKENS, ExpectedTensor, FINAL_NORM, LM_HEAD};

use super::config::Family;

/// Where a canonical tensor comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Name in the file.
    pub(super) tensor: String,
    /// Shape that the tensor in the file should have.
    pub(super) shape: Vec<usize>,
    pub(super) transform: Transform,
}

/// What is done to a tensor of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    /// Nothing.
    Copy,
    /// `[inputs, outputs]` to `[outputs, inputs]`, keeping `outputs` columns from `start`: a weight of GPT-2's
    /// `Conv1D`.
    TransposeColumns { start: usize, outputs: usize },
    /// Keeps `len` values from `start`: part of a fused bias.
    Slice { start: usize, len: usize },
}

impl Transform {
    /// Applies it to the values of a tensor of shape `shape`.
    pub(super) fn apply(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match self {
            Self::Copy => values,
            Self::TransposeColumns { start, outputs } => {
                let columns = shape.last().copied().unwrap_or(1);
                let inputs = values.len() / columns.max(1);
                let mut out = Vec::with_capacity(outputs * inputs);
                for column in start..start + outputs {
                    out.extend((0..inputs).map(|row| values[row * columns + column]));
                }
                out
            }
            Self::Slice { start, len } => values[start..start + len].to_vec(),
        }
    }
}

/// Where `tensor` comes from. `prefix` is what stands in front of the names of the model without its head,
/// with its dot.
pub(super) fn recipe(family: Family, prefix: &str, tensor: &ExpectedTensor) -> Recipe {
    match family {
        Family::Gpt2 => gpt2(prefix, tensor),
        _ => Recipe {
            tensor: llama_name(prefix, &tensor.name),
            shape: tensor.shape.clone(),
            transform: Transform::Copy,
        },
    }
}

fn llama_name(prefix: &str, name: &str) -> String {
    if name.starts_with(LM_HEAD) {
        return name.to_owned();
    }
    let name = name
        .replace(".input_norm.", ".input_layernorm.")
        .replace(".post_attention_norm.", ".post_attention_layernorm.");
    format!("{prefix}{name}")
}

fn gpt2(prefix: &str, tensor: &ExpectedTensor) -> Recipe {
    let shape = tensor.shape.clone();
    let copy = |name: String| Recipe { tensor: name, shape: shape.clone(), transform: Transform::Copy };
    let name = tensor.name.as_str();
    match name {
        EMBED_TOKENS => return copy(format!("{prefix}wte.weight")),
        EMBED_POSITIONS => return copy(format!("{prefix}wpe.weight")),
        _ => {}
    }
    let (path, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    match path {
        FINAL_NORM => return copy(format!("{prefix}ln_f.{kind}")),
        LM_HEAD => return copy(name.to_owned()),
        _ => {}
    }
    let block = path.trim_start_matches("layers.");
    let (index, part) = block.split_once('.').unwrap_or((block, ""));
    let in_block = |part: &str| format!("{prefix}h.{index}.{part}.{kind}");
    // A weight lies as [inputs, outputs]; q, k and v lie side by side in one tensor.
    let conv = |part: &str, offset: usize, fused: usize| {
        let outputs = shape[0];
        let start = offset * outputs;
        let (file_shape, transform) = match shape[..] {
            [_, inputs] => (vec![inputs, fused * outputs], Transform::TransposeColumns { start, outputs }),
            _ if fused == 1 => (vec![outputs], Transform::Copy),
            _ => (vec![fused * outputs], Transform::Slice { start, len: outputs }),
        };
        Recipe { tensor: in_block(part), shape: file_shape, transform }
    };
    match part {
        "input_norm" => copy(in_block("ln_1")),
        "post_attention_norm" => copy(in_block("ln_2")),
        "self_attn.q_proj" => conv("attn.c_attn", 0, 3),
        "self_attn.k_proj" => conv("attn.c_attn", 1, 3),
        "self_attn.v_proj" => conv("attn.c_attn", 2, 3),
        "self_attn.o_proj" => conv("attn.c_proj", 0, 1),
        "mlp.up_proj" => conv("mlp.c_fc", 0, 1),
        "mlp.down_proj" => conv("mlp.c_proj", 0, 1),
        // No GPT-2 has another part; its tensor would be reported as missing.
        other => copy(in_block(other)),
    }
}

/// Whether a tensor of the file is a constant that the program computes itself.
pub(super) fn is_buffer(family: Family, name: &str) -> bool {
    match family {
        // Causal masks.
        Family::Gpt2 => name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"),
        _ => name.ends_with(".rotary_emb.inv_freq"),
    }
}

#[cfg(test)]
mod tests {
    use slm_model::{AttentionBias, ModelConfig, NormKind, Position, expected_tensors};

    use super::*;

    #[test]
    fn fused_and_transposed_weights_come_apart() {
        // inputs x [q q k k v v], two inputs.
        let file = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        let keys = Transform::TransposeColumns { start: 2, outputs: 2 };
        assert_eq!(keys.apply(file.clone(), &[2, 6]), [2.0, 12.0, 3.0, 13.0]);
        assert_eq!(Transform::Slice { start: 4, len: 2 }.apply(file.clone(), &[12]), [4.0, 5.0]);
        assert_eq!(Transform::Copy.apply(file.clone(), &[12]), file);
    }

    #[test]
    fn every_part_of_gpt2_has_an_origin() {
        let mut config = ModelConfig::new(10, 8, 12, 11, 2, 5);
        config.position = Position::Learned;
        config.norm = NormKind::LayerNorm;
        config.mlp = slm_model::MlpKind::GeluTanh;
        config.attention_bias = AttentionBias::All;
        config.mlp_bias = true;
        let tensors = expected_tensors(&config);
        let find = |name: &str| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            let recipe = recipe(Family::Gpt2, "transformer.", tensor);
            (recipe.tensor, recipe.shape, recipe.transform)
        };
        let columns = |start, outputs| Transform::TransposeColumns { start, outputs };
        for (name, tensor, shape, transform) in [
            ("embed_positions.weight", "wpe.weight", vec![5, 8], Transform::Copy),
            ("norm.bias", "ln_f.bias", vec![8], Transform::Copy),
            ("layers.10.input_norm.weight", "h.10.ln_1.weight", vec![8], Transform::Copy),
            ("layers.10.post_attention_norm.bias", "h.10.ln_2.bias", vec![8], Transform::Copy),
            ("layers.1.self_attn.v_proj.weight", "h.1.attn.c_attn.weight", vec![8, 24], columns(16, 8)),
            (
                "layers.1.self_attn.k_proj.bias",
                "h.1.attn.c_attn.bias",
                vec![24],
                Transform::Slice { start: 8, len: 8 },
            ),
            ("layers.1.self_attn.o_proj.weight", "h.1.attn.c_proj.weight", vec![8, 8], columns(0, 8)),
            ("layers.1.mlp.up_proj.weight", "h.1.mlp.c_fc.weight", vec![8, 12], columns(0, 12)),
            ("layers.1.mlp.down_proj.weight", "h.1.mlp.c_proj.weight", vec![12, 8], columns(0, 8)),
            ("layers.1.mlp.down_proj.bias", "h.1.mlp.c_proj.bias", vec![8], Transform::Copy),
        ] {
            assert_eq!(find(name), (format!("transformer.{tensor}"), shape, transform), "{name}");
        }
    }
}
