//! Layer-by-layer runs of a model that is never in memory as a whole.

use std::sync::Arc;

use burn::tensor::Device;
use slm_nn::{ForwardHook, Linear, NamedLinears, attach_hook, detach_hooks, try_for_each_linear_mut};

use crate::block::Block;
use crate::blockwise::{load_embedding, load_head};
use crate::compute::autograd::AutogradOps;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::Tensors;
use crate::compute::walk::LayerPart;
use crate::compute::{Compute, HeadParts, HeadShape, walk};
use crate::config::ModelConfig;
use crate::cpu::{CpuCompute, supports_device};
use crate::error::{Error, Result};
use crate::names::{FINAL_NORM, LM_HEAD};
use crate::norm::Norm;
use crate::rotary::Rotaries;
use crate::source::{Loader, TensorSource};
use crate::transformer::{check_ids, check_positions, ids_tensor};

/// Follows a run of [`forward_layerwise`]. A closure, which is called after each window of each layer, is a visitor
/// too.
pub trait LayerwiseVisitor<E> {
    /// Called after each window of each layer, [`layerwise_steps`] times in all. An error ends the run.
    ///
    /// # Errors
    /// Whatever is to end the run.
    fn after_window(&mut self) -> Result<(), E>;

    /// Returns `true` if [`after_layer`](Self::after_layer) may change weights. If so, every layer runs twice: before
    /// it, for the hook, and after it, for what the next layer reads. Attention and MLP of a block are then layers of
    /// their own, unless both read the same residual stream.
    fn changes_weights(&self) -> bool {
        false
    }

    /// Returns `true` if the hook must see inputs in the original model too, in addition to those after changed layers. Only
    /// useful if weights change. The streams of both models are then in memory.
    fn follows_original(&self) -> bool {
        false
    }

    /// Returns `true` if the hook must see the inputs of `layer` before [`after_layer`](Self::after_layer). Only called
    /// if weights change.
    fn observes(&self, layer: &dyn NamedLinears) -> bool {
        let _ = layer;
        true
    }

    /// Called before a window of a layer runs for the hook, with the model that the window's residual stream belongs
    /// to.
    fn before_window(&mut self, model: ObservedModel) {
        let _ = model;
    }

    /// Called when the hook has seen all windows of `layer`: a transformer block, a part of one, or the head.
    ///
    /// # Errors
    /// Whatever is to end the run.
    fn after_layer(&mut self, layer: &mut dyn NamedLinears) -> Result<(), E> {
        let _ = layer;
        Ok(())
    }
}

/// The model whose layer a hook sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedModel {
    /// The model as it was before the visitor changed weights.
    Original,
    /// The model with the layers changed so far.
    Changed,
}

impl<E, F: FnMut() -> Result<(), E>> LayerwiseVisitor<E> for F {
    fn after_window(&mut self) -> Result<(), E> {
        self()
    }
}

/// Runs `windows`, each a sequence that starts at position 0, through the model of `source`, while `hook` sees every
/// linear layer. With `with_head` that includes the head, even if it is tied to the embedding.
///
/// One layer is loaded at a time and applied to all windows. So only the largest layer, the residual streams of all
/// windows, and the activations of one window are in memory. For each layer, the hook sees what it would see with
/// [`window_logits`](crate::window_logits) of each window in turn, in the same order and bit for bit, but it sees all
/// windows of one layer before the first window of the next. If the hook reads no outputs, the head computes only its
/// first output, and so does the last layer of an attention or MLP that runs only for the hook.
///
/// `visitor` is called after each window and each layer. It may change the weights of a layer once the hook has seen
/// its inputs: later layers then see the outputs of the changed layer. In that case the residual streams, one more
/// stream of a window, and one layer are in memory, and with
/// [`follows_original`](LayerwiseVisitor::follows_original) a second copy of the streams. The hook then sees each layer of
/// each window twice in a row, first in the original model.
///
/// A tied embedding is read again for the head; `source` must allow that.
///
/// # Errors
/// [`Error::Config`], [`Error::EmptyPrompt`], [`Error::TokenId`] and [`Error::TooManyPositions`] for windows that the
/// model cannot run, those of [`Transformer::from_tensors`](crate::Transformer::from_tensors), and what `visitor`
/// returns.
pub fn forward_layerwise<E: From<Error>>(
    config: &ModelConfig,
    source: &mut dyn TensorSource,
    device: &Device,
    windows: &[&[u32]],
    with_head: bool,
    hook: &Arc<dyn ForwardHook>,
    visitor: &mut dyn LayerwiseVisitor<E>,
) -> Result<(), E> {
    config.validate()?;
    for ids in windows {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        check_ids(config, ids)?;
        check_positions(config, ids.len())?;
    }
    let (shape, rotaries) = (HeadShape::of(config), Rotaries::new(&config.layers(), config.head_dim));
    let run = LayerwiseRun { config, loader: Loader::new(source, device), device, windows, with_head, hook };
    if supports_device(device) {
        let longest = windows.iter().map(|ids| ids.len()).max().unwrap_or(0);
        run.with(CpuCompute::for_single_layers(config, device, longest), visitor)
    } else if slm_autograd::is_preferred(device) {
        run.with(Tensors::new(AutogradOps::new(shape, &rotaries), shape), visitor)
    } else {
        run.with(Tensors::new(BurnOps::new(device.clone(), shape, &rotaries, None), shape), visitor)
    }
}

/// Number of calls of [`LayerwiseVisitor::after_window`] by [`forward_layerwise`], unless the head is not
/// [observed](LayerwiseVisitor::observes). The head runs once even if its
/// weight is changed.
pub fn layerwise_steps(
    config: &ModelConfig,
    windows: usize,
    with_head: bool,
    changes_weights: bool,
) -> usize {
    windows * (config.num_layers * (1 + usize::from(changes_weights)) + usize::from(with_head))
}

/// The state of a run, independent of the [`Compute`] that runs it.
struct LayerwiseRun<'a> {
    config: &'a ModelConfig,
    loader: Loader<'a>,
    device: &'a Device,
    windows: &'a [&'a [u32]],
    with_head: bool,
    hook: &'a Arc<dyn ForwardHook>,
}

impl LayerwiseRun<'_> {
    fn with<C: Compute, E: From<Error>>(
        mut self,
        mut compute: C,
        visitor: &mut dyn LayerwiseVisitor<E>,
    ) -> Result<(), E>
    where
        Error: From<C::Error>,
    {
        let (config, windows) = (self.config, self.windows);
        let mut streams = self.embed(&mut compute)?;
        let follows = visitor.changes_weights() && visitor.follows_original();
        let mut originals: Option<Vec<C::Stream>> =
            follows.then(|| streams.iter().map(|stream| compute.copy(stream)).collect());
        for index in 0..config.num_layers {
            let block = Block::load(config, index, &mut self.loader)?;
            let parts: &[LayerPart] =
                match visitor.changes_weights() && !config.layer(index).parallel_residual {
                    true => &[LayerPart::Attention, LayerPart::Mlp],
                    false => &[LayerPart::Whole],
                };
            let mut block = PartOfBlock { index, block, part: LayerPart::Whole };
            for &part in parts {
                block.part = part;
                let observed = !visitor.changes_weights() || visitor.observes(&block);
                if observed {
                    attach_hook(&mut block, self.hook);
                }
                if visitor.changes_weights() {
                    let inputs_only = match self.hook.reads_output() || !observed {
                        true => None,
                        false => block.inputs_only(self.hook)?,
                    };
                    let pass = Pass::Observe {
                        observed,
                        originals: originals.as_deref_mut(),
                        inputs_only: inputs_only.as_ref(),
                    };
                    run_block(&mut compute, &block, pass, &mut streams, windows, visitor)?;
                    detach_hooks(&mut block);
                    visitor.after_layer(&mut block)?;
                }
                run_block(&mut compute, &block, Pass::Advance, &mut streams, windows, visitor)?;
                if !visitor.changes_weights() {
                    visitor.after_layer(&mut block)?;
                }
            }
        }
        if self.with_head {
            let norm = Norm::load(config, FINAL_NORM, &mut self.loader)?;
            let mut head = Head(load_head(config, &mut self.loader)?);
            if !visitor.changes_weights() || visitor.observes(&head) {
                let mut observed = Head(match self.hook.reads_output() {
                    true => head.0.clone(),
                    false => first_output(&head.0, LM_HEAD)?,
                });
                attach_hook(&mut observed, self.hook);
                run_head(&mut compute, &norm, &observed, config, (streams, originals), windows, visitor)?;
            }
            visitor.after_layer(&mut head)?;
        }
        Ok(())
    }

    /// The residual streams of all windows before the first layer.
    fn embed<C: Compute>(&mut self, compute: &mut C) -> Result<Vec<C::Stream>>
    where
        Error: From<C::Error>,
    {
        let embedding = load_embedding(self.config, &mut self.loader)?;
        let mut streams = Vec::with_capacity(self.windows.len());
        for ids in self.windows {
            compute.start(0, ids.len());
            let mut stream = walk::embed(compute, &embedding, ids_tensor(ids, self.device))?;
            compute.settle(&mut stream)?;
            streams.push(stream);
        }
        Ok(streams)
    }
}

/// The kind of a pass through a block.
enum Pass<'a, S> {
    /// Copies of the streams pass through the block, only for the hook.
    Observe {
        /// False if the hook need not see it: then only `originals` go through it.
        observed: bool,
        /// The streams of the original model, if it is followed. They pass through the block before the
        /// copies.
        originals: Option<&'a mut [S]>,
        /// The block that the copies pass through if the hook reads no outputs.
        inputs_only: Option<&'a PartOfBlock>,
    },
    /// The streams themselves pass through the block.
    Advance,
}

/// Runs `streams` through a part of a block, of which only the last counts windows. One cache serves all windows,
/// because each starts at position 0.
fn run_block<'w, C: Compute, E: From<Error>>(
    compute: &mut C,
    block: &'w PartOfBlock,
    mut pass: Pass<'w, C::Stream>,
    streams: &mut [C::Stream],
    windows: &[&[u32]],
    visitor: &mut dyn LayerwiseVisitor<E>,
) -> Result<(), E>
where
    Error: From<C::Error>,
{
    let prepare = |compute: &C, block: &'w PartOfBlock| {
        walk::prepare_layer(compute, block.index, 0, block.block.parts()).map_err(Error::from)
    };
    let layer = prepare(compute, block)?;
    let inputs_only = match &pass {
        Pass::Observe { inputs_only: Some(block), .. } => Some(prepare(compute, block)?),
        _ => None,
    };
    for (index, (stream, ids)) in streams.iter_mut().zip(windows).enumerate() {
        match &mut pass {
            Pass::Observe { originals, observed, .. } => {
                if let Some(original) = originals.as_mut().and_then(|originals| originals.get_mut(index)) {
                    visitor.before_window(ObservedModel::Original);
                    compute.start(0, ids.len());
                    walk::layer_part(compute, &layer, block.part, original).map_err(Error::from)?;
                    compute.settle(original).map_err(Error::from)?;
                }
                if *observed {
                    visitor.before_window(ObservedModel::Changed);
                    compute.start(0, ids.len());
                    let mut copy = compute.copy(stream);
                    match &inputs_only {
                        Some(layer) => walk::part_product(compute, layer, block.part, &mut copy).map(drop),
                        None => walk::layer_part(compute, &layer, block.part, &mut copy),
                    }
                    .map_err(Error::from)?;
                    compute.finish(copy);
                }
            }
            Pass::Advance => {
                compute.start(0, ids.len());
                walk::layer_part(compute, &layer, block.part, stream).map_err(Error::from)?;
                compute.settle(stream).map_err(Error::from)?;
            }
        }
        if block.part != LayerPart::Attention {
            visitor.after_window()?;
        }
    }
    Ok(())
}

/// Runs the streams through the last norm and the head: those of the changed model, and those of the original model
/// if it is followed.
fn run_head<C: Compute, E: From<Error>>(
    compute: &mut C,
    norm: &Norm,
    head: &Head,
    config: &ModelConfig,
    (streams, originals): (Vec<C::Stream>, Option<Vec<C::Stream>>),
    windows: &[&[u32]],
    visitor: &mut dyn LayerwiseVisitor<E>,
) -> Result<(), E>
where
    Error: From<C::Error>,
{
    let norm = compute.norm(norm).map_err(Error::from)?;
    let head = walk::prepare_head(compute, HeadParts::Linear(&head.0)).map_err(Error::from)?;
    let mut originals = originals.into_iter().flatten();
    for (stream, ids) in streams.into_iter().zip(windows) {
        let models = [(ObservedModel::Original, originals.next()), (ObservedModel::Changed, Some(stream))];
        for (model, stream) in models {
            let Some(stream) = stream else { continue };
            visitor.before_window(model);
            compute.start(0, ids.len());
            walk::logits(compute, &norm, &head, config.logit_multiplier, stream).map_err(Error::from)?;
        }
        visitor.after_window()?;
    }
    Ok(())
}

/// The layer `name` with only its first output. It is float, as all weights of a source are.
fn first_output(linear: &Linear, name: &str) -> Result<Linear> {
    let broken = Error::device(name);
    let weight = linear.float_weight().ok_or_else(|| broken(slm_nn::Error::AlreadyPacked))?;
    Linear::from_weight(weight.narrow(0, 0, 1), None).map_err(broken)
}

/// A block that exposes only the linear layers of one part.
struct PartOfBlock {
    index: usize,
    block: Block,
    part: LayerPart,
}

impl PartOfBlock {
    fn shows(part: LayerPart, name: &str) -> bool {
        match part {
            LayerPart::Whole => true,
            LayerPart::Attention => !name.contains(".mlp."),
            LayerPart::Mlp => name.contains(".mlp."),
        }
    }

    /// The same part with `hook`, without most outputs of its last linear layer; `None` for a whole block.
    fn inputs_only(&self, hook: &Arc<dyn ForwardHook>) -> Result<Option<Self>> {
        if self.part == LayerPart::Whole {
            return Ok(None);
        }
        let mut part = Self { index: self.index, block: self.block.clone(), part: self.part };
        let mut last = String::new();
        part.for_each_linear(&mut |name, _| name.clone_into(&mut last));
        try_for_each_linear_mut(&mut part, |name, linear| {
            if name == last {
                *linear = first_output(linear, name)?;
            }
            Ok::<_, Error>(())
        })?;
        attach_hook(&mut part, hook);
        Ok(Some(part))
    }
}

impl NamedLinears for PartOfBlock {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.block.for_each_linear(self.index, &mut |name, linear| {
            if Self::shows(self.part, name) {
                visit(name, linear);
            }
        });
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        let part = self.part;
        self.block.for_each_linear_mut(self.index, &mut |name, linear| {
            if Self::shows(part, name) {
                visit(name, linear);
            }
        });
    }
}

struct Head(Linear);

impl NamedLinears for Head {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit(LM_HEAD, &self.0);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit(LM_HEAD, &mut self.0);
    }
}

#[cfg(test)]
#[path = "layerwise_tests.rs"]
mod tests;
