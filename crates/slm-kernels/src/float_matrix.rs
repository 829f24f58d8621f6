//! Float weights that are multiplied without being packed.

use half::{bf16, f16};
use slm_quant_core::{Error, Result, check_len};

use crate::KernelKind;
use crate::isa::{Isa, with_isa};
use crate::kernel::{Input, MatmulPart, NR};
use crate::lhs::LhsLayout;
use crate::macrokernel;
use crate::rows::RowsArgs;
use crate::scalar::multiply_rows;
use crate::simd::{LANES, Simd};
use crate::vector::tile_panels;
use crate::workspace::Workspace;

/// Row-major float weights in one of the types that checkpoints have.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum FloatValues<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// IEEE 754 binary16.
    F16(&'a [f16]),
    /// `bf16`, the upper half of a 32-bit float.
    BF16(&'a [bf16]),
}

/// Evaluates `$body` with the slice of values, for each type.
macro_rules! with_values {
    ($values:expr, $slice:ident => $body:expr) => {
        match $values {
            $crate::FloatValues::F32($slice) => $body,
            $crate::FloatValues::F16($slice) => $body,
            $crate::FloatValues::BF16($slice) => $body,
        }
    };
}

impl FloatValues<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::BF16(values) => values.len(),
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) | Self::BF16(_) => size_of::<u16>(),
        }
    }
}

/// An element type of float weights.
pub(crate) trait FloatElement: Copy {
    /// 16 values widened to 32-bit floats.
    fn load<S: Simd>(simd: S, values: &[Self; LANES]) -> S::F32;

    /// The value widened to a 32-bit float.
    fn widen(self) -> f32;
}

impl FloatElement for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[Self; LANES]) -> S::F32 {
        simd.load_f32(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl FloatElement for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[Self; LANES]) -> S::F32 {
        simd.load_f16(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl FloatElement for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[Self; LANES]) -> S::F32 {
        simd.load_bf16(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A borrowed `[rows, cols]` matrix of float weights, with the kernel that multiplies it.
///
/// Nothing is packed or copied: values are widened in registers. For many rows of input, each thread transposes the few
/// rows of weights that it works on into its own memory.
#[derive(Debug, Clone, Copy)]
pub struct FloatMatrix<'a> {
    values: FloatValues<'a>,
    rows: usize,
    cols: usize,
    /// `None` for the scalar kernel.
    isa: Option<Isa>,
}

impl<'a> FloatMatrix<'a> {
    /// Wraps `values` as `[rows, cols]`: `rows` outputs, `cols` inputs.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of values, [`Error::Empty`] if there is none, and
    /// [`Error::KernelUnavailable`] if this processor cannot run the kernel.
    pub fn new(values: FloatValues<'a>, rows: usize, cols: usize, kernel: KernelKind) -> Result<Self> {
        if rows == 0 || cols == 0 {
            return Err(Error::Empty { what: "float weights" });
        }
        check_len("float weights", rows.saturating_mul(cols), values.len())?;
        let isa = match kernel {
            KernelKind::Scalar => None,
            _ => Some(Isa::new(kernel).ok_or_else(|| kernel.unavailable())?),
        };
        Ok(Self { values, rows, cols, isa })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The kernel that multiplies the matrix.
    pub fn kernel(&self) -> KernelKind {
        self.isa.map_or(KernelKind::Scalar, Isa::kind)
    }

    /// Bytes of a panel of rows.
    pub(crate) fn panel_bytes(&self) -> usize {
        NR * self.cols * self.values.value_bytes()
    }

    /// Granularity of panels in parts of many rows.
    pub(crate) fn panels_per_tile(&self) -> usize {
        self.isa.map_or(1, |isa| with_isa!(isa, simd => tile_panels(simd)))
    }

    /// Packs an input in the layout that the kernel reads, and returns its slot.
    pub(crate) fn pack_lhs(&self, x: Input<'_>, workspace: &mut Workspace) -> usize {
        let Some(isa) = self.isa else { return 0 };
        with_isa!(isa, simd => {
            let layout = LhsLayout::of_floats(simd, x.rows(), self.cols);
            workspace.slot(layout, |packed_lhs| packed_lhs.fill(simd, x, layout))
        })
    }

    /// Computes a part of a product with floats.
    pub(crate) fn part(&self, x: &[f32], rows: usize, part: MatmulPart<'_>) {
        let MatmulPart { workspace, slot, bias, out, panels, .. } = part;
        let tile_rows = out.rows();
        with_values!(self.values, values => match self.isa {
            None => multiply_rows(values, self.cols, x, bias, &out, panels),
            Some(isa) => with_isa!(isa, simd => {
                let x = workspace.packed_lhs(slot).floats(x, LhsLayout::of_floats(simd, rows, self.cols));
                let args = RowsArgs { x, values, rows: self.rows, cols: self.cols, out, bias };
                macrokernel::run(simd, &args, tile_rows, panels);
            }),
        });
    }
}
