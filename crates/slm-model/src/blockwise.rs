//! The layers of a model as separate modules, loaded one at a time.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use slm_nn::{Linear, NamedLinears};

use crate::block::Block;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::Tensors;
use crate::compute::{Compute, Embedding, HeadShape, walk};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::names::{EMBED_POSITIONS, FINAL_NORM, LM_HEAD, LinearShape};
use crate::norm::Norm;
use crate::rotary::Rotaries;
use crate::source::{Loader, TensorSource};
use crate::token_table::{LoadedTable, load_tied_head};
use crate::transformer::{check_ids, check_positions, ids_tensor};

/// A model whose layers are loaded one at a time as trainable modules.
///
/// [`forward_layerwise`](crate::forward_layerwise) runs a text through such a model. This type is for other work on
/// each layer, such as training it.
pub struct BlockwiseModel<'a> {
    config: &'a ModelConfig,
    source: &'a mut dyn TensorSource,
    shape: HeadShape,
    rotaries: Arc<Rotaries>,
}

impl<'a> BlockwiseModel<'a> {
    /// The model of `source`.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that contradicts itself.
    pub fn new(config: &'a ModelConfig, source: &'a mut dyn TensorSource) -> Result<Self> {
        config.validate()?;
        let rotaries = Arc::new(Rotaries::new(&config.layers(), config.head_dim));
        Ok(Self { config, source, shape: HeadShape::of(config), rotaries })
    }

    /// Number of layers, without the head.
    pub fn layers(&self) -> usize {
        self.config.num_layers
    }

    /// Hidden states of `windows` before the first layer, each `[1, len, hidden]`. Every window is a sequence that starts
    /// at position 0.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`] and [`Error::TooManyPositions`] for windows that the model cannot
    /// run, and errors of the source.
    pub fn embed(&mut self, windows: &[&[u32]], device: &Device) -> Result<Vec<Tensor<3>>> {
        let config = self.config;
        for ids in windows {
            if ids.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            check_ids(config, ids)?;
            check_positions(config, ids.len())?;
        }
        let embedding = load_embedding(config, &mut Loader::new(self.source, device))?;
        let ops = BurnOps::new(device.clone(), self.shape, &self.rotaries, None);
        let mut compute = Tensors::new(ops, self.shape);
        let stream = |ids: &&[u32]| {
            compute.start(0, ids.len());
            walk::embed(&mut compute, &embedding, ids_tensor(ids, device)).map_err(Error::from)
        };
        windows.iter().map(stream).collect()
    }

    /// Layer `index`, on `device`.
    ///
    /// # Errors
    /// Those of the source.
    pub fn block(&mut self, index: usize, device: &Device) -> Result<TransformerBlock> {
        let block = Block::load(self.config, index, &mut Loader::new(self.source, device))?;
        Ok(TransformerBlock { block, index, shape: self.shape, rotaries: Arc::clone(&self.rotaries) })
    }

    /// The last norm and the head, as a separate layer even if the head is tied.
    ///
    /// # Errors
    /// Those of the source.
    pub fn head(&mut self, device: &Device) -> Result<HeadBlock> {
        let mut loader = Loader::new(self.source, device);
        let norm = Norm::load(self.config, FINAL_NORM, &mut loader)?;
        Ok(HeadBlock { norm, head: load_head(self.config, &mut loader)?, shape: self.shape })
    }
}

/// The embedding of a model.
pub(crate) fn load_embedding(config: &ModelConfig, loader: &mut Loader<'_>) -> Result<Embedding> {
    let tokens = LoadedTable::load(config, loader)?.into_table();
    let positions = match config.has_learned_positions() {
        true => Some(loader.tensor(EMBED_POSITIONS, [config.max_position_embeddings, config.hidden_size])?),
        false => None,
    };
    Ok(Embedding { tokens, positions, multiplier: config.embedding_multiplier })
}

/// The head, as a separate layer even if it is tied.
pub(crate) fn load_head(config: &ModelConfig, loader: &mut Loader<'_>) -> Result<Linear> {
    let (inputs, outputs) = (config.hidden_size, config.vocab_size);
    if !config.tie_word_embeddings {
        return loader.linear_at(LM_HEAD, LinearShape { name: LM_HEAD, inputs, outputs, bias: false });
    }
    load_tied_head(config, loader)
}

/// One layer of a transformer: attention and MLP with their norms.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    block: Block,
    #[module(skip)]
    index: usize,
    #[module(skip)]
    shape: HeadShape,
    #[module(skip)]
    rotaries: Arc<Rotaries>,
}

impl TransformerBlock {
    /// Hidden states after the layer.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, len, hidden]`, sequences that start at position 0
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.block.forward(self.index, self.shape, &self.rotaries, x)
    }
}

impl NamedLinears for TransformerBlock {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        self.block.for_each_linear(self.index, visit);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.block.for_each_linear_mut(self.index, visit);
    }
}

/// The last norm of a transformer and its head.
#[derive(Module, Debug)]
pub struct HeadBlock {
    norm: Norm,
    head: Linear,
    #[module(skip)]
    shape: HeadShape,
}

impl HeadBlock {
    /// Normalized hidden states, which the head reads.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, len, hidden]`
    pub fn inputs(&self, x: Tensor<3>) -> Tensor<3> {
        crate::compute::burn::normalize(&self.norm, x)
    }
}

impl NamedLinears for HeadBlock {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit(LM_HEAD, &self.head);
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit(LM_HEAD, &mut self.head);
    }
}

#[cfg(test)]
#[path = "blockwise_tests.rs"]
mod tests;
