//! The precision of matrix products in training.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// The type that the operands of a linear layer's products are rounded to, in the forward and in the backward pass. Sums,
/// and all other values, are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats: nothing is rounded.
    #[default]
    F32,
    /// BF16: 8 significant bits, and the exponents of 32-bit floats.
    Bf16,
}

impl Precision {
    /// Returns `true` if this processor has instructions for products of this precision. Without them the results have the
    /// same bits, but BF16 is much slower than f32.
    pub fn is_fast(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => slm_cpu_ops::has_bf16_products(),
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The precision of the [`scope`](Self::scope) that this thread is in; f32 outside of any.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Calls `run`. The linear layers that it applies on this thread have products of this precision, and so have their
    /// backward passes, wherever those run.
    pub fn scope<R>(self, run: impl FnOnce() -> R) -> R {
        let _restore = Restore(CURRENT.replace(self));
        run()
    }
}

/// Restores a precision at the end of a scope, also in a panic.
struct Restore(Precision);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}
