//! Quantization of one layer after the other, while calibration text runs through the layers that are already
//! quantized.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use slm_model::{
    LayerwiseVisitor, ModelConfig, ObservedModel, TensorSource, forward_layerwise, layerwise_steps,
};
use slm_nn::{ForwardHook, Linear, NamedLinears, Weight, try_for_each_linear_mut};
use slm_quant_core::{ActivationQuant, QuantizedMatrix};

use crate::convert::{float_values, replace, rounded_layer};
use crate::inputs::{Gathering, InputGatherer};
use crate::pipeline::Journal;
use crate::{Calibration, Error, Plan, PtqConfig, QuantizedLayer, Result, quantize_layer};

/// A model whose layers are quantized one after the other while calibration text runs through it.
///
/// The inputs of a layer come from the quantized layers before it, so that it compensates for part of their errors, as
/// in the GPTQ paper. All layers of a transformer block see the inputs of the block as it was. The hidden states of the
/// text, one block in floats, and the second moments of its inputs are in memory.
pub(crate) struct SequentialRun<'a> {
    pub(crate) config: &'a PtqConfig,
    pub(crate) plan: &'a Plan,
    /// Statistics of the inputs of float layers, for ranges of static activations.
    pub(crate) observed: &'a Calibration,
    pub(crate) model: &'a ModelConfig,
    pub(crate) windows: &'a [&'a [u32]],
    pub(crate) with_head: bool,
    pub(crate) device: &'a Device,
    /// Layers that an interrupted run has finished.
    pub(crate) journal: Option<&'a Journal>,
}

/// Receiver of quantized layers and progress.
pub(crate) trait SequentialSink<E> {
    /// Called after each window of each pass through a layer, with the number of windows done and their total.
    ///
    /// # Errors
    /// Whatever is to end the run.
    fn after_window(&mut self, done: usize, total: usize) -> Result<(), E>;

    /// Takes a quantized layer.
    ///
    /// # Errors
    /// Whatever is to end the run.
    fn take(&mut self, layer: QuantizedLayer) -> Result<(), E>;
}

impl SequentialRun<'_> {
    /// Quantizes all planned layers of the model of `source`, in forward order.
    ///
    /// # Errors
    /// Those of [`quantize_layer`] and [`forward_layerwise`], and what `sink` returns.
    pub(crate) fn run<E: From<Error> + From<slm_model::Error>>(
        &self,
        source: &mut dyn TensorSource,
        sink: &mut dyn SequentialSink<E>,
    ) -> Result<(), E> {
        let names = self.plan.layers.iter().map(|layer| layer.name.as_str());
        let gatherer = self.gatherer(names)?;
        let hook = Arc::clone(&gatherer) as Arc<dyn ForwardHook>;
        let total = layerwise_steps(self.model, self.windows.len(), self.with_head, true);
        let mut visitor = Visitor { run: self, gatherer, sink, done: 0, total };
        forward_layerwise(self.model, source, self.device, self.windows, self.with_head, &hook, &mut visitor)
    }

    /// Gathers the second moments of the inputs of `layers`.
    pub(crate) fn gatherer<'l>(&self, layers: impl Iterator<Item = &'l str>) -> Result<Arc<InputGatherer>> {
        let gathering = Gathering { activations: false, drifts: true, ..Gathering::of(self.config) };
        InputGatherer::new(&self.config.activation_observer, gathering, layers)
    }

    /// Returns `true` if an interrupted run has finished all planned layers of `module`, so that their inputs are not
    /// needed.
    pub(crate) fn has_finished(&self, module: &dyn NamedLinears) -> bool {
        let Some(journal) = self.journal else { return false };
        let mut finished = true;
        module.for_each_linear(&mut |name, _| finished &= !self.plan.quantizes(name) || journal.has(name));
        finished
    }

    /// Restores the quantized form of the float layer `linear` from an interrupted run.
    pub(crate) fn restore(&self, name: &str, linear: &Linear) -> Result<QuantizedLayer> {
        let (values, shape) = float_values(name, linear)?;
        let read = self.journal.map(|journal| journal.read(name, shape, self.config.scheme_of(name)));
        let matrix = read.transpose()?.flatten();
        let matrix = matrix.ok_or_else(|| Error::UnknownLayer { layer: name.to_owned() })?;
        let inputs = self.observed.layers.get(name);
        let activation = self.config.activation_quant(name, inputs)?;
        rounded_layer(name, &values, matrix, activation, inputs)
    }

    /// Quantizes the float layer `linear` with the statistics of `gatherer`. Also returns its float weight.
    pub(crate) fn quantize(
        &self,
        name: &str,
        linear: &Linear,
        gatherer: &InputGatherer,
    ) -> Result<(Vec<f32>, QuantizedLayer)> {
        let (values, shape) = float_values(name, linear)?;
        let mut inputs = gatherer.take(name)?;
        inputs.activation = self.observed.layers.get(name).and_then(|seen| seen.activation);
        let layer = quantize_layer(name, &values, shape, self.config, Some(&inputs))?;
        Ok((values, layer))
    }
}

/// Replaces `linear` on `device` by the quantized layer, for the layers after it. Inputs are quantized as in the final
/// model. If they stay float, the weight becomes the dequantized floats, because packed codes would be expanded in every
/// product.
pub(crate) fn install(
    name: &str,
    linear: &mut Linear,
    matrix: &QuantizedMatrix,
    activation: ActivationQuant,
    device: &Device,
) -> Result<()> {
    if activation != ActivationQuant::Float {
        return replace(name, linear, matrix.clone(), activation);
    }
    let data = TensorData::new(matrix.dequantize(), [matrix.rows(), matrix.cols()]);
    linear.weight = Weight::Float(Param::from_tensor(Tensor::from_data(data, device)));
    Ok(())
}

struct Visitor<'a, E> {
    run: &'a SequentialRun<'a>,
    gatherer: Arc<InputGatherer>,
    sink: &'a mut dyn SequentialSink<E>,
    done: usize,
    total: usize,
}

impl<E: From<Error>> Visitor<'_, E> {
    fn quantize(&mut self, name: &str, linear: &mut Linear, finished: bool) -> Result<(), E> {
        let layer = match finished {
            true => self.run.restore(name, linear)?,
            false => self.run.quantize(name, linear, &self.gatherer)?.1,
        };
        install(name, linear, &layer.matrix, layer.activation, self.run.device)?;
        self.sink.take(layer)
    }
}

impl<E: From<Error>> LayerwiseVisitor<E> for Visitor<'_, E> {
    fn after_window(&mut self) -> Result<(), E> {
        self.done += 1;
        self.sink.after_window(self.done, self.total)
    }

    fn changes_weights(&self) -> bool {
        true
    }

    fn follows_original(&self) -> bool {
        true
    }

    fn before_window(&mut self, model: ObservedModel) {
        self.gatherer.expect_float(model == ObservedModel::Original);
    }

    fn observes(&self, layer: &dyn NamedLinears) -> bool {
        !self.run.has_finished(layer)
    }

    fn after_layer(&mut self, layer: &mut dyn NamedLinears) -> Result<(), E> {
        let finished = self.run.has_finished(layer);
        try_for_each_linear_mut(layer, |name, linear| match self.run.plan.quantizes(name) {
            true => self.quantize(name, linear, finished),
            false => Ok(()),
        })
    }
}
