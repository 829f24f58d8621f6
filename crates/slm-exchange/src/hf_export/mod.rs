//! Export of Hugging Face directories.

pub(crate) mod codes;
pub(crate) mod config;
pub(crate) mod files;

use std::path::Path;

use slm_checkpoint::{Checkpoint, TensorFileWriter, TensorSpec, hf};
use slm_model::arch::{Architecture, TensorSource};
use slm_model::{ExpectedTensor, ModelConfig, expected_tensors};
use slm_store::{OutputDir, Replaceable, WEIGHTS, json};

use self::config::HfModel;
use self::files::{CONFIG, FILES};
use crate::float::FloatType;
use crate::report::{ExportReport, Fidelity, TensorReport, require_exact};
use crate::source::{Source, Stored, dequantize_row};
use crate::{ExportOptions, Result};

/// Directories that an export may replace.
pub(crate) const DIRECTORIES: Replaceable = Replaceable {
    what: "an exported Hugging Face directory",
    files_of: |dir| {
        let ours = dir.join(CONFIG).exists() && dir.join(WEIGHTS).exists();
        ours.then(|| FILES.iter().map(|name| (*name).to_owned()).collect())
    },
};

/// A tensor of the file, and the model tensors that it consists of.
#[derive(Debug)]
pub(crate) struct Fused {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) parts: Vec<(ExpectedTensor, TensorSource)>,
}

/// The tensors of a Hugging Face file of `model`.
pub(crate) fn fused(architecture: &Architecture, model: &ModelConfig) -> Vec<Fused> {
    let mut all: Vec<Fused> = Vec::new();
    for tensor in expected_tensors(model) {
        let tensor_source = architecture.tensor_source(model, &tensor, true);
        match all.iter_mut().rev().find(|fused| fused.name == tensor_source.tensor) {
            Some(fused) => fused.parts.push((tensor, tensor_source)),
            None => all.push(Fused {
                name: tensor_source.tensor.clone(),
                shape: tensor_source.shape.clone(),
                parts: vec![(tensor, tensor_source)],
            }),
        }
    }
    all
}

/// Reads the values of a tensor of the file, and returns `true` with them if any were quantized.
pub(crate) fn values(source: &Source<'_>, fused: &Fused) -> Result<(Vec<f32>, bool)> {
    let mut out = vec![0.0; fused.shape.iter().product()];
    let mut quantized = false;
    for (tensor, tensor_source) in &fused.parts {
        let values = match source.read(&tensor.name)? {
            Stored::Float(values) => values,
            Stored::Quantized(matrix, _) => {
                quantized = true;
                let mut values = Vec::with_capacity(matrix.rows() * matrix.cols());
                (0..matrix.rows()).for_each(|row| dequantize_row(&matrix, row, &mut values));
                values
            }
        };
        tensor_source.restore(&values, &mut out);
    }
    Ok((out, quantized))
}

/// Writes `checkpoint` as a directory for transformers.
pub(crate) fn export(
    output: OutputDir,
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<ExportReport> {
    let source = Source::new(checkpoint);
    let hf_model = HfModel::of(&source)?;
    let tensors = fused(hf_model.architecture, source.model());
    // The types are determined first, because they are in the header and in the config.
    let mut reports = Vec::new();
    // The types that hold all values so far.
    let mut exact = vec![FloatType::Bf16, FloatType::F16, FloatType::F32];
    for tensor in &tensors {
        let (values, quantized) = values(&source, tensor)?;
        exact.retain(|float| float.change(&values) == 0.0);
        let max_relative_change = options.float_type.map_or(0.0, |float| float.change(&values));
        let because = quantized.then(|| "the format holds floats only".to_owned());
        let fidelity = Fidelity::of_values("floats", max_relative_change, because);
        reports.push(TensorReport {
            name: tensor.name.clone(),
            kind: String::new(),
            shape: tensor.shape.clone(),
            fidelity,
        });
    }
    // Without a requested type, all tensors get the same type: programs load a directory as the type that its config
    // names.
    let float = options.float_type.or(exact.first().copied()).unwrap_or(FloatType::F32);
    reports.iter_mut().for_each(|report| report.kind = float.to_string());
    if options.strict {
        refuse_inexact(checkpoint, &reports, &[])?;
    }

    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|tensor| TensorSpec::new(&tensor.name, float.dtype(), tensor.shape.as_slice()))
        .collect();
    let mut writer = TensorFileWriter::create_as(&output.path().join(WEIGHTS), &specs, "pt")?;
    for tensor in &tensors {
        let (values, _) = values(&source, tensor)?;
        let mut bytes = Vec::new();
        float.write(&mut bytes, &values);
        writer.write_bytes(&tensor.name, float.dtype(), &bytes)?;
    }
    writer.finish()?;
    checkpoint.weights_sha256()?;
    let config = hf_model.config(checkpoint, float);
    json::write(&output.path().join(CONFIG), &config)?;
    files::write(checkpoint, output.path())?;
    // The output must be readable.
    hf::import(output.path())?;
    let bytes = size_of(output.path())?;
    let output = output.commit()?;
    let architecture = hf_model.architecture.name.to_owned();
    Ok(ExportReport { output, architecture, tensors: reports, notes: Vec::new(), bytes })
}

/// Bytes of the files in `dir`.
pub(crate) fn size_of(dir: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(dir).map_err(slm_store::Error::io(dir, "list"))?;
    Ok(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum())
}

/// Fails if anything is not exact, or if the other program computes differently in the way of `differences`.
pub(crate) fn refuse_inexact(
    checkpoint: &Checkpoint,
    reports: &[TensorReport],
    differences: &[String],
) -> Result<()> {
    require_exact(
        checkpoint,
        reports.iter().map(|report| (report.name.as_str(), &report.fidelity)),
        differences,
    )
}
