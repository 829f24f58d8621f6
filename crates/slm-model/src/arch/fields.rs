//! Access to the fields of a Hugging Face `config.json`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::config::{Activation, AttentionBias, MAX_LAYERS, ModelConfig};
use crate::error::{Error, Result};

/// A JSON object whose fields are read by name. It tracks which fields were never read.
pub(super) struct Fields<'a> {
    /// Dotted path of the object inside the file, with a trailing dot; empty for the file itself.
    prefix: String,
    map: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
    /// Notes for the user about the reading of fields; shared with nested objects.
    notes: Rc<RefCell<Vec<String>>>,
    /// Names of the fields for the number of layers and for the biases of attention, for messages about files that do
    /// not match them.
    layers_field: RefCell<String>,
    attention_bias_field: RefCell<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self::of(String::new(), map, Rc::default())
    }

    fn of(prefix: String, map: &'a Map<String, Value>, notes: Rc<RefCell<Vec<String>>>) -> Self {
        Self {
            prefix,
            map,
            seen: RefCell::default(),
            notes,
            layers_field: RefCell::new("num_hidden_layers".to_owned()),
            attention_bias_field: RefCell::new("attention_bias".to_owned()),
        }
    }

    /// Name of the field that [`layers`](Self::layers) read last.
    pub(super) fn layers_field(&self) -> String {
        self.layers_field.borrow().clone()
    }

    /// Name of the field that [`attention_bias`](Self::attention_bias) read last.
    pub(super) fn attention_bias_field(&self) -> String {
        self.attention_bias_field.borrow().clone()
    }

    /// Tells the user how the field `name` was read.
    pub(super) fn note(&self, name: &str, how: impl std::fmt::Display) {
        self.notes.borrow_mut().push(format!("field \"{}{name}\" {how}", self.prefix));
    }

    /// All notes, in order and without duplicates.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for note in self.notes.borrow().iter() {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        notes
    }

    /// A field that is present and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let (name, value) = self.map.get_key_value(name)?;
        self.seen.borrow_mut().insert(name.clone());
        (!value.is_null()).then_some(value)
    }

    /// Returns `true` if a field is present, null or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match convert(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, expected, value)),
        }
    }

    /// The error for a field with an invalid value.
    pub(super) fn wrong(&self, name: &str, expected: impl ToString, found: impl ToString) -> Error {
        let field = format!("{}{name}", self.prefix);
        Error::HfField { field, expected: expected.to_string(), found: short(found.to_string()) }
    }

    /// The error for a field with a value that is not supported.
    pub(super) fn unsupported(
        &self,
        name: &str,
        found: impl ToString,
        supported: impl Into<String>,
    ) -> Error {
        let field = format!("{}{name}", self.prefix);
        Error::HfUnsupported { field, found: short(found.to_string()), supported: supported.into() }
    }

    pub(super) fn usize(&self, name: &str) -> Result<Option<usize>> {
        // 64.0 counts as whole, because some languages write integers like that.
        let whole = |number: &f64| number.fract() == 0.0 && (0.0..9e15).contains(number);
        let from_float = |value: &Value| value.as_f64().filter(whole).map(|number| number as u64);
        self.typed(name, "a whole number", |value| {
            value.as_u64().or_else(|| from_float(value)).and_then(|number| usize::try_from(number).ok())
        })
    }

    pub(super) fn f64(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub(super) fn bool(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(super) fn str(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&'a [Value]>> {
        self.typed(name, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// An object inside this one.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let map = self.typed(name, "an object", Value::as_object)?;
        Ok(map.map(|map| self.nested(name, map)))
    }

    /// `map` as the object `name` inside this one.
    pub(super) fn nested<'b>(&self, name: &str, map: &'b Map<String, Value>) -> Fields<'b> {
        let prefix = format!("{}{name}.", self.prefix);
        Fields::of(prefix, map, Rc::clone(&self.notes))
    }

    /// The object itself.
    pub(super) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The value of a required field.
    pub(super) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "a value", "nothing"))
    }

    /// A whole number, or `default` with a note if the field is absent. Null is an error.
    pub(super) fn size(&self, name: &str, default: usize) -> Result<usize> {
        match self.usize(name)? {
            Some(value) => Ok(value),
            None if self.has(name) => Err(self.wrong(name, "a whole number", "null")),
            None => Ok(self.absent(name, default)),
        }
    }

    /// A number, or `default` with a note if the field is absent. Null is an error.
    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.f64(name)? {
            Some(value) => Ok(value),
            None if self.has(name) => Err(self.wrong(name, "a number", "null")),
            None => Ok(self.absent(name, default)),
        }
    }

    /// Rejects an absurd number of layers before a list of layers is allocated.
    pub(super) fn layers(&self, name: &str, layers: usize) -> Result<usize> {
        name.clone_into(&mut self.layers_field.borrow_mut());
        match layers <= MAX_LAYERS {
            true => Ok(layers),
            false => Err(self.wrong(name, format!("at most {MAX_LAYERS}"), layers)),
        }
    }

    fn absent<T: std::fmt::Display>(&self, name: &str, default: T) -> T {
        self.note(name, format_args!("is absent: {default} was used, the default of transformers"));
        default
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let list = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        self.typed(name, "a list of numbers", list)
    }

    /// Rejects a field unless it is absent, null, or `default`.
    pub(super) fn expect_default(&self, name: &str, default: &Value, supported: &str) -> Result<()> {
        match self.get(name) {
            Some(value) if !same(value, default) => Err(self.unsupported(name, value, supported)),
            _ => Ok(()),
        }
    }

    /// [`expect_default`](Self::expect_default) for fields that the architecture has not read itself.
    pub(super) fn expect_default_if_unread(
        &self,
        name: &str,
        default: &Value,
        supported: &str,
    ) -> Result<()> {
        if self.was_read(name) { Ok(()) } else { self.expect_default(name, default, supported) }
    }

    /// Returns `true` if a field is present and was read.
    pub(super) fn was_read(&self, name: &str) -> bool {
        self.seen.borrow().contains(name)
    }

    /// The elementwise function that a field names.
    pub(super) fn activation(&self, name: &str, default: &str) -> Result<Activation> {
        match self.str(name)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => {
                Ok(Activation::GeluTanh)
            }
            other => {
                let supported = "\"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\"";
                Err(self.unsupported(name, format!("{other:?}"), supported))
            }
        }
    }

    /// The biases of all four attention projections, or of none.
    pub(super) fn attention_bias(&self, name: &str, default: bool) -> Result<AttentionBias> {
        name.clone_into(&mut self.attention_bias_field.borrow_mut());
        Ok(match self.bool(name)?.unwrap_or(default) {
            true => AttentionBias::All,
            false => AttentionBias::None,
        })
    }

    /// A config with the sizes under the names that nearly all architectures use, and with the defaults of
    /// [`ModelConfig::new`] otherwise.
    ///
    /// An absent size is that of `defaults`, the defaults of the class in transformers. `num_key_value_heads` may be null,
    /// which means the number of heads. `head_dim` may be null, which means the same as absent.
    pub(super) fn sizes(&self, defaults: &Sizes) -> Result<ModelConfig> {
        let mut model = ModelConfig::new(
            self.size("vocab_size", defaults.vocab_size)?,
            self.size("hidden_size", defaults.hidden_size)?,
            self.size("intermediate_size", defaults.intermediate_size)?,
            self.layers("num_hidden_layers", self.size("num_hidden_layers", defaults.num_layers)?)?,
            self.size("num_attention_heads", defaults.num_heads)?,
            self.size("max_position_embeddings", defaults.max_positions)?,
        );
        let (hidden, heads) = (model.hidden_size, model.num_heads);
        model.num_kv_heads = match (self.usize("num_key_value_heads")?, defaults.kv_heads) {
            (Some(kv_heads), _) => kv_heads,
            (None, Some(kv_heads)) if !self.has("num_key_value_heads") => {
                self.absent("num_key_value_heads", kv_heads)
            }
            (None, _) => heads,
        };
        model.head_dim = match self.usize("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if heads == 0 || !hidden.is_multiple_of(heads) => {
                let expected = format!("a number that divides hidden_size = {hidden}");
                return Err(self.wrong("num_attention_heads", expected, heads));
            }
            None => hidden / heads,
        };
        Ok(model)
    }

    /// Marks fields as known to have no effect on what the model computes.
    pub(super) fn ignore(&self, names: &[&str]) {
        for name in names {
            self.get(name);
        }
    }

    /// Fields that were not read and are not null: null means the same as absent.
    pub(super) fn unseen(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        self.map
            .iter()
            .filter(|(name, value)| !seen.contains(name.as_str()) && !value.is_null())
            .map(|(name, _)| format!("{}{name}", self.prefix))
            .collect()
    }
}

/// The defaults of a class in transformers for sizes that a config leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_layers: usize,
    pub(super) num_heads: usize,
    pub(super) max_positions: usize,
    /// `None` for the number of heads.
    pub(super) kv_heads: Option<usize>,
    /// `None` for the hidden size divided by the number of heads.
    pub(super) head_dim: Option<usize>,
}

/// The beginning of a value that is too long for a message.
fn short(mut value: String) -> String {
    const LONGEST: usize = 200;
    if value.len() > LONGEST {
        value.truncate(value.floor_char_boundary(LONGEST));
        value.push('…');
    }
    value
}

/// Equality in which 1 equals 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
