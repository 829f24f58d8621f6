//! Outcome of a run of the program.

use std::process::Output;

use serde_json::Value;

/// Exit code and output of a finished run.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The outcome of a process started with the command line `line`.
    ///
    /// # Panics
    /// If the process panicked.
    pub fn of(line: impl Into<String>, output: Output) -> Self {
        Self::new(line.into(), output)
    }

    pub(crate) fn new(line: String, output: Output) -> Self {
        let outcome = Self {
            line,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        let panicked = ["panicked at", "RUST_BACKTRACE"].iter().any(|text| outcome.stderr.contains(text));
        assert!(!panicked, "{outcome}");
        outcome
    }

    /// Requires success and an empty standard error.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        assert_eq!(self.stderr, "", "{self}");
        self
    }

    /// Returns the JSON object on standard output of a successful run.
    ///
    /// # Panics
    /// Unless the output is exactly one object.
    #[track_caller]
    pub fn json(self) -> Value {
        let outcome = self.success();
        match serde_json::from_str(&outcome.stdout) {
            Ok(value @ Value::Object(_)) => value,
            Ok(other) => panic!("not an object: {other}\n{outcome}"),
            Err(error) => panic!("{error}\n{outcome}"),
        }
    }

    /// Requires failure with this exit code, nothing on standard output (with `--json`: the error as an object), and
    /// all of `parts` in the message.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        if self.line.split_whitespace().any(|word| word == "--json") {
            let json: Value = serde_json::from_str(&self.stdout).unwrap_or_default();
            assert_eq!(json["error"]["exit_code"], code, "{self}");
            let message = json["error"]["message"].as_str().unwrap_or_default();
            assert!(
                !message.is_empty() && self.stderr.contains(message.lines().next().unwrap_or_default()),
                "{self}"
            );
        } else {
            assert_eq!(self.stdout, "", "{self}");
        }
        assert!(self.stderr.starts_with("error: "), "{self}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in the message\n{self}");
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(
            f,
            "slm {line}\nexit code {code:?}\n--- standard output\n{stdout}\n--- standard error\n{stderr}"
        )
    }
}
