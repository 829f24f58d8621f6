//! Overview of a checkpoint.

use serde::Serialize;
use slm_checkpoint::{Checkpoint, LayerMetadata, QuantizationMetadata};
use slm_kernels::KernelKind;
use slm_model::ModelConfig;
use slm_quant_core::QuantizationType;
use slm_train::{RunProgress, run_progress};

use super::words;
use crate::context::Context;
use crate::error::Result;
use crate::table::{self, Ranking, Row, TableArgs, range};

/// Columns of the table of layers, the most informative first.
const HEADER: [&str; 8] = ["layer", "SQNR dB", "clipped", "scale", "zero point", "shape", "input", "scheme"];

#[derive(Serialize)]
pub(super) struct CheckpointView<'a> {
    pub(super) checkpoint: &'a std::path::Path,
    pub(super) program_version: &'a str,
    pub(super) format_version: u32,
    pub(super) model: &'a ModelConfig,
    pub(super) parameters: u64,
    pub(super) quantized: bool,
    /// Quantization of the inputs of quantized layers.
    pub(super) input_quantization: Option<String>,
    /// Progress of an interrupted training run.
    pub(super) unfinished: Option<Unfinished>,
    pub(super) has_tokenizer: bool,
    pub(super) has_chat_template: bool,
    /// Origin of the weights.
    pub(super) lineage: Option<&'a serde_json::Value>,
    pub(super) tensors: Vec<TensorView>,
    pub(super) weight_bytes: u64,
    pub(super) quantization: Option<&'a QuantizationMetadata>,
    pub(super) kernel: String,
    pub(super) kernels_available: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Unfinished {
    pub(super) step: usize,
    pub(super) steps: usize,
}

impl From<RunProgress> for Unfinished {
    fn from(run: RunProgress) -> Self {
        Self { step: run.step, steps: run.steps }
    }
}

/// Describes the quantization of the inputs of quantized layers.
fn inputs(metadata: &QuantizationMetadata) -> String {
    match (metadata.quantization_type, &metadata.activation_observer, metadata.activation_granularity) {
        (QuantizationType::WeightOnly, ..) => "weight-only, float activations".to_owned(),
        (QuantizationType::Static, Some(observer), _) => format!("static 8-bit activations ({observer})"),
        (QuantizationType::Static, None, _) => "static 8-bit activations".to_owned(),
        (QuantizationType::Dynamic, _, Some(granularity)) => {
            format!("dynamic 8-bit activations (one scale per {granularity})")
        }
        (QuantizationType::Dynamic, ..) => "dynamic 8-bit activations".to_owned(),
    }
}

#[derive(Serialize)]
pub(super) struct TensorView {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
}

impl<'a> CheckpointView<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        let file = checkpoint.tensors();
        let tensors: Vec<_> = checkpoint
            .tensor_names()
            .iter()
            .map(|name| TensorView {
                name: name.clone(),
                dtype: file.dtype(name).map(|dtype| dtype.to_string()).unwrap_or_default(),
                shape: file.shape(name).unwrap_or_default().to_vec(),
                bytes: file.byte_size(name).unwrap_or_default(),
            })
            .collect();
        let config = checkpoint.config();
        Self {
            checkpoint: checkpoint.dir(),
            unfinished: run_progress(checkpoint.dir())
                .filter(RunProgress::is_unfinished)
                .map(Unfinished::from),
            input_quantization: checkpoint.metadata().map(inputs),
            program_version: &config.program_version,
            format_version: checkpoint.format_version(),
            model: &config.model,
            parameters: config.model.parameter_count(),
            quantized: checkpoint.is_quantized(),
            has_tokenizer: checkpoint.tokenizer_path().is_some(),
            has_chat_template: config.tokenizer.chat.is_some(),
            lineage: config.lineage.as_ref(),
            weight_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
            tensors,
            quantization: checkpoint.metadata(),
            kernel: KernelKind::selected().to_string(),
            kernels_available: KernelKind::available().iter().map(ToString::to_string).collect(),
        }
    }

    /// Prints the description of the model, its quantized layers, and with `tensors` its tensors.
    pub(super) fn say(&self, tensors: bool, tables: TableArgs, context: &Context) -> Result<()> {
        let output = &context.output;
        output.headline(words::headline(self))?;
        output.say(format!("\n{}", words::summary(self)))?;
        if let Some(metadata) = self.quantization {
            for layer in &metadata.skipped {
                output.say(format!("left float: {} ({})", layer.name, layer.reason))?;
            }
            let rows = metadata.records().map(|layer| Row {
                badness: -layer.error.sqnr_db,
                cells: cells(layer, metadata.quantization_type),
            });
            let ranking = Ranking {
                what: "layers",
                by: "the SQNR of their weights (`slm explain sqnr`)",
                note: "",
                header: &HEADER,
                rows: rows.collect(),
                last: None,
            };
            tables.show(ranking, output)?;
        }
        if tensors {
            let rows = self.tensors.iter().map(|tensor| {
                let cells = [tensor.dtype.clone(), format!("{:?}", tensor.shape), table::bytes(tensor.bytes)];
                [vec![tensor.name.clone()], cells.to_vec()].concat()
            });
            output.say("")?;
            tables.table(&["tensor", "type", "shape", "bytes"], rows, output)?;
        }
        Ok(())
    }
}

/// The cells of a layer under [`HEADER`].
fn cells(layer: &LayerMetadata, quantization_type: QuantizationType) -> Vec<String> {
    let zero_points = layer.zero_points.as_ref();
    vec![
        layer.name.clone(),
        // The weights of a fine-tuned model have no float originals, and hence no error.
        match layer.error.sqnr_db {
            sqnr if sqnr.is_finite() => format!("{sqnr:.2}"),
            _ => "-".to_owned(),
        },
        table::percent(layer.error.clipped_share),
        range(table::scale(layer.scales.min), table::scale(layer.scales.max)),
        zero_points.map_or("0".to_owned(), |zero| range(zero.min.to_string(), zero.max.to_string())),
        format!("{}x{}", layer.shape[0], layer.shape[1]),
        match (layer.activation, layer.activation_granularity) {
            (Some(_), _) => "static".to_owned(),
            (None, Some(granularity)) => format!("dynamic, by {granularity}"),
            (None, None) => quantization_type.to_string(),
        },
        layer.scheme.to_string(),
    ]
}
