//! Export of directories for mlx-lm: the Hugging Face layout with linear layers and embeddings in MLX's affine mode.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `weight` | U32 | rows, columns · bits / 32 | codes from 0, the first in the lowest bits (`mx.quantize`) |
//! | `scales`, `biases` | one float type for the whole file | rows, columns / group | `scale * code + bias` |
//!
//! Names are those of mlx-lm's classes after `sanitize`. For GPT-2 and GPT-NeoX they differ from Hugging Face's, and
//! the weights of GPT-2 have outputs as rows.

mod check;
mod weights;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, TensorFileWriter, TensorSpec};
use slm_store::{OutputDir, WEIGHTS, json as json_file};

use self::weights::{Weight, weight};
use crate::float::FloatType;
use crate::hf_export::config::HfModel;
use crate::hf_export::files::{self, CONFIG};
use crate::hf_export::{Fused, fused, refuse_inexact, size_of, values};
use crate::report::{ExportReport, Fidelity, TensorReport};
use crate::source::Source;
use crate::{Error, ExportOptions, Result};

/// Writes `checkpoint` as a directory for mlx-lm.
pub(crate) fn export(
    output: OutputDir,
    checkpoint: &Checkpoint,
    options: &ExportOptions,
) -> Result<ExportReport> {
    let source = Source::new(checkpoint);
    let hf_model = HfModel::of(&source)?;
    let kind = hf_model.architecture.model_type;
    if let Some(reason) = check::refusal(kind, source.model()) {
        return Err(Error::not_in_format(checkpoint.dir(), format!("mlx-lm {reason}")));
    }
    let tensors = fused(hf_model.architecture, source.model());

    // The types are determined first, because they are in the header.
    let mut exact = vec![FloatType::Bf16, FloatType::F16, FloatType::F32];
    let mut differences = check::differences(kind, source.model());
    let mut quantized_inputs = false;
    for tensor in &tensors {
        match weight(&source, tensor)? {
            Weight::Quantized(layer) => {
                quantized_inputs |= layer.quantized_inputs;
                exact.retain(|&float| layer.fidelity(float).is_exact());
            }
            Weight::Float(_) => {
                let (values, _) = values(&source, tensor)?;
                exact.retain(|float| float.change(&values) == 0.0);
            }
        }
    }
    if quantized_inputs {
        differences.push("the quantization of inputs is left out: MLX multiplies with floats".to_owned());
    }
    let float = options.float_type.or(exact.first().copied()).unwrap_or(FloatType::F32);

    let mut reports = Vec::new();
    let mut specs: Vec<TensorSpec> = Vec::new();
    let mut quantization = Quantization::default();
    for tensor in &tensors {
        let name = name(kind, &tensor.name);
        let (kind, fidelity) = match weight(&source, tensor)? {
            Weight::Quantized(layer) => {
                let module = module(&name);
                specs.extend(layer.tensors(module, float).into_iter().map(|(spec, _)| spec));
                quantization.add(module, layer.codes.width(), layer.bit_count());
                (format!("int{} affine", layer.bit_count()), layer.fidelity(float))
            }
            Weight::Float(because) => {
                let (shape, values) = outputs_first(&source, tensor)?;
                specs.push(TensorSpec::new(&name, float.dtype(), shape.as_slice()));
                let change = float.change(&values);
                (float.to_string(), Fidelity::of_values(&float.to_string(), change, because))
            }
        };
        reports.push(TensorReport { name, kind, shape: tensor.shape.clone(), fidelity });
    }
    if options.strict {
        refuse_inexact(checkpoint, &reports, &differences)?;
    }

    let mut writer = TensorFileWriter::create_as(&output.path().join(WEIGHTS), &specs, "mlx")?;
    for tensor in &tensors {
        let name = name(kind, &tensor.name);
        match weight(&source, tensor)? {
            Weight::Quantized(layer) => {
                for (spec, bytes) in layer.tensors(module(&name), float) {
                    writer.write_bytes(&spec.name, spec.dtype, &bytes)?;
                }
            }
            Weight::Float(_) => {
                let mut bytes = Vec::new();
                float.write(&mut bytes, &outputs_first(&source, tensor)?.1);
                writer.write_bytes(&name, float.dtype(), &bytes)?;
            }
        }
    }
    writer.finish()?;
    checkpoint.weights_sha256()?;
    let mut config = hf_model.config(checkpoint, float);
    // Keys that mlx-lm's classes need but those of transformers do not.
    if let (true, Some(step)) = (kind == "gemma3_text", check::gemma_pattern(source.model())) {
        config.insert("sliding_window_pattern".to_owned(), step.into());
    }
    if kind == "gpt2" {
        config.insert("n_ctx".to_owned(), source.model().max_position_embeddings.into());
    }
    if let Some(quantization) = quantization.to_json() {
        config.insert("quantization".to_owned(), quantization.clone());
        config.insert("quantization_config".to_owned(), quantization);
    }
    json_file::write(&output.path().join(CONFIG), &Value::Object(config))?;
    files::write(checkpoint, output.path())?;
    let bytes = size_of(output.path())?;
    let output = output.commit()?;
    let architecture = hf_model.architecture.name.to_owned();
    Ok(ExportReport { output, architecture, tensors: reports, notes: differences, bytes })
}

/// mlx-lm's name of the tensor that Hugging Face calls `name`, in a model of the family `kind`.
fn name(kind: &str, name: &str) -> String {
    match kind {
        "gpt2" => format!("model.{}", name.strip_prefix("transformer.").unwrap_or(name)),
        "gpt_neox" => {
            let name = name.strip_prefix("gpt_neox.").unwrap_or(name);
            match name.strip_prefix("layers.") {
                Some(rest) => format!("model.h.{rest}"),
                None => format!("model.{name}"),
            }
        }
        _ => name.to_owned(),
    }
}

/// The layer whose weight is called `name`.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Returns shape and values of a tensor, with outputs as rows for a linear layer.
fn outputs_first(source: &Source<'_>, tensor: &Fused) -> Result<(Vec<usize>, Vec<f32>)> {
    let (values, _) = values(source, tensor)?;
    let transposed = tensor.parts.iter().any(|(_, origin)| origin.is_transposed());
    match tensor.shape[..] {
        [inputs, outputs] if transposed => {
            let column = |output: usize| (0..inputs).map(move |input| (input, output));
            let all = (0..outputs).flat_map(column).map(|(input, output)| values[input * outputs + output]);
            Ok((vec![outputs, inputs], all.collect()))
        }
        _ => Ok((tensor.shape.clone(), values)),
    }
}

/// The quantization of the layers of a model.
#[derive(Default)]
struct Quantization(BTreeMap<(usize, u32), Vec<String>>);

impl Quantization {
    fn add(&mut self, module: &str, width: usize, bits: u32) {
        self.0.entry((width, bits)).or_default().push(module.to_owned());
    }

    /// The quantization of most layers, and of each layer that differs; `None` for a float model.
    fn to_json(&self) -> Option<Value> {
        let (most, _) = self.0.iter().max_by_key(|(_, modules)| modules.len())?;
        let one =
            |(width, bits): (usize, u32)| json!({ "group_size": width, "bits": bits, "mode": "affine" });
        let mut all: Map<String, Value> = Map::new();
        if let Value::Object(fields) = one(*most) {
            all.extend(fields);
        }
        for (kind, modules) in self.0.iter().filter(|(kind, _)| *kind != most) {
            all.extend(modules.iter().map(|module| (module.clone(), one(*kind))));
        }
        Some(Value::Object(all))
    }
}
