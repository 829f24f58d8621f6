//! Names of tensors without the prefixes of wrappers.

use slm_model::arch::Architecture;

/// Parts that wrappers add to a name, with the name of the wrapper.
const WRAPPERS: &[(&str, &str)] = &[
    ("_orig_mod", "torch.compile"),
    ("module", "DistributedDataParallel"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("_forward_module", "Lightning Fabric"),
];
/// Prefix of names that PEFT adds.
const PEFT: &str = "base_model.model.";
/// The text part of a multimodal model.
const LANGUAGE_MODEL: &str = "language_model";

/// A name without wrappers and without the architecture's prefix, and the wrappers that were removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bare {
    pub(super) name: String,
    /// True if the name had the architecture's prefix.
    pub(super) prefixed: bool,
    pub(super) wrappers: Vec<(&'static str, &'static str)>,
}

impl Bare {
    /// [`Bare::new`] for the part of the name after `foreign`.
    pub(super) fn behind(name: &str, architecture: &Architecture, foreign: Option<&str>) -> Self {
        let bare = Self::new(name, architecture);
        match foreign.and_then(|foreign| bare.name.strip_prefix(foreign)) {
            Some(inside) => {
                let inside = Self::new(inside, architecture);
                let wrappers = bare.wrappers.into_iter().chain(inside.wrappers).collect();
                Self { wrappers, prefixed: bare.prefixed || inside.prefixed, name: inside.name }
            }
            None => bare,
        }
    }

    pub(super) fn new(name: &str, architecture: &Architecture) -> Self {
        let mut wrappers = Vec::new();
        let parts =
            name.split('.').filter(|part| match WRAPPERS.iter().find(|(wrapper, _)| wrapper == part) {
                Some(&wrapper) => {
                    wrappers.push(wrapper);
                    false
                }
                None => true,
            });
        let parts: Vec<&str> = parts.collect();
        let joined = parts.join(".");
        let mut rest = joined.as_str();
        while let Some(inside) = rest.strip_prefix(PEFT) {
            wrappers.push(("base_model.model", "PEFT"));
            rest = inside;
        }
        let prefix = architecture.prefix();
        let mut prefixed = false;
        // A Lightning module also calls its model `model.`, for any architecture.
        loop {
            let language = rest.strip_prefix(LANGUAGE_MODEL).and_then(|inside| inside.strip_prefix('.'));
            if let Some(inside) = rest.strip_prefix(prefix) {
                (prefixed, rest) = (true, inside);
            } else if let Some(inside) = rest.strip_prefix("model.") {
                rest = inside;
            } else if let Some(inside) = language {
                wrappers.push((LANGUAGE_MODEL, "a multimodal model"));
                rest = inside;
            } else {
                break;
            }
        }
        Self { name: rest.to_owned(), prefixed, wrappers }
    }

    /// Returns the part of the name before the numbered layer, including the dot.
    fn before_layer(&self) -> Option<&str> {
        let parts: Vec<&str> = self.name.split('.').collect();
        let numbered = |pair: &[&str]| {
            matches!(pair[0], "layers" | "h") && pair[1].bytes().all(|byte| byte.is_ascii_digit())
        };
        let at = parts.windows(2).position(numbered)?;
        let len: usize = parts[..at].iter().map(|part| part.len() + 1).sum();
        Some(&self.name[..len])
    }

    /// Returns the name with the prefix that the names in the file have.
    pub(super) fn with_prefix(&self, architecture: &Architecture, prefixed: bool) -> String {
        let head = architecture.head();
        let of_head = self.name.starts_with(head.strip_suffix("weight").unwrap_or(&head));
        match prefixed && !of_head {
            true => format!("{}{}", architecture.prefix(), self.name),
            false => self.name.clone(),
        }
    }

    /// Returns the number of the tensor's layer.
    pub(super) fn layer(&self) -> Option<usize> {
        let rest = self.name.strip_prefix("layers.").or_else(|| self.name.strip_prefix("h."))?;
        rest.split('.').next()?.parse().ok()
    }
}

/// Returns the prefix that the names of all layers have in addition to the architecture's own: the name of the model in
/// another module, such as a trainer. Returns `None` if there is no such prefix or it differs between layers.
pub(super) fn foreign_prefix<'a>(
    mut names: impl Iterator<Item = &'a Bare>,
    architecture: &Architecture,
) -> Option<String> {
    let mut before = names.by_ref().filter_map(Bare::before_layer);
    let first = before.next().filter(|first| !first.is_empty())?;
    if before.any(|other| other != first) {
        return None;
    }
    let outer = first.strip_suffix(architecture.prefix()).unwrap_or(first);
    (!outer.is_empty()).then(|| outer.to_owned())
}

#[cfg(test)]
mod tests {
    use slm_model::arch::ARCHITECTURES;

    use super::*;

    fn bare(name: &str, architecture: &str) -> (String, bool) {
        let architecture = ARCHITECTURES.iter().find(|known| known.name == architecture).unwrap();
        let bare = Bare::new(name, architecture);
        (bare.name, bare.prefixed)
    }

    #[test]
    fn wrappers_come_off_wherever_they_are() {
        let name = "layers.0.mlp.up_proj.weight";
        for wrapped in [
            "model.layers.0.mlp.up_proj.weight",
            "_orig_mod.model.layers.0.mlp.up_proj.weight",
            "model._orig_mod.layers.0.mlp.up_proj.weight",
            "model.layers.0._orig_mod.mlp.up_proj.weight",
            "module._orig_mod.model.layers.0.mlp.up_proj.weight",
            "_orig_mod.module.model.layers.0.mlp.up_proj.weight",
            "base_model.model.model.layers.0.mlp.up_proj.weight",
            "_orig_mod.base_model.model.model.layers.0.mlp.up_proj.weight",
            "model.model.layers.0.mlp.up_proj.weight",
            "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight",
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ] {
            assert_eq!(bare(wrapped, "LlamaForCausalLM"), (name.to_owned(), true), "{wrapped}");
        }
        assert_eq!(bare(name, "LlamaForCausalLM"), (name.to_owned(), false));
        assert_eq!(bare("module.lm_head.weight", "LlamaForCausalLM"), ("lm_head.weight".to_owned(), false));
        for wrapped in [
            "transformer.h.1.ln_1.bias",
            "_orig_mod.transformer.h.1.ln_1.bias",
            "model.transformer.h.1.ln_1.bias",
        ] {
            assert_eq!(bare(wrapped, "GPT2LMHeadModel"), ("h.1.ln_1.bias".to_owned(), true), "{wrapped}");
        }
        assert_eq!(bare("module.gpt_neox.embed_in.weight", "GPTNeoXForCausalLM").0, "embed_in.weight");
    }

    #[test]
    fn names_of_other_modules_are_found() {
        let foreign = |names: &[&str], architecture: &str| {
            let architecture = ARCHITECTURES.iter().find(|known| known.name == architecture).unwrap();
            let names: Vec<Bare> = names.iter().map(|name| Bare::new(name, architecture)).collect();
            foreign_prefix(names.iter(), architecture)
        };
        let llama = |names: &[&str]| foreign(names, "LlamaForCausalLM");
        assert_eq!(llama(&["llm.model.layers.0.a", "llm.lm_head.weight"]).as_deref(), Some("llm."));
        assert_eq!(llama(&["a.b.layers.0.a", "a.b.layers.11.a"]).as_deref(), Some("a.b."));
        assert_eq!(llama(&["model.layers.0.a", "layers.1.a", "x.y"]), None);
        assert_eq!(llama(&["vision.layers.0.a", "llm.layers.0.a"]), None);
        assert_eq!(
            foreign(&["policy.transformer.h.0.ln_1.bias"], "GPT2LMHeadModel").as_deref(),
            Some("policy.")
        );
    }
}
