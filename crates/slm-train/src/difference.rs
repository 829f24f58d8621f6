//! Differences between settings, for messages.

use serde_json::Value;

/// The first difference between two settings.
#[derive(Debug, PartialEq)]
pub(crate) struct Difference {
    /// Keys from the outermost inwards, joined by dots.
    pub(crate) path: String,
    pub(crate) before: String,
    pub(crate) now: String,
}

/// Finds the first difference; `None` if the values are equal. Lists are compared as a whole.
pub(crate) fn first_difference(before: &Value, now: &Value) -> Option<Difference> {
    difference(&mut Vec::new(), before, now)
}

fn difference<'a>(path: &mut Vec<&'a str>, before: &'a Value, now: &'a Value) -> Option<Difference> {
    if let (Value::Object(before), Value::Object(now)) = (before, now) {
        let added = now.keys().filter(|key| !before.contains_key(*key));
        return before.keys().chain(added).find_map(|key| {
            path.push(key);
            let [before, now] = [before, now].map(|side| side.get(key).unwrap_or(&Value::Null));
            let found = difference(path, before, now);
            path.pop();
            found
        });
    }
    let text = |value: &Value| match value {
        Value::Null => "not set".to_owned(),
        other => other.to_string(),
    };
    (before != now).then(|| Difference { path: path.join("."), before: text(before), now: text(now) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_innermost_value_is_named() {
        let before = json!({"a": 1, "b": {"c": [1], "d": "x"}});
        let with = |key: &str, value: Value| {
            let mut now = before.clone();
            *now.pointer_mut(key).unwrap() = value;
            first_difference(&before, &now).map(|found| (found.path, found.before, found.now))
        };
        let found = |path: &str, before: &str, now: &str| Some((path.into(), before.into(), now.into()));
        assert_eq!(with("/a", json!(1)), None);
        assert_eq!(with("/b/c", json!([1, 2])), found("b.c", "[1]", "[1,2]"));
        assert_eq!(with("/b/d", json!(null)), found("b.d", "\"x\"", "not set"));
        assert_eq!(with("/b", json!(7)).unwrap().0, "b");
        let mut more = before.clone();
        more["b"]["e"] = json!(true);
        assert_eq!(
            first_difference(&before, &more),
            Some(Difference { path: "b.e".into(), before: "not set".into(), now: "true".into() })
        );
    }
}
