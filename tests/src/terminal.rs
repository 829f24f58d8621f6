//! Runs of the program in a pseudo-terminal.

use std::io::Read;

use portable_pty::{CommandBuilder, PtySize, native_pty_system};

use crate::{Sandbox, program};

/// Output on a terminal, and the exit code.
#[derive(Debug)]
pub struct Shown {
    /// The command line, for messages.
    pub line: String,
    /// Exit code.
    pub code: u32,
    /// Every line shown, including each state of a progress bar, without terminal control sequences.
    pub lines: Vec<String>,
}

impl Shown {
    /// Index of the first line that contains `part`.
    ///
    /// # Panics
    /// If there is no such line.
    #[track_caller]
    pub fn position(&self, part: &str) -> usize {
        let found = self.lines.iter().position(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("{part:?} is not in\n{self}"))
    }

    /// Requires success and that no line is wider than `columns`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn fits(self, columns: usize) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self.fits_whatever_it_says(columns)
    }

    /// Requires that no line is wider than `columns`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn fits_whatever_it_says(self, columns: usize) -> Self {
        let wide = self.lines.iter().find(|line| textwrap::core::display_width(line.trim_end()) > columns);
        assert!(wide.is_none(), "too wide: {}\n{self}", wide.map_or("", |line| line));
        self
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slm {}\nexit code {}\n{}", self.line, self.code, self.lines.join("\n"))
    }
}

impl Sandbox {
    /// Runs the program with the arguments of `line`, which are separated by spaces, in a terminal of width `columns`.
    ///
    /// # Panics
    /// If the system has no pseudo-terminals.
    pub fn terminal(&self, line: &str, columns: u16) -> Shown {
        let pair = native_pty_system()
            .openpty(PtySize { rows: 40, cols: columns, pixel_width: 0, pixel_height: 0 })
            .unwrap();
        let mut child = pair.slave.spawn_command(command(self, line)).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let mut bytes = Vec::new();
        // Linux reports the end of a pseudo-terminal as an error.
        let _ = reader.read_to_end(&mut bytes);
        let code = child.wait().unwrap().exit_code();
        let text = without_sequences(&String::from_utf8_lossy(&bytes));
        assert!(!text.contains("panicked at"), "slm {line}\n{text}");
        // A terminal ends a line with both characters.
        let text = text.replace("\r\n", "\n");
        let lines = text.split(['\n', '\r']).map(|line| line.trim_end().to_owned()).collect();
        Shown { line: line.to_owned(), code, lines }
    }
}

/// Returns the program with the arguments of `line`, which are separated by spaces, for a terminal.
pub(crate) fn command(sandbox: &Sandbox, line: &str) -> CommandBuilder {
    let mut command = CommandBuilder::new(program::binary());
    command.args(line.split_whitespace());
    command.cwd(sandbox.path(""));
    for name in program::UNSET {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    command.env("XDG_RUNTIME_DIR", sandbox.path(""));
    command
}

/// Returns the text without the sequences that begin with Escape and `[` and end with a letter.
fn without_sequences(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic()).map_or(part.len(), |end| end + 1);
        // A sequence that moves the cursor or clears a line starts a new state of the line.
        if !part[..end].ends_with('m') {
            shown.push('\r');
        }
        shown.push_str(&part[end..]);
    }
    shown
}
