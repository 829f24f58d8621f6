//! Word wrap of text that arrives in pieces.

use textwrap::core::display_width;

/// Distance of tab stops in columns.
const TAB: usize = 8;

/// Breaks a text that arrives in pieces at spaces, so that no line is wider than a terminal. A word is held back until it is
/// complete. A word that is wider than the terminal is broken, and so is a text without spaces, such as Chinese.
pub(crate) struct WordWrap {
    width: usize,
    /// Width of the current line.
    column: usize,
    /// White space after the current line.
    space: String,
    /// The word after `space`, as far as it is known, and its width.
    word: String,
    word_width: usize,
}

impl WordWrap {
    /// Word wrap for lines of at most `width` columns.
    pub(crate) fn new(width: usize) -> Self {
        Self { width: width.max(1), column: 0, space: String::new(), word: String::new(), word_width: 0 }
    }

    /// Takes the next piece, and returns the text that can be printed.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        let mut out = String::new();
        for letter in piece.chars() {
            match letter {
                '\n' => {
                    self.place(&mut out);
                    // Spaces at the end of a line may not fit.
                    self.space.clear();
                    out.push(letter);
                    self.column = 0;
                }
                ' ' | '\t' => {
                    self.place(&mut out);
                    self.space.push(letter);
                }
                _ => {
                    let columns = display_width(letter.encode_utf8(&mut [0; 4]));
                    if columns > 1 || self.word_width + columns > self.width {
                        self.place(&mut out);
                    }
                    self.word.push(letter);
                    self.word_width += columns;
                }
            }
        }
        out
    }

    /// Returns the rest of the text.
    pub(crate) fn finish(mut self) -> String {
        let mut out = String::new();
        self.place(&mut out);
        out + &self.space
    }

    /// Moves the word to the current line if it fits, otherwise to the next one.
    fn place(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let start = self.space.chars().fold(self.column, |column, space| match space {
            '\t' => (column / TAB + 1) * TAB,
            _ => column + 1,
        });
        if self.column > 0 && start + self.word_width > self.width {
            out.push('\n');
            self.column = 0;
        } else {
            out.push_str(&self.space);
            self.column = start;
        }
        self.space.clear();
        out.push_str(&std::mem::take(&mut self.word));
        self.column += std::mem::take(&mut self.word_width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wraps `text`, which arrives in pieces of `size` characters.
    fn wrapped(text: &str, width: usize, size: usize) -> String {
        let letters: Vec<char> = text.chars().collect();
        let mut wrap = WordWrap::new(width);
        let mut out: String =
            letters.chunks(size).map(|piece| wrap.push(&piece.iter().collect::<String>())).collect();
        out += &wrap.finish();
        out
    }

    #[test]
    fn lines_break_at_spaces() {
        for size in [1, 2, 3, 7, 100] {
            let wrap = |text| wrapped(text, 10, size);
            assert_eq!(wrap("one two three four"), "one two\nthree four");
            assert_eq!(wrap("ten wide 1 and"), "ten wide 1\nand");
            assert_eq!(wrap("a\n\nb  c\n"), "a\n\nb  c\n");
            assert_eq!(wrap("if x:\n    y"), "if x:\n    y");
            assert_eq!(wrap("ends with  "), "ends with  ");
            assert_eq!(wrap("a\tb\tc"), "a\tb\nc");
            assert_eq!(wrap("an unbreakableword"), "an\nunbreakabl\neword");
            assert_eq!(wrap("你好你好你好你好"), "你好你好你\n好你好");
            assert_eq!(wrap(""), "");
        }
    }

    #[test]
    fn no_line_is_too_wide_and_no_word_is_lost() {
        let text =
            "Once upon a time, the city of Nova Haven was a thriving metropolis:\n\n- towers — and streets";
        for width in 12..100 {
            let shown = wrapped(text, width, 3);
            assert!(shown.lines().all(|line| display_width(line) <= width), "{width}:\n{shown}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&shown), words(text));
        }
        assert_eq!(wrapped(text, 100, 3), text);
    }

    #[test]
    fn a_word_is_shown_when_it_is_complete() {
        let mut wrap = WordWrap::new(80);
        assert_eq!(wrap.push("The cap"), "The");
        assert_eq!(wrap.push("ital is"), " capital");
        assert_eq!(wrap.finish(), " is");
    }
}
