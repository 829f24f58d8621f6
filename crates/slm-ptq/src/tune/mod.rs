//! Learned rounding: each block of a transformer is trained to reproduce the outputs of the float block.
//!
//! Rounding that is best for each layer separately is not best for the block. The search starts at the codes of GPTQ.
//! Weights and scales of all layers of a block are trained together, through the rounding, so that the block's output
//! comes nearer to that of the float model. The block reads hidden states from the quantized blocks before it, and so
//! learns to compensate for their errors too. Blocks are trained one after the other, with only one in memory, and no
//! labels are needed.
//!
//! Weights move by at most about a step of their grid, as in AutoRound (Cheng and others, 2023,
//! <https://arxiv.org/abs/2309.05516>). Scales are trained with them, as in Block-AP of EfficientQAT (Chen and others,
//! 2024, <https://arxiv.org/abs/2407.11062>). Gradients pass the rounding as in LSQ (Esser and others, 2020,
//! <https://arxiv.org/abs/1902.08153>).

mod optimizer;
mod train;

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use slm_model::{BlockwiseModel, LM_HEAD, TensorSource};
use slm_nn::{
    FakeQuantizedInput, FakeQuantizedWeight, ForwardHook, LayerState, NamedLinears, SharedQatStage, Weight,
    attach_hook, detach_hooks, try_for_each_linear, try_for_each_linear_mut,
};
use slm_quant_core::{ObserverKind, QuantizedMatrix};

use self::train::BlockTrainer;
use crate::convert::report;
use crate::inputs::InputGatherer;
use crate::sequential::{SequentialRun, SequentialSink, install};
use crate::{Error, QuantizedLayer, Result, TuneOptions};

/// Maximum initial distance of a weight from its code, in steps of the grid. Rounding must give the code, and a weight
/// near the border would change its code in the first step.
const MOST_OFFSET: f32 = 0.25;

/// Number of passes of the text through each block: for second moments, through the float block, and through the
/// quantized block.
const PASSES: usize = 3;

impl SequentialRun<'_> {
    /// Quantizes all planned layers of the model of `source`, in forward order, by learned rounding.
    ///
    /// # Errors
    /// Those of [`quantize_layer`] and [`BlockwiseModel`], and what `sink` returns.
    pub(crate) fn tune<E: From<Error> + From<slm_model::Error>>(
        &self,
        source: &mut dyn TensorSource,
        options: TuneOptions,
        sink: &mut dyn SequentialSink<E>,
    ) -> Result<(), E> {
        let mut blocks = BlockwiseModel::new(self.model, source)?;
        let mut float = blocks.embed(self.windows, self.device)?;
        let mut quantized = float.clone();
        let trainer = BlockTrainer::new(options, self.windows);
        let per_block = PASSES * self.windows.len() + trainer.steps();
        let mut progress = Steps { done: 0, total: per_block * blocks.layers() + self.windows.len(), sink };
        for index in 0..blocks.layers() {
            let mut block = blocks.block(index, self.device)?;
            if self.has_finished(&block) {
                for float in &mut float {
                    *float = block.forward(float.clone());
                    progress.step()?;
                }
                progress.done += self.windows.len() + trainer.steps();
                try_for_each_linear_mut(&mut block, |name, linear| {
                    if !self.plan.quantizes(name) {
                        return Ok(());
                    }
                    let layer = self.restore(name, linear)?;
                    install(name, linear, &layer.matrix, layer.activation, self.device)?;
                    progress.sink.take(layer)
                })?;
            } else {
                let starts = self.round(&mut block, &mut progress, |block, gatherer, progress| {
                    for (x, float) in quantized.iter().zip(&mut float) {
                        gatherer.expect_float(true);
                        *float = block.forward(float.clone());
                        progress.step()?;
                        gatherer.expect_float(false);
                        block.forward(x.clone());
                        progress.step()?;
                    }
                    Ok(())
                })?;
                let mut trained = Vec::new();
                if starts.is_empty() {
                    progress.done += trainer.steps();
                } else {
                    let mut trainable = blocks.block(index, &self.device.clone().autodiff())?;
                    prepare(&mut trainable, &starts)?;
                    trained =
                        match trainer.train(&mut trainable, &quantized, &float, &mut || progress.step())? {
                            true => codes(&trainable.valid())?,
                            // The initial codes are better.
                            false => starts.iter().map(|start| start.layer.matrix.clone()).collect(),
                        };
                }
                for (start, matrix) in starts.into_iter().zip(trained) {
                    try_for_each_linear_mut(&mut block, |name, linear| {
                        match name == start.layer.report.name {
                            true => install(name, linear, &matrix, start.layer.activation, self.device),
                            false => Ok(()),
                        }
                    })?;
                    progress.sink.take(start.with(matrix)?)?;
                }
            }
            for x in &mut quantized {
                *x = block.forward(x.clone());
                progress.step()?;
            }
        }
        if self.with_head {
            let mut head = blocks.head(self.device)?;
            if self.has_finished(&head) {
                return try_for_each_linear(&head, |name, linear| match self.plan.quantizes(name) {
                    true => progress.sink.take(self.restore(name, linear)?),
                    false => Ok(()),
                });
            }
            let starts = self.round(&mut head, &mut progress, |head, gatherer, progress| {
                for (x, float) in std::mem::take(&mut quantized).into_iter().zip(std::mem::take(&mut float)) {
                    for (is_float, x) in [(true, float), (false, x)] {
                        gatherer.expect_float(is_float);
                        // The outputs of the head are large, and nothing reads them.
                        let x: Tensor<2> = head.inputs(x).flatten(0, 1);
                        gatherer.on_forward(LM_HEAD, &x, &x);
                    }
                    progress.step()?;
                }
                Ok(())
            })?;
            starts.into_iter().try_for_each(|start| progress.sink.take(start.layer))?;
        }
        Ok(())
    }

    /// Quantizes the planned layers of `module` by GPTQ, with the inputs that they see while `forward` runs, or that
    /// `forward` passes to the gatherer itself.
    fn round<M: NamedLinears, E: From<Error>>(
        &self,
        module: &mut M,
        progress: &mut Steps<'_, E>,
        forward: impl FnOnce(&M, &InputGatherer, &mut Steps<'_, E>) -> Result<(), E>,
    ) -> Result<Vec<Start>, E> {
        let mut names = Vec::new();
        module.for_each_linear(&mut |name, _| names.push(name.to_owned()));
        names.retain(|name| self.plan.quantizes(name));
        let gatherer = self.gatherer(names.iter().map(String::as_str))?;
        let hook = Arc::clone(&gatherer) as Arc<dyn ForwardHook>;
        attach_hook(module, &hook);
        forward(module, &gatherer, progress)?;
        detach_hooks(module);
        let mut starts = Vec::with_capacity(names.len());
        try_for_each_linear(module, |name, linear| {
            if !self.plan.quantizes(name) {
                return Ok(());
            }
            let (values, layer) = self.quantize(name, linear, &gatherer)?;
            starts.push(Start { values, layer });
            Ok::<_, Error>(())
        })?;
        Ok(starts)
    }
}

/// Counts steps.
struct Steps<'a, E> {
    done: usize,
    total: usize,
    sink: &'a mut dyn SequentialSink<E>,
}

impl<E> Steps<'_, E> {
    fn step(&mut self) -> Result<(), E> {
        self.done += 1;
        self.sink.after_window(self.done, self.total)
    }
}

/// A layer before training.
struct Start {
    values: Vec<f32>,
    layer: QuantizedLayer,
}

impl Start {
    /// The layer with the codes and scales `matrix`.
    fn with(self, matrix: QuantizedMatrix) -> Result<QuantizedLayer> {
        let QuantizedLayer { activation, report: start, .. } = self.layer;
        let mut report = report(&start.name, &self.values, &matrix, activation)?;
        (report.input_error, report.observed_input) = (start.input_error, start.observed_input);
        Ok(QuantizedLayer { matrix, activation, report })
    }

    /// Weights that round to the codes and are otherwise as near to the float weights as possible.
    fn latent(&self) -> Vec<f32> {
        let matrix = &self.layer.matrix;
        let cols = matrix.cols();
        let mut latent = matrix.dequantize();
        for (row, (latent, values)) in latent.chunks_mut(cols).zip(self.values.chunks(cols)).enumerate() {
            for (column, (latent, value)) in latent.iter_mut().zip(values).enumerate() {
                let index = matrix.scale_index(row, column / matrix.group_width());
                let most = MOST_OFFSET * matrix.qparams(index).scale.abs();
                *latent += (value - *latent).clamp(-most, most);
            }
        }
        latent
    }
}

/// Makes the layers of `starts` fake-quantized, with their initial scales.
fn prepare<M: NamedLinears>(module: &mut M, starts: &[Start]) -> Result<()> {
    let stage = SharedQatStage::default();
    try_for_each_linear_mut(module, |name, linear| {
        let Some(start) = starts.iter().find(|start| start.layer.report.name == name) else { return Ok(()) };
        let fail = |error: slm_nn::Error| Error::layer(name, error);
        let Some(weight) = linear.float_weight() else { return Ok(()) };
        let device = weight.device();
        let latent = TensorData::new(start.latent(), start.layer.report.shape);
        let latent = Param::from_tensor(Tensor::from_data(latent, &device));
        let input = FakeQuantizedInput::Fixed(start.layer.activation);
        let scheme = start.layer.report.scheme;
        let mut weight = FakeQuantizedWeight::learned(latent, scheme, ObserverKind::MinMax, input, &stage)
            .map_err(fail)?;
        let scales = start.layer.report.qparams.iter().map(|qparams| qparams.scale).collect();
        weight.restore(&LayerState::of_learned_scales(scales)).map_err(fail)?;
        linear.weight = Weight::FakeQuantized(weight);
        Ok(())
    })
}

/// The codes of all fake-quantized layers, in forward order.
fn codes<M: NamedLinears>(module: &M) -> Result<Vec<QuantizedMatrix>> {
    let mut codes = Vec::new();
    try_for_each_linear(module, |name, linear| {
        if let Weight::FakeQuantized(weight) = &linear.weight {
            codes.push(weight.quantize().map_err(|error| Error::layer(name, error))?);
        }
        Ok::<_, Error>(())
    })?;
    Ok(codes)
}
