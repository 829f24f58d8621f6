//! Running a model that is never in memory as a whole.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};
use slm_nn::{ForwardHook, Linear, NamedLinears, attach_hook};

use crate::attention::AttentionContext;
use crate::block::Block;
use crate::config::{ModelConfig, Position};
use crate::decoder::{SliceWindows, supports_device};
use crate::error::{Error, Result};
use crate::names::{EMBED_POSITIONS, EMBED_TOKENS, FINAL_NORM, LM_HEAD, LinearShape};
use crate::norm::Norm;
use crate::rotary::Rotary;
use crate::source::{Loader, TensorSource};
use crate::transformer::{check_ids, check_positions, ids_tensor};

/// Runs `windows`, each a sequence that starts at position 0, through the model of `source`, while `hook` sees every
/// linear layer. With `with_head` the head is such a layer, though it be tied to the embedding.
///
/// One layer is loaded at a time and applied to all windows, so that what is in memory is the largest layer, the
/// residual streams of all windows, and the activations of one. The hook sees of each layer what it would see with
/// [`window_logits`](crate::window_logits) of each window in turn, in the same order and bit for bit; of different
/// layers it sees all windows of one before the first of the next.
///
/// `done` is called after each window of each layer, [`layerwise_steps`] times in all, and may end the run.
///
/// A tied embedding is asked for again where the head needs it; `source` must allow that.
///
/// # Errors
/// [`Error::Config`], [`Error::EmptyPrompt`], [`Error::TokenId`] and [`Error::TooManyPositions`] for windows that the
/// model does not take, those of [`Transformer::from_tensors`](crate::Transformer::from_tensors), and what `done`
/// returns.
pub fn forward_layerwise<E: From<Error>>(
    config: &ModelConfig,
    source: &mut dyn TensorSource,
    device: &Device,
    windows: &[&[u32]],
    with_head: bool,
    hook: &Arc<dyn ForwardHook>,
    done: &mut dyn FnMut() -> Result<(), E>,
) -> Result<(), E> {
    config.validate()?;
    for ids in windows {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt.into());
        }
        check_ids(config, ids)?;
        check_positions(config, ids.len())?;
    }
    let mut loader = Loader::new(source, device);
    let rotary = match config.position {
        Position::Learned => None,
        Position::Rotary { theta, scaling } => Some(Rotary::new(config.head_dim, theta, scaling)),
    };
    let mut states = embed_windows(config, &mut loader, device, windows)?;
    for layer in 0..config.num_layers {
        let mut block = NumberedBlock(layer, Block::load(config, layer, &mut loader)?);
        attach_hook(&mut block, hook);
        states.run_layer((layer, &block.1), config, rotary.as_ref(), device, done)?;
    }
    if with_head {
        let norm = Norm::load(config, FINAL_NORM, &mut loader)?;
        let mut head = Head(load_head(config, &mut loader)?);
        attach_hook(&mut head, hook);
        states.run_head(&norm, &head.0, config, device, done)?;
    }
    Ok(())
}

/// How often [`forward_layerwise`] calls `done`.
pub fn layerwise_steps(config: &ModelConfig, windows: usize, with_head: bool) -> usize {
    windows * (config.num_layers + usize::from(with_head))
}

/// The residual streams of all windows before the first layer.
fn embed_windows(
    config: &ModelConfig,
    loader: &mut Loader<'_>,
    device: &Device,
    windows: &[&[u32]],
) -> Result<States> {
    let hidden = config.hidden_size;
    let tokens = loader.tensor(EMBED_TOKENS, [config.vocab_size, hidden])?;
    let positions = match config.position {
        Position::Learned => Some(loader.tensor(EMBED_POSITIONS, [config.max_position_embeddings, hidden])?),
        Position::Rotary { .. } => None,
    };
    let mut states = match supports_device(device) {
        true => States::Slices(Box::default()),
        false => States::Tensors(Vec::new()),
    };
    for ids in windows {
        states.embed(config, (&tokens, positions.as_ref()), ids_tensor(ids, device))?;
    }
    Ok(states)
}

/// The head, a layer of its own if it is tied.
fn load_head(config: &ModelConfig, loader: &mut Loader<'_>) -> Result<Linear> {
    let (inputs, outputs) = (config.hidden_size, config.vocab_size);
    if !config.tie_word_embeddings {
        return loader.linear_at(LM_HEAD, LinearShape { name: LM_HEAD, inputs, outputs, bias: false });
    }
    let weight = Param::from_tensor(loader.tensor(EMBED_TOKENS, [outputs, inputs])?);
    Linear::new(slm_nn::Weight::Float(weight), None)
        .map_err(|error| Error::Source { name: LM_HEAD.to_owned(), source: error.into() })
}

/// The windows on their way, in the form in which the device computes single sequences: see
/// [`InferencePath`](crate::InferencePath).
enum States {
    Slices(Box<SliceWindows>),
    /// `[1, len, hidden]` of each.
    Tensors(Vec<Tensor<3>>),
}

impl States {
    fn embed(
        &mut self,
        config: &ModelConfig,
        (tokens, positions): (&Tensor<2>, Option<&Tensor<2>>),
        ids: Tensor<2, Int>,
    ) -> Result<()> {
        let streams = match self {
            Self::Slices(windows) => return windows.embed(config, (tokens, positions), ids),
            Self::Tensors(streams) => streams,
        };
        let [_, len] = ids.dims();
        let x = embedding(tokens.clone(), ids);
        streams.push(match positions {
            Some(positions) => x + positions.clone().narrow(0, 0, len).unsqueeze::<3>(),
            None => x,
        });
        Ok(())
    }

    fn run_layer<E: From<Error>>(
        &mut self,
        (index, block): (usize, &Block),
        config: &ModelConfig,
        rotary: Option<&Rotary>,
        device: &Device,
        done: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let streams = match self {
            Self::Slices(windows) => return windows.run_layer((index, block), config, rotary, device, done),
            Self::Tensors(streams) => streams,
        };
        for x in streams {
            let context = AttentionContext::uncached(config, rotary, x.dims()[1], device);
            *x = block.forward(x.clone(), &context, None);
            done()?;
        }
        Ok(())
    }

    fn run_head<E: From<Error>>(
        &mut self,
        norm: &Norm,
        head: &Linear,
        config: &ModelConfig,
        device: &Device,
        done: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let streams = match self {
            Self::Slices(windows) => return windows.run_head(norm, head, config, device, done),
            Self::Tensors(streams) => streams,
        };
        for x in streams {
            head.forward(norm.forward(x.clone()));
            done()?;
        }
        Ok(())
    }
}

/// A layer that says which it is.
struct NumberedBlock(usize, Block);

impl NamedLinears for NumberedBlock {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.1.for_each_linear(self.0, visit);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.1.for_each_linear_mut(self.0, visit);
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
