//! Plans for slm's transformer, and the one policy for a head that is tied to the embedding.
//!
//! A tied head has no tensor of its own: the embedding is its weight. It is planned like every other linear layer
//! ([`LM_HEAD`]). If the plan quantizes it, it becomes a layer of its own, which starts as a copy of the embedding, and
//! the embedding stays float. If a skip pattern leaves it float, it stays tied. So a pattern means the same for a model
//! whose head is tied and one whose head is not.

use slm_model::{LM_HEAD, ModelConfig, Transformer, expected_tensors};

use crate::{Plan, PlannedLayer, PtqConfig, Result};

/// Linear layers of a transformer in forward order, the head among them even if it is tied.
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

/// Plans `config` for a transformer that need not be in memory.
///
/// # Errors
/// As [`Plan::of_layers`].
pub fn plan_transformer(model: &ModelConfig, config: &PtqConfig) -> Result<Plan> {
    Plan::of_layers(transformer_layers(model), config)
}

/// Whether `plan` makes the tied head of `model` a layer of its own.
pub fn copies_tied_head(model: &ModelConfig, plan: &Plan) -> bool {
    model.tie_word_embeddings && plan.quantizes(LM_HEAD)
}

/// Configuration of the model that `plan` makes of one with the configuration `model`.
pub fn planned_config(model: &ModelConfig, plan: &Plan) -> ModelConfig {
    let mut planned = model.clone();
    planned.tie_word_embeddings = model.tie_word_embeddings && !plan.quantizes(LM_HEAD);
    planned
}

/// Gives `model` the head that `plan` quantizes, as a layer of its own. Changes nothing if the plan leaves the head
/// float.
pub fn untie_planned_head(model: &mut Transformer, plan: &Plan) {
    if copies_tied_head(model.config(), plan) {
        model.untie_head();
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use slm_nn::linear_names;
    use slm_quant_core::{Bits, QuantScheme, QuantizationType};

    use super::*;
    use crate::Error;

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
