//! Writing of compressed-tensors directories: the Hugging Face layout with quantized linear layers, as transformers and
//! vLLM read it.
//!
//! The formats are those of the package compressed-tensors (`compressors` and `quantization/quant_args.py`):
//!
//! | weights | inputs | format | tensors of a layer |
//! |---|---|---|---|
//! | INT8, INT4 | static, dynamic | `int-quantized` | `weight` I8, `weight_scale`, `weight_zero_point` |
//! | INT8, INT4 | float | `pack-quantized` | `weight_packed` I32, `weight_scale`, `weight_shape`, `weight_zero_point` |
//!
//! Static inputs also have `input_scale` and `input_zero_point`. A scale that all rows share is written for each row.

mod scheme;
mod weights;

use safetensors::Dtype;
use serde_json::Value;
use slm_checkpoint::{Checkpoint, TensorFileWriter, TensorSpec};
use slm_model::LM_HEAD;
use slm_store::{OutputDir, WEIGHTS, json};

use self::scheme::{Groups, Scheme};
use self::weights::{Weight, weight};
use crate::float::FloatType;
use crate::hf_export::config::HfModel;
use crate::hf_export::files::{self, CONFIG};
use crate::hf_export::{Fused, fused, refuse_inexact, size_of, values};
use crate::report::{ExportReport, Fidelity, TensorReport};
use crate::source::Source;
use crate::{Error, ExportOptions, Result};

/// A tensor of the Hugging Face model in the form in which it is written.
struct Planned {
    tensor: Fused,
    /// The quantization scheme; `None` for a float tensor.
    scheme: Option<Scheme>,
    /// The reason why codes are written as floats.
    because: Option<String>,
}

/// Writes `checkpoint` as a directory for transformers and vLLM.
pub(crate) fn export(
    output: OutputDir,
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<ExportReport> {
    checkpoint.require_quantized()?;
    let source = Source::new(checkpoint);
    let hf_model = HfModel::of(&source)?;
    let mut exact = vec![FloatType::Bf16, FloatType::F16, FloatType::F32];
    let mut plan = Vec::new();
    let mut groups = Groups::default();
    for tensor in fused(hf_model.architecture, source.model()) {
        let (scheme, because, floats) = match weight(&source, &tensor)? {
            Weight::Quantized(layer) => (Some(layer.scheme), None, layer.codes.scales),
            Weight::Float(because) => (None, because, values(&source, &tensor)?.0),
        };
        exact.retain(|float| float.change(&floats) == 0.0);
        if let Some(module) = tensor.name.strip_suffix(".weight")
            && tensor.parts.iter().any(|(part, _)| part.linear_weight)
        {
            groups.add(module, scheme);
        }
        plan.push(Planned { tensor, scheme, because });
    }
    if groups.is_empty() {
        let what = "none of its layers has a form in compressed-tensors";
        let reason = plan.iter().find_map(|planned| planned.because.clone()).unwrap_or_default();
        return Err(Error::not_in_format(checkpoint.dir(), format!("{what}: {reason}")));
    }
    let float = options.float_type.or(exact.first().copied()).unwrap_or(FloatType::F32);
    let mut notes = Vec::new();
    if plan.iter().any(|planned| planned.scheme.is_some() && planned.tensor.name.starts_with(LM_HEAD)) {
        notes.push(
            "the head is quantized, and vLLM reads only a float one: skip lm_head when the model is quantized for it"
                .to_owned(),
        );
    }
    if plan.iter().any(|planned| planned.scheme.is_some_and(|scheme| scheme.is_packed() && !scheme.symmetric))
    {
        notes.push(
            "transformers does not load affine weights of layers with float inputs, because it rejects the shape of \
             their packed zero points: quantize the model with a symmetric scheme for transformers"
                .to_owned(),
        );
    }

    let mut reports = Vec::new();
    let mut specs: Vec<TensorSpec> = Vec::new();
    for planned in &plan {
        let (tensor, name) = (&planned.tensor, &planned.tensor.name);
        let Some(scheme) = planned.scheme else {
            let max_relative_change = float.change(&values(&source, tensor)?.0);
            let because = planned.because.clone();
            let fidelity = Fidelity::of_values(&float.to_string(), max_relative_change, because);
            specs.push(TensorSpec::new(name, float.dtype(), tensor.shape.as_slice()));
            reports.push(report(name, &float.to_string(), &tensor.shape, fidelity));
            continue;
        };
        let Weight::Quantized(layer) = weight(&source, tensor)? else { continue };
        let max_relative_change = float.change(&layer.codes.scales);
        let fidelity = match max_relative_change {
            0.0 => Fidelity::Exact,
            max_relative_change => Fidelity::ScaleRounded { max_relative_change },
        };
        specs.extend(layer.tensors(name, float).into_iter().map(|(spec, _)| spec));
        reports.push(report(name, &scheme.to_string(), &tensor.shape, fidelity));
    }
    if options.strict {
        refuse_inexact(checkpoint, &reports, &[])?;
    }

    let mut writer = TensorFileWriter::create_as(&output.path().join(WEIGHTS), &specs, "pt")?;
    for planned in &plan {
        let tensor = &planned.tensor;
        match (planned.scheme, weight(&source, tensor)?) {
            (Some(_), Weight::Quantized(layer)) => {
                for (spec, bytes) in layer.tensors(&tensor.name, float) {
                    writer.write_bytes(&spec.name, spec.dtype, &bytes)?;
                }
            }
            _ => {
                let mut bytes = Vec::new();
                float.write(&mut bytes, &values(&source, tensor)?.0);
                writer.write_bytes(&tensor.name, float.dtype(), &bytes)?;
            }
        }
    }
    writer.finish()?;
    checkpoint.weights_sha256()?;
    let mut config = hf_model.config(checkpoint, float);
    config.insert("quantization_config".to_owned(), groups.to_json());
    json::write(&output.path().join(CONFIG), &Value::Object(config))?;
    files::write(checkpoint, output.path())?;
    let bytes = size_of(output.path())?;
    let output = output.commit()?;
    let architecture = hf_model.architecture.name.to_owned();
    Ok(ExportReport { output, architecture, tensors: reports, notes, bytes })
}

fn report(name: &str, kind: &str, shape: &[usize], fidelity: Fidelity) -> TensorReport {
    TensorReport { name: name.to_owned(), kind: kind.to_owned(), shape: shape.to_vec(), fidelity }
}

/// The little-endian bytes of 64-bit numbers, as torch writes shapes.
fn shape_tensor(shape: [usize; 2]) -> (Dtype, Vec<u8>) {
    (Dtype::I64, shape.iter().flat_map(|&dim| (dim as u64).to_le_bytes()).collect())
}
