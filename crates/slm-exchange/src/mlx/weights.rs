//! The tensors of a quantized layer in MLX's affine mode.
//!
//! A value in MLX is `scale * code + bias`, with codes from 0. In slm it is `scale * (code - zero point)` with codes
//! from -8 or -128, so the bias is `-(zero point + 8) * scale` or `-(zero point + 128) * scale`.

use safetensors::Dtype;
use slm_checkpoint::TensorSpec;
use slm_quant_core::{ActivationQuant, Bits};

use crate::Result;
use crate::float::{FloatType, relative_change};
use crate::hf_export::Fused;
use crate::hf_export::codes::{Codes, Part, Parts, WITH_FLOATS, parts};
use crate::pack;
use crate::report::Fidelity;
use crate::source::Source;

/// Group sizes of MLX, largest first.
const WIDTHS: [usize; 3] = [128, 64, 32];

/// A tensor of the model.
pub(super) enum Weight {
    Quantized(Box<Layer>),
    /// Written as floats, with the reason if it was quantized.
    Float(Option<String>),
}

/// A quantized weight.
pub(super) struct Layer {
    pub(super) bits: Bits,
    pub(super) codes: Codes,
    /// `true` if the checkpoint quantizes the inputs of the layer.
    pub(super) quantized_inputs: bool,
}

/// The codes of `tensor`, if the format can hold them.
pub(super) fn weight(source: &Source<'_>, tensor: &Fused) -> Result<Weight> {
    let float = |because: String| Ok(Weight::Float(Some(because)));
    let parts = match parts(source, tensor)? {
        Parts::Float => return Ok(Weight::Float(None)),
        Parts::Mixed => return float(WITH_FLOATS.to_owned()),
        Parts::Quantized(parts) => parts,
    };
    let Some(Part { matrix: first, .. }) = parts.first() else { return Ok(Weight::Float(None)) };
    let bits = first.scheme().bits;
    if parts.iter().any(|part| part.matrix.scheme().bits != bits) {
        return float("it is stored as one tensor, whose parts have codes of 4 and of 8 bits".to_owned());
    }
    let cols = first.cols();
    let fits = |width: &usize| {
        cols.is_multiple_of(*width)
            && parts.iter().all(|part| part.matrix.group_width().is_multiple_of(*width))
    };
    let Some(width) = WIDTHS.into_iter().find(fits) else {
        let widths = parts.iter().map(|part| part.matrix.group_width()).min().unwrap_or(cols);
        return float(match cols.is_multiple_of(32) {
            true => format!("its groups of {widths} values are not multiples of 32"),
            false => format!("its rows of {cols} values are not whole groups of 32, 64 or 128"),
        });
    };
    let quantized_inputs = parts.iter().any(|part| part.activation != ActivationQuant::Float);
    Ok(Weight::Quantized(Box::new(Layer { bits, codes: Codes::stack(&parts, width), quantized_inputs })))
}

impl Layer {
    pub(super) fn bit_count(&self) -> u32 {
        match self.bits {
            Bits::Int8 => 8,
            Bits::Int4 => 4,
        }
    }

    /// For each group: the number of steps between MLX's code 0 and zero, the scale, and scale and bias rounded to
    /// `float`.
    fn groups(&self, float: FloatType) -> impl Iterator<Item = (i32, f32, f32, f32)> {
        let lowest = 1_i32 << (self.bit_count() - 1);
        let groups = self.codes.scales.iter().zip(&self.codes.zero_points);
        groups.map(move |(&scale, &zero_point)| {
            let steps = i32::from(zero_point) + lowest;
            let rounded = float.round(scale);
            (steps, scale, rounded, float.round(-steps as f32 * rounded))
        })
    }

    /// The fidelity of the layer if scales and biases have the type `float`.
    pub(super) fn fidelity(&self, float: FloatType) -> Fidelity {
        let most = f64::from((1_i32 << self.bit_count()) - 1);
        let (mut of_scale, mut of_bias, mut in_steps) = (0.0, 0.0, 0.0);
        for (steps, exact, scale, bias) in self.groups(float) {
            let (steps, step) = (f64::from(steps), f64::from(exact));
            of_scale = f64::max(of_scale, relative_change(exact, scale));
            let (scale, bias) = (f64::from(scale), f64::from(bias));
            of_bias = f64::max(of_bias, (bias + steps * scale).abs());
            // The change is largest at one end of the grid.
            for code in [0.0, most] {
                in_steps = f64::max(in_steps, ((scale * code + bias) / step - (code - steps)).abs());
            }
        }
        match (of_scale, of_bias) {
            (0.0, 0.0) => Fidelity::Exact,
            (max_relative_change, 0.0) => Fidelity::ScaleRounded { max_relative_change },
            _ => Fidelity::OffsetRounded { max_change_in_steps: in_steps },
        }
    }

    /// The tensors of the layer `module`, with their bytes.
    pub(super) fn tensors(&self, module: &str, float: FloatType) -> Vec<(TensorSpec, Vec<u8>)> {
        let [rows, cols] = self.codes.shape;
        let words: Vec<u32> =
            self.codes.codes.chunks(cols).flat_map(|row| pack::words(row, self.bit_count())).collect();
        let spec = |tensor: &str, dtype, count: usize| {
            TensorSpec::new(format!("{module}.{tensor}"), dtype, [rows, count / rows.max(1)].as_slice())
        };
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
        for (_, _, scale, bias) in self.groups(float) {
            float.write(&mut scales, &[scale]);
            float.write(&mut biases, &[bias]);
        }
        let groups = self.codes.scales.len();
        vec![
            (spec("weight", Dtype::U32, words.len()), words.into_iter().flat_map(u32::to_le_bytes).collect()),
            (spec("scales", float.dtype(), groups), scales),
            (spec("biases", float.dtype(), groups), biases),
        ]
    }
}
