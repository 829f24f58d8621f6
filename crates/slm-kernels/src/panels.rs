//! Products of a few rows of floats with panels of keys and values, the building block of attention.
//!
//! A panel is `[depth, 16]`: each step reads one run of it and one value of each row. Every sum adds its products in
//! order, each by a fused multiply-add. So all kernels give the same bits, and rows do not depend on each other.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use half::{bf16, f16};

use crate::KernelKind;
use crate::float_matrix::{FloatElement, FloatValues};
use crate::isa::{Isa, with_isa};
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;

/// Maximum number of rows that are multiplied together.
pub const PANEL_ROWS: usize = 6;

/// Number of columns of a panel.
pub const PANEL_WIDTH: usize = LANES;

/// The values of panels, in runs of 16.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum PanelValues<'a> {
    /// 32-bit floats.
    F32(&'a [[f32; LANES]]),
    /// IEEE 754 binary16.
    F16(&'a [[f16; LANES]]),
    /// `bf16`, the upper half of a 32-bit float.
    BF16(&'a [[bf16; LANES]]),
    /// Signed integers.
    I8(&'a [[i8; LANES]]),
    /// Unsigned integers of 4 bits: the low halves of the bytes, then the high halves.
    U4(&'a [[u8; LANES / 2]]),
}

impl<'a> From<FloatValues<'a>> for PanelValues<'a> {
    fn from(values: FloatValues<'a>) -> Self {
        match values {
            FloatValues::F32(values) => Self::F32(values.as_chunks().0),
            FloatValues::F16(values) => Self::F16(values.as_chunks().0),
            FloatValues::BF16(values) => Self::BF16(values.as_chunks().0),
        }
    }
}

/// Evaluates `$body` with the slice of runs, for each type.
macro_rules! with_runs {
    ($values:expr, $slice:ident => $body:expr) => {
        match $values {
            PanelValues::F32($slice) => $body,
            PanelValues::F16($slice) => $body,
            PanelValues::BF16($slice) => $body,
            PanelValues::I8($slice) => $body,
            PanelValues::U4($slice) => $body,
        }
    };
}

/// 16 consecutive values in their stored type.
trait Run: Copy {
    /// The values as 32-bit floats.
    fn load<S: Simd>(self, simd: S) -> S::F32;

    /// Value `index` as a 32-bit float.
    fn value(self, index: usize) -> f32;
}

impl<E: FloatElement> Run for [E; LANES] {
    #[inline(always)]
    fn load<S: Simd>(self, simd: S) -> S::F32 {
        E::load(simd, &self)
    }

    fn value(self, index: usize) -> f32 {
        self[index].widen()
    }
}

impl Run for [i8; LANES] {
    #[inline(always)]
    fn load<S: Simd>(self, simd: S) -> S::F32 {
        simd.to_f32(simd.widen_i8(&self))
    }

    fn value(self, index: usize) -> f32 {
        f32::from(self[index])
    }
}

impl Run for [u8; LANES / 2] {
    #[inline(always)]
    fn load<S: Simd>(self, simd: S) -> S::F32 {
        let mut codes = [0; LANES];
        for j in 0..LANES / 2 {
            codes[j] = (self[j] & 0xF).cast_signed();
            codes[LANES / 2 + j] = (self[j] >> 4).cast_signed();
        }
        codes.load(simd)
    }

    fn value(self, index: usize) -> f32 {
        f32::from(self[index % (LANES / 2)] >> (index / (LANES / 2) * 4) & 0xF)
    }
}

/// The panels of a product.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// The values of all panels, and those between them.
    pub values: PanelValues<'a>,
    /// Number of panels.
    pub count: usize,
    /// Distance in runs from one panel to the next.
    pub stride: usize,
    /// Number of runs of 16 values that are read of each panel.
    pub depth: usize,
}

/// Computes `out[i, 16 n + j] = sum_k rows[i][k] * panel_n[k, j]` for up to [`PANEL_ROWS`] rows, or adds these sums to what
/// `out` contains.
///
/// # Shapes
/// - each of `rows`: at least `depth` values
/// - `out`: `[rows.len(), out_stride]`, of which the first `16 * count` columns are written
///
/// # Panics
/// If lengths do not fit or there are more rows. `kernel` falls back to the scalar one if this processor lacks it.
pub fn multiply_panels(
    kernel: KernelKind,
    rows: &[&[f32]],
    panels: Panels<'_>,
    accumulate: bool,
    out: &mut [f32],
    out_stride: usize,
) {
    let Panels { values, count, stride, depth } = panels;
    if count == 0 || rows.is_empty() {
        return;
    }
    let end = (count - 1).checked_mul(stride).and_then(|start| start.checked_add(depth));
    let runs = with_runs!(values, runs => runs.len());
    assert!(end.is_some_and(|end| end <= runs), "panels: more than there are values");
    assert!(rows.len() <= PANEL_ROWS && rows.iter().all(|row| row.len() >= depth), "panels: rows do not fit");
    let width = count * LANES;
    assert!(
        out_stride >= width && out.len() >= (rows.len() - 1) * out_stride + width,
        "panels: size of the result"
    );
    with_runs!(values, values => {
        let product = PanelMatmul { rows, values, count, stride, depth, accumulate, out, out_stride };
        match Isa::new(kernel) {
            Some(isa) => with_isa!(isa, simd => simd.vectorize(Vectors { simd, product })),
            None => product.scalar(),
        }
    });
}

/// Widens values to 32-bit floats.
///
/// # Panics
/// If the lengths differ.
pub fn widen(kernel: KernelKind, from: PanelValues<'_>, to: &mut [f32]) {
    let (to, rest) = to.as_chunks_mut::<LANES>();
    with_runs!(from, from => {
        assert!(from.len() == to.len() && rest.is_empty(), "widen: lengths differ");
        match Isa::new(kernel) {
            Some(isa) => with_isa!(isa, simd => simd.vectorize(Widen { simd, from, to })),
            None => {
                for (from, to) in from.iter().zip(to) {
                    to.iter_mut().enumerate().for_each(|(index, to)| *to = from.value(index));
                }
            }
        }
    });
}

struct Widen<'a, S, R> {
    simd: S,
    from: &'a [R],
    to: &'a mut [[f32; LANES]],
}

impl<S: Simd, R: Run> Op for Widen<'_, S, R> {
    #[inline(always)]
    fn run(self) {
        for (from, to) in self.from.iter().zip(self.to) {
            self.simd.store_f32(from.load(self.simd), to);
        }
    }
}

/// Operands of a product whose lengths have been checked.
struct PanelMatmul<'a, R> {
    rows: &'a [&'a [f32]],
    values: &'a [R],
    count: usize,
    stride: usize,
    depth: usize,
    accumulate: bool,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<R: Run> PanelMatmul<'_, R> {
    fn scalar(self) {
        for (i, row) in self.rows.iter().enumerate() {
            for n in 0..self.count {
                let panel = &self.values[n * self.stride..][..self.depth];
                let mut sums = [0.0f32; LANES];
                for (x, run) in row.iter().zip(panel) {
                    for (index, sum) in sums.iter_mut().enumerate() {
                        *sum = x.mul_add(run.value(index), *sum);
                    }
                }
                let out = &mut self.out[i * self.out_stride + n * LANES..][..LANES];
                if self.accumulate {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                } else {
                    out.copy_from_slice(&sums);
                }
            }
        }
    }

    /// Multiplies all panels, as many at once as registers can hold sums of.
    #[inline(always)]
    fn all<S: Simd, const M: usize>(&mut self, simd: S) {
        let mut n = 0;
        if S::VECTORS >= 32 || M == 1 {
            n = self.from::<S, M, 4>(simd, n);
        }
        if S::VECTORS >= 32 || M <= 3 {
            n = self.from::<S, M, 2>(simd, n);
        }
        self.from::<S, M, 1>(simd, n);
    }

    /// Multiplies panels from `n` on, `NP` at a time. Returns the first panel that is left over.
    #[inline(always)]
    fn from<S: Simd, const M: usize, const NP: usize>(&mut self, simd: S, mut n: usize) -> usize {
        let mut rows: [&[f32]; M] = [&[]; M];
        for i in 0..M {
            rows[i] = &self.rows[i][..self.depth];
        }
        while n + NP <= self.count {
            let mut panels: [&[R]; NP] = [&[]; NP];
            for b in 0..NP {
                panels[b] = &self.values[(n + b) * self.stride..][..self.depth];
            }
            for i in 0..M {
                for b in 0..NP {
                    let at = i * self.out_stride + (n + b) * LANES;
                    simd.prefetch_for_write(self.out.as_ptr().wrapping_add(at).cast());
                }
            }
            let mut acc = [[simd.splat_f32(0.0); NP]; M];
            for k in 0..self.depth {
                let mut values = [simd.splat_f32(0.0); NP];
                for b in 0..NP {
                    values[b] = panels[b][k].load(simd);
                }
                for i in 0..M {
                    let x = simd.splat_f32(rows[i][k]);
                    for b in 0..NP {
                        acc[i][b] = simd.fma_f32(x, values[b], acc[i][b]);
                    }
                }
            }
            for i in 0..M {
                let (out, _) = self.out[i * self.out_stride + n * LANES..].as_chunks_mut::<LANES>();
                for b in 0..NP {
                    let sums = match self.accumulate {
                        true => simd.add_f32(simd.load_f32(&out[b]), acc[i][b]),
                        false => acc[i][b],
                    };
                    simd.store_f32(sums, &mut out[b]);
                }
            }
            n += NP;
        }
        n
    }
}

struct Vectors<'a, S, R> {
    simd: S,
    product: PanelMatmul<'a, R>,
}

impl<S: Simd, R: Run> Op for Vectors<'_, S, R> {
    #[inline(always)]
    fn run(mut self) {
        match self.product.rows.len() {
            1 => self.product.all::<S, 1>(self.simd),
            2 => self.product.all::<S, 2>(self.simd),
            3 => self.product.all::<S, 3>(self.simd),
            4 => self.product.all::<S, 4>(self.simd),
            5 => self.product.all::<S, 5>(self.simd),
            _ => self.product.all::<S, PANEL_ROWS>(self.simd),
        }
    }
}
