//! The stage of quantization-aware training that the layers of a model are in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The stages of quantization-aware training, as set in PyTorch by `enable_observer`, `enable_fake_quant` and
/// `disable_observer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QatStage {
    /// Observers watch; values stay float.
    Observe,
    /// Observers watch; values are rounded.
    #[default]
    Train,
    /// Values are rounded with the ranges that the observers have found, which no longer change. Learned scales are
    /// still trained.
    Frozen,
}

/// The stage that all layers of a model share. Clones share the stage.
#[derive(Debug, Clone, Default)]
pub struct SharedQatStage(Arc<AtomicU8>);

impl SharedQatStage {
    /// The current stage; [`QatStage::Train`] at first.
    pub fn get(&self) -> QatStage {
        match self.0.load(Ordering::Relaxed) {
            1 => QatStage::Observe,
            2 => QatStage::Frozen,
            _ => QatStage::Train,
        }
    }

    /// Sets the stage of every layer that shares it.
    pub fn set(&self, stage: QatStage) {
        let value = match stage {
            QatStage::Train => 0,
            QatStage::Observe => 1,
            QatStage::Frozen => 2,
        };
        self.0.store(value, Ordering::Relaxed);
    }
}
