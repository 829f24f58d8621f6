//! Plans for slm's transformer, and the policy for its embedding and a head that is tied to it.
//!
//! A tied head has no separate tensor: the embedding is its weight. It is planned like every other linear layer
//! ([`LM_HEAD`]). The result depends on the head's scheme and on
//! [`PtqConfig::embeddings`](crate::PtqConfig::embeddings):
//!
//! | head | `embeddings` | result |
//! |---|---|---|
//! | float | none | nothing changes: a tied head stays tied |
//! | quantized | none | a tied head becomes a separate layer, a copy of the embedding; the embedding stays float |
//! | tied | a scheme | one quantized table, the layer [`LM_HEAD`], in which tokens are looked up too |
//! | untied | a scheme | the embedding is a separate quantized table |
//!
//! So a pattern means the same for a model whose head is tied and one whose head is not.

use slm_model::{
    EMBED_TOKENS, ExpectedTensor, LM_HEAD, ModelConfig, TOKEN_TABLE, Transformer, expected_tensors,
};
use slm_quant_core::{Granularity, QuantScheme};

use crate::{Error, LayerRule, Plan, PlannedEmbedding, PlannedLayer, PtqConfig, Result};

/// The linear layers of a transformer in forward order, including the head even if it is tied.
pub fn transformer_layers(model: &ModelConfig) -> Vec<PlannedLayer> {
    let mut untied = model.clone();
    untied.tie_word_embeddings = false;
    let linears = expected_tensors(&untied).into_iter().filter(|tensor| tensor.linear_weight);
    let layers = linears.filter_map(|tensor| match tensor.shape[..] {
        [rows, cols] => {
            Some(PlannedLayer { name: tensor.name.strip_suffix(".weight")?.to_owned(), shape: [rows, cols] })
        }
        _ => None,
    });
    layers.collect()
}

/// Plans `config` for a transformer that need not be in memory. The config must come from [`sharing_config`].
///
/// # Errors
/// As [`Plan::of_layers`]; [`Error::Setting`] for a table that would have to be both float and quantized.
pub fn plan_transformer(model: &ModelConfig, config: &PtqConfig) -> Result<Plan> {
    let mut plan = Plan::of_layers(transformer_layers(model), config)?;
    if let Some(scheme) = table_scheme(config) {
        let shared = model.tie_word_embeddings;
        if shared && !plan.quantizes(LM_HEAD) {
            return Err(Error::Setting {
                key: "embeddings",
                detail: format!("is {scheme}, while lm_head, which is tied to the embedding, stays float"),
                remedy: "quantize lm_head too, or leave both float",
            });
        }
        let count = scheme.granularity.scale_count(model.vocab_size, model.hidden_size);
        count.map_err(|error| Error::layer(TOKEN_TABLE, error))?;
        plan.embedding = Some(PlannedEmbedding { scheme, shared });
    }
    Ok(plan)
}

/// Adapts `config` to `model`: if a tied head shares a quantized table with the embedding, the head's scheme becomes
/// that of the table.
///
/// # Errors
/// [`Error::Setting`] if a rule for the head requires another scheme.
pub fn sharing_config(model: &ModelConfig, mut config: PtqConfig) -> Result<PtqConfig> {
    let (Some(scheme), true) = (table_scheme(&config), model.tie_word_embeddings) else { return Ok(config) };
    let head = config.layers.iter().rev().find(|rule| rule.pattern == LM_HEAD);
    match head.map(|rule| rule.scheme.over(config.scheme)) {
        Some(asked) if asked != Some(scheme) => Err(Error::Setting {
            key: "embeddings",
            detail: format!("is {scheme}, and lm_head, which is tied to the embedding, has another scheme"),
            remedy: "set only one of the two: they share one table",
        }),
        _ => {
            config.layers.push(LayerRule { pattern: LM_HEAD.to_owned(), scheme: scheme.into() });
            Ok(config)
        }
    }
}

/// The scheme of the embedding; `None` if it stays float. The default granularity is that of all layers, except that per
/// tensor becomes per row: rows of frequent and rare tokens differ a lot.
fn table_scheme(config: &PtqConfig) -> Option<QuantScheme> {
    let mut all = config.scheme;
    if all.granularity == Granularity::PerTensor {
        all.granularity = Granularity::PerChannel;
    }
    config.embeddings.and_then(|asked| asked.over(all))
}

/// Returns `true` if `plan` makes the tied head of `model` a separate layer.
pub fn copies_tied_head(model: &ModelConfig, plan: &Plan) -> bool {
    model.tie_word_embeddings && plan.quantizes(LM_HEAD) && plan.embedding.is_none()
}

/// The configuration of the quantized model, given the configuration `model` of the float model.
pub fn planned_config(model: &ModelConfig, plan: &Plan) -> ModelConfig {
    let mut planned = model.clone();
    planned.tie_word_embeddings = model.tie_word_embeddings && !copies_tied_head(model, plan);
    planned
}

/// The tensors of the quantized model, given the configuration `model` of the float model. Each is float or the weight
/// of a layer that the plan quantizes. A table that head and embedding share is the head's.
pub fn planned_tensors(model: &ModelConfig, plan: &Plan) -> Vec<ExpectedTensor> {
    let mut planned = planned_config(model, plan);
    let shared = plan.embedding.is_some_and(|embedding| embedding.shared);
    planned.tie_word_embeddings &= !shared;
    let tensors = expected_tensors(&planned).into_iter();
    tensors.filter(|tensor| !(shared && tensor.name == EMBED_TOKENS)).collect()
}

/// Unties the head of `model` if `plan` quantizes it. Does nothing if the plan leaves the head in float.
pub fn untie_planned_head(model: &mut Transformer, plan: &Plan) {
    if model.config().tie_word_embeddings && plan.quantizes(LM_HEAD) {
        model.untie_head();
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use slm_nn::linear_names;
    use slm_quant_core::{Bits, QuantScheme, QuantizationType};

    use super::*;

    fn config(skip: &[&str]) -> PtqConfig {
        let mut config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::WeightOnly);
        config.skip = skip.iter().map(|&pattern| pattern.to_owned()).collect();
        config
    }

    #[test]
    fn layers_are_those_that_the_untied_model_names() {
        let mut model =
            Transformer::new(&ModelConfig::new(50, 16, 32, 2, 2, 32), 0, &Device::flex()).unwrap();
        let names: Vec<String> =
            transformer_layers(model.config()).into_iter().map(|layer| layer.name).collect();
        model.untie_head();
        assert_eq!(names, linear_names(&model));
    }

    #[test]
    fn a_tied_head_is_copied_where_it_is_quantized_and_stays_tied_where_it_is_not() {
        let tied = Transformer::new(&ModelConfig::new(50, 16, 32, 1, 2, 32), 0, &Device::flex()).unwrap();
        for (skip, copied) in [
            (vec![], true),
            (vec!["lm_head"], false),
            (vec!["lm_*"], false),
            (vec!["*head"], false),
            (vec!["layers.0.*"], true),
        ] {
            let plan = plan_transformer(tied.config(), &config(&skip)).unwrap();
            assert_eq!(copies_tied_head(tied.config(), &plan), copied, "{skip:?}");
            let mut model = tied.clone();
            untie_planned_head(&mut model, &plan);
            assert_eq!(model.head_is_tied(), !copied, "{skip:?}");
            assert_eq!(*model.config(), planned_config(tied.config(), &plan), "{skip:?}");
            plan.check_model(&model).unwrap();
        }
        let unmatched = plan_transformer(tied.config(), &config(&["ln_head"])).unwrap_err();
        assert!(matches!(unmatched, Error::UnmatchedPattern { pattern, .. } if pattern == "ln_head"));
    }
}
