//! Time spent in the parts of a pass.

use std::time::{Duration, Instant};

/// Time spent by the passes of a [`CpuEngine`](super::CpuEngine).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassTimes {
    /// Products with weights: all linear layers and the head, with the quantization of their inputs.
    pub products: Duration,
    /// Attention over the cached keys and values.
    pub attention: Duration,
    /// Embedding, norms, rotary positions, writing the cache, activations, sums.
    pub rest: Duration,
}

impl PassTimes {
    /// The total of all parts.
    pub fn total(self) -> Duration {
        self.products + self.attention + self.rest
    }
}

/// A stopwatch that returns the time since its last reading.
#[derive(Debug)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
