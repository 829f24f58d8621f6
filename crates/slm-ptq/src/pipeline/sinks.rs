//! Destinations of quantized layers.

use slm_checkpoint::{CheckpointWriter, LayerMetadata};
use slm_model::Transformer;
use slm_nn::try_for_each_linear_mut;
use slm_quant_core::QuantizationType;

use super::stopped::Stopped;
use super::{Journal, Progress, Stage};
use crate::convert::replace;
use crate::sequential::SequentialSink;
use crate::{Error, LayerReport, QuantizedLayer, Result, layer_metadata};

/// Writes quantized layers into a checkpoint.
pub(super) struct WriterSink<'a, E> {
    pub(super) writer: CheckpointWriter,
    /// Keeps the layers that are finished, as well.
    pub(super) journal: Option<&'a Journal>,
    pub(super) quantization_type: QuantizationType,
    pub(super) layers: Vec<LayerReport>,
    pub(super) records: Vec<LayerMetadata>,
    pub(super) total: usize,
    pub(super) progress: &'a mut dyn FnMut(Progress) -> Result<(), Stopped<E>>,
}

impl<E> WriterSink<'_, E> {
    pub(super) fn report(&mut self) -> Result<(), Stopped<E>> {
        (self.progress)(Progress { stage: Stage::Quantizing, done: self.layers.len(), total: self.total })
    }

    pub(super) fn write(&mut self, layer: QuantizedLayer) -> Result<(), Stopped<E>> {
        let QuantizedLayer { matrix, activation, report } = layer;
        self.writer.write_quantized(&report.name, &matrix, activation.static_params())?;
        let record = layer_metadata(&report, &matrix, self.quantization_type);
        self.push(report, record);
        Ok(())
    }

    /// Records a written layer.
    pub(super) fn push(&mut self, report: LayerReport, record: LayerMetadata) {
        self.records.push(record);
        self.layers.push(report);
    }
}

impl<E> SequentialSink<Stopped<E>> for WriterSink<'_, E> {
    fn after_window(&mut self, done: usize, total: usize) -> Result<(), Stopped<E>> {
        (self.progress)(Progress { stage: Stage::Calibrating, done, total })
    }

    fn take(&mut self, layer: QuantizedLayer) -> Result<(), Stopped<E>> {
        if let Some(journal) = self.journal.filter(|journal| !journal.has(&layer.report.name)) {
            journal.keep(&layer.report.name, &layer.matrix)?;
        }
        self.write(layer)
    }
}

/// Packs quantized layers into a model.
pub(super) struct ModelSink<'a> {
    pub(super) model: &'a mut Transformer,
    pub(super) layers: Vec<LayerReport>,
}

impl SequentialSink<Error> for ModelSink<'_> {
    fn after_window(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn take(&mut self, layer: QuantizedLayer) -> Result<()> {
        let QuantizedLayer { matrix, activation, report } = layer;
        let mut matrix = Some(matrix);
        try_for_each_linear_mut(self.model, |name, linear| match matrix.take_if(|_| name == report.name) {
            Some(matrix) => replace(name, linear, matrix, activation),
            None => Ok(()),
        })?;
        self.layers.push(report);
        Ok(())
    }
}
