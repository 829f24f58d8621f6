//! What fake quantization does at the present point of a training run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The phases of quantization-aware training, as PyTorch's `enable_observer`, `enable_fake_quant` and
/// `disable_observer` make them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Observers watch; values stay float.
    Observe,
    /// Observers watch, values are rounded.
    #[default]
    Quantize,
    /// Values are rounded on the grids that the observers came to, which no longer change. Learned scales go
    /// on learning.
    Frozen,
}

/// The phase that all layers of a model share. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct PhaseSwitch(Arc<AtomicU8>);

impl PhaseSwitch {
    /// The present phase; [`Phase::Quantize`] for a new switch.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            1 => Phase::Observe,
            2 => Phase::Frozen,
            _ => Phase::Quantize,
        }
    }

    /// Sets the phase of every layer that shares this switch.
    pub fn set(&self, phase: Phase) {
        let value = match phase {
            Phase::Quantize => 0,
            Phase::Observe => 1,
            Phase::Frozen => 2,
        };
        self.0.store(value, Ordering::Relaxed);
    }
}
