//! Observers, which watch values and choose the range that a grid should cover.
//!
//! [`ObserverKind`] names and builds them; [`Observer`] is their common interface. A weight, whose values are all
//! available at once, goes through [`ObserverKind::choose_range`] instead, where percentile and mean squared error are
//! exact.

mod histogram;
mod kind;
mod min_max;
mod mse;
mod per_channel;
mod percentile;

use std::fmt::Debug;

pub use histogram::{HistogramObserver, HistogramSearch, histogram_search};
pub use kind::ObserverKind;
pub use min_max::{MinMaxObserver, MovingAverageMinMaxObserver};
pub use mse::MseObserver;
pub(crate) use mse::{choose_weighted, choose_weighted_signed};
pub use per_channel::PerChannelMinMaxObserver;
pub use percentile::PercentileObserver;

use crate::{Mapping, QParams, QuantRange, Result, choose_qparams};

/// Watches batches of values and chooses the range `[lo, hi]` that their grid should cover.
pub trait Observer: Debug + Send + Sync {
    /// Takes in a batch.
    ///
    /// # Errors
    /// [`crate::Error::Empty`] for no values, [`crate::Error::NotFinite`] for a NaN or an infinity. The
    /// observer is unchanged then.
    fn observe(&mut self, values: &[f32]) -> Result<()>;

    /// Least and greatest value that this observer uses; `None` before the first batch.
    fn bounds(&self) -> Option<(f32, f32)>;

    /// The range that quantization with `range` and `mapping` should cover, for [`choose_qparams`].
    ///
    /// # Errors
    /// [`crate::Error::NothingObserved`] before the first batch.
    fn choose_range(&self, range: QuantRange, mapping: Mapping, eps: f32) -> Result<(f32, f32)>;

    /// Scale and zero point for the chosen range.
    ///
    /// # Errors
    /// As [`Observer::choose_range`] and [`choose_qparams`].
    fn qparams(&self, range: QuantRange, mapping: Mapping, eps: f32) -> Result<QParams> {
        let (lo, hi) = self.choose_range(range, mapping, eps)?;
        choose_qparams(lo, hi, range, mapping, eps)
    }
}
