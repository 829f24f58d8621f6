//! Observers by name.

use std::fmt;
use std::str::FromStr;

use crate::observer::{
    HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver, MseObserver, Observer,
    PercentileObserver, min_max::check_averaging_constant, mse, percentile,
};
use crate::scan::min_max;
use crate::{Error, Mapping, QuantRange, Result};

/// The observer that chooses ranges. It is written and serialized as a string.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub enum ObserverKind {
    /// [`MinMaxObserver`]. Written `min-max`.
    #[default]
    MinMax,
    /// [`MovingAverageMinMaxObserver`]. Written `moving-average`, or `moving-average:0.1`.
    MovingAverage {
        /// Weight of a new batch, in (0, 1]; 0.01 if none is written.
        averaging_constant: f32,
    },
    /// [`HistogramObserver`]. Written `histogram`.
    Histogram,
    /// [`PercentileObserver`]. Written `percentile`, or `percentile:99.9`.
    Percentile {
        /// Percentile in (50, 100]; 99.99 if none is written.
        percentile: f64,
    },
    /// [`MseObserver`]. Written `mse`.
    Mse,
    /// The search of [`MseObserver`] with an importance for each input of a layer: see
    /// [`choose_weighted_qparams`](crate::choose_weighted_qparams). It chooses ranges of weights only, and only after
    /// the inputs of the layer have been observed. Written `weighted-mse`.
    WeightedMse,
}

impl ObserverKind {
    /// Every kind that looks only at the values, with its default parameters.
    pub const ALL: [Self; 5] = [
        Self::MinMax,
        Self::MovingAverage { averaging_constant: MovingAverageMinMaxObserver::AVERAGING_CONSTANT },
        Self::Histogram,
        Self::Percentile { percentile: PercentileObserver::PERCENTILE },
        Self::Mse,
    ];

    /// A new observer of this kind.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a parameter that the observer rejects, and for [`ObserverKind::WeightedMse`].
    pub fn build(&self) -> Result<Box<dyn Observer>> {
        Ok(match *self {
            Self::MinMax => Box::new(MinMaxObserver::default()),
            Self::MovingAverage { averaging_constant } => {
                Box::new(MovingAverageMinMaxObserver::new(averaging_constant)?)
            }
            Self::Histogram => Box::new(HistogramObserver::default()),
            Self::Percentile { percentile } => Box::new(PercentileObserver::new(percentile)?),
            Self::Mse => Box::new(MseObserver::default()),
            Self::WeightedMse => return Err(needs_importance()),
        })
    }

    /// The range for values that are all available at once, such as those of a weight.
    ///
    /// For min-max, moving average and histogram this is the range that the observer chooses after one batch.
    /// Percentile ranks up to 65,536 values exactly and uses its histogram beyond that; mse uses the exact error of any
    /// number of values. The histogram observer is made for tensors: for small groups it costs up to a millisecond each
    /// and gains nothing.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotFinite`], and as [`ObserverKind::build`] and
    /// [`choose_qparams`](crate::choose_qparams).
    pub fn choose_range(
        &self,
        values: &[f32],
        range: QuantRange,
        mapping: Mapping,
        eps: f32,
    ) -> Result<(f32, f32)> {
        match *self {
            Self::MinMax => min_max("values", values),
            Self::MovingAverage { averaging_constant } => {
                check_averaging_constant(averaging_constant)?;
                min_max("values", values)
            }
            Self::Histogram => {
                let mut observer = HistogramObserver::default();
                observer.observe(values)?;
                observer.choose_range(range, mapping, eps)
            }
            Self::Percentile { percentile } => percentile::choose_range(values, percentile, range, mapping),
            Self::Mse => mse::choose_range(values, range, mapping, eps),
            Self::WeightedMse => Err(needs_importance()),
        }
    }
}

fn needs_importance() -> Error {
    let detail =
        "weighted-mse chooses ranges of weights, and needs the mean squares of the layer's inputs; use \
                  mse or min-max here"
            .to_owned();
    Error::Parameter { what: "observer", detail }
}

impl fmt::Display for ObserverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MinMax => f.write_str("min-max"),
            Self::MovingAverage { averaging_constant: MovingAverageMinMaxObserver::AVERAGING_CONSTANT } => {
                f.write_str("moving-average")
            }
            Self::MovingAverage { averaging_constant } => write!(f, "moving-average:{averaging_constant}"),
            Self::Histogram => f.write_str("histogram"),
            Self::Percentile { percentile: PercentileObserver::PERCENTILE } => f.write_str("percentile"),
            Self::Percentile { percentile } => write!(f, "percentile:{percentile}"),
            Self::Mse => f.write_str("mse"),
            Self::WeightedMse => f.write_str("weighted-mse"),
        }
    }
}

impl FromStr for ObserverKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::Parse {
            what: "observer",
            found: text.to_owned(),
            expected: "min-max, moving-average, moving-average:C (C in (0, 1]), histogram, percentile, \
                       percentile:P (P in (50, 100]), mse, weighted-mse",
        };
        let (name, parameter) = match text.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text, None),
        };
        let kind = match (name, parameter) {
            ("min-max", None) => Self::MinMax,
            ("moving-average", None) => {
                Self::MovingAverage { averaging_constant: MovingAverageMinMaxObserver::AVERAGING_CONSTANT }
            }
            ("moving-average", Some(constant)) => {
                Self::MovingAverage { averaging_constant: constant.parse().map_err(|_| refuse())? }
            }
            ("histogram", None) => Self::Histogram,
            ("percentile", None) => Self::Percentile { percentile: PercentileObserver::PERCENTILE },
            ("percentile", Some(p)) => Self::Percentile { percentile: p.parse().map_err(|_| refuse())? },
            ("mse", None) => Self::Mse,
            ("weighted-mse", None) => return Ok(Self::WeightedMse),
            _ => return Err(refuse()),
        };
        // Building checks the parameter, if there is one.
        kind.build().map_err(|_| refuse())?;
        Ok(kind)
    }
}

impl TryFrom<String> for ObserverKind {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ObserverKind> for String {
    fn from(kind: ObserverKind) -> Self {
        kind.to_string()
    }
}
