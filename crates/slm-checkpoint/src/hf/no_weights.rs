//! Errors for directories without supported weights, which name what the directory contains.

use std::path::Path;

use super::CONFIG;
use super::weight_naming::SAFETENSORS;
use crate::Error;
use slm_store::Error as StoreError;

/// Maximum number of names in a message.
pub(super) const LISTED: usize = 5;

/// Returns the error for a directory with a config and without supported weights.
pub(super) fn no_weights(dir: &Path, entries: &[String]) -> Error {
    if let Some(error) = other_formats(dir, entries) {
        return error;
    }
    let unfinished = |name: &&String| {
        [".incomplete", ".part", ".aria2", ".crdownload", ".tmp"].iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = entries.iter().find(unfinished) {
        return Error::Unusable {
            path: dir.join(name),
            problem: "it is part of a file whose download was not finished".to_owned(),
            remedy: "download the model again".to_owned(),
        };
    }
    let others: Vec<&String> = entries.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let path = dir.join(SAFETENSORS.single);
    let index = SAFETENSORS.index;
    Error::Store(match &others[..] {
        [] => StoreError::Missing {
            path,
            remedy: format!("nor is there a {index}: download the model's weights"),
        },
        others => StoreError::Missing {
            path,
            remedy: format!(
                "nor is there a {index}; other files are there: {}. If one is the whole model, rename it",
                shortened(others.iter().map(|name| name.as_str()))
            ),
        },
    })
}

/// Returns the error for a directory whose weights are in an unsupported format.
pub(super) fn other_formats(dir: &Path, entries: &[String]) -> Option<Error> {
    let ends = |ends: &[&str]| -> Vec<&String> {
        let found = entries.iter().filter(|name| ends.iter().any(|end| name.ends_with(end)));
        found.filter(|name| *name != "training_args.bin").collect()
    };
    let list = |names: &[&String]| shortened(names.iter().map(|name| name.as_str()));
    let sharded = |marks: &[&str]| entries.iter().find(|name| marks.iter().any(|mark| name.contains(mark)));
    let (problem, remedy) = if let Some(name) = sharded(&["global_step", "zero_to_fp32"]) {
        let remedy = "merge them: python zero_to_fp32.py DIRECTORY OUTPUT --safe_serialization";
        (format!("its weights are shards of DeepSpeed: {name}"), remedy)
    } else if let Some(name) = sharded(&["_fsdp_", ".distcp"]) {
        (
            format!("its weights are shards of FSDP: {name}"),
            "merge them: accelerate merge-weights DIRECTORY OUTPUT",
        )
    } else if let pickles @ [_, ..] = &ends(&[".bin", ".pt", ".pth", ".ckpt"])[..] {
        let original = !dir.join(CONFIG).exists();
        let remedy = if original {
            "download the model in the Hugging Face layout, with config.json, or convert it with transformers"
        } else {
            "call the one with the state_dict of the model pytorch_model.bin; or convert the model to safetensors: load \
             it with transformers, and save it with save_pretrained(..., safe_serialization=True)"
        };
        (
            format!(
                "its weights are Python pickles, none of which is called pytorch_model.bin: {}",
                list(pickles)
            ),
            remedy,
        )
    } else if let gguf @ [_, ..] = &ends(&[".gguf"])[..] {
        let remedy = "import one of them: slm import FILE.gguf";
        (format!("it holds GGUF files: {}", list(gguf)), remedy)
    } else if let others @ [_, ..] = &ends(&[".h5", ".msgpack", ".onnx", ".tflite", ".nemo"])[..] {
        let remedy = "import the model's safetensors, which transformers writes with save_pretrained()";
        (format!("its weights are in the format of another framework: {}", list(others)), remedy)
    } else {
        return None;
    };
    Some(Error::Unusable { path: dir.to_owned(), problem, remedy: remedy.to_owned() })
}

/// Lists the first few names and the number of further ones.
pub(super) fn shortened(names: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let count = names.len();
    let mut text: Vec<String> = names.take(LISTED).map(|name| name.to_string()).collect();
    if count > LISTED {
        text.push(format!("and {} more", count - LISTED));
    }
    text.join(", ")
}
