//! Sentences with slots and alternatives.
//!
//! `{key}` is replaced by a slot's value, and `{Key}` by the value with a capital letter. `[one|two|]` is replaced by
//! one of the alternatives, which are equally likely; it is drawn after the text before it is written. Alternatives can
//! be nested and can be empty.

use super::choices::Teller;

/// Values of the slots.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    slots: Vec<(String, String)>,
}

impl Frame {
    /// Sets the value of a slot, replacing any previous one.
    pub(super) fn set(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        let value = value.into();
        match self.slots.iter_mut().find(|(name, _)| name == key) {
            Some(slot) => slot.1 = value,
            None => self.slots.push((key.to_owned(), value)),
        }
        self
    }

    /// Copies the value of slot `from`, and of every `from.something`, to `to` and `to.something`.
    pub(super) fn copy(&mut self, from: &str, to: &str) {
        let copies: Vec<(String, String)> = self
            .slots
            .iter()
            .filter_map(|(key, value)| {
                let rest = key.strip_prefix(from)?;
                (rest.is_empty() || rest.starts_with('.')).then(|| (format!("{to}{rest}"), value.clone()))
            })
            .collect();
        for (key, value) in copies {
            self.set(&key, value);
        }
    }

    /// Returns the value of a slot.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.slots.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn fill(&self, key: &str) -> String {
        if let Some(value) = self.get(key) {
            return value.to_owned();
        }
        let mut letters = key.chars();
        let lower = letters.next().map(|first| first.to_ascii_lowercase().to_string() + letters.as_str());
        match lower.and_then(|key| self.get(&key).map(capitalized)) {
            Some(value) => value,
            // A mistake in the grammar shows as braces in the text, which the tests reject.
            None => format!("{{{key}}}"),
        }
    }
}

/// Returns `text` with its first letter in upper case.
pub(super) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

impl Teller<'_> {
    /// Tells sentences: a space unless a paragraph begins, then the template.
    pub(super) fn say(&mut self, frame: &Frame, template: &str) {
        self.space();
        self.expand(frame, template);
    }

    /// Tells a template without a leading space.
    pub(super) fn expand(&mut self, frame: &Frame, template: &str) {
        let mut rest = template;
        while let Some(start) = rest.find(['{', '[']) {
            self.write(&rest[..start]);
            let opened = &rest[start + 1..];
            let is_slot = rest[start..].starts_with('{');
            let Some(end) = (if is_slot { opened.find('}') } else { closing(opened) }) else {
                rest = &rest[start..];
                break;
            };
            if is_slot {
                self.write(&frame.fill(&opened[..end]));
            } else {
                let options = alternatives(&opened[..end]);
                let option = *self.pick(&options);
                self.expand(frame, option);
            }
            rest = &opened[end + 1..];
        }
        self.write(rest);
    }
}

/// Position of the `]` that closes the bracket just before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' if depth == 0 => return Some(at),
            ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Splits `text` at the bars outside of inner brackets.
fn alternatives(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::choices::Oracle;

    /// An oracle that makes the given choices, in order.
    struct Given(Vec<usize>);

    impl Oracle for Given {
        fn choose(&mut self, weights: &[u32]) -> usize {
            let index = self.0.remove(0);
            assert!(index < weights.len());
            index
        }
    }

    fn told(template: &str, choices: &[usize]) -> (String, f64) {
        let mut frame = Frame::default();
        frame.set("a", "Mia").set("a.they", "she").set("n", "one").set("n", "two");
        let mut given = Given(choices.to_vec());
        let mut teller = Teller::new(&mut given);
        teller.say(&frame, template);
        let story = teller.into_story();
        assert!(given.0.is_empty(), "every choice was asked for");
        (story.text, story.nats)
    }

    #[test]
    fn slots_are_filled() {
        assert_eq!(told("{a} has {n}. {A.they} smiles.", &[]).0, "Mia has two. She smiles.");
    }

    #[test]
    fn an_unknown_slot_stays_visible() {
        assert_eq!(told("{b} and {", &[]).0, "{b} and {");
    }

    #[test]
    fn alternatives_nest_and_cost() {
        let template = "It [ran|[swam|flew] away|]!";
        assert_eq!(told(template, &[0]), ("It ran!".into(), 3_f64.ln()));
        let (text, nats) = told(template, &[1, 1]);
        assert_eq!(text, "It flew away!");
        assert!((nats - 6_f64.ln()).abs() < 1e-12);
        assert_eq!(told(template, &[2]).0, "It !");
    }
}
