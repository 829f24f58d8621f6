//! Compiled chat templates and their rendering.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::DateTime;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, context};
use serde::{Deserialize, Serialize};

use crate::error::{self, Error, Result};
use crate::{functions, python};

/// Size limit of a template, in bytes. The longest published templates have about 20 kB.
const MAX_BYTES: usize = 1 << 20;

/// Maximum number of engine instructions for one rendering. A conversation of a thousand messages needs less than a
/// hundredth.
const FUEL: u64 = 20_000_000;

/// Name of the template in its environment.
const NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its author: `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// Creates a message with the role `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Creates an instruction for the model (role `system`).
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// Creates a message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// Creates an answer of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Options and variables of a rendering.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderOptions {
    /// Appends the opening of the model's answer to the text. Default: true.
    pub add_generation_prompt: bool,
    /// Texts of special tokens, by the names that templates use: `bos_token`, `eos_token`, `pad_token`, `unk_token`. A
    /// token that is not in the map is undefined in the template.
    pub special_tokens: BTreeMap<String, String>,
    /// Further variables, such as `enable_thinking`.
    pub variables: BTreeMap<String, serde_json::Value>,
    /// Local time for templates that print the date. Default: the current time.
    pub now: Option<DateTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            special_tokens: BTreeMap::new(),
            variables: BTreeMap::new(),
            now: None,
        }
    }
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.source).finish()
    }
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// The tags `generation` and `endgeneration`, which mark the model's answers for training, print nothing, as in
    /// transformers.
    ///
    /// # Errors
    /// [`Error::Syntax`] for a template that is not valid Jinja, [`Error::TooLarge`] for one of more than 1 MiB.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        if source.len() > MAX_BYTES {
            return Err(Error::TooLarge { bytes: source.len(), limit: MAX_BYTES });
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| {
            if value.is_undefined() {
                Ok(())
            } else {
                out.write_str(&python::display(value)).map_err(Into::into)
            }
        });
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_filter("tojson", functions::to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(&source))
            .map_err(|error| error::syntax(&error))?;
        Ok(Self { environment: Arc::new(environment), source })
    }

    /// The source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders the conversation `messages` to text.
    ///
    /// # Errors
    /// [`Error::Refused`] if the template rejects the conversation, [`Error::Render`] if it fails or exceeds the limit
    /// on instructions.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| error::render(&error))?;
        let now = options.now;
        let strftime_now = Value::from_function(move |format: String| {
            functions::strftime(&format, now.unwrap_or_else(|| jiff::Zoned::now().datetime()))
        });
        let variables = Value::from_serialize(&options.variables);
        let special_tokens = Value::from_serialize(&options.special_tokens);
        let own = context! {
            messages => Value::from_serialize(messages),
            add_generation_prompt => options.add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
            strftime_now => strftime_now,
        };
        // Where a name occurs twice, the earlier value wins.
        template
            .render(context! { ..variables, ..own, ..special_tokens })
            .map_err(|error| error::render(&error))
    }
}

/// Returns `source` with every `{% generation %}` and `{% endgeneration %}` turned into a comment that trims white
/// space as the tag did.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        if word == "generation" || word == "endgeneration" {
            out.push_str("{#");
            out.push_str(inner);
            out.push_str("#}");
        } else {
            out.push_str(tag);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        ChatTemplate::new(source)?.render(&[Message::user("hi")], &RenderOptions::default())
    }

    #[test]
    fn generation_tags_print_nothing_and_trim() {
        assert_eq!(render("a {%- generation %}\nb{% endgeneration -%} c").unwrap(), "ab c".replace(' ', ""));
        assert_eq!(render("{% if true %}x{% endif %}{{ '{% raw' }}").unwrap(), "x{% raw");
    }

    #[test]
    fn an_endless_template_is_given_up() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                      {% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(render(nested), Err(Error::Render { .. })));
    }

    #[test]
    fn what_is_not_jinja_is_refused_with_its_line() {
        let error = ChatTemplate::new("{% if x %}\n{{ messages | }}\n{% endif %}").unwrap_err();
        assert!(matches!(error, Error::Syntax { line: 2, .. }), "{error:?}");
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(
            ChatTemplate::new(long).unwrap_err(),
            Error::TooLarge { bytes: MAX_BYTES + 1, limit: MAX_BYTES }
        );
    }

    #[test]
    fn a_template_refuses_in_its_own_words() {
        let error = render("{{ raise_exception('System role not supported') }}").unwrap_err();
        assert_eq!(error, Error::Refused { message: "System role not supported".to_owned() });
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value = "{'b': [1, 2.5, none, true], 'a': 'naïve'}";
        for (options, expected) in [
            ("", r#"{"b": [1, 2.5, null, true], "a": "naïve"}"#),
            ("(ensure_ascii=true)", r#"{"b": [1, 2.5, null, true], "a": "na\u00efve"}"#),
            ("(separators=(',', ':'))", r#"{"b":[1,2.5,null,true],"a":"naïve"}"#),
            ("(sort_keys=true)", r#"{"a": "naïve", "b": [1, 2.5, null, true]}"#),
            (
                "(indent=2)",
                "{\n  \"b\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"a\": \"naïve\"\n}",
            ),
        ] {
            assert_eq!(
                render(&format!("{{{{ {value} | tojson{options} }}}}")).unwrap(),
                expected,
                "{options}"
            );
        }
        assert!(matches!(render("{{ 1 | tojson(colour=2) }}"), Err(Error::Render { .. })));
    }

    #[test]
    fn variables_of_the_caller_win() {
        let template =
            ChatTemplate::new("{{ bos_token }}{{ enable_thinking }}{{ tools }}{{ nothing }}").unwrap();
        let mut options = RenderOptions::default();
        options.special_tokens.insert("bos_token".to_owned(), "<s>".to_owned());
        options.variables.insert("enable_thinking".to_owned(), false.into());
        assert_eq!(template.render(&[], &options).unwrap(), "<s>FalseNone");
        options.variables.insert("bos_token".to_owned(), "<b>".into());
        assert_eq!(template.render(&[], &options).unwrap(), "<b>FalseNone");
    }

    #[test]
    fn the_date_is_printed_as_strftime_prints_it() {
        let now = Some(DateTime::constant(2026, 3, 7, 5, 4, 3, 0));
        let options = RenderOptions { now, ..RenderOptions::default() };
        let template = ChatTemplate::new("{{ strftime_now('%d %b %Y|%-d|%B|%H:%M:%S|%A|%j') }}").unwrap();
        assert_eq!(template.render(&[], &options).unwrap(), "07 Mar 2026|7|March|05:04:03|Saturday|066");
        let template = ChatTemplate::new("{{ strftime_now('%') }}").unwrap();
        assert!(matches!(template.render(&[], &options), Err(Error::Render { .. })));
    }
}
