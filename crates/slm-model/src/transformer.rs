//! The transformer model.

mod stages;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use slm_nn::{Linear, NamedLinears, PackedWeight, Weight, narrowed, try_for_each_linear_mut, widened};

use crate::block::Block;
use crate::compute::autograd::AutogradOps;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::{TensorOps, Tensors};
use crate::compute::{Compute, Embedding, HeadParts, HeadShape, LayerParts, ModelParts, walk};
use crate::config::ModelConfig;
use crate::cpu::{CpuEngine, KvCacheType};
use crate::error::{Error, Result};
use crate::init::RandomSource;
use crate::kv_cache::KvCache;
use crate::names::{EMBED_POSITIONS, EMBED_TOKENS, FINAL_NORM, LM_HEAD, LinearShape};
use crate::norm::Norm;
use crate::rotary::Rotaries;
use crate::session::InferencePath;
use crate::source::{Loader, TensorSource};
use crate::token_table::{LoadedTable, TokenTable};
use crate::visit::TensorVisitor;

/// A decoder-only transformer: embedding, layers, norm, head.
///
/// It is a Burn module, so it trains with Burn's optimizers on an autodiff device, and it names its linear
/// layers through [`NamedLinears`]. [`from_tensors`](Self::from_tensors) loads weights and
/// [`for_each_tensor`](Self::for_each_tensor) reads them back, under the names of
/// [`expected_tensors`](crate::expected_tensors).
///
/// ```
/// use burn::tensor::Device;
/// use slm_model::{ModelConfig, Transformer};
///
/// let config = ModelConfig::new(100, 32, 64, 2, 4, 128);
/// let model = Transformer::new(&config, 0, &Device::flex())?;
/// let logits = model.forward(model.ids_tensor(&[5, 6, 7]));
/// assert_eq!(logits.dims(), [1, 3, 100]);
/// # Ok::<(), slm_model::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct Transformer {
    /// The float embedding, in 32 or 16 bits; `None` if its table is quantized.
    embed_tokens: Option<Param<Tensor<2>>>,
    /// A quantized table of the embedding only. If both are `None`, the table is the head's.
    packed_embedding: Option<PackedWeight>,
    embed_positions: Option<Param<Tensor<2>>>,
    layers: Vec<Block>,
    norm: Norm,
    lm_head: Option<Linear>,
    #[module(skip)]
    rotaries: Rotaries,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    kv_cache_type: KvCacheType,
}

impl Transformer {
    /// A model with random weights. A seed gives the same weights on every device.
    ///
    /// # Errors
    /// [`Error::Config`] when the config is not valid.
    pub fn new(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        Self::from_tensors(config, &mut RandomSource::new(config, seed), device)
    }

    /// A model with the weights of `source`, read one tensor at a time.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::MissingTensor`], [`Error::TensorShape`], or [`Error::Source`] with the
    /// source's own error.
    pub fn from_tensors(
        config: &ModelConfig,
        source: &mut dyn TensorSource,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let mut loader = Loader::new(source, device);
        let hidden = config.hidden_size;
        let (embed_tokens, packed_embedding, shared_head) = match LoadedTable::load(config, &mut loader)? {
            LoadedTable::Float(table) => (Some(Param::from_tensor(table)), None, None),
            LoadedTable::Packed(table) => (None, Some(table), None),
            LoadedTable::Shared(head) => (None, None, Some(head)),
        };
        let embed_positions = match config.has_learned_positions() {
            true => {
                let shape = [config.max_position_embeddings, hidden];
                Some(Param::from_tensor(loader.tensor(EMBED_POSITIONS, shape)?))
            }
            false => None,
        };
        let rotaries = Rotaries::new(&config.layers(), config.head_dim);
        let layers = (0..config.num_layers)
            .map(|layer| Block::load(config, layer, &mut loader))
            .collect::<Result<Vec<_>>>()?;
        let norm = Norm::load(config, FINAL_NORM, &mut loader)?;
        let lm_head = if config.tie_word_embeddings {
            shared_head
        } else {
            let shape =
                LinearShape { name: LM_HEAD, inputs: hidden, outputs: config.vocab_size, bias: false };
            Some(loader.linear_at(LM_HEAD, shape)?)
        };
        Ok(Self {
            embed_tokens,
            packed_embedding,
            embed_positions,
            layers,
            norm,
            lm_head,
            rotaries,
            config: config.clone(),
            kv_cache_type: KvCacheType::default(),
        })
    }

    /// The type in which generation stores keys and values on [`InferencePath::Cpu`].
    pub fn kv_cache_type(&self) -> KvCacheType {
        self.kv_cache_type
    }

    /// Sets the type in which generation stores keys and values on [`InferencePath::Cpu`]. It has no effect on other
    /// paths.
    pub fn set_kv_cache_type(&mut self, kind: KvCacheType) {
        self.kv_cache_type = kind;
    }

    /// The config. [`untie_head`](Self::untie_head) updates it.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.norm.device()
    }

    /// The path by which this model computes passes over one sequence.
    pub fn inference_path(&self) -> InferencePath {
        if CpuEngine::supports(self) { InferencePath::Cpu } else { InferencePath::Burn }
    }

    /// The parameters by role.
    pub(crate) fn parts(&self) -> ModelParts<&Linear, &Norm> {
        let layers = self.layers.iter().enumerate();
        ModelParts {
            embedding: self.embedding_parts(),
            layers: layers.map(|(slot, block)| LayerParts { slot, ..block.parts() }).collect(),
            norm: &self.norm,
            head: self.head_parts(),
            logit_multiplier: self.config.logit_multiplier,
        }
    }

    fn embedding_parts(&self) -> Embedding {
        Embedding {
            tokens: self.token_table(),
            positions: self.embed_positions.as_ref().map(Param::val),
            multiplier: self.config.embedding_multiplier,
        }
    }

    fn head_parts(&self) -> HeadParts<&Linear> {
        match (&self.lm_head, &self.embed_tokens) {
            (Some(head), _) => HeadParts::Linear(head),
            (None, Some(table)) => HeadParts::Tied(Box::new(table.val())),
            (None, None) => unreachable!("a head is only tied to a float embedding or to its own table"),
        }
    }

    /// Logits of every position.
    ///
    /// # Shapes
    /// - `ids`: `[batch, len]`
    /// - output: `[batch, len, vocab_size]`
    ///
    /// # Panics
    /// On ids outside the vocabulary or more positions than the model has: see [`check_ids`](Self::check_ids)
    /// and [`check_positions`](Self::check_positions).
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.run(ids, None, false)
    }

    /// Logits of new positions that continue those in `cache`, which holds them afterwards too.
    ///
    /// # Shapes
    /// - `ids`: `[batch, len]`
    /// - output: `[batch, len, vocab_size]`
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and when the cache was made for another batch size, is too small, or must be
    /// recomputed: see [`check_growth`](Self::check_growth).
    pub fn forward_cached(&self, ids: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        self.run(ids, Some(cache), false)
    }

    /// Like [`forward_cached`](Self::forward_cached), with the head applied to the last position only.
    ///
    /// # Shapes
    /// - `ids`: `[batch, len]`
    /// - output: `[batch, vocab_size]`
    pub fn forward_last(&self, ids: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<2> {
        let [batch, _] = ids.dims();
        self.run(ids, Some(cache), true).reshape([batch, self.config.vocab_size])
    }

    /// An empty cache for `batch` sequences of up to `capacity` positions.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        let shape = [batch, self.config.num_kv_heads, capacity, self.config.head_dim];
        KvCache::new(self.config.num_layers, shape, &self.device())
    }

    /// Returns `true` if the head is the transposed float embedding and not a separate layer.
    pub fn head_is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// Returns `true` if the embedding uses the table of the head's layer, which is stored once.
    pub fn shares_table_with_head(&self) -> bool {
        self.embed_tokens.is_none() && self.packed_embedding.is_none()
    }

    /// Returns `true` if tokens are looked up in a quantized table: the head's or a separate one.
    pub fn embedding_is_quantized(&self) -> bool {
        matches!(self.token_table(), TokenTable::Packed(_))
    }

    /// The quantized table of the embedding only, under the path [`TOKEN_TABLE`](crate::TOKEN_TABLE).
    pub fn packed_embedding(&self) -> Option<&PackedWeight> {
        self.packed_embedding.as_ref()
    }

    /// The float table of the embedding, in 32 bits; `None` if it is quantized or the head's.
    pub fn float_embedding(&self) -> Option<Tensor<2>> {
        self.embed_tokens.as_ref().map(|table| widened(table.val()))
    }

    /// The type in which the float table of the embedding is stored: F16 or BF16 if it was loaded in that type onto Flex
    /// or [narrowed](Self::narrow), otherwise F32.
    pub fn embedding_dtype(&self) -> DType {
        self.embed_tokens.as_ref().map_or(DType::F32, |table| table.val().dtype())
    }

    /// The table that tokens are looked up in.
    fn token_table(&self) -> TokenTable {
        match (&self.embed_tokens, &self.packed_embedding, &self.lm_head) {
            (Some(table), ..) => TokenTable::Float(table.val()),
            (None, Some(table), _) => TokenTable::Packed(table.clone()),
            (None, None, Some(head)) => TokenTable::of_head(head),
            (None, None, None) => unreachable!("a model without a table has a head that holds it"),
        }
    }

    /// Excludes the float embeddings of tokens and positions, and a tied head, from gradients.
    pub fn freeze_embeddings(&mut self) {
        for table in [&mut self.embed_tokens, &mut self.embed_positions].into_iter().flatten() {
            *table = table.clone().set_require_grad(false);
        }
    }

    /// Stores float weights of linear layers and of the embedding in 16 bits if that loses nothing, as in a model that
    /// was published in 16 bits. Such a model cannot be trained. On devices other than CPUs nothing changes.
    ///
    /// # Errors
    /// [`Error::Device`] for weights that cannot be read.
    pub fn narrow(&mut self) -> Result<()> {
        if let Some(table) = &mut self.embed_tokens {
            *table = Param::from_tensor(narrowed(table.val()).map_err(Error::device(EMBED_TOKENS))?);
        }
        try_for_each_linear_mut(self, |name, linear| linear.narrow().map_err(Error::device(name)))
    }

    /// Makes a tied head a separate linear layer, a copy of the embedding, so that it can be quantized while the
    /// embedding stays float. Logits do not change; the config is then untied. Does nothing if the head is already a
    /// layer.
    pub fn untie_head(&mut self) {
        let (None, Some(table)) = (&self.lm_head, &self.embed_tokens) else { return };
        self.lm_head = match Linear::from_weight(widened(table.val()).detach(), None) {
            Ok(head) => Some(head),
            Err(error) => unreachable!("a layer without bias has no shapes to disagree: {error}"),
        };
        self.config.tie_word_embeddings = false;
    }

    /// Makes the embedding use the table of the quantized head, and drops its own table. The config is then tied.
    ///
    /// # Errors
    /// [`Error::TokenTable`] for a head that is not quantized.
    pub fn share_table_with_head(&mut self) -> Result<()> {
        if !self.lm_head.as_ref().is_some_and(|head| matches!(head.weight, Weight::Packed(_))) {
            return Err(Error::TokenTable { detail: "the head is not quantized".to_owned() });
        }
        (self.embed_tokens, self.packed_embedding) = (None, None);
        self.config.tie_word_embeddings = true;
        Ok(())
    }

    /// Replaces the table of the embedding by a quantized one.
    ///
    /// # Errors
    /// [`Error::TokenTable`] if the head is tied to the embedding, because one table must then serve both, and for a
    /// table of another shape.
    pub fn set_packed_embedding(&mut self, table: PackedWeight) -> Result<()> {
        let (found, shape) = (
            [table.matrix().rows(), table.matrix().cols()],
            [self.config.vocab_size, self.config.hidden_size],
        );
        if self.config.tie_word_embeddings {
            return Err(Error::TokenTable { detail: "the head is tied to it".to_owned() });
        }
        if found != shape {
            return Err(Error::TokenTable { detail: format!("its shape is {found:?}, not {shape:?}") });
        }
        (self.embed_tokens, self.packed_embedding) = (None, Some(table));
        Ok(())
    }

    /// Visits every float tensor, in 32 bits, under its canonical name, in the order of
    /// [`expected_tensors`](crate::expected_tensors), with one copy on the host at a time. Packed weights are left out;
    /// use [`NamedLinears`] for them. Stops at the first error that `visit` returns.
    ///
    /// # Errors
    /// Whatever `visit` returns.
    pub fn for_each_tensor<E>(
        &self,
        visit: &mut dyn FnMut(&str, TensorData) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(table) = &self.embed_tokens {
            TensorVisitor::new(visit).param(EMBED_TOKENS, table)?;
        }
        if let Some(positions) = &self.embed_positions {
            TensorVisitor::new(visit).param(EMBED_POSITIONS, positions)?;
        }
        for (layer, block) in self.layers.iter().enumerate() {
            block.visit_tensors(layer, visit)?;
        }
        self.norm.visit_tensors(FINAL_NORM, visit)?;
        self.lm_head.iter().try_for_each(|head| TensorVisitor::new(visit).linear(LM_HEAD, head))
    }

    /// Checks that all ids are in the vocabulary.
    ///
    /// # Errors
    /// [`Error::TokenId`] with the first that is not.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        check_ids(&self.config, ids)
    }

    /// Checks that the model has `needed` positions.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`].
    pub fn check_positions(&self, needed: usize) -> Result<()> {
        check_positions(&self.config, needed)
    }

    /// Checks that positions held as part of a sequence of `rotated_for` positions (0 if none is held) stay valid when
    /// the sequence grows to `total`. With LongRoPE they do not if it grows beyond the original context.
    ///
    /// # Errors
    /// [`Error::RotaryChange`].
    pub fn check_growth(&self, rotated_for: usize, total: usize) -> Result<()> {
        self.rotaries.check_growth(rotated_for, total)
    }

    /// One sequence of ids as a `[1, len]` tensor on the model's device.
    pub fn ids_tensor(&self, ids: &[u32]) -> Tensor<2, Int> {
        ids_tensor(ids, &self.device())
    }

    /// Logits of all new positions or of the last, by the best implementation for the device.
    fn run(&self, ids: Tensor<2, Int>, cache: Option<&mut KvCache>, last: bool) -> Tensor<3> {
        let [batch, len] = ids.dims();
        let start = cache.as_ref().map_or(0, |cache| cache.len);
        self.assert_positions(start + len);
        let (device, shape) = (ids.device(), HeadShape::of(&self.config));
        let Some(cache) = cache else {
            return match slm_autograd::is_preferred(&device) {
                true => self.walk(AutogradOps::new(shape, &self.rotaries), ids, start, last),
                false => self.walk(BurnOps::new(device, shape, &self.rotaries, None), ids, start, last),
            };
        };
        assert_eq!(batch, cache.batch(), "the cache holds another number of sequences");
        let capacity = cache.capacity();
        assert!(start + len <= capacity, "{} positions in a cache of {capacity}", start + len);
        if let Err(error) = self.check_growth(cache.rotated_for, start + len) {
            panic!("{error}");
        }
        let logits = self.walk(BurnOps::new(device, shape, &self.rotaries, Some(cache)), ids, start, last);
        (cache.len, cache.rotated_for) = (start + len, start + len);
        logits
    }

    fn assert_positions(&self, needed: usize) {
        let max = self.config.max_position_embeddings;
        assert!(needed <= max, "{needed} positions, but max_position_embeddings is {max}");
    }

    fn walk<O: TensorOps>(&self, ops: O, ids: Tensor<2, Int>, start: usize, last: bool) -> Tensor<3> {
        let [_, len] = ids.dims();
        let mut compute = Tensors::new(ops, HeadShape::of(&self.config));
        let model = self.parts();
        compute.start(start, len);
        let Ok(mut stream) = walk::layers(&mut compute, &model, ids);
        if last {
            let Ok(()) = compute.keep_last(&mut stream);
        }
        let Ok(logits) = walk::logits(&mut compute, &model.norm, &model.head, model.logit_multiplier, stream);
        logits
    }
}

/// [`Transformer::check_ids`] for a model of `config`.
pub(crate) fn check_ids(config: &ModelConfig, ids: &[u32]) -> Result<()> {
    let vocab_size = config.vocab_size;
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        Some(index) => Err(Error::TokenId { index, id: ids[index], vocab_size }),
        None => Ok(()),
    }
}

/// [`Transformer::check_positions`] for a model of `config`.
pub(crate) fn check_positions(config: &ModelConfig, needed: usize) -> Result<()> {
    let max = config.max_position_embeddings;
    if needed > max { Err(Error::TooManyPositions { needed, max }) } else { Ok(()) }
}

/// One sequence of ids as a `[1, len]` tensor.
pub(crate) fn ids_tensor(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(values, [1, ids.len()]), device)
}

impl NamedLinears for Transformer {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        for (layer, block) in self.layers.iter().enumerate() {
            block.for_each_linear(layer, visit);
        }
        if let Some(head) = &self.lm_head {
            visit(LM_HEAD, head);
        }
    }

    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (layer, block) in self.layers.iter_mut().enumerate() {
            block.for_each_linear_mut(layer, visit);
        }
        if let Some(head) = &mut self.lm_head {
            visit(LM_HEAD, head);
        }
    }
}

#[cfg(test)]
#[path = "transformer_tests.rs"]
mod tests;
