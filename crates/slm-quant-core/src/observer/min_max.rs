//! Observers of the range seen: over everything, or as a moving average over batches.

use crate::observer::Observer;
use crate::scan::min_max;
use crate::{Error, Mapping, QuantRange, Result};

/// Least and greatest value of everything seen (PyTorch's `MinMaxObserver`).
#[derive(Debug, Clone, Default)]
pub struct MinMaxObserver {
    bounds: Option<(f32, f32)>,
}

impl Observer for MinMaxObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        let (lo, hi) = min_max("values", values)?;
        self.bounds = Some(self.bounds.map_or((lo, hi), |(min, max)| (min.min(lo), max.max(hi))));
        Ok(())
    }

    fn bounds(&self) -> Option<(f32, f32)> {
        self.bounds
    }

    fn choose_range(&self, _: QuantRange, _: Mapping, _: f32) -> Result<(f32, f32)> {
        self.bounds.ok_or(Error::NothingObserved { what: "min-max observer" })
    }
}

/// Exponential moving average of the batches' least and greatest values (PyTorch's
/// `MovingAverageMinMaxObserver`): the first batch sets them, then `min += c (batch_min - min)`.
#[derive(Debug, Clone)]
pub struct MovingAverageMinMaxObserver {
    averaging_constant: f32,
    bounds: Option<(f32, f32)>,
}

impl MovingAverageMinMaxObserver {
    /// PyTorch's default weight of a new batch.
    pub const AVERAGING_CONSTANT: f32 = 0.01;

    /// An observer in which a new batch weighs `averaging_constant`, in (0, 1].
    ///
    /// # Errors
    /// [`Error::Parameter`] for a constant outside (0, 1].
    pub fn new(averaging_constant: f32) -> Result<Self> {
        check_averaging_constant(averaging_constant)?;
        Ok(Self { averaging_constant, bounds: None })
    }
}

impl Observer for MovingAverageMinMaxObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        let batch = min_max("values", values)?;
        self.bounds = Some(self.bounds.map_or(batch, |old| average(old, batch, self.averaging_constant)));
        Ok(())
    }

    fn bounds(&self) -> Option<(f32, f32)> {
        self.bounds
    }

    fn choose_range(&self, _: QuantRange, _: Mapping, _: f32) -> Result<(f32, f32)> {
        self.bounds.ok_or(Error::NothingObserved { what: "moving-average observer" })
    }
}

/// Moves `old` bounds towards those of a batch.
pub(super) fn average(old: (f32, f32), batch: (f32, f32), constant: f32) -> (f32, f32) {
    (old.0 + constant * (batch.0 - old.0), old.1 + constant * (batch.1 - old.1))
}

pub(super) fn check_averaging_constant(constant: f32) -> Result<()> {
    if constant > 0.0 && constant <= 1.0 {
        return Ok(());
    }
    Err(Error::Parameter {
        what: "averaging constant",
        detail: format!(
            "{constant} is outside (0, 1]; {} is usual",
            MovingAverageMinMaxObserver::AVERAGING_CONSTANT
        ),
    })
}
