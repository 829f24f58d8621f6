//! Deserialization of TOML values with located errors: serde reports the problem, and each level adds its key to the
//! path. Only the types define the known keys, so no separate list can become outdated.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use toml::Value;
use toml::map::IntoIter;

/// A problem with a value, and its place.
#[derive(Debug)]
pub(super) struct Problem {
    /// Keys from the outermost table inwards.
    pub(super) path: Vec<String>,
    pub(super) kind: Kind,
}

/// The kind of a problem.
#[derive(Debug)]
pub(super) enum Kind {
    UnknownKey { key: String, known: &'static [&'static str] },
    UnknownName { found: String, known: &'static [&'static str] },
    MissingKey { key: &'static str },
    Unfit { found: String, expected: String },
    Refused { detail: String },
}

impl Problem {
    fn new(kind: Kind) -> Self {
        Self { path: Vec::new(), kind }
    }

    fn inside(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path.join("."), self.kind)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(detail: T) -> Self {
        Self::new(Kind::Refused { detail: detail.to_string() })
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(Kind::Unfit { found: found.to_string(), expected: in_words(&expected.to_string()) })
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey { key: key.to_owned(), known })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownName { found: found.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::MissingKey { key })
    }
}

/// Translates names of Rust types into words for users of TOML.
fn in_words(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, 0 or more".to_owned(),
        "isize" | "i64" | "i32" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        other if other.starts_with("struct ") || other == "a map" => "a table".to_owned(),
        other if other.starts_with("enum ") => "a name".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => other.to_owned(),
    }
}

/// A TOML value, deserialized with located errors.
pub(super) struct Located(pub(super) Value);

impl<'de> de::Deserializer<'de> for Located {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(value) => visitor.visit_bool(value),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(values) => visitor.visit_seq(Items { values: values.into_iter(), index: 0 }),
            Value::Table(table) => visitor.visit_map(Entries { entries: table.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let unfit = |found: String| {
            let expected = format!("one of {}", known.join(", "));
            Err(Problem::new(Kind::Unfit { found, expected }))
        };
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            Value::Table(table) => {
                let mut entries = table.into_iter();
                match (entries.next(), entries.next()) {
                    (Some((name, value)), None) => visitor.visit_enum(Variant { name, value }),
                    (first, _) => {
                        unfit(format!("a table with {} keys", if first.is_some() { "several" } else { "no" }))
                    }
                }
            }
            other => unfit(other.type_str().to_owned()),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Entries {
    entries: IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let (key, value) = self.value.take().ok_or_else(|| de::Error::custom("a value without its key"))?;
        seed.deserialize(Located(value)).map_err(|problem| problem.inside(&key))
    }
}

struct Items {
    values: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some(value) = self.values.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Located(value)).map(Some).map_err(|problem| problem.inside(&index.to_string()))
    }
}

/// `name = value` as an enum variant with content.
struct Variant {
    name: String,
    value: Value,
}

impl<'de> de::EnumAccess<'de> for Variant {
    type Error = Problem;
    type Variant = Content;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content), Problem> {
        let content = Content { name: self.name.clone(), value: self.value };
        Ok((seed.deserialize(self.name.into_deserializer())?, content))
    }
}

struct Content {
    name: String,
    value: Value,
}

impl<'de> de::VariantAccess<'de> for Content {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        Err(Problem::new(Kind::Unfit {
            found: format!("a table under `{}`", self.name),
            expected: format!("\"{}\" alone", self.name),
        }))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        seed.deserialize(Located(self.value)).map_err(|problem| problem.inside(&self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Problem> {
        de::Deserializer::deserialize_any(Located(self.value), visitor)
            .map_err(|problem| problem.inside(&self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        de::Deserializer::deserialize_any(Located(self.value), visitor)
            .map_err(|problem| problem.inside(&self.name))
    }
}
