//! Requests as clients write them.
//!
//! Source: OpenAI's API reference, "Create chat completion" and "Create completion". Fields that do not change the
//! answer (`user`, `store`, `metadata`, …) are ignored; fields that ask for an unsupported feature are rejected by
//! name.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use slm_model::SamplingOptions;

use crate::error::ApiError;
use crate::json_types::in_json;

/// Maximum number of stop texts in a request.
const MAX_STOPS: usize = 16;
/// Maximum number of answers to one request.
const MAX_CHOICES: usize = 8;
/// Maximum number of alternatives with log-probabilities for each token.
const MAX_TOP_LOGPROBS: usize = 20;
/// Default number of new tokens of a completion, as in OpenAI's API.
const DEFAULT_COMPLETION_TOKENS: usize = 16;

/// The body of a request, with the fields of chat completions and of completions.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    messages: Option<Vec<ChatMessage>>,
    prompt: Option<PromptField>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// Zero and negative values mean all tokens, as in other servers.
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    n: Option<usize>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<usize>,
    // Unsupported fields, which are rejected unless they are empty.
    logit_bias: Option<Value>,
    tools: Option<Value>,
    functions: Option<Value>,
    response_format: Option<Value>,
    audio: Option<Value>,
    echo: Option<bool>,
    best_of: Option<usize>,
    suffix: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The field `logprobs`: a boolean in chat completions, the number of alternatives in completions.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a number")]
enum Logprobs {
    Whether(bool),
    Top(usize),
}

/// A message of a conversation.
#[derive(Debug, Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts with a type")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// A prompt, in each of the forms that the API accepts.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text, a list of texts, or token ids")]
pub(crate) enum PromptField {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    ManyIds(Vec<Vec<u32>>),
}

/// The checked options of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// Maximum number of new tokens, if the request sets one.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) sampling: SamplingOptions,
    pub(crate) stops: Vec<String>,
    pub(crate) choices: usize,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Number of alternatives whose log-probabilities are returned next to that of each token.
    pub(crate) logprobs: Option<usize>,
}

impl Request {
    /// Parses the body of a request.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        // serde would accept a list as the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "the body is not a JSON object"));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read = serde_path_to_error::deserialize(&mut reader);
        let request = read.map_err(|error| {
            let path = error.path().to_string();
            let field = path.split(['.', '[']).next().filter(|field| !field.is_empty() && *field != "?");
            match field {
                _ if !error.inner().is_data() => {
                    let message = format!("the body is not valid JSON: {}", error.inner());
                    ApiError::new(StatusCode::BAD_REQUEST, message)
                }
                None => {
                    let message = format!("the body is not a JSON object of the API: {}", error.inner());
                    ApiError::new(StatusCode::BAD_REQUEST, message)
                }
                Some(field) => ApiError::invalid(field, format!("{path}: {}", in_json(error.inner()))),
            }
        })?;
        let rest = reader.end();
        rest.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body goes on after its JSON object: {error}"))
        })?;
        Ok(request)
    }

    /// Splits the request for a chat completion into options and messages.
    pub(crate) fn chat(mut self) -> Result<(Wanted, Vec<slm_chat::Message>), ApiError> {
        let messages = self.messages.take().unwrap_or_default();
        if messages.is_empty() {
            return Err(ApiError::invalid(
                "messages",
                "messages is missing or empty; give at least one message",
            ));
        }
        let top = self.top_logprobs.unwrap_or(0);
        let logprobs = match self.logprobs {
            Some(Logprobs::Whether(true)) => Some(top),
            None | Some(Logprobs::Whether(false)) if self.top_logprobs.is_some() => {
                return Err(ApiError::invalid("top_logprobs", "top_logprobs needs \"logprobs\": true"));
            }
            None | Some(Logprobs::Whether(false)) => None,
            Some(Logprobs::Top(_)) => {
                let message = "logprobs is true or false in chat completions; top_logprobs takes the number";
                return Err(ApiError::invalid("logprobs", message));
            }
        };
        let messages = messages.into_iter().map(ChatMessage::text).collect::<Result<_, _>>()?;
        Ok((self.check(logprobs)?, messages))
    }

    /// Splits the request for a completion into options and prompts.
    pub(crate) fn completion(mut self) -> Result<(Wanted, PromptField), ApiError> {
        let Some(prompt) = self.prompt.take() else {
            return Err(ApiError::invalid("prompt", "prompt is missing"));
        };
        let logprobs = match self.logprobs {
            Some(Logprobs::Top(top)) => Some(top),
            Some(Logprobs::Whether(true)) => {
                return Err(ApiError::invalid("logprobs", "logprobs is a number in completions, such as 1"));
            }
            None | Some(Logprobs::Whether(false)) => None,
        };
        self.max_tokens.get_or_insert(DEFAULT_COMPLETION_TOKENS);
        Ok((self.check(logprobs)?, prompt))
    }

    fn check(self, logprobs: Option<usize>) -> Result<Wanted, ApiError> {
        self.check_supported()?;
        if logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
            let param = if self.top_logprobs.is_some() { "top_logprobs" } else { "logprobs" };
            return Err(ApiError::invalid(param, format!("{param} can be {MAX_TOP_LOGPROBS} at most")));
        }
        let stops = match self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
        };
        if stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
            return Err(ApiError::invalid(
                "stop",
                format!("stop takes up to {MAX_STOPS} texts, none of them empty"),
            ));
        }
        let choices = self.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(ApiError::invalid("n", format!("n is {choices}; use 1 to {MAX_CHOICES}")));
        }
        for (name, value) in
            [("max_tokens", self.max_tokens), ("max_completion_tokens", self.max_completion_tokens)]
        {
            if value == Some(0) {
                return Err(ApiError::invalid(name, format!("{name} is 0; use at least 1")));
            }
        }
        let sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.and_then(|top_k| usize::try_from(top_k).ok()).filter(|&top_k| top_k > 0),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            seed: self.seed.map_or_else(random_seed, i64::cast_unsigned),
        };
        sampling.validate().map_err(|error| match &error {
            slm_model::Error::Sampling { field, .. } => ApiError::invalid(*field, error.to_string()),
            _ => ApiError::new(StatusCode::BAD_REQUEST, error.to_string()),
        })?;
        Ok(Wanted {
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling,
            stops,
            choices,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.is_some_and(|options| options.include_usage),
            logprobs,
        })
    }

    /// Rejects fields that would change the answer but are not supported.
    fn check_supported(&self) -> Result<(), ApiError> {
        let format = self.response_format.as_ref().filter(|format| is_given(format));
        let given = |value: &Option<Value>| value.as_ref().is_some_and(is_given);
        for (field, asked) in [
            ("logit_bias", given(&self.logit_bias)),
            ("tools", given(&self.tools)),
            ("functions", given(&self.functions)),
            ("audio", given(&self.audio)),
            ("response_format", format.is_some_and(|format| format.get("type") != Some(&json!("text")))),
            ("echo", self.echo == Some(true)),
            ("best_of", self.best_of.is_some_and(|best_of| best_of > 1)),
            ("suffix", self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
        ] {
            if asked {
                let message = format!("{field} is not supported by this server; leave it out");
                return Err(ApiError::invalid(field, message).with_code("unsupported_parameter"));
            }
        }
        Ok(())
    }
}

impl ChatMessage {
    fn text(self) -> Result<slm_chat::Message, ApiError> {
        let content = match self.content {
            // An answer that consists of calls of tools has none.
            None if self.role == "assistant" => String::new(),
            None => {
                let message = format!("the message of role {:?} has no content; give it a text", self.role);
                return Err(ApiError::invalid("messages", message));
            }
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut all = String::new();
                for part in parts {
                    match (part.kind.as_str(), part.text) {
                        ("text", Some(text)) => all += &text,
                        (kind, _) => {
                            let message = format!("content of type {kind:?} is not supported: only text is");
                            return Err(ApiError::invalid("messages", message));
                        }
                    }
                }
                all
            }
        };
        // OpenAI's newer name for the same role.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        Ok(slm_chat::Message::new(role, content))
    }
}

/// Returns `true` if a field is present and not empty.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// A seed that differs from request to request.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &Value) -> Result<Request, ApiError> {
        Request::from_json(body.to_string().as_bytes())
    }

    fn chat(fields: Value) -> Result<(Wanted, Vec<slm_chat::Message>), ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request(&body)?.chat()
    }

    fn completion(body: Value) -> Result<(Wanted, PromptField), ApiError> {
        request(&body)?.completion()
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let (wanted, messages) = chat(json!({"seed": 5, "user": "someone", "store": true})).unwrap();
        assert_eq!(messages, [slm_chat::Message::user("Hi")]);
        let sampling = SamplingOptions { temperature: 1.0, seed: 5, ..SamplingOptions::default() };
        let expected = Wanted {
            max_tokens: None,
            sampling,
            stops: vec![],
            choices: 1,
            stream: false,
            include_usage: false,
            logprobs: None,
        };
        assert_eq!(wanted, expected);
        assert_ne!(chat(json!({})).unwrap().0.sampling.seed, chat(json!({})).unwrap().0.sampling.seed);

        let (wanted, prompt) = completion(json!({"prompt": "Once", "stop": "\n", "logprobs": 2})).unwrap();
        assert!(matches!(prompt, PromptField::Text(text) if text == "Once"));
        assert_eq!(
            (wanted.max_tokens, wanted.stops, wanted.logprobs),
            (Some(16), vec!["\n".to_owned()], Some(2))
        );
    }

    #[test]
    fn fields_are_read_in_every_form() {
        let (wanted, messages) = chat(json!({
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
                {"role": "assistant", "content": null},
            ],
            "max_completion_tokens": 7, "max_tokens": 9, "stop": ["a", "b"], "n": 2, "stream": true,
            "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3, "tools": [],
            "response_format": {"type": "text"}, "logit_bias": {},
        }))
        .unwrap();
        assert_eq!(messages, [slm_chat::Message::system("Be brief."), slm_chat::Message::assistant("")]);
        assert_eq!((wanted.max_tokens, wanted.choices, wanted.logprobs), (Some(7), 2, Some(3)));
        assert!(wanted.stream && wanted.include_usage && wanted.stops == ["a", "b"]);
        for (prompt, expected) in [
            (json!(["a", "b"]), "Texts([\"a\", \"b\"])"),
            (json!([1, 2]), "Ids([1, 2])"),
            (json!([[1], [2]]), "ManyIds([[1], [2]])"),
        ] {
            assert_eq!(format!("{:?}", completion(json!({"prompt": prompt})).unwrap().1), expected);
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        for (fields, param) in [
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "user"}]}), "messages"),
            (json!({"messages": [{"role": "system", "content": null}]}), "messages"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias"),
            (json!({"n": 0}), "n"),
            (json!({"n": 99}), "n"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
            (json!({"stop": ""}), "stop"),
            (json!({"stop": vec!["a"; 17]}), "stop"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"presence_penalty": 1e9}), "presence_penalty"),
            (json!({"top_logprobs": 3}), "top_logprobs"),
            (json!({"logprobs": 3}), "logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        ] {
            let error = chat(fields.clone()).unwrap_err();
            assert_eq!(
                (error.status().as_u16(), &error.body()["error"]["param"]),
                (400, &json!(param)),
                "{fields}"
            );
        }
        for fields in [
            json!({}),
            json!({"prompt": "a", "echo": true}),
            json!({"prompt": "a", "suffix": "b"}),
            json!({"prompt": "a", "best_of": 2}),
            json!({"prompt": "a", "logprobs": 21}),
            json!({"prompt": "a", "logprobs": true}),
        ] {
            assert_eq!(completion(fields.clone()).unwrap_err().status().as_u16(), 400, "{fields}");
        }
    }

    #[test]
    fn wrong_types_are_named() {
        for (body, named) in [
            (r#"{"temperature": "warm"}"#, r#"temperature: the string "warm", expected a number"#),
            (r#"{"messages": [{"role": "user", "content": 5}]}"#, "messages[0].content: expected a text"),
            (r#"{"messages": "hi"}"#, r#"messages: the string "hi", expected a list"#),
            (r#"{"messages": [4]}"#, "messages[0]: the number 4, expected an object"),
            (r#"{"max_tokens": -1}"#, "max_tokens: the number -1, expected a whole number, 0 or more"),
            (r#"{"stream": 1}"#, "stream: the number 1, expected true or false"),
            (r#"{"prompt": {"a": 1}}"#, "prompt: expected a text, a list of texts, or token ids"),
            (r#"{"prompt": "a"} x"#, "goes on after"),
            ("{\"prompt\": \"a", "not valid JSON"),
            ("[1", "not a JSON object"),
            ("", "not a JSON object"),
        ] {
            let error = Request::from_json(body.as_bytes()).unwrap_err().body();
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains(named) && !message.contains(" usize"), "{body}: {message}");
            let (field, is_field) = named.split_once(": ").map_or(("", false), |(path, _)| (path, true));
            let field = field.split('[').next().unwrap_or_default();
            assert_eq!(error["error"]["param"].as_str(), is_field.then_some(field), "{body}");
        }
    }
}
