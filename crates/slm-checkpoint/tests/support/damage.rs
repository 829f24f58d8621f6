//! Random damage to files.
#![allow(dead_code)] // Each test binary uses its own part.

use serde_json::{Value, json};

use crate::random::Random;

/// Damages bytes without knowledge of the format.
pub(crate) fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    let len = bytes.len();
    match random.below(6) {
        0 | 1 => {
            for _ in 0..=random.below(8) {
                let at = random.below(len);
                bytes[at] ^= 1 << random.below(8);
            }
        }
        2 => bytes.truncate(random.below(len)),
        3 => {
            let (from, to) = (random.below(len), random.below(len));
            let part = bytes[from.min(to)..from.max(to)].to_vec();
            let at = random.below(len);
            bytes.splice(at..at, part);
        }
        4 => {
            let (from, to) = (random.below(len), random.below(len));
            let value = *random.pick(&[0, 0xff, b' ', b'[']);
            bytes[from.min(to)..from.max(to)].fill(value);
        }
        _ => {
            let (from, to) = (random.below(len), random.below(len));
            bytes.drain(from.min(to)..from.max(to));
        }
    }
}

/// A JSON value that is likely to be unexpected.
pub(crate) fn surprise(random: &mut Random) -> Value {
    match random.below(14) {
        0 => json!(null),
        1 => json!(-1),
        2 => json!(0),
        3 => json!(1_u64 << 63),
        4 => json!(u64::MAX),
        5 => json!(1e308),
        6 => json!(1e-320),
        7 => json!(""),
        8 => json!("layers.0.self_attn.q_proj"),
        9 => json!([]),
        10 => json!({}),
        11 => json!([1_u64 << 63, 2]),
        12 => json!(true),
        _ => json!("group:18446744073709551615"),
    }
}

/// Inserts an unexpected value into a JSON value, or removes a part of it.
pub(crate) fn damage_value(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            let key = random.pick(&object.keys().cloned().collect::<Vec<_>>()).clone();
            match random.below(8) {
                0 => drop(object.remove(&key)),
                1 => drop(object.insert(format!("{key}x"), json!(1))),
                2 => drop(object.insert(key, surprise(random))),
                _ => object.get_mut(&key).into_iter().for_each(|value| damage_value(value, random)),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list[at] = surprise(random),
                _ => damage_value(&mut list[at], random),
            }
        }
        value => *value = surprise(random),
    }
}
