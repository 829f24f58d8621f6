//! Random weights for a shape, generated in the form in which they are used.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Device;
use rayon::prelude::*;
use slm_kernels::{KernelKind, PackedMatrix};
use slm_model::{ModelConfig, SourceError, TensorSource, expected_tensors};
use slm_nn::{PackedWeight, Weight};
use slm_quant_core::{ActivationQuant, Bits, Granularity, QuantScheme, QuantizedMatrix, Scales};

/// Standard deviation of the weights, as in a freshly initialized model: logits stay in a normal range.
const STD: f32 = 0.02;

/// Number of values that a thread generates at a time.
const CHUNK: usize = 1 << 16;

/// Random weights, generated layer by layer. Quantized ones are drawn as codes, so the model never exists in floats.
pub(super) struct RandomWeights {
    shapes: HashMap<String, Vec<usize>>,
    quantization: Option<Quantization>,
    /// Number of tensors generated so far, so that each gets different values.
    made: u64,
}

/// The quantization of the layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantization {
    pub(super) scheme: QuantScheme,
    pub(super) activation: ActivationQuant,
    pub(super) kernel: KernelKind,
}

impl RandomWeights {
    pub(super) fn new(config: &ModelConfig, quantization: Option<Quantization>) -> Self {
        let shapes = expected_tensors(config).into_iter().map(|t| (t.name, t.shape)).collect();
        Self { shapes, quantization, made: 0 }
    }

    /// Draws `len` values from words of 64 random bits, `per_word` from each word.
    fn draw<T: Send + Clone + Default>(
        &mut self,
        len: usize,
        per_word: usize,
        value: impl Fn(u64, usize) -> T + Sync,
    ) -> Vec<T> {
        self.made += 1;
        let seed = self.made << 40;
        let mut values = vec![T::default(); len];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let first = seed + (chunk * CHUNK) as u64;
            for (index, values) in values.chunks_mut(per_word).enumerate() {
                let word = random_word(first + index as u64);
                for (at, out) in values.iter_mut().enumerate() {
                    *out = value(word, at);
                }
            }
        });
        values
    }
}

/// Returns word `index` of the generator SplitMix64 (Steele, Lea and Flood, 2014).
fn random_word(index: u64) -> u64 {
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

impl TensorSource for RandomWeights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        let len = expected_shape.iter().product();
        if name.ends_with("norm.weight") {
            return Ok(vec![1.0; len]);
        }
        // Uniform between -sqrt(3) and sqrt(3) standard deviations, from 32 bits each.
        Ok(self.draw(len, 2, |word, at| {
            let bits = (word >> (32 * at)) as u32;
            (bits as f32 / u32::MAX as f32 * 2.0 - 1.0) * 3.0_f32.sqrt() * STD
        }))
    }

    fn take_linear(
        &mut self,
        _name: &str,
        rows: usize,
        cols: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        let Some(Quantization { scheme, activation, kernel }) = self.quantization else { return Ok(None) };
        let bytes = rows * scheme.bits.row_bytes(cols);
        // The lowest code has no positive counterpart; replacing it by 0 keeps the mean at 0.
        let (codes, code_std) = match scheme.bits {
            Bits::Int8 => {
                let code = |word: u64, at| match (word >> (8 * at)) as u8 {
                    0x80 => 0,
                    code => code,
                };
                (self.draw(bytes, 8, code), 73.3)
            }
            Bits::Int4 => {
                let nibble = |code: u8| if code == 8 { 0 } else { code };
                let pair = |word: u64, at| {
                    let byte = (word >> (8 * at)) as u8;
                    nibble(byte & 0xf) | nibble(byte >> 4) << 4
                };
                (self.draw(bytes, 8, pair), 4.3)
            }
        };
        let count = match scheme.granularity {
            Granularity::PerTensor => 1,
            granularity => rows * granularity.groups_per_row(cols)?,
        };
        let scales = Scales::from_f32(vec![STD / code_std; count], scheme.scale_dtype);
        let matrix = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, None)?;
        let packed = Arc::new(PackedMatrix::new(matrix, kernel)?);
        Ok(Some(Weight::Packed(PackedWeight::new(packed, activation))))
    }
}
