//! One sequence through a model, on whatever device it is.

use std::borrow::Cow;
use std::fmt;

use crate::decoder::{Decoder, PassTimes};
use crate::error::Result;
use crate::eval::read_f32;
use crate::kv_cache::KvCache;
use crate::transformer::Transformer;

/// How passes over one sequence are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferencePath {
    /// By a [`Decoder`], on slices of host memory. Written `slices`.
    Slices,
    /// By tensor operations of the device. Written `tensor-ops`.
    TensorOps,
}

impl fmt::Display for InferencePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Slices => "slices",
            Self::TensorOps => "tensor-ops",
        })
    }
}

/// A sequence that grows.
pub(crate) enum Session<'a> {
    Slices(Box<Decoder<'a>>),
    Tensors { model: &'a Transformer, cache: KvCache },
}

impl<'a> Session<'a> {
    /// An empty sequence with room for `capacity` positions.
    pub(crate) fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        Ok(match model.inference_path() {
            InferencePath::Slices => Self::Slices(Box::new(Decoder::new(model, capacity)?)),
            InferencePath::TensorOps => Self::Tensors { model, cache: model.new_cache(1, capacity) },
        })
    }

    /// Appends `ids`; the logits of the last.
    pub(crate) fn forward_last(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Slices(decoder) => decoder.forward_last(ids).map(Cow::Borrowed),
            Self::Tensors { model, cache } => {
                read_f32("logits", model.forward_last(model.ids_tensor(ids), cache)).map(Cow::Owned)
            }
        }
    }

    /// Begins a new sequence with `ids`; the logits of all of them.
    pub(crate) fn forward_anew(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Slices(decoder) => {
                decoder.truncate(0);
                decoder.forward(ids).map(Cow::Borrowed)
            }
            Self::Tensors { model, .. } => {
                read_f32("logits", model.forward(model.ids_tensor(ids))).map(Cow::Owned)
            }
        }
    }

    /// What passes spent their time on since this was last asked, where that is known.
    pub(crate) fn take_times(&mut self) -> Option<PassTimes> {
        match self {
            Self::Slices(decoder) => {
                let times = decoder.times();
                decoder.reset_times();
                Some(times)
            }
            Self::Tensors { .. } => None,
        }
    }
}
