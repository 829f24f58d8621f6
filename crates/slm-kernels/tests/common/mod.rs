//! Random quantized layers.

use slm_kernels::QuantizedActivations;
use slm_quant_core::{Bits, Mapping, QParams, QuantScheme, QuantizedMatrix, Scales};

/// One linear layer and its input, as floats and (unrelated) as codes.
pub(crate) struct Case {
    /// `[m, cols]`
    pub(crate) x: Vec<f32>,
    /// `[m, cols]`
    pub(crate) codes: QuantizedActivations,
    /// `[rows, cols]`
    pub(crate) w: QuantizedMatrix,
    /// `[rows]`
    pub(crate) bias: Vec<f32>,
}

/// A small generator of random bits (xorshift64*), so that cases are the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 32 bits.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Uniform in `[-1, 1)`.
    pub(crate) fn float(&mut self) -> f32 {
        self.bits() as f32 / 2_147_483_648.0 - 1.0
    }
}

/// A layer of `scheme` with random codes, scales, zero points and input.
pub(crate) fn random_case(m: usize, rows: usize, cols: usize, scheme: QuantScheme, seed: u64) -> Case {
    let mut random = Random::new(seed ^ (m * 31 + rows * 1009 + cols * 65_537) as u64);
    let row_bytes = scheme.bits.row_bytes(cols);
    let mut codes: Vec<u8> = (0..rows * row_bytes).map(|_| random.bits() as u8).collect();
    if scheme.bits == Bits::Int4 && cols % 2 == 1 {
        codes.chunks_exact_mut(row_bytes).for_each(|row| row[row_bytes - 1] &= 0x0f);
    }
    let count = scheme.granularity.scale_count(rows, cols).unwrap();
    let scales = (0..count).map(|_| 0.01 + random.float().abs() * 0.02).collect();
    let range = scheme.range();
    let zero_points = (scheme.mapping == Mapping::Affine).then(|| {
        (0..count)
            .map(|_| (range.quant_min() + (random.bits() % (range.steps() as u32 + 1)) as i32) as i8)
            .collect()
    });
    let scales = Scales::from_f32(scales, scheme.scale_dtype);
    let w = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, zero_points).unwrap();
    let params = (0..m)
        .map(|_| QParams { scale: 0.01 + random.float().abs(), zero_point: (random.bits() % 256) as i32 })
        .collect();
    let codes = (0..m * cols).map(|_| random.bits() as u8).collect();
    Case {
        x: (0..m * cols).map(|_| random.float() * 3.0).collect(),
        codes: QuantizedActivations::from_codes(m, cols, codes, params).unwrap(),
        w,
        bias: (0..rows).map(|_| random.float()).collect(),
    }
}
