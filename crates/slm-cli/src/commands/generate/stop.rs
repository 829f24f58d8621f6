//! Texts that end a generation.

/// Looks for stop texts in a text that comes piece by piece, and holds back what may be the beginning of one.
pub(super) struct StopTexts<'a> {
    texts: &'a [String],
    held: String,
}

impl<'a> StopTexts<'a> {
    /// A search for `texts`, none of them empty.
    pub(super) fn new(texts: &'a [String]) -> Self {
        Self { texts, held: String::new() }
    }

    /// Takes the next piece. Gives the text that is certain to come before any stop text, and the stop text if one is
    /// complete: the one that begins first.
    pub(super) fn push(&mut self, piece: &str) -> (String, Option<&'a str>) {
        self.held.push_str(piece);
        let found = self.texts.iter().filter_map(|text| Some((self.held.find(text)?, text)));
        if let Some((at, text)) = found.min_by_key(|(at, text)| (*at, text.len())) {
            let before = self.held[..at].to_owned();
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

    /// What was held back, at the end of the text.
    pub(super) fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(texts: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let mut stop = StopTexts::new(&texts);
        let mut all = String::new();
        for piece in pieces {
            let (text, found) = stop.push(piece);
            all += &text;
            if let Some(found) = found {
                return (all, Some(found.to_owned()));
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
