//! Access to the fields of a Hugging Face `config.json`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object whose fields are read by name, and that knows which ones nobody asked for.
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// Dotted path of the object inside the file, with a last dot; empty for the file itself.
    prefix: String,
    map: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), map, seen: RefCell::default() }
    }

    /// The file.
    pub(super) fn path(&self) -> &'a Path {
        self.path
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
        Error::field(self.path, format!("{}{name}", self.prefix), expected, found)
    }

    /// The error for a field with a value that is not supported.
    pub(super) fn unsupported(
        &self,
        name: &str,
        found: impl ToString,
        supported: impl Into<String>,
    ) -> Error {
        Error::unsupported(self.path, format!("{}{name}", self.prefix), found, supported)
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
        Ok(map.map(|map| Fields { path: self.path, prefix, map, seen: RefCell::default() }))
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

/// Equality in which 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
