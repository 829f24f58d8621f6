//! One sequence through a model, on whatever device it is.

use std::borrow::Cow;
use std::fmt;

use crate::cpu::{CpuEngine, PassTimes};
use crate::error::Result;
use crate::eval::read_f32;
use crate::kv_cache::KvCache;
use crate::transformer::Transformer;

/// Path by which passes over one sequence are computed.
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

/// State kept of the positions already processed.
enum State<'a> {
    Cpu(Box<CpuEngine<'a>>),
    Burn(KvCache),
}

impl<'a> InferenceSession<'a> {
    /// An empty sequence with room for `capacity` positions.
    pub(crate) fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        Self::by(model, model.inference_path(), capacity)
    }

    /// [`new`](Self::new) by the path that the caller chooses.
    pub(crate) fn by(model: &'a Transformer, path: InferencePath, capacity: usize) -> Result<Self> {
        let state = match path {
            InferencePath::Cpu => State::Cpu(Box::new(CpuEngine::new(model, capacity)?)),
            InferencePath::Burn => State::Burn(model.new_cache(1, capacity)),
        };
        Ok(Self { model, state, ids: Vec::new() })
    }

    /// Appends `ids`; the logits of the last. The whole sequence is recomputed where it becomes so long that its
    /// positions are rotated by other angles.
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

    /// Positions there is room for.
    pub(crate) fn capacity(&self) -> usize {
        match &self.state {
            State::Cpu(engine) => engine.capacity(),
            State::Burn(cache) => cache.capacity(),
        }
    }

    /// Makes the sequence `ids`, keeping the positions that the one held so far begins with: the number of those, and
    /// the logits of the last.
    pub(crate) fn forward_rest(&mut self, ids: &[u32]) -> Result<(usize, Cow<'_, [f32]>)> {
        let held = self.ids.len();
        let common = self.ids.iter().zip(ids).take_while(|(held, new)| held == new).count();
        // The last position is computed in any case, for its logits.
        let mut common = common.min(ids.len().saturating_sub(1));
        if self.model.check_growth(held.min(ids.len()), held.max(ids.len())).is_err() {
            common = 0;
        }
        self.truncate(common);
        Ok((common, self.forward_last(&ids[common..])?))
    }

    /// Forgets all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        match &mut self.state {
            State::Cpu(engine) => engine.truncate(len),
            State::Burn(cache) => cache.truncate(len),
        }
    }

    /// Begins a new sequence with `ids`; the logits of all of them.
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

    /// Times of the passes since this was last asked, if they are known.
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
