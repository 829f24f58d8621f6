//! Lookup of rows of packed weights as floats, for an embedding whose table is quantized.

use burn::tensor::{Int, Tensor, TensorData};

use super::PackedWeight;
use crate::errors::Place;
use crate::on_cpu;

impl PackedWeight {
    /// Rows `ids` of the dequantized weight: `(code - zero_point) * scale`, without a float copy of the table.
    ///
    /// The table is a constant and has no gradients.
    ///
    /// # Shapes
    /// - `ids`: `[batch, len]`
    /// - output: `[batch, len, in_features]`
    ///
    /// # Panics
    /// When an id is not a row of the weight, as Burn's own embedding does.
    pub fn lookup(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let ([batch, len], device) = (ids.dims(), ids.device());
        let cols = self.matrix.cols();
        if !on_cpu(&device) {
            return self.on_device(&device).rows(ids.reshape([batch * len])).reshape([batch, len, cols]);
        }
        let mut values = vec![0.0; batch * len * cols];
        for (id, row) in ids.into_data().iter::<i64>().zip(values.chunks_exact_mut(cols)) {
            let row_index = usize::try_from(id).unwrap_or(usize::MAX);
            assert!(row_index < self.matrix.rows(), "row {id} of a table of {}", self.matrix.rows());
            let filled = self.matrix.dequantize_row_into(row_index, row);
            if self.errors.ok(Place::Weight, filled).is_none() {
                row.fill(f32::NAN);
            }
        }
        Tensor::from_data(TensorData::new(values, [batch, len, cols]), &device)
    }
}
