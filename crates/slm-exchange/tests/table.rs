//! The table of formats, schemes and families in docs/interchange.md, made by exporting each.
//!
//! After a change, `SLM_BLESS=1 cargo test -p slm-exchange --test table` makes it anew.

mod support;

use std::fmt::Write as _;
use std::path::Path;

use slm_exchange::{ExportOptions, ExportReport, Fidelity, Format, export};
use slm_quant_core::QuantizationType;
use support::{import, models, name, quantize};

const BEGIN: &str = "<!-- formats: made by crates/slm-exchange/tests/table.rs -->\n";
const END: &str = "<!-- end of formats -->\n";
const FORMATS: [Format; 4] = [Format::Gguf, Format::HuggingFace, Format::CompressedTensors, Format::Onnx];
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

/// What an export keeps of the quantized layers, in a word; where a tensor in a model is less than the others, that of most.
fn word(report: &ExportReport) -> String {
    let mut words: Vec<(&str, usize)> = Vec::new();
    for tensor in report.tensors.iter().filter(|tensor| tensor.shape.len() == 2) {
        let word = match &tensor.fidelity {
            Fidelity::Exact => "exact",
            Fidelity::ScaleRounded { .. } => "scales rounded",
            Fidelity::OffsetRounded { .. } => "offsets rounded",
            Fidelity::Dequantized { .. } => "floats",
            _ => "changed",
        };
        match words.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => words.push((word, 1)),
        }
    }
    words.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let words: Vec<&str> = words.into_iter().map(|(word, _)| word).collect();
    // Float embeddings are exact next to any layers.
    match &words[..] {
        ["exact"] => "exact".to_owned(),
        words => words.iter().filter(|word| **word != "exact").copied().collect::<Vec<_>>().join(", "),
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
                let cell = match export(checkpoint.dir(), &out, &ExportOptions::new(format)) {
                    Ok(report) => word(&report),
                    Err(_) => "refused".to_owned(),
                };
                write!(table, " {cell} |").unwrap();
            }
        }
        tables.iter_mut().for_each(|table| table.push('\n'));
    }
    let made = tables.concat() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/interchange.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark before the table");
    let (found, after) = rest.split_once(END).expect("the mark after the table");
    if std::env::var_os("SLM_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, made, "make it anew: SLM_BLESS=1 cargo test -p slm-exchange --test table");
    }
}
