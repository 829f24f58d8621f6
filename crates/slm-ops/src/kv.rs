//! Keys and values of past positions, in the order in which attention reads them.

use std::ops::Range;

use crate::panel::PANEL;

/// Keys and values of one layer.
///
/// Both lie in panels of 16 columns, so that attention reads memory in order and needs no sums across vector
/// lanes: keys as `[head][position / 16][head_dim][16 positions]`, values as
/// `[head][head_dim / 16][position][16 dimensions]`.
#[derive(Debug, Clone)]
pub struct KvLayer {
    heads: usize,
    head_dim: usize,
    /// Positions there is room for, whole panels.
    capacity: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Some heads of a [`KvLayer`].
#[derive(Debug, Clone, Copy)]
pub struct KvHeads<'a> {
    layer: &'a KvLayer,
    first: usize,
    count: usize,
}

impl KvLayer {
    /// Room for `capacity` positions of `heads` heads.
    pub fn new(heads: usize, head_dim: usize, capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(PANEL);
        Self {
            heads,
            head_dim,
            capacity,
            keys: vec![0.0; heads * capacity * head_dim],
            values: vec![0.0; heads * capacity * head_dim.next_multiple_of(PANEL)],
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
        KvHeads { layer: self, first: heads.start, count: heads.len() }
    }

    /// Bytes held.
    pub fn byte_size(&self) -> usize {
        size_of_val(self.keys.as_slice()) + size_of_val(self.values.as_slice())
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
        self.layer.head_dim
    }

    pub(crate) fn capacity(self) -> usize {
        self.layer.capacity
    }

    /// Panel `index` of a head's keys: 16 positions from `16 * index` on.
    #[inline(always)]
    pub(crate) fn key_panel(self, head: usize, index: usize) -> &'a [f32] {
        let size = PANEL * self.layer.head_dim;
        &self.layer.keys[(self.first + head) * self.layer.key_size() + index * size..][..size]
    }

    /// The given positions of panel `index` of a head's values: 16 dimensions from `16 * index` on.
    #[inline(always)]
    pub(crate) fn value_panel(self, head: usize, index: usize, positions: Range<usize>) -> &'a [f32] {
        let at = (self.first + head) * self.layer.value_size()
            + (index * self.layer.capacity + positions.start) * PANEL;
        &self.layer.values[at..][..positions.len() * PANEL]
    }
}
