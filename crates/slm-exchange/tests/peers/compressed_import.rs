//! compressed-tensors directories survive a round trip: the same codes, scales and ranges.

use std::fs;

use crate::support::{import, models, name, quantize, values};
use slm_checkpoint::hf::ImportOptions;
use slm_checkpoint::{Checkpoint, hf};
use slm_exchange::{ExportOptions, Format, export};
use slm_quant_core::QuantizationType;

const CASES: [(&str, QuantizationType); 5] = [
    ("int8:channel", QuantizationType::Dynamic),
    ("int8:tensor", QuantizationType::Static),
    ("int8:channel:affine:f16", QuantizationType::WeightOnly),
    ("int4:group:32:affine:f16", QuantizationType::WeightOnly),
    ("int4:group:16", QuantizationType::Dynamic),
];

#[test]
fn what_was_exported_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for dir in models() {
        let float = import(&dir, &root.path().join(name(&dir)));
        for (index, (scheme, kind)) in CASES.into_iter().enumerate() {
            let label = format!("{}-{index}", name(&dir));
            let quantized = quantize(&float, &root.path().join(format!("{label}-slm")), scheme, kind, None);
            let out = root.path().join(&label);
            let report = export(quantized.dir(), &out, &ExportOptions::new(Format::CompressedTensors));
            // In stories260k, rows are not whole groups; in GPT-2, the format supports only the head.
            let Ok(report) = report else {
                assert_eq!(name(&dir), "stories260k", "{label}");
                continue;
            };
            let back = root.path().join(format!("{label}-back"));
            let imported = hf::import_to(&out, &back, false).unwrap();
            let back = Checkpoint::open(&imported.path).unwrap();
            let metadata = back.metadata().unwrap();
            assert_eq!(metadata.quantization_type, kind, "{label}");
            for record in &quantized.metadata().unwrap().layers {
                let (ours, inputs) = quantized.read_quantized(&record.name).unwrap().unwrap();
                let Some((theirs, back_inputs)) = back.read_quantized(&record.name).unwrap() else {
                    assert!(!report.is_exact(), "{label}: {}", record.name);
                    continue;
                };
                assert_eq!(ours.codes(), theirs.codes(), "{label}: {}", record.name);
                assert_eq!(inputs, back_inputs, "{label}: {}", record.name);
                assert_eq!(ours.zero_points().is_some(), theirs.zero_points().is_some(), "{label}");
                for (row, group) in [(0, 0), (ours.rows() - 1, ours.groups_per_row() - 1)] {
                    let params = |matrix: &slm_quant_core::QuantizedMatrix| {
                        matrix.qparams(matrix.scale_index(row, group))
                    };
                    assert_eq!(params(&ours), params(&theirs), "{label}: {}", record.name);
                }
                assert_eq!(values(&ours), values(&theirs), "{label}: {}", record.name);
                compared += 1;
            }
            // Imported as floats: the dequantized values.
            let options = ImportOptions { dequantize: true, ..ImportOptions::default() };
            let floats = root.path().join(format!("{label}-floats"));
            hf::import_with(&out, &floats, &options).unwrap();
            let floats = Checkpoint::open(&floats).unwrap();
            assert!(!floats.is_quantized());
            let first = &metadata.layers[0].name;
            let (matrix, _) = back.read_quantized(first).unwrap().unwrap();
            assert_eq!(
                floats.tensors().read_f32(&format!("{first}.weight")).unwrap(),
                values(&matrix),
                "{label}"
            );
            for old in [&out, back.dir(), floats.dir(), quantized.dir()] {
                fs::remove_dir_all(old).unwrap();
            }
        }
    }
    println!("{compared} layers came back");
    assert!(compared > 700 || models().is_empty(), "{compared}");
}
