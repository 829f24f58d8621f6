//! GGUF files: gguf-py reads them, and importing them again gives the same model.

use std::fs;
use std::path::Path;

use crate::support::{import, models, name, quantize, run};
use slm_checkpoint::Checkpoint;
use slm_exchange::{
    Error, ExportOptions, ExportReport, Fidelity, FloatType, Format, ImportOptions, export, import_gguf,
};
use slm_quant_core::QuantizationType;
use slm_testing::peer_python;

/// Schemes whose codes and scales are stored unchanged.
const EXACT: [(&str, &str); 7] = [
    ("int8:tensor:f16", "Q8_0"),
    ("int8:channel:f16", "Q8_0"),
    ("int8:group:32:f16", "Q8_0"),
    ("int8:group:64:symmetric-torch:f16", "Q8_0"),
    ("int4:channel:f16", "Q4_0"),
    ("int4:group:32:f16", "Q4_0"),
    ("int4:group:64:f16", "Q4_0"),
];

/// Schemes whose offsets F16 must round.
const ROUNDED: [&str; 3] = ["int4:tensor:affine:f16", "int4:group:32:affine:f16", "int4:group:64:affine:f16"];

fn to_gguf(checkpoint: &Path, out: &Path, strict: bool) -> Result<ExportReport, Error> {
    export(checkpoint, out, &ExportOptions { strict, ..ExportOptions::new(Format::Gguf) })
}

fn from_gguf(file: &Path, out: &Path) -> Checkpoint {
    let options = ImportOptions::default();
    Checkpoint::open(import_gguf(file, out, &options).unwrap().path).unwrap()
}

/// Inexact tensors of a report, except for rows that are not whole blocks and for Gemma's attention scale.
fn surprises(report: &ExportReport) -> Vec<String> {
    let expected = |fidelity: &Fidelity| match fidelity {
        Fidelity::Exact | Fidelity::Changed { .. } => true,
        Fidelity::Dequantized { because, max_relative_change, .. } => {
            because.contains("whole blocks") && *max_relative_change == 0.0
        }
        _ => false,
    };
    let found = report.tensors.iter().filter(|tensor| !expected(&tensor.fidelity));
    found.map(|tensor| format!("{}: {}", tensor.name, tensor.fidelity)).collect()
}

/// Number of quantized layers whose rows are whole blocks of GGUF.
fn whole_blocks(checkpoint: &Checkpoint) -> usize {
    let layers = checkpoint
        .metadata()
        .into_iter()
        .flat_map(|metadata| metadata.layers.iter().chain(&metadata.embedding));
    let cols = |name: &str| checkpoint.read_quantized(name).unwrap().unwrap().0.cols();
    layers.filter(|layer| cols(&layer.name).is_multiple_of(32)).count()
}

/// Checks that every quantized layer of `b` has the same codes, scales and zero points as in `a`, for any group size.
fn same_codes(a: &Checkpoint, b: &Checkpoint, what: &str) -> usize {
    let mut compared = 0;
    let layers =
        b.metadata().into_iter().flat_map(|metadata| metadata.layers.iter().chain(&metadata.embedding));
    for layer in layers {
        let (theirs, _) = b.read_quantized(&layer.name).unwrap().unwrap();
        let (ours, _) = a.read_quantized(&layer.name).unwrap().unwrap();
        for row in 0..theirs.rows() {
            for column in 0..theirs.cols() {
                let scale = |matrix: &slm_quant_core::QuantizedMatrix| {
                    matrix.scales().get(matrix.scale_index(row, column / matrix.group_width()))
                };
                // A group of zeros may have any scale.
                assert_eq!(ours.code(row, column), theirs.code(row, column), "{what}: {}", layer.name);
                assert_eq!(scale(&ours), scale(&theirs), "{what}: {}", layer.name);
                let zero_point = |matrix: &slm_quant_core::QuantizedMatrix| {
                    matrix.qparams(matrix.scale_index(row, column / matrix.group_width())).zero_point
                };
                assert_eq!(zero_point(&ours), zero_point(&theirs), "{what}: {}", layer.name);
            }
        }
        compared += 1;
    }
    compared
}

#[test]
fn codes_are_the_same_in_gguf_py_and_when_they_come_back() {
    let root = tempfile::tempdir().unwrap();
    let mut pairs = String::new();
    let mut compared = 0;
    for dir in models() {
        let float = import(&dir, &root.path().join(name(&dir)));
        let mut add = |checkpoint: &Checkpoint, scheme: &str| -> ExportReport {
            let label = format!("{}-{}", name(&dir), scheme.replace(':', "-"));
            let file = root.path().join(format!("{label}.gguf"));
            let report = to_gguf(checkpoint.dir(), &file, false).unwrap();
            // gguf-py computes with the rounded offsets.
            if !ROUNDED.contains(&scheme) {
                pairs += &format!("{}\t{}\n", checkpoint.dir().display(), file.display());
            }
            let back = from_gguf(&file, &root.path().join(format!("{label}-back")));
            let layers = same_codes(checkpoint, &back, &label);
            assert_eq!(layers, whole_blocks(checkpoint), "{label}");
            compared += layers;
            assert_eq!(back.tokenizer_json(), checkpoint.tokenizer_json(), "{label}");
            assert_eq!(back.config().tokenizer, checkpoint.config().tokenizer, "{label}");
            report
        };
        let report = add(&float, "float");
        assert_eq!(surprises(&report), [""; 0], "{}", name(&dir));
        for (scheme, kind) in EXACT {
            // The embedding is quantized too in one of the schemes.
            let embeddings = (scheme == "int8:group:32:f16").then_some(scheme);
            let out = root.path().join(format!("{}-{}-slm", name(&dir), scheme.replace(':', "-")));
            let quantized = quantize(&float, &out, scheme, QuantizationType::WeightOnly, embeddings);
            let report = add(&quantized, scheme);
            assert_eq!(surprises(&report), [""; 0], "{} {scheme}", name(&dir));
            let found = report.tensors.iter().filter(|tensor| tensor.kind == kind).count();
            assert!(found >= 4, "{} {scheme}: {found} tensors of {kind}", name(&dir));
        }
        for scheme in ROUNDED {
            let out = root.path().join(format!("{}-{}-slm", name(&dir), scheme.replace(':', "-")));
            let quantized = quantize(&float, &out, scheme, QuantizationType::WeightOnly, None);
            let report = add(&quantized, scheme);
            let rounded = |fidelity: &Fidelity| matches!(fidelity, Fidelity::OffsetRounded { max_change_in_steps } if *max_change_in_steps < 0.01);
            let found = report.tensors.iter().filter(|tensor| rounded(&tensor.fidelity)).count();
            assert!(found > 0, "{} {scheme}: no rounded offset", name(&dir));
        }
    }
    if pairs.is_empty() {
        return;
    }
    assert!(compared > 1000, "{compared} layers");
    println!("imported again: {compared} layers have the same codes and scales");
    if let Some(python) = peer_python("gguf") {
        let list = root.path().join("pairs");
        fs::write(&list, pairs).unwrap();
        run(&python, "check_gguf.py", &[&list]);
    }
}

#[test]
fn what_is_not_exact_is_said_and_refused() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let float = import(&dir, &root.path().join("float"));
    let cases = [
        ("int8:channel", QuantizationType::WeightOnly, "scale rounded", "scale"),
        (
            "int8:channel:affine:f16",
            QuantizationType::WeightOnly,
            "no 8-bit type with zero points",
            "written as",
        ),
        ("int4:group:16:f16", QuantizationType::WeightOnly, "groups of 16 values", "written as"),
        ("int4:group:32:affine:f16", QuantizationType::WeightOnly, "offset rounded", "steps"),
        ("int8:channel:f16", QuantizationType::Static, "", "static ranges"),
    ];
    for (index, (scheme, kind, fidelity, refusal)) in cases.into_iter().enumerate() {
        let quantized = quantize(&float, &root.path().join(format!("q{index}")), scheme, kind, None);
        let file = root.path().join(format!("{index}.gguf"));
        let error = to_gguf(quantized.dir(), &file, true).unwrap_err();
        assert!(matches!(error, Error::Inexact { .. }), "{scheme}: {error}");
        assert!(error.to_string().contains(refusal), "{scheme}: {error}");
        assert!(!file.exists(), "{scheme}");
        let report = to_gguf(quantized.dir(), &file, false).unwrap();
        let told =
            report.tensors.iter().map(|tensor| tensor.fidelity.to_string()).collect::<Vec<_>>().join("\n");
        assert!(told.contains(fidelity), "{scheme}: {told}");
        assert_eq!(report.is_exact(), fidelity.is_empty(), "{scheme}");
        // Codes are kept even if scales are rounded.
        if scheme == "int8:channel" {
            let back = from_gguf(&file, &root.path().join("back"));
            let (ours, _) = quantized.read_quantized("layers.0.mlp.up_proj").unwrap().unwrap();
            let (theirs, _) = back.read_quantized("layers.0.mlp.up_proj").unwrap().unwrap();
            assert_eq!(ours.codes(), theirs.codes());
        }
    }
    // Another float type can be requested.
    let file = root.path().join("f16.gguf");
    let options = ExportOptions { float_type: Some(FloatType::F16), ..ExportOptions::new(Format::Gguf) };
    let report = export(float.dir(), &file, &options).unwrap();
    assert!(report.tensors.iter().any(|tensor| matches!(tensor.fidelity, Fidelity::FloatRounded { .. })));
    // An existing output is replaced only on request.
    let error = export(float.dir(), &file, &options).unwrap_err().to_string();
    assert!(error.contains("overwrite it"), "{error}");
    export(float.dir(), &file, &ExportOptions { overwrite: true, ..options }).unwrap();
}
