//! An observer of the range of each channel (the leading axis).

use crate::observer::min_max::{average, check_averaging_constant};
use crate::scan::{check_len, min_max};
use crate::{Error, Mapping, QParams, QuantRange, Result, choose_qparams};

/// Least and greatest value of each channel (PyTorch's `PerChannelMinMaxObserver`, and
/// `MovingAveragePerChannelMinMaxObserver` when it averages).
#[derive(Debug, Clone)]
pub struct PerChannelMinMaxObserver {
    channels: usize,
    averaging_constant: Option<f32>,
    bounds: Vec<(f32, f32)>,
}

impl PerChannelMinMaxObserver {
    /// An observer of the range over everything seen.
    ///
    /// # Errors
    /// [`Error::Empty`] for no channels.
    pub fn new(channels: usize) -> Result<Self> {
        if channels == 0 {
            return Err(Error::Empty { what: "channels" });
        }
        Ok(Self { channels, averaging_constant: None, bounds: Vec::new() })
    }

    /// An observer of the moving average over batches, as
    /// [`MovingAverageMinMaxObserver`](crate::MovingAverageMinMaxObserver) for each channel.
    ///
    /// # Errors
    /// As [`PerChannelMinMaxObserver::new`]; [`Error::Parameter`] for a constant outside (0, 1].
    pub fn moving_average(channels: usize, averaging_constant: f32) -> Result<Self> {
        check_averaging_constant(averaging_constant)?;
        Ok(Self { averaging_constant: Some(averaging_constant), ..Self::new(channels)? })
    }

    /// Takes in a batch `[channels, values per channel]`, row-major.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotFinite`] (`index` is within its channel), and [`Error::Length`] where
    /// the values do not divide among the channels. The observer is unchanged then.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        if values.is_empty() {
            return Err(Error::Empty { what: "values" });
        }
        let per_channel = values.len().div_ceil(self.channels);
        check_len("values", per_channel * self.channels, values.len())?;
        let batch: Vec<_> =
            values.chunks(per_channel).map(|channel| min_max("values", channel)).collect::<Result<_>>()?;
        if self.bounds.is_empty() {
            self.bounds = batch;
            return Ok(());
        }
        for (old, batch) in self.bounds.iter_mut().zip(batch) {
            *old = match self.averaging_constant {
                Some(constant) => average(*old, batch, constant),
                None => (old.0.min(batch.0), old.1.max(batch.1)),
            };
        }
        Ok(())
    }

    /// Least and greatest value of each channel; empty before the first batch.
    pub fn bounds(&self) -> &[(f32, f32)] {
        &self.bounds
    }

    /// Scale and zero point of each channel.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] before the first batch, and as [`choose_qparams`].
    pub fn qparams(&self, range: QuantRange, mapping: Mapping, eps: f32) -> Result<Vec<QParams>> {
        if self.bounds.is_empty() {
            return Err(Error::NothingObserved { what: "per-channel min-max observer" });
        }
        self.bounds.iter().map(|(lo, hi)| choose_qparams(*lo, *hi, range, mapping, eps)).collect()
    }
}
