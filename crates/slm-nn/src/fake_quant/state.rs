//! State of a fake-quantized layer, other than its weights, that a training run needs to resume.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use slm_quant_core::QParams;

use super::FakeQuantizedWeight;
use super::ranges::{RangeState, WeightRanges};
use crate::activation::InputRanges;
use crate::{Error, Result, to_vec_f32};
use std::sync::Arc;

/// Scales and ranges of a fake-quantized layer as named lists of numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerState(pub Vec<(String, Vec<f32>)>);

const LEARNED_SCALE: &str = "learned_scale";
const WEIGHT_MIN: &str = "weight_min";
const WEIGHT_MAX: &str = "weight_max";
const WEIGHT_SCALE: &str = "weight_scale";
const WEIGHT_ZERO_POINT: &str = "weight_zero_point";
const INPUT_BOUNDS: &str = "input_bounds";

impl LayerState {
    /// The state of a layer with learned scales, in the order of
    /// [`QuantizedMatrix::scales`](slm_quant_core::QuantizedMatrix::scales), that has seen no input.
    pub fn of_learned_scales(scales: Vec<f32>) -> Self {
        Self(vec![(LEARNED_SCALE.to_owned(), scales)])
    }

    /// The state with these bounds of static activations.
    #[must_use]
    pub fn with_input_bounds(mut self, (min, max): (f32, f32)) -> Self {
        self.push(INPUT_BOUNDS, vec![min, max]);
        self
    }

    fn push(&mut self, name: &str, values: Vec<f32>) {
        self.0.push((name.to_owned(), values));
    }

    fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, values)| values.as_slice())
    }
}

impl FakeQuantizedWeight {
    /// The current scales and ranges.
    ///
    /// # Errors
    /// [`Error::Data`] when learned scales cannot be read.
    pub fn state(&self) -> Result<LayerState> {
        let mut state = LayerState::default();
        if let Some(scale) = self.learned_scale() {
            state.push(LEARNED_SCALE, to_vec_f32("scale", scale)?);
        }
        let RangeState { bounds, params } = self.ranges.state();
        if let Some(bounds) = bounds {
            state.push(WEIGHT_MIN, bounds.iter().map(|bounds| bounds.0).collect());
            state.push(WEIGHT_MAX, bounds.iter().map(|bounds| bounds.1).collect());
        }
        if let Some(params) = params {
            state.push(WEIGHT_SCALE, params.iter().map(|params| params.scale).collect());
            state.push(WEIGHT_ZERO_POINT, params.iter().map(|params| params.zero_point as f32).collect());
        }
        if let Some((min, max)) = self.input_bounds() {
            state.push(INPUT_BOUNDS, vec![min, max]);
        }
        Ok(state)
    }

    /// Restores a state returned by [`FakeQuantizedWeight::state`].
    ///
    /// # Errors
    /// [`Error::State`] for a state of a layer of another shape or scheme.
    pub fn restore(&mut self, state: &LayerState) -> Result<()> {
        let [rows, cols] = self.dims();
        let count = self.scheme().granularity.scale_count(rows, cols)?;
        let read = |name: &str, expected: usize| match state.get(name) {
            Some(values) if values.len() != expected => {
                Err(Error::State { name: name.to_owned(), expected, found: values.len() })
            }
            values => Ok(values.map(<[f32]>::to_vec)),
        };
        match (read(LEARNED_SCALE, count)?, &mut self.scale) {
            (Some(values), Some(scale)) => {
                let device = scale.device();
                *scale = Param::from_tensor(Tensor::from_data(TensorData::new(values, [count]), &device));
            }
            (None, None) => {}
            (found, _) => {
                let (expected, found) = (usize::from(found.is_none()) * count, found.map_or(0, |v| v.len()));
                return Err(Error::State { name: LEARNED_SCALE.to_owned(), expected, found });
            }
        }
        let pairs = |first: Option<Vec<f32>>, second: Option<Vec<f32>>| Some(first?.into_iter().zip(second?));
        let bounds = pairs(read(WEIGHT_MIN, count)?, read(WEIGHT_MAX, count)?).map(Iterator::collect);
        let params = pairs(read(WEIGHT_SCALE, count)?, read(WEIGHT_ZERO_POINT, count)?).map(|pairs| {
            pairs.map(|(scale, zero_point)| QParams { scale, zero_point: zero_point as i32 }).collect()
        });
        let stage = self.ranges.stage().clone();
        let ranges = RangeState { bounds, params };
        self.ranges = Arc::new(WeightRanges::new(self.scheme(), self.observer(), stage.clone(), ranges)?);
        let input = read(INPUT_BOUNDS, 2)?.map(|bounds| (bounds[0], bounds[1]));
        self.input = Arc::new(InputRanges::new(self.input.quant(), stage, input));
        Ok(())
    }
}
