//! Texts that end a generation.

/// Searches for stop texts in a text that arrives in pieces. Text that may be the beginning of one is held back.
///
/// ```
/// use slm_text::StopTexts;
///
/// let mut stops = StopTexts::new(["\nUser:".to_owned()]);
/// assert_eq!(stops.push("Hello\nUs"), ("Hello".to_owned(), None));
/// assert_eq!(stops.push("er: hi"), (String::new(), Some("\nUser:".to_owned())));
/// ```
#[derive(Debug, Clone)]
pub struct StopTexts {
    texts: Vec<String>,
    held: String,
}

impl StopTexts {
    /// Creates a search for `texts`. Empty ones are ignored.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let texts = texts.into_iter().filter(|text| !text.is_empty()).collect();
        Self { texts, held: String::new() }
    }

    /// Adds the next piece. Returns the text that certainly precedes any stop text, and the stop text that begins
    /// first, if one is complete.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        self.held.push_str(piece);
        let found = self.texts.iter().filter_map(|text| Some((self.held.find(text)?, text)));
        if let Some((at, text)) = found.min_by_key(|(at, text)| (*at, text.len())) {
            let (before, text) = (self.held[..at].to_owned(), text.clone());
            self.held.clear();
            return (before, Some(text));
        }
        let from = self.held.char_indices().map(|(at, _)| at).find(|&at| {
            let rest = &self.held[at..];
            self.texts.iter().any(|text| text.starts_with(rest))
        });
        let held = self.held.split_off(from.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, held), None)
    }

    /// Returns the text that was held back, at the end of the generation.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(texts: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stop = StopTexts::new(texts.iter().map(|&text| text.to_owned()));
        let mut all = String::new();
        for piece in pieces {
            let (text, found) = stop.push(piece);
            all += &text;
            if let Some(found) = found {
                return (all, Some(found));
            }
        }
        (all + &stop.finish(), None)
    }

    #[test]
    fn the_text_ends_before_the_stop_text_wherever_pieces_are_cut() {
        let text = "Once\n\nUser: hi";
        for cut in text.char_indices().map(|(at, _)| at) {
            let pieces = [&text[..cut], &text[cut..]];
            assert_eq!(run(&["\nUser:", "###"], &pieces), ("Once\n".to_owned(), Some("\nUser:".to_owned())));
            assert_eq!(run(&["User!", "é"], &pieces), (text.to_owned(), None));
        }
        assert_eq!(run(&["bc", "abcd"], &["abcd"]).0, "");
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0, "a");
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), None));
    }
}
