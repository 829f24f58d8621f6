//! The choice of the grid that the weights of a layer are rounded to during training.

use std::sync::{Mutex, PoisonError};

use slm_kernels::KernelKind;
use slm_quant_core::{
    Error, Mapping, ObserverKind, QParams, QuantScheme, QuantizedMatrix, Result, ScaleDtype, Scales,
    TORCHAO_EPS, choose_matrix_qparams, choose_qparams_stored, quantize_matrix_with,
};

use super::fake_quantizer::FakeQuantizer;
use crate::{QatStage, SharedQatStage};

/// Chooses the grid of a weight: again in every step, or from a moving average of its bounds. Keeps the grid while the
/// stage is [`QatStage::Frozen`].
#[derive(Debug)]
pub(crate) struct WeightRanges {
    pub(crate) scheme: QuantScheme,
    pub(crate) observer: ObserverKind,
    /// The kernel that the converted layer would run.
    pub(crate) kernel: KernelKind,
    stage: SharedQatStage,
    state: Mutex<RangeState>,
}

/// State that a run must keep to resume with the same ranges.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RangeState {
    /// Bounds of each tensor, row or group, for a moving average.
    pub(crate) bounds: Option<Vec<(f32, f32)>>,
    /// The parameters of the last training step.
    pub(crate) params: Option<Vec<QParams>>,
}

impl WeightRanges {
    pub(crate) fn new(
        scheme: QuantScheme,
        observer: ObserverKind,
        stage: SharedQatStage,
        state: RangeState,
    ) -> Result<Self> {
        Ok(Self { scheme, observer, kernel: KernelKind::selected(), stage, state: Mutex::new(state) })
    }

    pub(crate) fn stage(&self) -> &SharedQatStage {
        &self.stage
    }

    pub(crate) fn state(&self) -> RangeState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The grid for these weights. Only a training step changes the kept state.
    pub(crate) fn fake_quantizer(
        &self,
        weight: &[f32],
        rows: usize,
        cols: usize,
        training: bool,
    ) -> Result<FakeQuantizer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let params = self.params(&mut state, weight, rows, cols, training)?;
        if training {
            state.params = Some(params.clone());
        }
        FakeQuantizer::of_weight(self.scheme, cols, params)
    }

    fn params(
        &self,
        state: &mut RangeState,
        weight: &[f32],
        rows: usize,
        cols: usize,
        training: bool,
    ) -> Result<Vec<QParams>> {
        let frozen = self.stage.get() == QatStage::Frozen;
        if let (true, Some(params)) = (frozen, &state.params) {
            return Ok(params.clone());
        }
        let ObserverKind::MovingAverage { averaging_constant } = self.observer else {
            return choose_matrix_qparams(weight, rows, cols, self.scheme, &self.observer);
        };
        let bounds = match (&state.bounds, training && !frozen) {
            (Some(bounds), false) => bounds.clone(),
            (old, _) => {
                let batch = self.bounds_of(weight, cols)?;
                match old {
                    None => batch,
                    Some(old) => moved(old, &batch, averaging_constant),
                }
            }
        };
        let QuantScheme { mapping, scale_dtype, .. } = self.scheme;
        let range = self.scheme.range();
        let choose =
            |&(lo, hi): &(f32, f32)| choose_qparams_stored(lo, hi, range, mapping, TORCHAO_EPS, scale_dtype);
        let params = bounds.iter().map(choose).collect();
        if training {
            state.bounds = Some(bounds);
        }
        params
    }

    /// Least and greatest weight of each tensor, row or group.
    fn bounds_of(&self, weight: &[f32], cols: usize) -> Result<Vec<(f32, f32)>> {
        let of = |values: &[f32]| {
            ObserverKind::MinMax.choose_range(values, self.scheme.range(), self.scheme.mapping, TORCHAO_EPS)
        };
        match self.scheme.granularity {
            slm_quant_core::Granularity::PerTensor => Ok(vec![of(weight)?]),
            granularity => {
                let width = granularity.group_width(cols)?;
                weight.chunks(cols).flat_map(|row| row.chunks(width)).map(of).collect()
            }
        }
    }
}

/// `old + constant * (batch - old)`, as PyTorch's moving-average observers.
pub(crate) fn moved(old: &[(f32, f32)], batch: &[(f32, f32)], constant: f32) -> Vec<(f32, f32)> {
    let toward = |old: f32, new: f32| old + constant * (new - old);
    old.iter().zip(batch).map(|(o, b)| (toward(o.0, b.0), toward(o.1, b.1))).collect()
}

/// The grid parameters of learned scales: at least [`TORCHAO_EPS`] in magnitude, with their sign, and rounded to the type
/// that they will be stored in.
///
/// # Errors
/// [`Error::NotFinite`] for a scale that is NaN or infinite, [`Error::Parameter`] for a scale outside the range of the
/// type.
pub(crate) fn learned_params(learned: &[f32], dtype: ScaleDtype) -> Result<Vec<QParams>> {
    let floored = |scale: &f32| scale.abs().max(TORCHAO_EPS).copysign(*scale);
    let stored = Scales::from_f32(learned.iter().map(floored).collect(), dtype);
    let check = |(index, &value): (usize, &f32)| {
        let scale = stored.get(index);
        if !value.is_finite() {
            return Err(Error::NotFinite { what: "learned scales", index, value });
        }
        if !scale.is_finite() {
            let detail = format!("{value} does not fit an {dtype}: use f32 scales");
            return Err(Error::Parameter { what: "learned scale", detail });
        }
        Ok(QParams { scale, zero_point: 0 })
    };
    learned.iter().enumerate().map(check).collect()
}

/// LSQ's factor on the gradient of a scale that `count` weights share, `1 / sqrt(count * quant_max)` (Esser and
/// others, 2020, arXiv:1902.08153, section 2.2).
pub(crate) fn lsq_factor(scheme: QuantScheme, rows: usize, cols: usize) -> f64 {
    let count = match scheme.granularity {
        slm_quant_core::Granularity::PerTensor => rows * cols,
        granularity => granularity.group_width(cols).unwrap_or(cols),
    };
    1.0 / (count as f64 * f64::from(scheme.range().quant_max())).sqrt()
}

/// Returns `true` if scales can be learned: LSQ learns a step size and leaves the zero point at 0.
pub(crate) fn is_learnable(mapping: Mapping) -> bool {
    mapping.is_symmetric()
}

/// The codes of a weight on the grid of `params`.
pub(crate) fn quantized(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    params: &[QParams],
) -> Result<QuantizedMatrix> {
    let scales = Scales::from_f32(params.iter().map(|q| q.scale).collect(), scheme.scale_dtype);
    let zero_points =
        (!scheme.mapping.is_symmetric()).then(|| params.iter().map(|q| q.zero_point as i8).collect());
    quantize_matrix_with(weight, rows, cols, scheme, scales, zero_points)
}
