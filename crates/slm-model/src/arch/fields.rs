//! Access to the fields of a Hugging Face `config.json`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::config::{Activation, AttentionBias, ModelConfig};
use crate::error::{Error, Result};

/// A JSON object whose fields are read by name, and that knows which ones nobody asked for.
pub(super) struct Fields<'a> {
    /// Dotted path of the object inside the file, with a last dot; empty for the file itself.
    prefix: String,
    map: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { prefix: String::new(), map, seen: RefCell::default() }
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let (name, value) = self.map.get_key_value(name)?;
        self.seen.borrow_mut().insert(name);
        (!value.is_null()).then_some(value)
    }

    /// Whether a field is there, null or not.
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

    /// The error for a field with a value that cannot be right.
    pub(super) fn wrong(&self, name: &str, expected: impl ToString, found: impl ToString) -> Error {
        let field = format!("{}{name}", self.prefix);
        Error::HfField { field, expected: expected.to_string(), found: found.to_string() }
    }

    /// The error for a field with a value that is not supported.
    pub(super) fn unsupported(
        &self,
        name: &str,
        found: impl ToString,
        supported: impl Into<String>,
    ) -> Error {
        let field = format!("{}{name}", self.prefix);
        Error::HfUnsupported { field, found: found.to_string(), supported: supported.into() }
    }

    pub(super) fn usize(&self, name: &str) -> Result<Option<usize>> {
        self.typed(name, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
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
        let prefix = format!("{}{name}.", self.prefix);
        Ok(map.map(|map| Fields { prefix, map, seen: RefCell::default() }))
    }

    /// A field that must be there.
    pub(super) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "a value", "nothing"))
    }

    pub(super) fn required_usize(&self, name: &str) -> Result<usize> {
        let value = self.usize(name)?;
        self.required(name, value)
    }

    pub(super) fn required_f64(&self, name: &str) -> Result<f64> {
        let value = self.f64(name)?;
        self.required(name, value)
    }

    /// Refuses a field unless it is absent, null, or `neutral`.
    pub(super) fn neutral(&self, name: &str, neutral: &Value, supported: &str) -> Result<()> {
        match self.get(name) {
            Some(value) if !same(value, neutral) => Err(self.unsupported(name, value, supported)),
            _ => Ok(()),
        }
    }

    /// [`neutral`](Self::neutral) for fields that the architecture has not asked for itself.
    pub(super) fn neutral_if_unread(&self, name: &str, neutral: &Value, supported: &str) -> Result<()> {
        if self.was_read(name) { Ok(()) } else { self.neutral(name, neutral, supported) }
    }

    /// Whether somebody asked for a field that is there.
    pub(super) fn was_read(&self, name: &str) -> bool {
        self.seen.borrow().contains(name)
    }

    /// The elementwise function that a field names.
    pub(super) fn activation(&self, name: &str, default: &str) -> Result<Activation> {
        match self.str(name)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            other => {
                let supported = "\"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\"";
                Err(self.unsupported(name, format!("{other:?}"), supported))
            }
        }
    }

    /// The biases of all four attention projections, or of none.
    pub(super) fn attention_bias(&self, name: &str, default: bool) -> Result<AttentionBias> {
        Ok(match self.bool(name)?.unwrap_or(default) {
            true => AttentionBias::All,
            false => AttentionBias::None,
        })
    }

    /// A config with the sizes under the names that nearly all architectures give them, and with the defaults of
    /// [`ModelConfig::new`] otherwise. `kv_heads` and `head_dim` are for configs that do not give theirs; the latter
    /// is else the hidden size split evenly.
    pub(super) fn sizes(&self, kv_heads: KvHeads, head_dim: Option<usize>) -> Result<ModelConfig> {
        let mut model = ModelConfig::new(
            self.required_usize("vocab_size")?,
            self.required_usize("hidden_size")?,
            self.required_usize("intermediate_size")?,
            self.required_usize("num_hidden_layers")?,
            self.required_usize("num_attention_heads")?,
            self.required_usize("max_position_embeddings")?,
        );
        let (hidden, heads) = (model.hidden_size, model.num_heads);
        model.num_kv_heads = match (self.usize("num_key_value_heads")?, kv_heads) {
            (Some(kv_heads), _) => kv_heads,
            (None, KvHeads::AsHeads) => heads,
            (None, KvHeads::Required) => self.required("num_key_value_heads", None)?,
        };
        model.head_dim = match self.usize("head_dim")?.or(head_dim) {
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

    /// Fields that nobody asked for.
    pub(super) fn unseen(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        self.map
            .keys()
            .filter(|name| !seen.contains(name.as_str()))
            .map(|name| format!("{}{name}", self.prefix))
            .collect()
    }
}

/// KV heads of a config that does not give their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KvHeads {
    /// As many as there are heads.
    AsHeads,
    /// It must be given.
    Required,
}

/// Equality in which 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
