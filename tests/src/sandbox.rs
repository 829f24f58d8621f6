//! A temporary directory in which the program runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Files, Outcome, program};

/// A temporary directory in which the program runs, so that command lines are short and leftover files are noticed.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    /// Creates an empty sandbox.
    ///
    /// # Panics
    /// If the directory cannot be created.
    #[expect(clippy::new_without_default, reason = "a directory is made")]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Creates a sandbox with `model`, a float checkpoint, and `text.txt`, a text for it.
    pub fn with_model() -> Self {
        let sandbox = Self::new();
        sandbox.put_dir("model", crate::checkpoint());
        sandbox.put("text.txt", crate::text());
        sandbox
    }

    /// Returns a path in the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes a directory of files.
    pub fn put_dir(&self, name: &str, files: &Files) {
        fs::create_dir_all(self.path(name)).unwrap();
        for (file, content) in files {
            fs::write(self.path(name).join(file), content).unwrap();
        }
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Reads a JSON file.
    pub fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// Returns the program with the arguments of `line`, which are separated by spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut command = program::command();
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        // Without this directory, graphics drivers would print warnings on standard error, which is compared.
        command.env("XDG_RUNTIME_DIR", self.dir.path());
        command
    }

    /// Runs the program with the arguments of `line`, which are separated by spaces.
    #[track_caller]
    pub fn slm(&self, line: &str) -> Outcome {
        self.slm_with(line, &[], &[])
    }

    /// Runs the program with the arguments of `line` and then `more`, which may contain spaces, and with environment
    /// variables.
    #[track_caller]
    pub fn slm_with(&self, line: &str, more: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let mut command = self.command(line);
        let output = command.args(more).envs(variables.iter().copied()).output().unwrap();
        Outcome::new(format!("{line} {}", more.join(" ")), output)
    }

    /// Runs the program and requires that it fails as in [`Outcome::fails`] without changing, adding or removing any
    /// file.
    #[track_caller]
    pub fn refuses(&self, line: &str, code: i32, parts: &[&str]) -> Outcome {
        self.refuses_with(line, &[], &[], code, parts)
    }

    /// [`Sandbox::refuses`] with the additional arguments and variables of [`Sandbox::slm_with`].
    #[track_caller]
    pub fn refuses_with(
        &self,
        line: &str,
        more: &[&str],
        variables: &[(&str, &str)],
        code: i32,
        parts: &[&str],
    ) -> Outcome {
        let before = self.content();
        let outcome = self.slm_with(line, more, variables);
        outcome.fails(code, parts);
        let after = self.content();
        let names = |content: &BTreeMap<_, _>| content.keys().cloned().collect::<Vec<PathBuf>>();
        assert_eq!(names(&before), names(&after), "{outcome}");
        assert!(before == after, "a file was changed\n{outcome}");
        outcome
    }

    /// Returns every path in the sandbox, with the content of files.
    fn content(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        fn visit(dir: &Path, content: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    visit(&path, content);
                    content.insert(path, None);
                } else {
                    let bytes = fs::read(&path).unwrap();
                    content.insert(path, Some(bytes));
                }
            }
        }
        let mut content = BTreeMap::new();
        visit(self.dir.path(), &mut content);
        content
    }
}
