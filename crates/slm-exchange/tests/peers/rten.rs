//! ONNX models, read and computed by rten, a second program that shares no code with ONNX Runtime.
//!
//! `.ci/peers` builds the program in `.ci/onnx-rten`, which computes half of a sequence in one pass and the rest with
//! the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{import, logits, models, name, quantize, sequences};
use burn::tensor::Device;
use slm_checkpoint::Checkpoint;
use slm_exchange::{ExportOptions, Format, export};
use slm_quant_core::QuantizationType;

use QuantizationType::{Dynamic, Static, WeightOnly};

const CASES: [(&str, QuantizationType); 5] = [
    ("int8:tensor:affine", WeightOnly),
    ("int8:channel", WeightOnly),
    ("int8:tensor", Static),
    ("int8:channel", Static),
    ("int8:channel", Dynamic),
];
/// Largest difference of a logit.
const BOUND: f32 = 1e-3;
/// Largest difference of a logit after a value was rounded differently at a tie between two codes of an input.
const AFTER_TIE: f32 = 1.0;

/// Returns `true` if rten's products of UINT8 and INT8 codes saturate, as they do on x86 processors whose older
/// instructions add pairs of products in 16 bits.
fn saturates() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The program in the directory that `SLM_ONNX_RTEN` names, or in the one used by `.ci/peers`.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("SLM_ONNX_RTEN").map(PathBuf::from);
    let own = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/slm/onnx-rten"));
    let path = named.or_else(own)?.join("release/onnx-rten");
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: no {}; .ci/peers builds it", path.display());
    None
}

/// Exports `checkpoint` and computes `ids` with rten.
fn compute(program: &Path, checkpoint: &Checkpoint, ids: &[Vec<u32>], dir: &Path) -> (Output, Vec<f32>) {
    let options = ExportOptions { strict: true, overwrite: true, ..ExportOptions::new(Format::Onnx) };
    let out = dir.join("onnx");
    export(checkpoint.dir(), &out, &options).unwrap();
    let (list, logits) = (dir.join("ids"), dir.join("logits"));
    let line = |ids: &Vec<u32>| ids.iter().map(|id| format!("{id} ")).collect::<String>() + "\n";
    fs::write(&list, ids.iter().map(line).collect::<String>()).unwrap();
    let output = Command::new(program).args([&out.join("model.onnx"), &list, &logits]).output().unwrap();
    let bytes = fs::read(&logits).unwrap_or_default();
    (output, bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

/// Returns the largest difference of a logit at each position.
fn differences(program: &Path, checkpoint: &Checkpoint, label: &str, dir: &Path) -> Vec<f32> {
    let model = checkpoint.load_model(&Device::flex()).unwrap();
    let vocab = model.config().vocab_size;
    let ids = sequences(vocab);
    let ours = logits(&model, &ids);
    let (output, theirs) = compute(program, checkpoint, &ids, dir);
    assert!(output.status.success(), "{label}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(ours.len(), theirs.len(), "{label}");
    let rows = ours.chunks(vocab).zip(theirs.chunks(vocab));
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)).collect()
}

#[test]
fn rten_computes_every_family() {
    let Some(program) = program() else { return };
    let root = tempfile::tempdir().unwrap();
    let (mut worst, mut near, mut positions) = (0.0_f32, 0, 0);
    for dir in models() {
        let float = import(&dir, &root.path().join(name(&dir)));
        let found = differences(&program, &float, name(&dir), root.path());
        worst = found.iter().copied().fold(worst, f32::max);
        assert!(worst < BOUND, "{}: {worst}", name(&dir));
        for (scheme, kind) in CASES {
            let label = format!("{}-{}-{kind}", name(&dir), scheme.replace(':', "-"));
            if kind == Dynamic && saturates() {
                println!("{label}: skipped: without AVX-512 VNNI rten's integer products saturate");
                continue;
            }
            let quantized = quantize(&float, &root.path().join(&label), scheme, kind, None);
            let found = differences(&program, &quantized, &label, root.path());
            let most = found.iter().copied().fold(0.0, f32::max);
            let count = found.iter().filter(|&&difference| difference < BOUND).count();
            println!(
                "{label}: {count} of {} positions within {BOUND}, the others within {most:.1e}",
                found.len()
            );
            assert!(most < if kind == WeightOnly { BOUND } else { AFTER_TIE }, "{label}: {most}");
            if kind == WeightOnly {
                worst = worst.max(most);
            } else {
                (near, positions) = (near + count, positions + found.len());
            }
        }
    }
    assert!(
        near * 10 >= positions * 8,
        "{near} of {positions} positions with quantized inputs are within {BOUND}"
    );
    println!(
        "rten: logits differ by {worst:.1e} at most with float inputs; with quantized ones {near} of {positions} positions"
    );
}

/// rten 0.27 supports neither INT4 nor scales for blocks of a row.
#[test]
fn what_rten_does_not_have_is_refused_by_it() {
    let Some(program) = program() else { return };
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let root = tempfile::tempdir().unwrap();
    let float = import(&dir, &root.path().join("float"));
    for (scheme, reason) in [
        ("int4:group:32", "unsupported data type INT4"),
        ("int4:channel", "unsupported data type INT4"),
        ("int8:group:32", "block_size"),
    ] {
        let quantized = quantize(&float, &root.path().join(&scheme[..8]), scheme, WeightOnly, None);
        let (output, _) = compute(&program, &quantized, &[vec![1, 2, 3, 4]], root.path());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{scheme}: {error}");
    }
}
