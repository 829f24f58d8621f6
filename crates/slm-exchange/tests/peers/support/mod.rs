//! Helpers that several tests share.

mod computed;

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, hf};
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, Error, LayerScheme, PtqConfig, RoundingMethod};
use slm_quant_core::{Bits, Mapping, QuantScheme, QuantizationType, QuantizedMatrix};
use slm_testing::shared_dir;

pub(crate) use computed::{computed, logits, sequences};

/// The reference models; `None` if they are not available.
pub(crate) fn models() -> Vec<PathBuf> {
    let Some(dir) = shared_dir("models") else { return Vec::new() };
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut models: Vec<PathBuf> = entries.filter(|path| path.join("config.json").exists()).collect();
    models.sort();
    assert!(models.len() >= 15, "{models:?}");
    models
}

pub(crate) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Imports a Hugging Face directory.
pub(crate) fn import(dir: &Path, out: &Path) -> Checkpoint {
    Checkpoint::open(hf::import_to(dir, out, false).unwrap().path).unwrap()
}

/// Options of a test: layers quantized with `scheme`, and the embedding with the scheme `embeddings`. Symmetric 4-bit
/// weights are rounded by GPTQ, which gives scales of both signs.
pub(crate) fn config(scheme: &str, kind: QuantizationType, embeddings: Option<&str>) -> PtqConfig {
    let scheme: LayerScheme = scheme.parse().unwrap();
    let scheme = scheme.over(QuantScheme::per_tensor(Bits::Int8)).unwrap();
    let mut config = PtqConfig::new(scheme, kind);
    config.embeddings = embeddings.map(|text| text.parse().unwrap());
    if (scheme.bits, scheme.mapping) == (Bits::Int4, Mapping::Symmetric) {
        config.method = RoundingMethod::Gptq;
    }
    config
}

/// Quantizes `float` into `out`, and its embedding with the scheme `embeddings`.
pub(crate) fn quantize(
    float: &Checkpoint,
    out: &Path,
    scheme: &str,
    kind: QuantizationType,
    embeddings: Option<&str>,
) -> Checkpoint {
    let mut config = config(scheme, kind, embeddings);
    // GPTQ of a real model takes minutes.
    if float.config().model.hidden_size > 512 {
        config.method = RoundingMethod::Rtn;
    }
    quantize_with(float, out, config)
}

/// Quantizes `float` into `out`.
pub(crate) fn quantize_with(float: &Checkpoint, out: &Path, config: PtqConfig) -> Checkpoint {
    let mut quantizer = CheckpointQuantizer::new(float, config).unwrap();
    if quantizer.needs_calibration() {
        let ids: Vec<u32> = (3..67).collect();
        let tokens = CalibrationTokens { ids: &ids, window: 16, prefix: &[], text_sha256: "0".repeat(64) };
        quantizer.calibrate(&tokens, &Device::flex(), &mut |_| Ok::<_, Error>(())).unwrap();
    }
    let written = quantizer.write(out, false, &mut |_| Ok::<_, Error>(())).unwrap();
    Checkpoint::open(written.path).unwrap()
}

/// Dequantizes a matrix.
pub(crate) fn values(matrix: &QuantizedMatrix) -> Vec<f32> {
    let mut values = Vec::with_capacity(matrix.rows() * matrix.cols());
    for row in 0..matrix.rows() {
        for column in 0..matrix.cols() {
            let params = matrix.qparams(matrix.scale_index(row, column / matrix.group_width()));
            values.push((i32::from(matrix.code(row, column)) - params.zero_point) as f32 * params.scale);
        }
    }
    values
}

/// Compares the part of docs/interchange.md between the marks of `section` with `made`, which the test `module`
/// produced, or replaces it if `SLM_BLESS` is set.
pub(crate) fn check_section(section: &str, module: &str, made: &str) {
    let begin = format!("<!-- {section}: made by crates/slm-exchange/tests/peers/{module}.rs -->\n");
    let end = format!("<!-- end of {section} -->\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/interchange.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(&begin).expect("the mark before the table");
    let (found, after) = rest.split_once(&end).expect("the mark after the table");
    if std::env::var_os("SLM_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{made}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, made, "make it anew: SLM_BLESS=1 cargo test -p slm-exchange --test peers {module}");
    }
}

/// Runs a script of `tests/peers`, which must succeed.
pub(crate) fn run(python: &Path, script: &str, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    print!("{}", String::from_utf8_lossy(&output.stdout));
}
