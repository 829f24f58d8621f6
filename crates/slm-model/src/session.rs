//! One sequence through a model, on whatever device it is.

use std::borrow::Cow;
use std::fmt;

use crate::cpu::{CpuEngine, PassTimes};
use crate::error::Result;
use crate::eval::read_f32;
use crate::kv_cache::KvCache;
use crate::transformer::Transformer;

/// How passes over one sequence are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferencePath {
    /// By a [`CpuEngine`], on slices of host memory. Written `cpu`.
    Cpu,
    /// By Burn's tensor operations on the device. Written `burn`.
    Burn,
}

impl fmt::Display for InferencePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Burn => "burn",
        })
    }
}

/// A sequence that grows.
pub(crate) enum InferenceSession<'a> {
    Cpu(Box<CpuEngine<'a>>),
    Burn { model: &'a Transformer, cache: KvCache },
}

impl<'a> InferenceSession<'a> {
    /// An empty sequence with room for `capacity` positions.
    pub(crate) fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        Ok(match model.inference_path() {
            InferencePath::Cpu => Self::Cpu(Box::new(CpuEngine::new(model, capacity)?)),
            InferencePath::Burn => Self::Burn { model, cache: model.new_cache(1, capacity) },
        })
    }

    /// Appends `ids`; the logits of the last.
    pub(crate) fn forward_last(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Cpu(engine) => engine.forward_last(ids).map(Cow::Borrowed),
            Self::Burn { model, cache } => {
                read_f32("logits", model.forward_last(model.ids_tensor(ids), cache)).map(Cow::Owned)
            }
        }
    }

    /// Begins a new sequence with `ids`; the logits of all of them.
    pub(crate) fn forward_anew(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Cpu(engine) => {
                engine.truncate(0);
                engine.forward(ids).map(Cow::Borrowed)
            }
            Self::Burn { model, .. } => {
                read_f32("logits", model.forward(model.ids_tensor(ids))).map(Cow::Owned)
            }
        }
    }

    /// What passes spent their time on since this was last asked, where that is known.
    pub(crate) fn take_times(&mut self) -> Option<PassTimes> {
        match self {
            Self::Cpu(engine) => {
                let times = engine.times();
                engine.reset_times();
                Some(times)
            }
            Self::Burn { .. } => None,
        }
    }
}
