//! Explanation of a file where the directory of a checkpoint is expected.

use std::fs;
use std::path::Path;

use super::CONFIG;
use crate::Error;
use crate::hf::head;
use slm_store::shell_word;

/// Returns the error that names the kind of the file at `path`.
pub(super) fn explain(path: &Path) -> Error {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let (reason, remedy) = match extension.to_ascii_lowercase().as_str() {
        _ if head(path).is_some_and(|head| head.starts_with(b"GGUF")) => {
            ("it is a GGUF file", format!("import it first: {}", import(path)))
        }
        "safetensors" | "bin" | "pt" | "pth" => {
            ("it is a file of weights, not a directory", of_weights(path))
        }
        _ => ("it is not a directory", "name the directory of a checkpoint".to_owned()),
    };
    Error::NotACheckpoint { path: path.to_owned(), reason: reason.to_owned(), remedy }
}

/// The remedy for a file of weights, which depends on what is next to it.
fn of_weights(path: &Path) -> String {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let config: Option<serde_json::Value> =
        fs::read(dir.join(CONFIG)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match config {
        Some(config) if config.get("format_version").is_some() => {
            format!("name its directory, {}", dir.display())
        }
        Some(_) => format!("import its directory first: {}", import(dir)),
        None => format!(
            "name the directory of a checkpoint, or import that of a Hugging Face model, with {CONFIG}, by `slm import`"
        ),
    }
}

/// The command that imports `source`.
pub(super) fn import(source: &Path) -> String {
    format!("slm import {} --out my-model", shell_word(source))
}
