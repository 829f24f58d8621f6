//! Assignment of layers to the groups of a compressed-tensors config.

use std::path::Path;

use fancy_regex::Regex;

use crate::{Error, Result};

/// A list of layer names, patterns (`re:...`) and classes.
#[derive(Debug, Default)]
pub(super) struct Targets {
    names: Vec<String>,
    patterns: Vec<Regex>,
}

/// Specificity of a match. If several groups match a layer, the most specific one applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    /// Match by the class of the layer's module.
    Class,
    /// Match by a pattern.
    Pattern,
    /// Match by the layer's name.
    Name,
}

impl Targets {
    /// Reads the list under `field` of the file at `path`.
    pub(super) fn read(path: &Path, field: &str, list: &[String]) -> Result<Self> {
        let mut targets = Self::default();
        for text in list {
            match text.strip_prefix("re:") {
                None => targets.names.push(text.clone()),
                // Python's `re.match` is anchored at the beginning of a name but not at its end.
                Some(pattern) => {
                    let regex = Regex::new(&format!("^(?:{pattern})"));
                    let regex = regex.map_err(|error| {
                        Error::field(
                            path,
                            field,
                            "regular expressions behind re:",
                            format!("{text}: {error}"),
                        )
                    })?;
                    targets.patterns.push(regex);
                }
            }
        }
        Ok(targets)
    }

    /// Returns how specifically the list matches the layer `module` of the class `class`; `None` if it does not.
    pub(super) fn find(&self, module: &str, class: &str) -> Option<Match> {
        if self.names.iter().any(|name| name == module) {
            return Some(Match::Name);
        }
        // A pattern that takes too long does not match.
        if self.patterns.iter().any(|pattern| pattern.is_match(module).unwrap_or(false)) {
            return Some(Match::Pattern);
        }
        self.names.iter().any(|name| name == class).then_some(Match::Class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_patterns_and_these_before_classes() {
        let targets = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|&text| text.to_owned()).collect();
            Targets::read(Path::new("config.json"), "targets", &list)
        };
        let module = "model.layers.0.mlp.down_proj";
        let found = |list: &[&str]| targets(list).unwrap().find(module, "Linear");
        assert_eq!(found(&["Linear"]), Some(Match::Class));
        assert_eq!(found(&["Linear", "re:.*down_proj"]), Some(Match::Pattern));
        assert_eq!(found(&["re:.*down_proj", module]), Some(Match::Name));
        assert_eq!(found(&["re:down_proj"]), None, "patterns begin at the beginning");
        assert_eq!(found(&["re:model.layers.0"]), Some(Match::Pattern), "and may end anywhere");
        assert_eq!(found(&["re:^(?!.*(q_proj|o_proj)).*$"]), Some(Match::Pattern));
        assert_eq!(found(&["down_proj", "Embedding", "lm_head"]), None);
        assert!(Match::Name > Match::Pattern && Match::Pattern > Match::Class);
        let message = targets(&["re:("]).unwrap_err().to_string();
        assert!(message.contains("config.json") && message.contains("targets"), "{message}");
    }
}
