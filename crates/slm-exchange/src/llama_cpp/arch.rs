//! The architectures of llama.cpp that can compute slm's models.

use slm_model::ModelConfig;

use super::check;

/// An architecture of llama.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Gpt2,
    GptNeox,
    SmolLm3,
    Gemma3,
    Phi3,
    Olmo2,
    Granite,
    /// Granite with windows and with layers without rotary embedding. It also computes Llama, with multipliers of 1 and
    /// attention sinks without weight.
    GraniteSwa,
    StableLm,
}

/// Architecture, its name in files, and the Hugging Face architectures that llama.cpp's converter maps to it.
const ARCHITECTURES: [(Arch, &str, &[&str]); 12] = [
    (Arch::Llama, "llama", &["LlamaForCausalLM", "MistralForCausalLM", "MinistralForCausalLM"]),
    (Arch::Qwen2, "qwen2", &["Qwen2ForCausalLM"]),
    (Arch::Qwen3, "qwen3", &["Qwen3ForCausalLM"]),
    (Arch::Gpt2, "gpt2", &["GPT2LMHeadModel"]),
    (Arch::GptNeox, "gptneox", &["GPTNeoXForCausalLM"]),
    (Arch::SmolLm3, "smollm3", &["SmolLM3ForCausalLM"]),
    (Arch::Gemma3, "gemma3", &["Gemma3ForCausalLM"]),
    (Arch::Phi3, "phi3", &["Phi3ForCausalLM"]),
    (Arch::Olmo2, "olmo2", &["Olmo2ForCausalLM"]),
    (Arch::Granite, "granite", &["GraniteForCausalLM"]),
    (Arch::GraniteSwa, "granite_swa", &[]),
    (Arch::StableLm, "stablelm", &["StableLmForCausalLM"]),
];

impl Arch {
    /// Its name in files, which is also the prefix of its keys.
    pub(crate) fn name(self) -> &'static str {
        ARCHITECTURES.iter().find(|(arch, ..)| *arch == self).map_or("", |(_, name, _)| name)
    }

    /// The architecture of a file.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        ARCHITECTURES.iter().find(|(_, known, _)| *known == name).map(|(arch, ..)| *arch)
    }

    /// The names of all architectures, for messages.
    pub(crate) fn all_names() -> String {
        ARCHITECTURES.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Returns the architecture to which llama.cpp's converter maps a Hugging Face architecture.
    fn of_hugging_face(name: &str) -> Option<Self> {
        ARCHITECTURES.iter().find(|(_, _, names)| names.contains(&name)).map(|(arch, ..)| *arch)
    }

    /// Returns the Hugging Face architecture whose models it computes; the first one if there are several.
    pub(crate) fn hugging_face(self) -> &'static str {
        let found = ARCHITECTURES.iter().find(|(arch, ..)| *arch == self);
        found.and_then(|(_, _, names)| names.first()).copied().unwrap_or("LlamaForCausalLM")
    }

    /// Chooses the architecture for writing a model: the one for its Hugging Face architecture if that is known and
    /// computes the model, otherwise the first one that does. Returns the reasons if there is none.
    pub(crate) fn choose(model: &ModelConfig, hugging_face: Option<&str>) -> Result<Self, String> {
        let preferred = hugging_face.and_then(Self::of_hugging_face);
        let all = ARCHITECTURES.iter().map(|(arch, ..)| *arch);
        let candidates = preferred.into_iter().chain(all);
        let mut reasons = Vec::new();
        for arch in candidates {
            match check::refusals(arch, model) {
                refusals if refusals.is_empty() => return Ok(arch),
                refusals => reasons.push((arch, refusals)),
            }
        }
        // The reasons of the closest architecture are the most informative.
        let nearest = match preferred {
            Some(_) => reasons.first(),
            None => reasons.iter().min_by_key(|(_, refusals)| refusals.len()),
        };
        Err(match nearest {
            Some((arch, refusals)) => {
                format!(
                    "no architecture of llama.cpp computes it; {} has {}",
                    arch.name(),
                    refusals.join(", ")
                )
            }
            None => "llama.cpp has no architecture for it".to_owned(),
        })
    }

    /// Returns `true` if adjacent values of a head rotate as pairs. The rows of q and k are then reordered.
    pub(crate) fn interleaves_heads(self) -> bool {
        matches!(self, Self::Llama | Self::SmolLm3 | Self::Granite | Self::GraniteSwa)
    }

    /// Returns `true` if q, k and v are one tensor.
    pub(crate) fn fuses_qkv(self) -> bool {
        matches!(self, Self::Gpt2 | Self::GptNeox | Self::Phi3)
    }

    /// Returns `true` if gate and up are one tensor, `ffn_up`.
    pub(crate) fn fuses_gate_up(self) -> bool {
        self == Self::Phi3
    }

    /// Returns `true` if a tied head must also be stored.
    pub(crate) fn needs_output(self) -> bool {
        matches!(self, Self::GptNeox | Self::Olmo2 | Self::StableLm)
    }

    /// Returns `true` if norms are LayerNorms.
    pub(crate) fn has_layer_norm(self) -> bool {
        matches!(self, Self::Gpt2 | Self::GptNeox | Self::StableLm)
    }

    /// Returns `true` if attention scores, embedding, residual and logits have multipliers.
    pub(crate) fn has_multipliers(self) -> bool {
        matches!(self, Self::Granite | Self::GraniteSwa)
    }
}
