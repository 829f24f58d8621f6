//! Keys and values of past positions, in the order in which attention reads them.

use std::fmt;
use std::ops::{DerefMut, Range};

use half::f16;
use slm_kernels::{FloatValues, KernelKind, widen};

use crate::panel::PANEL;

/// A type in which keys and values are kept.
pub trait KvElement: Copy + Send + Sync + fmt::Debug + 'static {
    /// Zero.
    const ZERO: Self;

    /// The nearest value, or `None` for a finite one beyond the type's range.
    fn narrow(value: f32) -> Option<Self>;

    /// The values as kernels take them.
    fn values(values: &[Self]) -> FloatValues<'_>;

    /// The values themselves, where they are 32-bit floats.
    fn as_floats(values: &[Self]) -> Option<&[f32]>;
}

impl KvElement for f32 {
    const ZERO: Self = 0.0;

    fn narrow(value: f32) -> Option<Self> {
        Some(value)
    }

    fn values(values: &[Self]) -> FloatValues<'_> {
        FloatValues::F32(values)
    }

    #[inline(always)]
    fn as_floats(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl KvElement for f16 {
    const ZERO: Self = f16::ZERO;

    fn narrow(value: f32) -> Option<Self> {
        let narrow = f16::from_f32(value);
        (narrow.is_finite() || !value.is_finite()).then_some(narrow)
    }

    fn values(values: &[Self]) -> FloatValues<'_> {
        FloatValues::F16(values)
    }

    #[inline(always)]
    fn as_floats(_values: &[Self]) -> Option<&[f32]> {
        None
    }
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
/// have them in memory of large pages: `B` is whatever buffer the caller has.
#[derive(Debug, Clone)]
pub struct KvLayer<B = Vec<f32>> {
    heads: usize,
    head_dim: usize,
    /// Positions there is room for, whole panels.
    capacity: usize,
    keys: B,
    values: B,
}

/// Some heads of a [`KvLayer`].
#[derive(Debug, Clone, Copy)]
pub struct KvHeads<'a, E = f32> {
    count: usize,
    head_dim: usize,
    /// The first position, at the start of a panel.
    origin: usize,
    /// Positions from there on that there is room for.
    capacity: usize,
    keys: &'a [E],
    values: &'a [E],
}

impl<E: KvElement> KvLayer<Vec<E>> {
    /// Room for `capacity` positions of `heads` heads.
    pub fn new(heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::with_buffers(heads, head_dim, capacity, |len| vec![E::ZERO; len])
    }
}

impl<E: KvElement, B: DerefMut<Target = [E]>> KvLayer<B> {
    /// [`KvLayer::new`] in buffers of the given number of zeros.
    pub fn with_buffers(heads: usize, head_dim: usize, capacity: usize, zeros: impl Fn(usize) -> B) -> Self {
        let capacity = capacity.next_multiple_of(PANEL);
        Self {
            heads,
            head_dim,
            capacity,
            keys: zeros(heads * capacity * head_dim),
            values: zeros(heads * capacity * head_dim.next_multiple_of(PANEL)),
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
                let panel = head * key_size + position / PANEL * PANEL * self.head_dim;
                let columns = self.keys[panel..][..PANEL * self.head_dim].chunks_exact_mut(PANEL);
                for (column, &key) in columns.zip(key) {
                    column[position % PANEL] = narrow(key)?;
                }
                for (panel, value) in value.chunks(PANEL).enumerate() {
                    let at = head * value_size + (panel * self.capacity + position) * PANEL;
                    for (to, &value) in self.values[at..].iter_mut().zip(value) {
                        *to = narrow(value)?;
                    }
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
    pub fn slice(&self, heads: Range<usize>) -> KvHeads<'_, E> {
        assert!(heads.start <= heads.end && heads.end <= self.heads, "heads {heads:?} of {}", self.heads);
        let part = |size: usize| heads.start * size..heads.end * size;
        KvHeads {
            count: heads.len(),
            head_dim: self.head_dim,
            origin: 0,
            capacity: self.capacity,
            keys: &self.keys[part(self.key_size())],
            values: &self.values[part(self.value_size())],
        }
    }

    /// Bytes held.
    pub fn byte_size(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values)
    }

    fn key_size(&self) -> usize {
        self.capacity * self.head_dim
    }

    fn value_size(&self) -> usize {
        self.capacity * self.head_dim.next_multiple_of(PANEL)
    }
}

fn narrow<E: KvElement>(value: f32) -> Result<E, KvOverflow> {
    E::narrow(value).ok_or(KvOverflow { value })
}

impl<'a, E: KvElement> KvHeads<'a, E> {
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
    pub(crate) fn key_panels(self, head: usize, first: usize, count: usize) -> &'a [E] {
        let size = PANEL * self.head_dim;
        let start = head * self.capacity * self.head_dim + (first - self.origin / PANEL) * size;
        &self.keys[start..][..count * size]
    }

    /// The given positions of the panels of a head's values, 16 dimensions each, and how far these lie apart.
    pub(crate) fn value_panels(self, head: usize, positions: Range<usize>) -> (&'a [E], usize) {
        let (panels, stride) = (self.head_dim.div_ceil(PANEL), self.capacity * PANEL);
        let start = head * panels * stride + (positions.start - self.origin) * PANEL;
        (&self.values[start..][..(panels - 1) * stride + positions.len() * PANEL], stride)
    }

    /// The given positions of one head as 32-bit floats, in `scratch` where they are kept otherwise. The first position
    /// begins a panel.
    pub(crate) fn widen_head<'s>(
        self,
        head: usize,
        positions: Range<usize>,
        scratch: &'s mut Vec<f32>,
    ) -> KvHeads<'s>
    where
        'a: 's,
    {
        let (dim, panels) = (self.head_dim, self.head_dim.div_ceil(PANEL));
        if let (Some(keys), Some(values)) = (E::as_floats(self.keys), E::as_floats(self.values)) {
            let (key_size, value_size) = (self.capacity * dim, self.capacity * panels * PANEL);
            let keys = &keys[head * key_size..][..key_size];
            let values = &values[head * value_size..][..value_size];
            let Self { origin, capacity, .. } = self;
            return KvHeads { count: 1, head_dim: dim, origin, capacity, keys, values };
        }
        let capacity = positions.len().next_multiple_of(PANEL);
        let (key_len, value_len) = (capacity * dim, capacity * panels * PANEL);
        if scratch.len() < key_len + value_len {
            scratch.resize(key_len + value_len, 0.0);
        }
        let (keys, rest) = scratch.split_at_mut(key_len);
        let values = &mut rest[..value_len];
        let kernel = KernelKind::selected();
        widen(kernel, E::values(self.key_panels(head, positions.start / PANEL, capacity / PANEL)), keys);
        let (from, stride) = self.value_panels(head, positions.start..positions.start + capacity);
        for (index, values) in values.chunks_exact_mut(capacity * PANEL).enumerate() {
            widen(kernel, E::values(&from[index * stride..][..capacity * PANEL]), values);
        }
        KvHeads { count: 1, head_dim: dim, origin: positions.start, capacity, keys, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_half_does_not_reach_is_refused() {
        let mut layer = KvLayer::<Vec<f16>>::new(1, 2, 4);
        assert_eq!(layer.store(0, &[65504.0, 1e-9], &[-65504.0, 0.1]), Ok(()));
        assert_eq!(layer.store(1, &[1.0, 7e4], &[0.0; 2]), Err(KvOverflow { value: 7e4 }));
        assert_eq!(layer.store(1, &[1.0, 7.0], &[0.0, -1e30]), Err(KvOverflow { value: -1e30 }));
        assert_eq!(KvLayer::<Vec<f32>>::new(1, 2, 4).store(0, &[1e30, 0.0], &[0.0; 2]), Ok(()));
    }
}
