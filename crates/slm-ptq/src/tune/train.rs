//! Training of one block.

use std::collections::HashMap;

use burn::module::ParamId;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use slm_model::TransformerBlock;
use slm_nn::{
    ErrorSlot, ParameterRole, Weight, parameter_roles, report_errors, to_vec_f32, try_for_each_linear,
};

use super::optimizer::BlockOptimizer;
use crate::{Error, Result, TuneOptions};

/// One in this many windows is held out from training, to tell whether training helped.
const HELD_OUT: usize = 8;

/// Maximum total movement of scales, as a share of their mean.
const SCALE_TRAVEL: f64 = 0.1;

/// Maximum total movement of weights, in steps of the grid.
const WEIGHT_TRAVEL: f64 = 1.0;

/// Trains blocks on the same windows.
pub(super) struct BlockTrainer {
    options: TuneOptions,
    /// Windows to train on, all of one length.
    trained: Vec<usize>,
    /// Held-out windows, which tell whether training helped.
    held_out: Vec<usize>,
}

impl BlockTrainer {
    pub(super) fn new(options: TuneOptions, windows: &[&[u32]]) -> Self {
        let longest = windows.iter().map(|window| window.len()).max().unwrap_or(0);
        let whole: Vec<usize> = (0..windows.len()).filter(|&index| windows[index].len() == longest).collect();
        let (mut held_out, mut trained) = (Vec::new(), Vec::new());
        for (position, &index) in whole.iter().enumerate() {
            if position % HELD_OUT == HELD_OUT - 1 { held_out.push(index) } else { trained.push(index) }
        }
        if held_out.is_empty() {
            held_out.clone_from(&trained);
        }
        Self { options, trained, held_out }
    }

    /// Number of training steps of a block.
    pub(super) fn steps(&self) -> usize {
        self.options.steps
    }

    /// Trains the fake-quantized layers of `block`, which reads `inputs`, towards `targets`. Returns `true` if that
    /// improved its outputs on the held-out windows.
    pub(super) fn train<E: From<Error>>(
        &self,
        block: &mut TransformerBlock,
        inputs: &[Tensor<3>],
        targets: &[Tensor<3>],
        step_done: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let errors = ErrorSlot::default();
        report_errors(block, &errors);
        let checked = |loss: Tensor<1>| -> Result<f64> {
            let value =
                to_vec_f32("loss", loss.detach()).map_err(|error| Error::layer("of a block", error))?[0];
            errors.check()?;
            Ok(f64::from(value))
        };
        let held_out = |block: &TransformerBlock| -> Result<f64> {
            let losses =
                self.held_out.iter().map(|&index| checked(self.loss(block, inputs, targets, &[index])));
            losses.sum()
        };
        let before = held_out(block)?;
        let mut optimizer = BlockOptimizer::new(rates(block, self.options.steps)?);
        let batch = self.options.batch.min(self.trained.len());
        for step in 0..self.options.steps {
            let chosen: Vec<usize> =
                (0..batch).map(|index| self.trained[(step * batch + index) % self.trained.len()]).collect();
            let loss = self.loss(block, inputs, targets, &chosen);
            let gradients = loss.clone().backward();
            checked(loss)?;
            let mut gradients = GradientsParams::from_grads(gradients, block);
            let factor = 1.0 - step as f64 / self.options.steps as f64;
            *block = optimizer.step(block.clone(), &mut gradients, factor);
            step_done()?;
        }
        let after = held_out(block)?;
        Ok(after < before)
    }

    /// Mean over tokens of the squared error of the block's output, relative to the target's square: the next block begins
    /// with a norm, so only the relative error counts.
    fn loss(
        &self,
        block: &TransformerBlock,
        inputs: &[Tensor<3>],
        targets: &[Tensor<3>],
        windows: &[usize],
    ) -> Tensor<1> {
        let batch = |streams: &[Tensor<3>]| {
            Tensor::cat(windows.iter().map(|&index| streams[index].clone()).collect(), 0)
        };
        let (x, target) = (batch(inputs), batch(targets));
        let weights = target.clone().square().sum_dim(2).add_scalar(f32::MIN_POSITIVE).recip();
        let y = block.forward(Tensor::from_inner(x));
        let errors = (y - Tensor::from_inner(target)).square().sum_dim(2) * Tensor::from_inner(weights);
        errors.mean()
    }
}

/// The learning rate of each parameter. If all steps go in the same direction, at a rate that falls to zero, they add up
/// to the maximum movement.
fn rates(block: &TransformerBlock, steps: usize) -> Result<HashMap<ParamId, f64>> {
    let mut rates = HashMap::new();
    let per_step = 2.0 / steps.max(1) as f64;
    try_for_each_linear(block, |name, linear| {
        let Weight::FakeQuantized(weight) = &linear.weight else { return Ok(()) };
        let Some(scales) = weight.learned_scale() else { return Ok(()) };
        let scales = to_vec_f32("scale", scales).map_err(|error| Error::layer(name, error))?;
        let mean = scales.iter().map(|scale| f64::from(scale.abs())).sum::<f64>() / scales.len() as f64;
        rates.extend(parameter_roles(linear).into_iter().filter_map(|(id, role)| match role {
            ParameterRole::Weight => Some((id, WEIGHT_TRAVEL * per_step * mean)),
            ParameterRole::LearnedScale => Some((id, SCALE_TRAVEL * per_step * mean)),
            _ => None,
        }));
        Ok::<_, Error>(())
    })?;
    Ok(rates)
}
