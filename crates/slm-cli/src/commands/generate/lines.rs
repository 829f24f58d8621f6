//! Prompts as JSON Lines.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::request::Request;
use crate::commands::sampling_args::validated;
use crate::error::{Error, Result};

/// One line. Options of the command replace absent fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
    #[serde(alias = "max_new_tokens")]
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    seed: Option<u64>,
    stop: Option<Stop>,
    id: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Parses the requests in `text`, one JSON object per line. `path` is its file, and `options` gives the defaults.
pub(super) fn parse(path: &Path, text: &str, options: &Request) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |detail: String| Error::file(path, format!("line {}: {detail}", index + 1));
        let line: Line = serde_json::from_str(line).map_err(|error| {
            refuse(format!(
                "{}; a line is a JSON object such as {{\"prompt\": \"Once\", \"max_tokens\": 16}}",
                without_place(&error)
            ))
        })?;
        let mut request = Request { prompt: line.prompt, id: line.id, ..options.clone() };
        request.max_new_tokens = line.max_tokens.or(request.max_new_tokens);
        request.sampling.temperature = line.temperature.unwrap_or(request.sampling.temperature);
        request.sampling.seed = line.seed.unwrap_or(request.sampling.seed);
        request.stop = match line.stop {
            None => request.stop,
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Several(texts)) => texts,
        };
        request.sampling = validated(request.sampling, "").map_err(|error| refuse(error.to_string()))?;
        if request.stop.iter().any(String::is_empty) {
            return Err(refuse("the text to stop before is empty".to_owned()));
        }
        requests.push(request);
    }
    if requests.is_empty() {
        return Err(Error::file(path, "has no prompts; give one JSON object in each line"));
    }
    Ok(requests)
}

/// Returns the message of an error without its position, which is relative to the line.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use slm_model::SamplingOptions;

    use super::*;

    fn options() -> Request {
        Request {
            id: None,
            prompt: String::new(),
            max_new_tokens: Some(7),
            sampling: SamplingOptions::default(),
            stop: vec!["END".to_owned()],
            ignore_eos: false,
        }
    }

    #[test]
    fn lines_have_the_fields_that_they_name_and_the_options_else() {
        let text = "{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\", \"max_tokens\": 3, \"temperature\": 0.5, \"seed\": 9, \
                    \"stop\": \"x\", \"id\": [1]}\r\n{\"prompt\": \"c\", \"stop\": []}";
        let found = parse(Path::new("p.jsonl"), text, &options()).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], Request { prompt: "a".to_owned(), ..options() });
        assert_eq!(
            (found[1].max_new_tokens, found[1].sampling.temperature, found[1].sampling.seed),
            (Some(3), 0.5, 9)
        );
        assert_eq!((&*found[1].stop[0], found[1].id.clone()), ("x", Some(serde_json::json!([1]))));
        assert!(found[2].stop.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, parts) in [
            ("{\"prompt\": \"a\"}\nOnce", &["line 2", "JSON object such as"][..]),
            ("{\"text\": \"a\"}", &["line 1", "unknown field `text`", "`prompt`"]),
            ("{\"max_tokens\": 1}", &["line 1", "missing field `prompt`"]),
            ("{\"prompt\": \"a\", \"temperature\": -1}", &["line 1", "temperature is -1"]),
            ("{\"prompt\": \"a\", \"stop\": \"\"}", &["line 1", "empty"]),
            ("\n \n", &["no prompts"]),
        ] {
            let error = parse(Path::new("p.jsonl"), text, &options()).unwrap_err().to_string();
            assert!(
                parts.iter().all(|part| error.contains(part)) && error.starts_with("p.jsonl"),
                "{text}: {error}"
            );
        }
    }
}
