//! The token embedding: a float table, or a quantized one.

use burn::module::Param;
use burn::tensor::module::embedding;
use burn::tensor::{Int, Tensor};
use slm_nn::{Linear, PackedWeight, Weight, widened};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::names::{EMBED_TOKENS, LM_HEAD, TOKEN_TABLE};
use crate::source::Loader;

/// The table that token ids are looked up in, `[vocab_size, hidden]`.
#[derive(Debug, Clone)]
pub(crate) enum TokenTable {
    Float(Tensor<2>),
    Packed(PackedWeight),
}

impl TokenTable {
    /// The table of a head that shares it with the embedding.
    pub(crate) fn of_head(head: &Linear) -> Self {
        match &head.weight {
            Weight::Float(weight) => Self::Float(weight.val()),
            Weight::FakeQuantized(weight) => Self::Float(weight.float_weight()),
            Weight::Packed(weight) => Self::Packed(weight.clone()),
            Weight::QuantizedTrainable(weight) => Self::Packed(weight.packed().clone()),
        }
    }

    /// Rows `ids` of the table, `[batch, len, hidden]`, as 32-bit floats.
    pub(crate) fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match self {
            Self::Float(table) => widened(embedding(table.clone(), ids)),
            Self::Packed(table) => table.lookup(ids),
        }
    }
}

/// The token embedding as loaded from a source.
#[derive(Debug)]
pub(crate) enum LoadedTable {
    Float(Tensor<2>),
    Packed(PackedWeight),
    /// A quantized table that the head shares.
    Shared(Linear),
}

impl LoadedTable {
    pub(crate) fn load(config: &ModelConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        if config.tie_word_embeddings {
            return match loader.quantized(LM_HEAD, shape)? {
                Some(weight) => Ok(Self::Shared(head_of(weight)?)),
                None => Ok(Self::Float(loader.matrix(EMBED_TOKENS, shape)?)),
            };
        }
        match loader.quantized(TOKEN_TABLE, shape)? {
            None => Ok(Self::Float(loader.matrix(EMBED_TOKENS, shape)?)),
            Some(Weight::Packed(weight)) => Ok(Self::Packed(weight)),
            Some(_) => Err(Error::Source {
                name: TOKEN_TABLE.to_owned(),
                source: "a quantized embedding must be packed".into(),
            }),
        }
    }

    /// The table without the head.
    pub(crate) fn into_table(self) -> TokenTable {
        match self {
            Self::Float(table) => TokenTable::Float(table),
            Self::Packed(table) => TokenTable::Packed(table),
            Self::Shared(head) => TokenTable::of_head(&head),
        }
    }
}

/// The head of a model that ties it to the embedding, as a linear layer.
pub(crate) fn load_tied_head(config: &ModelConfig, loader: &mut Loader<'_>) -> Result<Linear> {
    match LoadedTable::load(config, loader)? {
        LoadedTable::Shared(head) => Ok(head),
        LoadedTable::Packed(table) => head_of(Weight::Packed(table)),
        LoadedTable::Float(table) => head_of(Weight::Float(Param::from_tensor(widened(table)))),
    }
}

fn head_of(weight: Weight) -> Result<Linear> {
    Linear::new(weight, None)
        .map_err(|error| Error::Source { name: LM_HEAD.to_owned(), source: error.into() })
}
