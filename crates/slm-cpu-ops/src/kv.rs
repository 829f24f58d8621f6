//! Keys and values of past positions, in the order in which attention reads them.

use std::fmt;
use std::ops::{DerefMut, Range};

use half::f16;
use half::slice::HalfFloatSliceExt;
use slm_kernels::{KernelKind, PanelValues, widen};

use crate::panel::PANEL;

/// 16 numbers of a type in which keys and values are kept.
pub trait KvRun: Copy + Send + Sync + fmt::Debug + 'static {
    /// Zeros.
    const ZERO: Self;

    /// Steps between the least and the greatest code, where numbers are codes of a grid of their own for each position and
    /// head; none where they are floats.
    const STEPS: Option<f32>;

    /// Puts the nearest number at `index`, or returns false for a finite one beyond the type's range. Codes are counted from
    /// the least one, 0.
    fn put(&mut self, index: usize, value: f32) -> bool;

    /// Puts the numbers nearest to `values` into the first places of a run, or returns the first that is finite and beyond the
    /// type's range.
    fn put_run(&mut self, values: &[f32], code: (f32, f32)) -> Result<(), KvOverflow> {
        values.iter().enumerate().try_for_each(|(index, &value)| put(self, index, value, code))
    }

    /// Puts the number nearest to each of `values` at place `index` of a run of its own, or returns the first that is finite
    /// and beyond the type's range.
    fn put_across(
        runs: &mut [Self],
        index: usize,
        values: &[f32],
        code: (f32, f32),
    ) -> Result<(), KvOverflow> {
        runs.iter_mut().zip(values).try_for_each(|(run, &value)| put(run, index, value, code))
    }

    /// Runs as kernels take them.
    fn values(runs: &[Self]) -> PanelValues<'_>;

    /// The runs themselves, where they are 32-bit floats.
    fn as_floats(_runs: &[Self]) -> Option<&[[f32; PANEL]]> {
        None
    }
}

/// 32-bit floats, exact.
impl KvRun for [f32; PANEL] {
    const ZERO: Self = [0.0; PANEL];
    const STEPS: Option<f32> = None;

    fn put(&mut self, index: usize, value: f32) -> bool {
        self[index] = value;
        true
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::F32(runs)
    }

    #[inline(always)]
    fn as_floats(runs: &[Self]) -> Option<&[[f32; PANEL]]> {
        Some(runs)
    }
}

/// 16-bit floats.
impl KvRun for [f16; PANEL] {
    const ZERO: Self = [f16::ZERO; PANEL];
    const STEPS: Option<f32> = None;

    fn put(&mut self, index: usize, value: f32) -> bool {
        self[index] = f16::from_f32(value);
        self[index].is_finite() || !value.is_finite()
    }

    fn put_run(&mut self, values: &[f32], _: (f32, f32)) -> Result<(), KvOverflow> {
        let halves = &mut self[..values.len()];
        halves.convert_from_f32_slice(values);
        check_halves(halves, values)
    }

    fn put_across(runs: &mut [Self], index: usize, values: &[f32], _: (f32, f32)) -> Result<(), KvOverflow> {
        for (runs, values) in runs.chunks_mut(PANEL).zip(values.chunks(PANEL)) {
            let mut halves = [f16::ZERO; PANEL];
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            runs.iter_mut().zip(&*halves).for_each(|(run, &half)| run[index] = half);
            check_halves(halves, values)?;
        }
        Ok(())
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::F16(runs)
    }
}

/// Returns the first value that is finite and has no finite half.
fn check_halves(halves: &[f16], values: &[f32]) -> Result<(), KvOverflow> {
    let beyond = halves.iter().zip(values).find(|(half, value)| !half.is_finite() && value.is_finite());
    beyond.map_or(Ok(()), |(_, &value)| Err(KvOverflow { value }))
}

/// 8-bit codes, from -128.
impl KvRun for [i8; PANEL] {
    const ZERO: Self = [0; PANEL];
    const STEPS: Option<f32> = Some(255.0);

    fn put(&mut self, index: usize, value: f32) -> bool {
        self[index] = (value - LEAST_I8) as i8;
        true
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::I8(runs)
    }
}

/// Offset that is taken off 8-bit codes, which count from 0, when they are stored.
const LEAST_I8: f32 = 128.0;

/// 4-bit codes.
impl KvRun for [u8; PANEL / 2] {
    const ZERO: Self = [0; PANEL / 2];
    const STEPS: Option<f32> = Some(15.0);

    fn put(&mut self, index: usize, value: f32) -> bool {
        let shift = index / (PANEL / 2) * 4;
        let byte = &mut self[index % (PANEL / 2)];
        *byte = (*byte & !(0xF << shift)) | ((value as u8 & 0xF) << shift);
        true
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::U4(runs)
    }
}

/// The grid of the key or the value of one position and head: a code stands for `least + code * scale`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KvGrid {
    /// Value of code 0, as it is stored.
    pub least: f32,
    /// Step of the grid.
    pub scale: f32,
}

/// A key or value that lies outside the range of the type that it was to be kept in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvOverflow {
    /// The value.
    pub value: f32,
}

/// Keys and values of one layer.
///
/// Both lie in panels of 16 columns, so that attention reads memory in order and needs no sums across vector
/// lanes: keys as `[head][position / 16][head_dim][16 positions]`, values as
/// `[head][head_dim / 16][position][16 dimensions]`. They are read from end to end for every token, so that it pays to
/// have them in memory of large pages: `B` is whatever buffer of runs of 16 the caller has.
#[derive(Debug, Clone)]
pub struct KvLayer<B = Vec<[f32; PANEL]>> {
    heads: usize,
    head_dim: usize,
    /// Positions there is room for, whole panels.
    capacity: usize,
    keys: B,
    values: B,
    /// `[head][position]`; empty where numbers are floats.
    key_grids: Vec<KvGrid>,
    value_grids: Vec<KvGrid>,
}

/// Some heads of a [`KvLayer`].
#[derive(Debug, Clone, Copy)]
pub struct KvHeads<'a, R = [f32; PANEL]> {
    count: usize,
    head_dim: usize,
    /// The first position, at the start of a panel.
    origin: usize,
    /// Positions from there on that there is room for.
    capacity: usize,
    keys: &'a [R],
    values: &'a [R],
    key_grids: &'a [KvGrid],
    value_grids: &'a [KvGrid],
}

impl<R: KvRun> KvLayer<Vec<R>> {
    /// Room for `capacity` positions of `heads` heads.
    pub fn new(heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::with_buffers(heads, head_dim, capacity, |len| vec![R::ZERO; len])
    }
}

impl<R: KvRun, B: DerefMut<Target = [R]>> KvLayer<B> {
    /// [`KvLayer::new`] in buffers of the given number of zeros.
    pub fn with_buffers(heads: usize, head_dim: usize, capacity: usize, zeros: impl Fn(usize) -> B) -> Self {
        let capacity = capacity.next_multiple_of(PANEL);
        let grids = if R::STEPS.is_some() { heads * capacity } else { 0 };
        Self {
            heads,
            head_dim,
            capacity,
            keys: zeros(heads * capacity / PANEL * head_dim),
            values: zeros(heads * capacity * head_dim.div_ceil(PANEL)),
            key_grids: vec![KvGrid::default(); grids],
            value_grids: vec![KvGrid::default(); grids],
        }
    }

    /// Writes the keys and values of positions `start ..`.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[positions, heads, head_dim]`
    ///
    /// # Errors
    /// [`KvOverflow`] for a value that the type does not reach.
    ///
    /// # Panics
    /// When the lengths do not fit or the positions leave the capacity.
    pub fn store(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<(), KvOverflow> {
        let width = self.heads * self.head_dim;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "keys and values: shape");
        assert!(start + keys.len() / width <= self.capacity, "positions beyond the capacity");
        let (key_size, value_size) = (self.key_size(), self.value_size());
        for (row, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let position = start + row;
            let heads = keys.chunks_exact(self.head_dim).zip(values.chunks_exact(self.head_dim));
            for (head, (key, value)) in heads.enumerate() {
                let code = coded::<R>(key, self.key_grids.get_mut(head * self.capacity + position));
                let panel = head * key_size + position / PANEL * self.head_dim;
                R::put_across(&mut self.keys[panel..][..self.head_dim], position % PANEL, key, code)?;
                let code = coded::<R>(value, self.value_grids.get_mut(head * self.capacity + position));
                for (panel, value) in value.chunks(PANEL).enumerate() {
                    self.values[head * value_size + panel * self.capacity + position].put_run(value, code)?;
                }
            }
        }
        Ok(())
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Some of the heads.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn slice(&self, heads: Range<usize>) -> KvHeads<'_, R> {
        assert!(heads.start <= heads.end && heads.end <= self.heads, "heads {heads:?} of {}", self.heads);
        let part = |size: usize| heads.start * size..heads.end * size;
        let grids = if R::STEPS.is_some() { self.capacity } else { 0 };
        KvHeads {
            count: heads.len(),
            head_dim: self.head_dim,
            origin: 0,
            capacity: self.capacity,
            keys: &self.keys[part(self.key_size())],
            values: &self.values[part(self.value_size())],
            key_grids: &self.key_grids[part(grids)],
            value_grids: &self.value_grids[part(grids)],
        }
    }

    /// Bytes held.
    pub fn byte_size(&self) -> usize {
        let grids = size_of_val(&*self.key_grids) + size_of_val(&*self.value_grids);
        size_of_val(&*self.keys) + size_of_val(&*self.values) + grids
    }

    /// Runs of the keys of a head.
    fn key_size(&self) -> usize {
        self.capacity / PANEL * self.head_dim
    }

    /// Runs of the values of a head.
    fn value_size(&self) -> usize {
        self.capacity * self.head_dim.div_ceil(PANEL)
    }
}

/// The least of `numbers` and the inverse of the step of their grid, which becomes `grid`. 0 and 1 for floats.
fn coded<R: KvRun>(numbers: &[f32], grid: Option<&mut KvGrid>) -> (f32, f32) {
    let (Some(steps), Some(grid)) = (R::STEPS, grid) else { return (0.0, 1.0) };
    let (least, most) = numbers.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &number| {
        (least.min(number), most.max(number))
    });
    // A number that is none makes the whole grid so.
    let nan = if numbers.iter().all(|number| number.is_finite()) { 0.0 } else { f32::NAN };
    let scale = (most - least) / steps + nan;
    // Kernels count 8-bit codes from -128.
    let first = if steps == 255.0 { LEAST_I8 } else { 0.0 };
    *grid = KvGrid { least: least + first * scale, scale };
    (least, if scale > 0.0 { 1.0 / scale } else { 0.0 })
}

fn put<R: KvRun>(
    run: &mut R,
    index: usize,
    value: f32,
    (least, inverse): (f32, f32),
) -> Result<(), KvOverflow> {
    let number = match R::STEPS {
        Some(steps) => ((value - least) * inverse).round_ties_even().clamp(0.0, steps),
        None => value,
    };
    if run.put(index, number) { Ok(()) } else { Err(KvOverflow { value }) }
}

impl<'a, R: KvRun> KvHeads<'a, R> {
    pub(crate) fn count(self) -> usize {
        self.count
    }

    pub(crate) fn head_dim(self) -> usize {
        self.head_dim
    }

    pub(crate) fn capacity(self) -> usize {
        self.capacity
    }

    /// `count` panels of a head's keys from panel `first` on, one after the other: 16 positions each.
    pub(crate) fn key_panels(self, head: usize, first: usize, count: usize) -> &'a [R] {
        let start = (head * self.capacity / PANEL + first - self.origin / PANEL) * self.head_dim;
        &self.keys[start..][..count * self.head_dim]
    }

    /// The given positions of the panels of a head's values, 16 dimensions each, and how many runs lie between the starts of
    /// these.
    pub(crate) fn value_panels(self, head: usize, positions: Range<usize>) -> (&'a [R], usize) {
        let (panels, stride) = (self.head_dim.div_ceil(PANEL), self.capacity);
        let start = head * panels * stride + positions.start - self.origin;
        (&self.values[start..][..(panels - 1) * stride + positions.len()], stride)
    }

    /// The grids of the given positions of one head: of keys, and of values. None where numbers are floats.
    pub(crate) fn grids(self, head: usize, positions: Range<usize>) -> Option<(&'a [KvGrid], &'a [KvGrid])> {
        if self.key_grids.is_empty() {
            return None;
        }
        let start = head * self.capacity + positions.start - self.origin;
        let part = |grids: &'a [KvGrid]| &grids[start..][..positions.len()];
        Some((part(self.key_grids), part(self.value_grids)))
    }

    /// The given positions of one head as 32-bit floats, in `scratch` where they are kept otherwise: numbers or codes. The
    /// first position begins a panel.
    pub(crate) fn widen_head<'s>(
        self,
        head: usize,
        positions: Range<usize>,
        scratch: &'s mut Vec<[f32; PANEL]>,
    ) -> KvHeads<'s>
    where
        'a: 's,
    {
        let (dim, panels) = (self.head_dim, self.head_dim.div_ceil(PANEL));
        if let (Some(keys), Some(values)) = (R::as_floats(self.keys), R::as_floats(self.values)) {
            let (key_size, value_size) = (self.capacity / PANEL * dim, self.capacity * panels);
            let keys = &keys[head * key_size..][..key_size];
            let values = &values[head * value_size..][..value_size];
            let Self { origin, capacity, .. } = self;
            let (key_grids, value_grids) = (&[][..], &[][..]);
            return KvHeads {
                count: 1,
                head_dim: dim,
                origin,
                capacity,
                keys,
                values,
                key_grids,
                value_grids,
            };
        }
        let capacity = positions.len().next_multiple_of(PANEL);
        let (key_len, value_len) = (capacity / PANEL * dim, capacity * panels);
        if scratch.len() < key_len + value_len {
            scratch.resize(key_len + value_len, [0.0; PANEL]);
        }
        let (keys, rest) = scratch.split_at_mut(key_len);
        let values = &mut rest[..value_len];
        let kernel = KernelKind::selected();
        let from = self.key_panels(head, positions.start / PANEL, capacity / PANEL);
        widen(kernel, R::values(from), keys.as_flattened_mut());
        let all = positions.start..positions.start + capacity;
        let (from, stride) = self.value_panels(head, all.clone());
        for (index, values) in values.chunks_exact_mut(capacity).enumerate() {
            widen(kernel, R::values(&from[index * stride..][..capacity]), values.as_flattened_mut());
        }
        let (key_grids, value_grids) = self.grids(head, all).unwrap_or_default();
        KvHeads {
            count: 1,
            head_dim: dim,
            origin: positions.start,
            capacity,
            keys,
            values,
            key_grids,
            value_grids,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_half_does_not_reach_is_refused() {
        let mut layer = KvLayer::<Vec<[f16; PANEL]>>::new(1, 2, 4);
        assert_eq!(layer.store(0, &[65504.0, 1e-9], &[-65504.0, 0.1]), Ok(()));
        assert_eq!(layer.store(1, &[1.0, 7e4], &[0.0; 2]), Err(KvOverflow { value: 7e4 }));
        assert_eq!(layer.store(1, &[1.0, 7.0], &[0.0, -1e30]), Err(KvOverflow { value: -1e30 }));
        assert_eq!(KvLayer::<Vec<[f32; PANEL]>>::new(1, 2, 4).store(0, &[1e30, 0.0], &[0.0; 2]), Ok(()));
    }
}
