//! Reads the golden files and compares results by their rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use slm_quant_core::{Mapping, QParams, QuantRange};

/// A tensor, widened to f64, which holds every stored type exactly.
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// The index and all tensors.
pub(crate) struct Golden {
    cases: Vec<Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// Outcome of the cases of one kind.
pub(crate) struct Summary {
    kind: String,
    pub(crate) required: usize,
    informational: usize,
    checks: usize,
    exact: usize,
    pub(crate) strict: usize,
    pub(crate) strict_held: usize,
    pub(crate) failures: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "golden {}: {} required cases ({} informational left out), {} checks, {} of them bit for bit, \
             strict rules {}/{}, failures {}",
            self.kind,
            self.required,
            self.informational,
            self.checks,
            self.exact,
            self.strict_held,
            self.strict,
            self.failures.len()
        )
    }
}

/// Runs all cases of a kind and checks their number.
pub(crate) fn run(kind: &str, required: usize, case: impl Fn(&mut Case)) {
    let Some(golden) = Golden::load() else { return };
    let summary = golden.run(kind, case);
    println!("{summary}");
    assert!(
        summary.failures.is_empty(),
        "{kind}: {} failures, first: {}",
        summary.failures.len(),
        summary.failures[0]
    );
    assert_eq!(summary.required, required, "{kind}: number of required cases");
    assert_eq!(summary.strict_held, summary.strict, "{kind}: strict rules that hold bit for bit");
}

fn shared() -> PathBuf {
    match std::env::var_os("SLM_SHARED") {
        Some(path) => path.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into(),
    }
}

impl Golden {
    /// Reads both files; prints a line and returns `None` if they are missing.
    pub(crate) fn load() -> Option<Self> {
        let folder = shared().join("golden");
        if !folder.join("golden.json").exists() {
            println!(
                "skipped: no golden.json in {}; set SLM_SHARED to the folder that holds golden/",
                folder.display()
            );
            return None;
        }
        let index: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = stored
            .iter()
            .map(|(name, view)| {
                let values = widen(view.dtype(), view.data());
                (name.to_owned(), Tensor { shape: view.shape().to_vec(), values })
            })
            .collect();
        Some(Self { cases: index["cases"].as_array().unwrap().clone(), tensors })
    }

    pub(crate) fn len(&self) -> usize {
        self.cases.len()
    }

    pub(crate) fn kinds(&self) -> Vec<&str> {
        let kinds: BTreeSet<&str> = self.cases.iter().map(|case| case["kind"].as_str().unwrap()).collect();
        kinds.into_iter().collect()
    }

    pub(crate) fn run(&self, kind: &str, run: impl Fn(&mut Case)) -> Summary {
        let mut summary = Summary {
            kind: kind.to_owned(),
            required: 0,
            informational: 0,
            checks: 0,
            exact: 0,
            strict: 0,
            strict_held: 0,
            failures: Vec::new(),
        };
        for json in self.cases.iter().filter(|case| case["kind"] == kind) {
            match json["status"].as_str() {
                Some("required") => summary.required += 1,
                Some("informational") => {
                    summary.informational += 1;
                    continue;
                }
                other => panic!("{}: unknown status {other:?}", json["name"]),
            }
            let mut case = Case { golden: self, json, unchecked: BTreeSet::new(), summary: &mut summary };
            case.unchecked = json["expected"].as_object().unwrap().keys().cloned().collect();
            run(&mut case);
            let unchecked = std::mem::take(&mut case.unchecked);
            if !unchecked.is_empty() {
                summary.failures.push(format!("{}: never compared: {unchecked:?}", json["name"]));
            }
        }
        summary
    }
}

fn widen(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.chunks_exact(N).map(|bytes| read(bytes.try_into().unwrap())).collect()
    }
    match dtype {
        Dtype::F32 => each(data, |b| f32::from_le_bytes(b).into()),
        Dtype::F64 => each(data, f64::from_le_bytes),
        Dtype::I32 => each(data, |b| i32::from_le_bytes(b).into()),
        Dtype::I8 => each(data, |b| i8::from_le_bytes(b).into()),
        Dtype::U8 => each(data, |b: [u8; 1]| b[0].into()),
        other => panic!("unexpected dtype {other:?}"),
    }
}

/// One case while it runs.
pub(crate) struct Case<'a> {
    golden: &'a Golden,
    pub(crate) json: &'a Value,
    unchecked: BTreeSet<String>,
    summary: &'a mut Summary,
}

impl<'a> Case<'a> {
    pub(crate) fn op(&self) -> &str {
        self.json["op"].as_str().unwrap()
    }

    pub(crate) fn param(&self, name: &str) -> &Value {
        let value = &self.json["params"][name];
        assert!(
            !value.is_null() || self.json["params"].get(name).is_some(),
            "{}: no {name}",
            self.json["name"]
        );
        value
    }

    pub(crate) fn param_f32(&self, name: &str) -> f32 {
        self.param(name).as_f64().unwrap() as f32
    }

    pub(crate) fn param_usize(&self, name: &str) -> usize {
        self.param(name).as_u64().unwrap() as usize
    }

    pub(crate) fn range(&self) -> QuantRange {
        range_of(&self.json["params"], "qmin", "qmax")
    }

    pub(crate) fn tensor(&self, group: &str, role: &str) -> &'a Tensor {
        let key =
            self.json[group][role].as_str().unwrap_or_else(|| panic!("{}: no {role}", self.json["name"]));
        &self.golden.tensors[key]
    }

    pub(crate) fn has_expected(&self, role: &str) -> bool {
        self.json["expected"].get(role).is_some()
    }

    pub(crate) fn input(&self, role: &str) -> Vec<f32> {
        self.tensor("inputs", role).values.iter().map(|v| *v as f32).collect()
    }

    pub(crate) fn input_ints(&self, role: &str) -> Vec<i32> {
        self.tensor("inputs", role).values.iter().map(|v| *v as i32).collect()
    }

    /// A recorded output, for steps that build on it.
    pub(crate) fn recorded(&self, role: &str) -> Vec<f64> {
        self.tensor("expected", role).values.clone()
    }

    /// Scales and zero points of `group` ("inputs" or "expected").
    pub(crate) fn qparams_of(&self, group: &str, scale: &str, zero_point: &str) -> Vec<QParams> {
        let scales = &self.tensor(group, scale).values;
        let zero_points = &self.tensor(group, zero_point).values;
        assert_eq!(scales.len(), zero_points.len());
        let pair = |(s, z): (&f64, &f64)| QParams { scale: *s as f32, zero_point: *z as i32 };
        scales.iter().zip(zero_points).map(pair).collect()
    }

    pub(crate) fn unknown_op(&mut self) {
        let message = format!("{}: unknown op {:?}", self.json["name"], self.op());
        self.summary.failures.push(message);
    }

    /// Compares an output with the expected one, by its tolerance and its strict rule.
    pub(crate) fn check<T: Copy + Into<f64>>(&mut self, role: &str, got: &[T]) {
        let got: Vec<f64> = got.iter().map(|v| (*v).into()).collect();
        let expected = &self.tensor("expected", role).values;
        self.unchecked.remove(role);
        self.summary.checks += 1;
        self.summary.exact += usize::from(compare(&Value::from("exact"), &got, expected).is_ok());
        let rule = &self.json["tolerance"][role];
        if let Err(why) = compare(rule, &got, expected) {
            self.summary.failures.push(format!("{} {role}: {why} (rule {rule})", self.json["name"]));
        }
        if let Some(rule) = self.json["strict"].get(role) {
            self.summary.strict += 1;
            match compare(rule, &got, expected) {
                Ok(()) => self.summary.strict_held += 1,
                Err(why) => println!("strict: {} {role}: {why}", self.json["name"]),
            }
        }
    }
}

pub(crate) fn range_of(params: &Value, min: &str, max: &str) -> QuantRange {
    let bound = |name: &str| params[name].as_i64().unwrap() as i32;
    QuantRange::new(bound(min), bound(max)).unwrap()
}

pub(crate) fn mapping(name: &Value) -> Mapping {
    match name.as_str() {
        Some("affine" | "asymmetric") => Mapping::Affine,
        Some("symmetric") => Mapping::SymmetricTorch,
        Some("symmetric_no_clipping_err") => Mapping::Symmetric,
        other => panic!("unknown mapping {other:?}"),
    }
}

/// Applies a rule: an object with a `mode`, or the mode alone.
fn compare(rule: &Value, got: &[f64], expected: &[f64]) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{} values instead of {}", got.len(), expected.len()));
    }
    let number = |name: &str| rule[name].as_f64().unwrap_or_else(|| panic!("rule without {name}: {rule}"));
    let first = |fails: &dyn Fn(f64, f64) -> bool| {
        let wrong = got.iter().zip(expected).enumerate().find(|(_, (g, e))| fails(**g, **e));
        wrong.map_or(Ok(()), |(i, (g, e))| Err(format!("[{i}] is {g}, expected {e}")))
    };
    match rule.as_str().or_else(|| rule["mode"].as_str()) {
        Some("exact") => first(&|g, e| g != e),
        Some("abs_rel") => {
            let (abs, rel) = (number("abs"), number("rel"));
            first(&|g, e| {
                let close = (g - e).abs() <= abs + rel * e.abs();
                g != e && !close
            })
        }
        Some("lsb") => {
            let max_lsb = number("max_lsb");
            first(&|g, e| {
                let close = (g - e).abs() <= max_lsb;
                !close
            })?;
            let differing = got.iter().zip(expected).filter(|(g, e)| g != e).count();
            let allowed = ((number("max_fraction") * got.len() as f64).floor() as usize).max(1);
            if differing <= allowed { Ok(()) } else { Err(format!("{differing} differ, {allowed} may")) }
        }
        Some("l1_fraction") => {
            let off: f64 = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).sum();
            let allowed = number("max_fraction") * expected.iter().map(|e| e.abs()).sum::<f64>();
            if off <= allowed { Ok(()) } else { Err(format!("L1 distance {off}, {allowed} allowed")) }
        }
        other => panic!("unknown rule {other:?}"),
    }
}
