//! Search for the directory of a model, from the path that a user gives.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CONFIG, Warnings, documents, impostor, no_weights};
use crate::{Error, Result, json};
use slm_store::Error as StoreError;

/// Finds the directory with `config.json`: `path` itself, or the snapshot of a repository in the Hugging Face cache.
pub(super) fn find(path: &Path, warnings: &mut Warnings) -> Result<PathBuf> {
    let unusable =
        |problem: String, remedy: String| Error::Unusable { path: path.to_owned(), problem, remedy };
    if !path.exists() {
        return Err(absent(path));
    }
    if !path.is_dir() {
        return Err(single_file(path));
    }
    if path.join(CONFIG).exists() {
        return Ok(path.to_owned());
    }
    if is_link_to_nothing(&path.join(CONFIG)) {
        return Err(link_to_nothing(&path.join(CONFIG)));
    }
    if let Some(error) = adapter(path)? {
        return Err(error);
    }
    let snapshots = path.join("snapshots");
    if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("datasets--")) {
        let problem = "it is a data set in the cache of Hugging Face, not a model";
        return Err(unusable(problem.to_owned(), "name a directory models--…".to_owned()));
    }
    if snapshots.is_dir() {
        let snapshot = snapshot(path, &snapshots)?;
        warnings.add(&snapshot, "it is the snapshot of this repository that was read");
        return match snapshot.join(CONFIG).exists() {
            true => Ok(snapshot),
            false => find(&snapshot, warnings),
        };
    }
    let entries = names(path);
    let has = |name: &str| entries.iter().any(|entry| entry == name);
    let own_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if own_name.starts_with("models--") || (has("refs") && has("blobs")) {
        let problem = "it has no snapshot: its download was not finished";
        return Err(unusable(problem.to_owned(), "download the model again".to_owned()));
    }
    if has("model_index.json") {
        let problem = "it is a diffusion model, not a language model";
        return Err(unusable(problem.to_owned(), "name the directory of a language model".to_owned()));
    }
    if has("params.json") {
        let problem =
            "it is a model in the layout of Meta or Mistral, with params.json and without config.json";
        return Err(unusable(
            problem.to_owned(),
            "download the Hugging Face layout, with config.json".to_owned(),
        ));
    }
    let list = |names: &[&String]| no_weights::shortened(names.iter().map(|name| name.as_str()));
    let cached: Vec<&String> = entries.iter().filter(|name| name.starts_with("models--")).collect();
    if !cached.is_empty() {
        let problem = format!("it is the cache of Hugging Face with {}", list(&cached));
        return Err(unusable(problem, "name one of these directories".to_owned()));
    }
    let models: Vec<&String> = entries.iter().filter(|name| path.join(name).join(CONFIG).is_file()).collect();
    if !models.is_empty() {
        let problem = format!("it has no {CONFIG}, but directories in it do: {}", list(&models));
        return Err(unusable(problem, "name one of these directories".to_owned()));
    }
    if let Some(error) = no_weights::other_formats(path, &entries) {
        return Err(error);
    }
    let remedy = match entries.iter().any(|name| name.ends_with(".safetensors")) {
        true => "only the weights are there: download it from where they came from",
        false => "name the directory of a Hugging Face model",
    };
    Err(Error::Store(StoreError::Missing { path: path.join(CONFIG), remedy: remedy.to_owned() }))
}

/// Rejects a checkpoint of slm.
pub(super) fn refuse_own(dir: &Path, config: &Map<String, Value>) -> Result<()> {
    match config.contains_key("format_version") && config.get("model").is_some_and(Value::is_object) {
        true => Err(Error::Unusable {
            path: dir.to_owned(),
            problem: "it is an slm checkpoint already".to_owned(),
            remedy: "use it as it is: it needs no import".to_owned(),
        }),
        false => Ok(()),
    }
}

/// Returns the error for a directory with a LoRA adapter and no model.
pub(super) fn adapter(dir: &Path) -> Result<Option<Error>> {
    let path = dir.join("adapter_config.json");
    if !path.exists() && !dir.join("adapter_model.safetensors").exists() {
        return Ok(None);
    }
    let config: Map<String, Value> = documents::read(&path, json::SMALL)?.unwrap_or_default();
    let base = config.get("base_model_name_or_path").and_then(Value::as_str);
    let (of, base) = match base {
        Some(base) => (format!(" of {base}"), base),
        None => (String::new(), "its base model"),
    };
    Ok(Some(Error::Unusable {
        path: dir.to_owned(),
        problem: format!("it holds a LoRA adapter (PEFT){of}, not a model"),
        remedy: format!(
            "merge it into {base} first, with PEFT's merge_and_unload() and save_pretrained(), and import the result"
        ),
    }))
}

/// Warns about an adapter in the directory of a model, which transformers would apply to its base model.
pub(super) fn warn_of_adapter(dir: &Path, warnings: &mut Warnings) {
    let path = dir.join("adapter_config.json");
    if path.exists() {
        let what = "the directory of the model also holds a LoRA adapter, which was not read: merge it first (PEFT's \
                    merge_and_unload()) if it belongs to the model";
        warnings.add(&path, what);
    }
}

/// Returns the sorted names of the entries of a directory.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Returns `true` if `path` is a link whose target does not exist, as can happen in the Hugging Face cache.
pub(super) fn is_link_to_nothing(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

pub(super) fn link_to_nothing(path: &Path) -> Error {
    Error::Unusable {
        path: path.to_owned(),
        problem: "it is a link to a file that is not there".to_owned(),
        remedy: "the download was not finished, or the file was removed: download the model again".to_owned(),
    }
}

fn absent(path: &Path) -> Error {
    let remedy = match hub_id(path) {
        Some(id) => {
            let name = id.rsplit('/').next().unwrap_or(&id);
            format!(
                "models are read from directories, and nothing is downloaded. Is it {id} on the Hugging Face Hub? \
                 Download that first: hf download {id} --local-dir {name}"
            )
        }
        None if is_file_name(path) => "name a file that exists".to_owned(),
        None => "name the directory of a Hugging Face model".to_owned(),
    };
    Error::Store(StoreError::Missing { path: path.to_owned(), remedy })
}

/// Returns `true` if `path` ends as files of weights do.
fn is_file_name(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    ["gguf", "bin", "safetensors", "pt", "pth"].iter().any(|known| end.eq_ignore_ascii_case(known))
}

/// Returns the id of the model on the Hub that a path or a URL could refer to.
pub(crate) fn hub_id(path: &Path) -> Option<String> {
    if is_file_name(path) {
        return None;
    }
    let given = path.to_str()?;
    // A revision follows `@`.
    let given = given.rsplit_once('@').map_or(given, |(id, _)| id);
    let text = given.strip_prefix("hf://").unwrap_or(given);
    // `Path` keeps the slashes of a URL.
    let text = match text.split_once("huggingface.co/") {
        Some((_, rest)) => rest,
        None => text,
    };
    let parts: Vec<&str> = text.trim_end_matches('/').split('/').collect();
    let plain = |part: &&str| {
        part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    match parts.get(..2.min(parts.len()))? {
        // More parts belong to a page in the URL.
        [owner, name] if (parts.len() == 2 || text != given) && plain(owner) && plain(name) => {
            Some(format!("{owner}/{name}"))
        }
        _ => None,
    }
}

/// Returns `true` if `path` is a `.bin` file that begins neither as a Python pickle nor as anything else that is known.
pub fn is_unrecognized_bin(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bin"));
    named && path.is_file() && impostor::explain_file(path).is_none()
}

/// Returns the error for a path that names a file.
fn single_file(path: &Path) -> Error {
    if let Some(error) = impostor::explain_file(path) {
        return error;
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let (problem, remedy) = match extension.to_ascii_lowercase().as_str() {
        _ if !path.is_file() => {
            ("it is a pipe or a device", "name the directory of a Hugging Face model, or copy the file")
        }
        "gguf" => {
            ("its name is that of a GGUF file", "import the Hugging Face directory that it was made from")
        }
        "bin" | "pt" | "pth" | "ckpt" | "pkl" => ("its name is that of a Python pickle", impostor::CONVERT),
        _ => (
            "it is a file",
            "name the directory that holds it, with config.json, the weights and tokenizer.json",
        ),
    };
    Error::Unusable { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

/// Returns the snapshot that `refs/main` names, or else the only one.
fn snapshot(repository: &Path, snapshots: &Path) -> Result<PathBuf> {
    let unusable = |problem: &str, remedy: String| Error::Unusable {
        path: repository.to_owned(),
        problem: problem.to_owned(),
        remedy,
    };
    if let Ok(name) = fs::read_to_string(repository.join("refs").join("main")) {
        let name = name.trim();
        let snapshot = snapshots.join(name);
        if crate::manifest::is_plain_name(name) && snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    match &names(snapshots)[..] {
        [] => Err(unusable(
            "it has no snapshot: its download was not finished",
            "download the model again".to_owned(),
        )),
        [only] => Ok(snapshots.join(only)),
        several => {
            let list = no_weights::shortened(several.iter().map(|name| format!("snapshots/{name}")));
            Err(unusable("it has several snapshots", format!("name one of them: {list}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_the_hub_are_told_from_paths() {
        for (path, id) in [
            ("Qwen/Qwen2.5-0.5B", Some("Qwen/Qwen2.5-0.5B")),
            ("Qwen/Qwen2.5-0.5B/", Some("Qwen/Qwen2.5-0.5B")),
            ("https://huggingface.co/Qwen/Qwen2.5-0.5B", Some("Qwen/Qwen2.5-0.5B")),
            ("https://huggingface.co/Qwen/Qwen2.5-0.5B/tree/main", Some("Qwen/Qwen2.5-0.5B")),
            ("hf://Qwen/Qwen2.5-0.5B", Some("Qwen/Qwen2.5-0.5B")),
            ("./Qwen/Qwen2.5-0.5B", None),
            ("../models", None),
            ("/home/me/model", None),
            ("a/b/c", None),
            ("model", None),
            ("Qwen/Qwen2.5-0.5B@main", Some("Qwen/Qwen2.5-0.5B")),
        ] {
            assert_eq!(hub_id(Path::new(path)).as_deref(), id, "{path}");
        }
    }
}
