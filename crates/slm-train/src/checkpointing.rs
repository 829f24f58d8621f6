//! The layers that gradient checkpointing recomputes.

#[cfg(doc)]
use slm_autograd::KeptInput;
use slm_autograd::Precision;
use slm_model::{Transformer, is_one_operation};
use slm_nn::NamedLinears;

/// The number of last layers of `model` whose values for `positions` positions are kept until their gradients are computed,
/// although the others are recomputed, if products have this precision. Their values and the logits of model and teacher, at
/// most `logits` each, take at most the memory of the gradients of all layers, and they are gone before most of those gradients
/// exist. The packed matrices of the head, which exist at the same time, are not counted: they are what a step may need more
/// than if all layers were recomputed.
pub(crate) fn kept_layers(
    model: &Transformer,
    positions: usize,
    logits: usize,
    precision: Precision,
) -> usize {
    const FLOAT: usize = size_of::<f32>();
    let stored = precision.bytes();
    let config = model.config();
    // Bytes for each position, beginning with two residual streams.
    let mut values = vec![2 * config.hidden_size * FLOAT; config.num_layers];
    let mut gradients = 0;
    model.for_each_linear(&mut |name, linear| {
        let Some((layer, name)) = name.strip_prefix("layers.").and_then(|name| name.split_once('.')) else {
            return;
        };
        let (inputs, outputs) = (linear.in_features(), linear.out_features());
        gradients += inputs * outputs * FLOAT;
        let Some((index, values)) =
            layer.parse().ok().and_then(|index| Some((index, values.get_mut(index)?)))
        else {
            return;
        };
        // Outputs of norms, and of activation functions that are one operation, are computed again ([`KeptInput`]), and what
        // is added to the residual stream is not kept.
        let is_fused = is_one_operation(config.layer(index).mlp);
        *values += match name.rsplit('.').next() {
            Some("q_proj" | "k_proj" | "v_proj") => outputs * stored,
            Some("o_proj") => inputs * stored,
            Some("gate_proj" | "up_proj") if is_fused => outputs * stored,
            Some("gate_proj" | "up_proj") => outputs * FLOAT,
            Some("down_proj") if is_fused => 0,
            _ => inputs * FLOAT,
        };
    });
    let logits = 2 * logits.min(positions * config.vocab_size) * FLOAT;
    let mut room = gradients.saturating_sub(logits) / positions.max(1);
    let fits = |values: &&usize| match room.checked_sub(**values) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    values.iter().rev().take_while(fits).count()
}

#[cfg(test)]
#[path = "checkpointing_tests.rs"]
mod tests;
