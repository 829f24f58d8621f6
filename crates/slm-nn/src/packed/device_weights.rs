//! Packed weights on a device without integer kernels, multiplied by tensor operations.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use slm_kernels::PackedMatrix;
use slm_quant_core::{ActivationQuant, Bits};

use crate::activation::fake_quantize_activation;
use crate::linear::add_bias;

/// A packed matrix in device memory: four INT8 or eight INT4 codes to a 32-bit word.
#[derive(Debug, Clone)]
pub(crate) struct DeviceWeights {
    /// `[rows, words]`, the lowest column in the lowest bits.
    words: Tensor<2, Int>,
    /// `[rows or 1, groups]`.
    scales: Tensor<2>,
    /// One for each scale; `None` if all are 0.
    zero_points: Option<Tensor<2>>,
    bits: Bits,
    cols: usize,
    group_width: usize,
    device: Device,
}

impl DeviceWeights {
    pub(super) fn upload(matrix: &PackedMatrix, device: &Device) -> Self {
        let matrix = matrix.unpack();
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let bytes = matrix.scheme().bits.row_bytes(cols);
        let words_per_row = bytes.div_ceil(4);
        let mut words = Vec::with_capacity(rows * words_per_row);
        for row in 0..rows {
            words.extend(matrix.row_codes(row).chunks(4).map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                i32::from_le_bytes(word)
            }));
        }
        let count = matrix.scales().len();
        let groups = matrix.groups_per_row().min(count);
        let scale_shape = [count / groups, groups];
        let zero_points = matrix.zero_points().map(|zero_points| {
            let values = zero_points.iter().map(|&z| f32::from(z)).collect::<Vec<_>>();
            Tensor::from_data(TensorData::new(values, scale_shape), device)
        });
        Self {
            words: Tensor::from_data(TensorData::new(words, [rows, words_per_row]), (device, DType::I32)),
            scales: Tensor::from_data(TensorData::new(matrix.scales().to_f32(), scale_shape), device),
            zero_points,
            bits: matrix.scheme().bits,
            cols,
            group_width: matrix.group_width(),
            device: device.clone(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// `x W^T + bias` for `[rows, in_features]` input.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        bias: Option<Tensor<1>>,
        activation: ActivationQuant,
    ) -> Tensor<2> {
        let y = fake_quantize_activation(x, activation).matmul(self.dequantize().transpose());
        add_bias(y, bias)
    }

    /// Rows `ids` as floats, `[ids, cols]`.
    pub(super) fn rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        // A scale that all rows share needs no lookup.
        let of_rows = |values: &Tensor<2>| match values.dims()[0] {
            1 => values.clone(),
            _ => values.clone().select(0, ids.clone()),
        };
        let rows = Self {
            words: self.words.clone().select(0, ids.clone()),
            scales: of_rows(&self.scales),
            zero_points: self.zero_points.as_ref().map(of_rows),
            ..self.clone()
        };
        rows.dequantize()
    }

    /// `[rows, cols]` floats, `(code - zero_point) * scale`.
    pub(crate) fn dequantize(&self) -> Tensor<2> {
        let [rows, words] = self.words.dims();
        let width = i32::from(self.bits.count());
        let per_word = 32 / width;
        // Treating the code as unsigned and moving its upper half below zero restores the sign.
        let sign = 1 << (width - 1);
        let codes = (0..per_word).map(|i| {
            let code = self.words.clone().bitwise_right_shift_scalar(width * i);
            let code = code.bitwise_and_scalar((1 << width) - 1).bitwise_xor_scalar(sign) - sign;
            code.float().unsqueeze_dim::<3>(2)
        });
        let padded = words * per_word as usize;
        let codes = Tensor::cat(codes.collect(), 2).reshape([rows, padded]).narrow(1, 0, self.cols);
        let codes = match &self.zero_points {
            Some(zero_points) => codes - self.spread(zero_points, rows),
            None => codes,
        };
        codes * self.spread(&self.scales, rows)
    }

    /// Per-group values `[rows or 1, groups]`, repeated over the columns and rows that share them.
    fn spread(&self, values: &Tensor<2>, rows: usize) -> Tensor<2> {
        let [value_rows, groups] = values.dims();
        values
            .clone()
            .unsqueeze_dim::<3>(2)
            .expand([value_rows, groups, self.group_width])
            .reshape([value_rows, groups * self.group_width])
            .narrow(1, 0, self.cols)
            .expand([rows, self.cols])
    }
}
