//! Imports of changed copies of the model.

use std::collections::BTreeMap;
use std::fs;

use crate::{HuggingFace, Outcome, Sandbox, Tensor, model, read_tensors};

/// The command line of an import of `hf`.
pub const IMPORT: &str = "import hf --out out --overwrite";

/// Creates a sandbox with the model in `hf`, the ids of some windows, and their logits.
pub fn whole() -> (Sandbox, Logits) {
    let sandbox = Sandbox::new();
    model().write(sandbox.path("hf"));
    sandbox.put("ids.json", r#"{"ids": [[5, 300, 17, 9, 42, 8, 211, 3], [7]]}"#);
    sandbox.slm("import hf --out out").success();
    let logits = logits(&sandbox);
    (sandbox, logits)
}

/// Logits by their names in the file.
pub type Logits = BTreeMap<String, Tensor>;

/// Computes the logits of `out`.
#[track_caller]
pub fn logits(sandbox: &Sandbox) -> Logits {
    sandbox.slm("logits --checkpoint out --ids ids.json --out logits --overwrite").success();
    read_tensors(sandbox.path("logits"))
}

/// Imports `hf`. The import must succeed, print all of `parts` on standard error, and give the same logits as the
/// unchanged model.
#[track_caller]
pub fn reads(sandbox: &Sandbox, expected: &Logits, parts: &[&str]) -> Outcome {
    let outcome = sandbox.slm(IMPORT);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in the warnings\n{outcome}");
    }
    assert_eq!(parts.is_empty(), outcome.stderr.is_empty(), "{outcome}");
    assert_eq!(&logits(sandbox), expected, "{outcome}");
    outcome
}

/// Runs an import that must fail and print all of `parts`, possibly after warnings.
#[track_caller]
pub fn fails(sandbox: &Sandbox, line: &str, parts: &[&str]) {
    let outcome = sandbox.slm(line);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in the message\n{outcome}");
    }
}

/// Writes the changed model to `hf`.
pub fn change(sandbox: &Sandbox, change: impl FnOnce(&mut HuggingFace)) {
    fs::remove_dir_all(sandbox.path("hf")).unwrap();
    let mut model = model();
    change(&mut model);
    model.write(sandbox.path("hf"));
}

/// Renames tensors.
pub fn renamed(model: &mut HuggingFace, rename: impl Fn(&str) -> String) {
    model.tensors =
        std::mem::take(&mut model.tensors).into_iter().map(|(name, t)| (rename(&name), t)).collect();
}
