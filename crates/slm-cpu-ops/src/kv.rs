//! Keys and values of past positions, in the order in which attention reads them.

use std::ops::{DerefMut, Range};

use crate::panel::PANEL;

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
pub struct KvHeads<'a> {
    count: usize,
    head_dim: usize,
    capacity: usize,
    keys: &'a [f32],
    values: &'a [f32],
}

impl KvLayer {
    /// Room for `capacity` positions of `heads` heads.
    pub fn new(heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::with_buffers(heads, head_dim, capacity, |len| vec![0.0; len])
    }
}

impl<B: DerefMut<Target = [f32]>> KvLayer<B> {
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
    /// # Panics
    /// When the lengths do not fit or the positions leave the capacity.
    pub fn store(&mut self, start: usize, keys: &[f32], values: &[f32]) {
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
                for (column, key) in columns.zip(key) {
                    column[position % PANEL] = *key;
                }
                for (panel, value) in value.chunks(PANEL).enumerate() {
                    let at = head * value_size + (panel * self.capacity + position) * PANEL;
                    self.values[at..][..value.len()].copy_from_slice(value);
                }
            }
        }
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Some of the heads.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn slice(&self, heads: Range<usize>) -> KvHeads<'_> {
        assert!(heads.start <= heads.end && heads.end <= self.heads, "heads {heads:?} of {}", self.heads);
        let part = |size: usize| heads.start * size..heads.end * size;
        KvHeads {
            count: heads.len(),
            head_dim: self.head_dim,
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

impl<'a> KvHeads<'a> {
    pub(crate) fn count(self) -> usize {
        self.count
    }

    pub(crate) fn head_dim(self) -> usize {
        self.head_dim
    }

    pub(crate) fn capacity(self) -> usize {
        self.capacity
    }

    /// Panel `index` of a head's keys: 16 positions from `16 * index` on.
    #[inline(always)]
    pub(crate) fn key_panel(self, head: usize, index: usize) -> &'a [f32] {
        let size = PANEL * self.head_dim;
        &self.keys[head * self.capacity * self.head_dim + index * size..][..size]
    }

    /// The given positions of panel `index` of a head's values: 16 dimensions from `16 * index` on.
    #[inline(always)]
    pub(crate) fn value_panel(self, head: usize, index: usize, positions: Range<usize>) -> &'a [f32] {
        let panels = self.head_dim.div_ceil(PANEL);
        let at = ((head * panels + index) * self.capacity + positions.start) * PANEL;
        &self.values[at..][..positions.len() * PANEL]
    }
}
