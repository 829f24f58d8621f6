//! Keys and values of past positions, in the order in which attention reads them.

use std::ops::{DerefMut, Range};

use slm_kernels::{KernelKind, widen};

use crate::kv_head::KvHeadMut;
use crate::kv_run::KvRun;
use crate::panel::PANEL;

/// The grid of the key or the value of one position and head: the value of a code is `least + code * scale`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KvGrid {
    /// Value of stored code 0.
    pub least: f32,
    /// Step of the grid.
    pub scale: f32,
}

/// The error for a key or value outside the range of the type in which it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvOverflow {
    /// The value.
    pub value: f32,
}

/// Keys and values of one layer.
///
/// Both lie in panels of 16 columns, so that attention reads memory in order and needs no sums across vector
/// lanes: keys as `[head][position / 16][head_dim][16 positions]`, values as
/// `[head][head_dim / 16][position][16 dimensions]`. They are read from end to end for every token, so memory in large
/// pages pays. `B` is the caller's buffer type for runs of 16 values.
#[derive(Debug, Clone)]
pub struct KvLayer<B = Vec<[f32; PANEL]>> {
    heads: usize,
    head_dim: usize,
    /// Number of positions that fit, in whole panels.
    capacity: usize,
    keys: B,
    values: B,
    /// `[head][position]`; empty for floats.
    key_grids: Vec<KvGrid>,
    value_grids: Vec<KvGrid>,
}

/// Some heads of a [`KvLayer`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvHeads<'a, R = [f32; PANEL]> {
    count: usize,
    head_dim: usize,
    /// The first position, at the start of a panel.
    origin: usize,
    /// Number of positions that fit from there on.
    capacity: usize,
    keys: &'a [R],
    values: &'a [R],
    key_grids: &'a [KvGrid],
    value_grids: &'a [KvGrid],
}

impl<R: KvRun> KvLayer<Vec<R>> {
    /// Creates a layer for `capacity` positions of `heads` heads.
    pub fn new(heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::with_buffers(heads, head_dim, capacity, |len| vec![R::ZERO; len])
    }
}

impl<R: KvRun, B: DerefMut<Target = [R]>> KvLayer<B> {
    /// [`KvLayer::new`] with buffers from `zeros`, which is given a number of runs and returns that many zeros.
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
    /// [`KvOverflow`] for a value outside the range of the type.
    ///
    /// # Panics
    /// When the lengths do not fit or the positions exceed the capacity.
    pub fn store(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<(), KvOverflow> {
        self.heads_mut().try_for_each(|head| head.store(start, keys, values))
    }

    /// The heads one by one, which several threads may write.
    pub fn heads_mut(&mut self) -> impl Iterator<Item = KvHeadMut<'_, R>> {
        let (key_size, value_size) = (self.key_size(), self.value_size());
        let Self { heads, head_dim, capacity, .. } = *self;
        // Floats have no grids: each head gets a part of length 0.
        let grids = if R::STEPS.is_some() { capacity } else { 0 };
        let mut rest = (
            &mut *self.keys,
            &mut *self.values,
            self.key_grids.as_mut_slice(),
            self.value_grids.as_mut_slice(),
        );
        (0..heads).map(move |index| {
            let (keys, values, key_grids, value_grids) = std::mem::take(&mut rest);
            let (keys, more_keys) = keys.split_at_mut(key_size);
            let (values, more_values) = values.split_at_mut(value_size);
            let (key_grids, more_key_grids) = key_grids.split_at_mut(grids);
            let (value_grids, more_value_grids) = value_grids.split_at_mut(grids);
            rest = (more_keys, more_values, more_key_grids, more_value_grids);
            KvHeadMut { index, heads, head_dim, capacity, keys, values, key_grids, value_grids }
        })
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Some of the heads.
    ///
    /// # Panics
    /// When `heads` is out of bounds.
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

    /// The given positions of the panels of a head's values, 16 dimensions each, and the distance in runs between the starts
    /// of two panels.
    pub(crate) fn value_panels(self, head: usize, positions: Range<usize>) -> (&'a [R], usize) {
        let (panels, stride) = (self.head_dim.div_ceil(PANEL), self.capacity);
        let start = head * panels * stride + positions.start - self.origin;
        (&self.values[start..][..(panels - 1) * stride + positions.len()], stride)
    }

    /// The grids of keys and of values at the given positions of one head; `None` for floats.
    pub(crate) fn grids(self, head: usize, positions: Range<usize>) -> Option<(&'a [KvGrid], &'a [KvGrid])> {
        if self.key_grids.is_empty() {
            return None;
        }
        let start = head * self.capacity + positions.start - self.origin;
        let part = |grids: &'a [KvGrid]| &grids[start..][..positions.len()];
        Some((part(self.key_grids), part(self.value_grids)))
    }

    /// The given positions of one head as 32-bit floats: the values of floats, the codes of other types. They are
    /// converted into `scratch` unless they are stored as 32-bit floats. The first position begins a panel.
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
