//! The table of formats, schemes and families in docs/interchange.md, produced by exporting each.
//!
//! After a change, `SLM_BLESS=1 cargo test -p slm-exchange --test peers table` regenerates it.

use std::fmt::Write as _;
use std::path::Path;

use crate::support::{check_section, import, models, name, quantize};
use slm_checkpoint::Checkpoint;
use slm_exchange::{Error, ExportOptions, ExportReport, Fidelity, Format, export};
use slm_quant_core::QuantizationType;

const FORMATS: [Format; 5] =
    [Format::Gguf, Format::HuggingFace, Format::CompressedTensors, Format::Mlx, Format::Onnx];
const SCHEMES: [(&str, QuantizationType); 8] = [
    ("float", QuantizationType::WeightOnly),
    ("int8:tensor:f16", QuantizationType::WeightOnly),
    ("int8:channel", QuantizationType::WeightOnly),
    ("int8:channel:affine", QuantizationType::WeightOnly),
    ("int4:group:32:f16", QuantizationType::WeightOnly),
    ("int4:group:32:affine:f16", QuantizationType::WeightOnly),
    ("int8:channel:f16", QuantizationType::Dynamic),
    ("int8:tensor:f16", QuantizationType::Static),
];

/// Describes how an export that `strict` refuses preserves the tensors. If a tensor of a model is worse than the others,
/// the result describes the majority. `reasons` collects the texts of the footnotes.
fn word(report: &ExportReport, reasons: &mut Vec<String>) -> String {
    let mut words: Vec<(String, f64, usize)> = Vec::new();
    for tensor in &report.tensors {
        let (word, change) = match &tensor.fidelity {
            Fidelity::Exact => ("exact".to_owned(), 0.0),
            Fidelity::ScaleRounded { max_relative_change } => ("scales".to_owned(), *max_relative_change),
            Fidelity::OffsetRounded { max_change_in_steps } => ("offsets".to_owned(), *max_change_in_steps),
            Fidelity::Dequantized { because, .. } => (format!("floats{}", footnote(because, reasons)), 0.0),
            other => (format!("changed{}", footnote(&other.to_string(), reasons)), 0.0),
        };
        match words.iter_mut().find(|(known, ..)| *known == word) {
            Some((_, most, count)) => (*most, *count) = (change.max(*most), *count + 1),
            None => words.push((word, change, 1)),
        }
    }
    words.sort_by_key(|&(.., count)| std::cmp::Reverse(count));
    // Float embeddings are exact for layers of any kind.
    if words.iter().any(|(word, ..)| word != "exact") {
        words.retain(|(word, ..)| word != "exact");
    }
    let words = words.into_iter().map(|(word, change, _)| match word.as_str() {
        "scales" => format!("scales {}", rounded_up(change)),
        "offsets" => format!("offsets {} steps", rounded_up(change)),
        _ => word,
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Rounds up to 1, 2 or 5 times a power of ten, so that differences in the last bits between machines do not matter.
fn rounded_up(change: f64) -> String {
    let power = change.log10().floor();
    let digits = change / 10_f64.powf(power);
    let digit = [1.0, 2.0, 5.0].into_iter().find(|&digit| digits <= digit);
    match digit {
        Some(digit) => format!("{digit}e{power}"),
        None => format!("1e{}", power + 1.0),
    }
}

/// Returns the number of the footnote with the text `reason`.
fn footnote(reason: &str, reasons: &mut Vec<String>) -> String {
    let number = reasons.iter().position(|known| known == reason).unwrap_or_else(|| {
        reasons.push(reason.to_owned());
        reasons.len() - 1
    });
    format!(" [{}]", number + 1)
}

/// The result of an export of `checkpoint` as `format`.
fn cell(checkpoint: &Checkpoint, out: &Path, format: Format, reasons: &mut Vec<String>) -> String {
    let options = ExportOptions::new(format);
    let strict = ExportOptions { strict: true, ..options.clone() };
    let Err(error) = export(checkpoint.dir(), out, &strict) else { return "exact".to_owned() };
    match (export(checkpoint.dir(), out, &options), error) {
        (Ok(report), Error::Inexact { reasons: why, .. }) => {
            let word = word(&report, reasons);
            // The other reasons are those of tensors.
            let notes: Vec<String> = why.into_iter().filter(|reason| report.notes.contains(reason)).collect();
            assert!(word != "exact" || !notes.is_empty(), "{format}: {}", checkpoint.dir().display());
            match notes.is_empty() {
                true => word,
                false => format!("{word}, but{}", footnote(&notes.join("; "), reasons)),
            }
        }
        (Ok(_), error) => panic!("{format}: {error}"),
        (Err(error), _) => {
            let error = error.to_string().replace(&checkpoint.dir().display().to_string(), "");
            let reason = error.split_once(": ").map_or(error.as_str(), |(_, reason)| reason);
            format!("refused{}", footnote(reason, reasons))
        }
    }
}

#[test]
fn the_table_of_formats_is_the_present_one() {
    let models = models();
    if models.is_empty() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut tables = vec![String::new(); FORMATS.len()];
    let mut reasons = Vec::new();
    for (table, format) in tables.iter_mut().zip(FORMATS) {
        write!(table, "\n| `{format}` |").unwrap();
        for (scheme, kind) in SCHEMES {
            let kind = if kind == QuantizationType::WeightOnly { String::new() } else { format!(", {kind}") };
            write!(table, " {scheme}{kind} |").unwrap();
        }
        write!(table, "\n|---|{}\n", "---|".repeat(SCHEMES.len())).unwrap();
    }
    for dir in models {
        let float = import(&dir, &root.path().join(name(&dir)));
        for table in &mut tables {
            write!(table, "| {} |", name(&dir)).unwrap();
        }
        for (index, (scheme, kind)) in SCHEMES.into_iter().enumerate() {
            let out = root.path().join(format!("{}-{index}", name(&dir)));
            let quantized = (scheme != "float").then(|| quantize(&float, &out, scheme, kind, None));
            let checkpoint = quantized.as_ref().unwrap_or(&float);
            for (table, format) in tables.iter_mut().zip(FORMATS) {
                let out = root.path().join(format!("{}-{index}-{format}", name(&dir)));
                let cell = cell(checkpoint, &out, format, &mut reasons);
                write!(table, " {cell} |").unwrap();
            }
        }
        tables.iter_mut().for_each(|table| table.push('\n'));
    }
    let notes: Vec<String> =
        reasons.iter().enumerate().map(|(at, reason)| format!("- [{}] {reason}\n", at + 1)).collect();
    let made = tables.concat() + "\n" + &notes.concat() + "\n";
    check_section("formats", "table", &made);
}
