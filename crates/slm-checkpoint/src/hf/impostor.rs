//! Detection of files whose content does not match their names, such as the remains of a failed download or clone.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::Error;

const PICKLE: &str = "it is a Python pickle, or an archive of one";
/// The remedy for a pickle of any other name than Hugging Face's.
pub(super) const CONVERT: &str = "rename it to pytorch_model.bin, next to config.json, and name the directory; or convert \
                                  the model to safetensors with transformers' save_pretrained(..., \
                                  safe_serialization=True)";
/// Number of bytes of a file that are examined.
const HEAD: usize = 512;

/// Returns the error for the file `path` that begins with `head`, if it is recognized as something other than JSON or
/// safetensors.
pub(super) fn explain(path: &Path, head: &[u8]) -> Option<Error> {
    let (problem, mut remedy) = recognize(head)?;
    let json = path.extension().is_some_and(|extension| extension == "json");
    if problem == PICKLE && json {
        remedy = "download the file again";
    }
    Some(Error::Unusable { path: path.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() })
}

/// [`explain`] for a template, which may begin with an angle bracket.
pub(super) fn explain_template(path: &Path, bytes: &[u8]) -> Option<Error> {
    let head = &bytes[..bytes.len().min(HEAD)];
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let is_known =
        ["version https://git-lfs", "<!doctype html", "<html"].iter().any(|begin| text.starts_with(begin));
    is_known.then(|| explain(path, head)).flatten()
}

/// [`explain`] for a file of weights, which must not be text.
pub(super) fn explain_weights(path: &Path) -> Option<Error> {
    let head = head(path)?;
    explain(path, &head).or_else(|| {
        // The length of a safetensors header contains zero bytes.
        let text = head.len() >= 8 && std::str::from_utf8(&head).is_ok_and(|text| !text.contains('\0'));
        text.then(|| Error::Unusable {
            path: path.to_owned(),
            problem: "it is a text (an error message of a server?), not the file itself".to_owned(),
            remedy: "download the file again".to_owned(),
        })
    })
}

/// [`explain`] for a file that should be a pickle.
pub(super) fn explain_pickle(path: &Path) -> Option<Error> {
    let head = head(path)?;
    match recognize(&head) {
        Some((PICKLE, _)) => None,
        _ => explain(path, &head),
    }
}

/// Returns the error for a file that is recognized, by its first bytes, as something that no model is stored in, such as the
/// remains of a failed download.
pub fn explain_file(path: &Path) -> Option<Error> {
    explain(path, &head(path)?)
}

/// Reads the first bytes of a regular file, at most 512; `None` for anything else: a pipe could block forever.
pub fn head(path: &Path) -> Option<Vec<u8>> {
    if !path.is_file() {
        return None;
    }
    let mut head = Vec::with_capacity(HEAD);
    File::open(path).ok()?.take(HEAD as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Recognizes bytes that are neither JSON nor safetensors. Returns a description and the remedy.
fn recognize(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const AGAIN: &str = "download the file again, logged in (`hf auth login`) if the model asks for it";
    if head.is_empty() {
        return Some(("it is empty", "download the file again"));
    }
    if head.starts_with(b"version https://git-lfs") || head.starts_with(b"version https://hawser") {
        let remedy = "run `git lfs install` and `git lfs pull` in the directory, or download the file";
        return Some(("it is a Git LFS pointer, not the file itself", remedy));
    }
    if head.iter().all(|&byte| byte == 0) {
        return Some(("it begins with zeros: its download was not finished", "download the file again"));
    }
    if head.starts_with(b"GGUF") {
        let remedy = "name the file itself (slm import FILE.gguf), or import the Hugging Face directory with safetensors \
                      that it was made from";
        return Some(("it is a GGUF file", remedy));
    }
    if head.starts_with(b"\x89HDF") {
        let remedy = "import the Hugging Face directory with safetensors that it was made from";
        return Some(("it is an HDF5 file (of TensorFlow or Keras)", remedy));
    }
    if head.starts_with(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, ..]) {
        return Some((PICKLE, CONVERT));
    }
    if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Some(("it is compressed", "unpack it first"));
    }
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if ["<!doctype", "<html", "<head", "<body"].iter().any(|tag| text.starts_with(tag)) {
        return Some(("it is an HTML page (of a login or an error), not the file itself", AGAIN));
    }
    if text.starts_with('<') {
        return Some((
            "it is an XML or HTML document (an error message of a server), not the file itself",
            AGAIN,
        ));
    }
    let answers = [
        "entry not found",
        "repository not found",
        "invalid username",
        "access to model",
        "not found",
        "unauthorized",
    ];
    if answers.iter().any(|answer| text.starts_with(answer)) || text.starts_with("{\"error\"") {
        return Some(("it holds the refusal of a server, not the file itself", AGAIN));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_for_files_is_recognized() {
        for (head, part) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
            (b"<!DOCTYPE html>\n<html>", "HTML page"),
            (b"\xef\xbb\xbf\n  <html lang=en>", "HTML page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "XML"),
            (b"Entry not found", "refusal"),
            (b"Access to model x is restricted. You must be authenticated", "hf auth login"),
            (b"{\"error\":\"Repository not found\"}", "refusal"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04archive/data.pkl", "pickle"),
            (b"\x80\x02}q\0", "pickle"),
            (b"\x89HDF\r\n", "HDF5"),
            (&[0; 64], "zeros"),
            (&[0x1f, 0x8b, 8], "unpack"),
        ] {
            let message = explain(Path::new("dir/model.safetensors"), head).unwrap().to_string();
            assert!(message.contains(part) && message.contains("model.safetensors"), "{part}: {message}");
        }
        for head in [&b"{\"vocab_size\": 3}"[..], b"\x40\x01\0\0\0\0\0\0{\"__metadata__\""] {
            assert!(explain(Path::new("x"), head).is_none());
        }
    }
}
