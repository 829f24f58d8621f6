//! Conversion of Hugging Face directories to checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use slm_model::{EMBED_TOKENS, ExpectedTensor, LM_HEAD, ModelConfig, TOKEN_TABLE, expected_tensors};
use slm_quant_core::{ActivationGranularity, ActivationQuant, QuantScheme, QuantizationType};

use super::{Imported, import};
use crate::imported::{ImportedLayers, layer_of};
use crate::{ChatInfo, CheckpointWriter, Error, Layout, Lineage, Result, SaveRequest};
use slm_store::{Error as StoreError, StopFlag};

/// Options of an import from Hugging Face or from a file of another program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Dequantizes weights that are stored quantized.
    pub dequantize: bool,
    /// Quantizes inputs of quantized layers per token if the file leaves them float.
    pub dynamic: bool,
    /// Replaces a checkpoint that exists.
    pub overwrite: bool,
    /// Stops the import, which then writes nothing.
    pub stop: StopFlag,
}

/// Result of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// Path of the checkpoint.
    pub path: PathBuf,
    /// Architecture, as named by the program that wrote the model.
    pub architecture: &'static str,
    /// The model's configuration.
    pub config: ModelConfig,
    /// True if the checkpoint has a tokenizer.
    pub has_tokenizer: bool,
    /// Conversation format of the model, if it was trained for one.
    pub chat: Option<ChatInfo>,
    /// Unknown fields of `config.json`, which were ignored.
    pub unrecognized_fields: Vec<String>,
    /// Assumptions made and parts ignored, one sentence each, with the file. They are also logged as warnings.
    pub warnings: Vec<String>,
    /// Summary of the conversion of the tensors of each type, one sentence each; empty for a float Hugging Face model.
    pub tensors: Vec<String>,
    /// Number of quantized layers, including the embedding.
    pub quantized_layers: usize,
    /// Quantization of the inputs of quantized layers, if there are any.
    pub quantization_type: Option<QuantizationType>,
}

/// Writes the model in `dir` as a checkpoint into `out`, one tensor at a time. Quantized weights keep their integers.
///
/// # Errors
/// Same as [`import_with`].
pub fn import_to(dir: impl AsRef<Path>, out: impl AsRef<Path>, overwrite: bool) -> Result<ImportReport> {
    import_with(dir, out, &ImportOptions { overwrite, ..ImportOptions::default() })
}

/// Writes the model in `dir` as a checkpoint into `out`, one tensor at a time.
///
/// # Errors
/// The errors of [`import`] and [`save`](crate::save); [`Error::Unusable`] with the layer's name for a layer whose
/// quantization slm has no scheme for, unless weights are dequantized.
pub fn import_with(
    dir: impl AsRef<Path>,
    out: impl AsRef<Path>,
    options: &ImportOptions,
) -> Result<ImportReport> {
    let mut imported = import(dir)?;
    imported.weights.stop_at(&options.stop);
    if imported.quantization().is_none() && (options.dequantize || options.dynamic) {
        return Err(Error::import_of_floats(&imported.dir, options.dequantize));
    }
    let plan = Plan::new(&imported, options)?;
    let mut writer =
        CheckpointWriter::create(&out, imported.config(), &plan.layout(&imported)?, options.overwrite)?;
    writer.stop_at(options.stop.clone());
    let mut layers = ImportedLayers::new(plan.quantization_type, plan.granularity);
    for tensor in &plan.tensors {
        let ExpectedTensor { name, shape, linear_weight } = &tensor.expected;
        match &tensor.layer {
            Some((layer, _)) => {
                if let Some((matrix, activation)) = imported.read_quantized(name)? {
                    layers.write(&mut writer, layer, &matrix, plan.activation(activation))?;
                }
            }
            None => {
                writer.write_f32(name, &imported.read_f32(name)?)?;
                if let (true, &[rows, cols]) = (linear_weight, &shape[..]) {
                    layers.skip(layer_of(name), [rows, cols], "float in the file".to_owned());
                }
            }
        }
    }
    let quantized_layers = layers.len();
    let rounded = if imported.quantization() == Some("gptq") { "gptq" } else { "rtn" };
    let metadata = layers.metadata(rounded, Lineage::default());
    let path = writer.finish(&SaveRequest {
        tokenizer_json: imported.tokenizer_json(),
        tokenizer: imported.tokenizer.clone(),
        metadata: metadata.as_ref(),
        lineage: Some(imported.lineage(&options.stop)?),
        ..SaveRequest::default()
    })?;
    for note in &plan.notes {
        tracing::warn!("{note}");
    }
    let mut warnings = imported.warnings;
    warnings.extend(plan.notes);
    Ok(ImportReport {
        path,
        architecture: imported.architecture.name,
        has_tokenizer: imported.tokenizer_json.is_some(),
        chat: imported.tokenizer.chat,
        config: imported.config,
        unrecognized_fields: imported.unrecognized_fields,
        warnings,
        tensors: plan.summary,
        quantized_layers,
        quantization_type: (quantized_layers > 0).then_some(plan.quantization_type),
    })
}

/// A tensor of the checkpoint, and its layer if it is quantized.
struct Planned {
    expected: ExpectedTensor,
    layer: Option<(String, QuantScheme)>,
}

/// The storage form of each tensor.
struct Plan {
    tensors: Vec<Planned>,
    quantization_type: QuantizationType,
    granularity: ActivationGranularity,
    /// Layers with static inputs.
    static_inputs: BTreeSet<String>,
    /// True if dynamic inputs have no zero points in the file.
    symmetric_inputs: bool,
    summary: Vec<String>,
    notes: Vec<String>,
}

impl Plan {
    fn new(imported: &Imported, options: &ImportOptions) -> Result<Self> {
        let tied = imported.config().tie_word_embeddings;
        let mut tensors = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut symmetric_inputs = false;
        let mut inputs: Vec<(String, ActivationQuant)> = Vec::new();
        for expected in expected_tensors(imported.config()) {
            let can_be_codes = expected.linear_weight || expected.name == EMBED_TOKENS;
            let source = imported.tensor_sources.get(&expected.name);
            let stored = source.and_then(|(_, source)| imported.weights.quantized(&source.tensor));
            let mut layer = None;
            if let Some(stored) = stored {
                let description = stored.description();
                symmetric_inputs |= stored.has_symmetric_dynamic_inputs();
                let what = match options.dequantize || !can_be_codes {
                    true => format!("{description}: dequantized to floats"),
                    false => {
                        let Some((matrix, activation)) = imported.read_quantized(&expected.name)? else {
                            continue;
                        };
                        let scheme = matrix.scheme();
                        let name = match expected.name.as_str() {
                            EMBED_TOKENS if tied => LM_HEAD,
                            EMBED_TOKENS => TOKEN_TABLE,
                            name => layer_of(name),
                        };
                        if expected.name != EMBED_TOKENS {
                            inputs.push((name.to_owned(), activation));
                        }
                        layer = Some((name.to_owned(), scheme));
                        format!("{description}: the same codes and scales, {scheme}")
                    }
                };
                *counts.entry(what).or_default() += 1;
            }
            tensors.push(Planned { expected, layer });
        }
        let summary = counts.into_iter().map(|(what, count)| format!("{count} layers of {what}")).collect();
        let mut plan = Self {
            tensors,
            quantization_type: QuantizationType::WeightOnly,
            granularity: ActivationGranularity::PerToken,
            static_inputs: inputs
                .iter()
                .filter(|(_, input)| matches!(input, ActivationQuant::Static(_)))
                .map(|(name, _)| name.clone())
                .collect(),
            symmetric_inputs,
            summary,
            notes: Vec::new(),
        };
        plan.choose_inputs(imported, &inputs, options.dynamic)?;
        Ok(plan)
    }

    /// Chooses the quantization of the inputs of all layers.
    fn choose_inputs(
        &mut self,
        imported: &Imported,
        inputs: &[(String, ActivationQuant)],
        dynamic: bool,
    ) -> Result<()> {
        let of = |wanted: fn(ActivationQuant) -> bool| inputs.iter().find(|(_, input)| wanted(*input));
        let float = of(|input| input == ActivationQuant::Float);
        let dynamics = of(|input| matches!(input, ActivationQuant::Dynamic(_)));
        let statics = of(|input| matches!(input, ActivationQuant::Static(_)));
        if let (Some((float, _)), Some((other, _))) = (float, dynamics.or(statics)) {
            return Err(
                self.mixed(imported, &format!("inputs of {float} are float and those of {other} are not"))
            );
        }
        let path = imported.dir.display();
        match (dynamics, statics) {
            (None, None) if dynamic => self.quantization_type = QuantizationType::Dynamic,
            (None, None) => {}
            _ if dynamic => {
                return Err(Error::ImportOption {
                    path: imported.dir.clone(),
                    option: "dynamic",
                    reason: "its config says how inputs are quantized".to_owned(),
                });
            }
            (_, Some(_)) => self.quantization_type = QuantizationType::Static,
            (Some((name, ActivationQuant::Dynamic(granularity))), None) => {
                let other = inputs.iter().find(|(_, input)| *input != ActivationQuant::Dynamic(*granularity));
                if let Some((other, _)) = other {
                    return Err(self.mixed(
                        imported,
                        &format!("inputs of {name} and {other} have different granularities"),
                    ));
                }
                self.quantization_type = QuantizationType::Dynamic;
                self.granularity = *granularity;
                let symmetric = self.symmetric_inputs;
                self.notes.extend(symmetric.then(|| {
                    format!(
                        "{path}: inputs are quantized with zero points here, and without them in the file"
                    )
                }));
            }
            (Some(_), None) => {}
        }
        Ok(())
    }

    fn mixed(&self, imported: &Imported, problem: &str) -> Error {
        Error::NeedsDequantizing {
            path: imported.dir.clone(),
            problem: format!("{problem}, which one checkpoint cannot represent"),
        }
    }

    /// Returns the quantization of the inputs of a layer, given that in the file, `found`.
    fn activation(&self, found: ActivationQuant) -> ActivationQuant {
        match (self.quantization_type, found) {
            (QuantizationType::Dynamic, _) => ActivationQuant::Dynamic(self.granularity),
            (QuantizationType::Static, ActivationQuant::Float) => {
                ActivationQuant::Dynamic(ActivationGranularity::PerToken)
            }
            (_, found) => found,
        }
    }

    fn layout(&self, imported: &Imported) -> Result<Layout> {
        let mut layout = Layout::new(imported.config());
        layout.store_floats_as(|name| Some(imported.float_type(name)));
        for tensor in &self.tensors {
            if let Some((layer, scheme)) = &tensor.layer {
                let is_static = self.static_inputs.contains(layer);
                layout.quantize(layer, *scheme, is_static).map_err(|source| {
                    Error::Store(StoreError::Layer {
                        path: imported.dir.clone(),
                        layer: layer.clone(),
                        source,
                    })
                })?;
            }
        }
        Ok(layout)
    }
}
