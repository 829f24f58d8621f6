//! One sequence that runs through a model on any device.

use std::borrow::Cow;
use std::fmt;

use crate::cpu::{CpuEngine, PassTimes};
use crate::error::Result;
use crate::eval::read_f32;
use crate::kv_cache::KvCache;
use crate::transformer::Transformer;

/// The path by which passes over one sequence are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferencePath {
    /// A [`CpuEngine`], on slices of host memory. Written `cpu`.
    Cpu,
    /// Burn's tensor operations on the device. Written `burn`.
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
pub(crate) struct InferenceSession<'a> {
    model: &'a Transformer,
    state: State<'a>,
    /// The sequence.
    ids: Vec<u32>,
}

/// The cached state of the processed positions.
enum State<'a> {
    Cpu(Box<CpuEngine<'a>>),
    Burn(KvCache),
}

impl<'a> InferenceSession<'a> {
    /// An empty sequence with room for `capacity` positions.
    pub(crate) fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        Self::by(model, model.inference_path(), capacity)
    }

    /// [`new`](Self::new) with the given path.
    pub(crate) fn by(model: &'a Transformer, path: InferencePath, capacity: usize) -> Result<Self> {
        let state = match path {
            InferencePath::Cpu => State::Cpu(Box::new(CpuEngine::new(model, capacity)?)),
            InferencePath::Burn => State::Burn(model.new_cache(1, capacity)),
        };
        Ok(Self { model, state, ids: Vec::new() })
    }

    /// Appends `ids` and returns the logits of the last one. The whole sequence is recomputed if it becomes so long
    /// that its positions are rotated by other angles.
    pub(crate) fn forward_last(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        let held = self.ids.len();
        self.ids.extend_from_slice(ids);
        let anew = self.model.check_growth(held, self.ids.len()).is_err();
        let ids = if anew { &self.ids[..] } else { &self.ids[held..] };
        match &mut self.state {
            State::Cpu(engine) => {
                if anew {
                    engine.truncate(0);
                }
                engine.forward_last(ids).map(Cow::Borrowed)
            }
            State::Burn(cache) => {
                if anew {
                    cache.truncate(0);
                }
                let logits = self.model.forward_last(self.model.ids_tensor(ids), cache);
                read_f32("logits", logits).map(Cow::Owned)
            }
        }
    }

    /// Number of positions that the session has room for.
    pub(crate) fn capacity(&self) -> usize {
        match &self.state {
            State::Cpu(engine) => engine.capacity(),
            State::Burn(cache) => cache.capacity(),
        }
    }

    /// Replaces the sequence by `ids`, keeping the positions of their common beginning. Returns the number of kept
    /// positions and the logits of the last one of `ids`.
    pub(crate) fn forward_rest(&mut self, ids: &[u32]) -> Result<(usize, Cow<'_, [f32]>)> {
        let held = self.ids.len();
        let common = self.ids.iter().zip(ids).take_while(|(held, new)| held == new).count();
        // The last position is always computed, for its logits.
        let mut common = common.min(ids.len().saturating_sub(1));
        if self.model.check_growth(held.min(ids.len()), held.max(ids.len())).is_err() {
            common = 0;
        }
        self.truncate(common);
        Ok((common, self.forward_last(&ids[common..])?))
    }

    /// Discards all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        match &mut self.state {
            State::Cpu(engine) => engine.truncate(len),
            State::Burn(cache) => cache.truncate(len),
        }
    }

    /// Starts a new sequence with `ids` and returns the logits of all of them.
    pub(crate) fn forward_anew(&mut self, ids: &[u32]) -> Result<Cow<'_, [f32]>> {
        self.ids.clear();
        match &mut self.state {
            State::Cpu(engine) => {
                engine.truncate(0);
                self.ids.extend_from_slice(ids);
                engine.forward(ids).map(Cow::Borrowed)
            }
            State::Burn(cache) => {
                cache.truncate(0);
                read_f32("logits", self.model.forward(self.model.ids_tensor(ids))).map(Cow::Owned)
            }
        }
    }

    /// Times of the passes since the last call, if they are known.
    pub(crate) fn take_times(&mut self) -> Option<PassTimes> {
        match &mut self.state {
            State::Cpu(engine) => {
                let times = engine.times();
                engine.reset_times();
                Some(times)
            }
            State::Burn(_) => None,
        }
    }
}
