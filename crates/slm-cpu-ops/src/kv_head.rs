//! Writing of keys and values.

use crate::dispatch::vectorized;
use crate::kv::{KvGrid, KvOverflow};
use crate::kv_run::KvRun;
use crate::panel::PANEL;

/// A mutable view of one head of a [`KvLayer`](crate::kv::KvLayer).
#[derive(Debug)]
pub struct KvHeadMut<'a, R> {
    /// Index of this head among `heads`.
    pub(crate) index: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) capacity: usize,
    pub(crate) keys: &'a mut [R],
    pub(crate) values: &'a mut [R],
    /// One grid for each position; empty for floats.
    pub(crate) key_grids: &'a mut [KvGrid],
    pub(crate) value_grids: &'a mut [KvGrid],
}

/// Number of dimensions of keys that are transposed at once.
const TRANSPOSED: usize = 64;

impl<R: KvRun> KvHeadMut<'_, R> {
    /// Writes this head's part of the keys and values of positions `start ..`. [`KvLayer::store`](crate::kv::KvLayer::store)
    /// writes those of all heads.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[positions, heads, head_dim]`, of all heads
    ///
    /// # Errors
    /// [`KvOverflow`] for a value outside the range of the type.
    ///
    /// # Panics
    /// When the lengths do not fit or the positions exceed the capacity.
    pub fn store<'v>(mut self, start: usize, keys: &'v [f32], values: &'v [f32]) -> Result<(), KvOverflow> {
        let width = self.heads * self.head_dim;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "keys and values: shape");
        let rows = keys.len() / width;
        assert!(start + rows <= self.capacity, "positions beyond the capacity");
        let (offset, dim) = (self.index * self.head_dim, self.head_dim);
        let own = |all: &'v [f32], row: usize| &all[row * width + offset..][..dim];
        let mut first = 0;
        while first < rows {
            let position = start + first;
            let count = (PANEL - position % PANEL).min(rows - first);
            let panel = |all: &'v [f32]| -> [&'v [f32]; PANEL] {
                std::array::from_fn(|row| if row < count { own(all, first + row) } else { &[][..] })
            };
            let (keys, values) = (panel(keys), panel(values));
            self.store_keys(position, &keys[..count])?;
            self.store_values(position, &values[..count])?;
            first += count;
        }
        Ok(())
    }

    /// Writes the keys of positions `position ..` of one panel.
    fn store_keys(&mut self, position: usize, rows: &[&[f32]]) -> Result<(), KvOverflow> {
        let codes = codes::<R>(rows, self.key_grids, position);
        let panel = &mut self.keys[position / PANEL * self.head_dim..][..self.head_dim];
        if rows.len() == PANEL {
            for (first, runs) in (0..).step_by(TRANSPOSED).zip(panel.chunks_mut(TRANSPOSED)) {
                let mut columns = [[0.0; PANEL]; TRANSPOSED];
                let columns = &mut columns[..runs.len()];
                vectorized! {
                    for (place, (row, code)) in rows.iter().zip(codes).enumerate() {
                        for (column, &value) in columns.iter_mut().zip(&row[first..]) {
                            column[place] = code.number::<R>(value);
                        }
                    }
                }
                R::narrow(runs, columns)?;
            }
            return Ok(());
        }
        // Other positions of the panel keep their values.
        for (place, (row, code)) in (position % PANEL..).zip(rows.iter().zip(codes)) {
            for (runs, row) in panel.chunks_mut(PANEL).zip(row.chunks(PANEL)) {
                let mut narrow = [R::ZERO];
                R::narrow(&mut narrow, &[code.run::<R>(row)])?;
                runs.iter_mut().enumerate().for_each(|(from, run)| run.copy_place(place, &narrow[0], from));
            }
        }
        Ok(())
    }

    /// Writes the values of positions `position ..`, at most 16.
    fn store_values(&mut self, position: usize, rows: &[&[f32]]) -> Result<(), KvOverflow> {
        let codes = codes::<R>(rows, self.value_grids, position);
        for (panel, first) in (0..self.head_dim).step_by(PANEL).enumerate() {
            let last = (first + PANEL).min(self.head_dim);
            let mut numbers = [[0.0; PANEL]; PANEL];
            vectorized! {
                for (numbers, (row, code)) in numbers.iter_mut().zip(rows.iter().zip(codes)) {
                    *numbers = code.run::<R>(&row[first..last]);
                }
            }
            let runs = &mut self.values[panel * self.capacity + position..][..rows.len()];
            R::narrow(runs, &numbers[..rows.len()])?;
        }
        Ok(())
    }
}

/// The conversion of values to codes of a grid.
#[derive(Debug, Clone, Copy)]
struct Coding {
    least: f32,
    /// Inverse of the step.
    inverse: f32,
}

impl Coding {
    /// The code of `value`, counted from 0; `value` itself for floats.
    #[inline(always)]
    fn number<R: KvRun>(self, value: f32) -> f32 {
        match R::STEPS {
            Some(steps) => ((value - self.least) * self.inverse).round_ties_even().clamp(0.0, steps),
            None => value,
        }
    }

    /// [`Coding::number`] of at most 16 values, followed by zeros.
    #[inline(always)]
    fn run<R: KvRun>(self, values: &[f32]) -> [f32; PANEL] {
        let mut run = [0.0; PANEL];
        run.iter_mut().zip(values).for_each(|(number, &value)| *number = self.number::<R>(value));
        run
    }
}

/// Codings of at most 16 rows. Their grids are written to `grids` from `position` on. Floats need none.
fn codes<R: KvRun>(rows: &[&[f32]], grids: &mut [KvGrid], position: usize) -> [Coding; PANEL] {
    let mut codes = [Coding { least: 0.0, inverse: 1.0 }; PANEL];
    if let Some(steps) = R::STEPS {
        for ((code, row), grid) in codes.iter_mut().zip(rows).zip(&mut grids[position..]) {
            (*code, *grid) = code_of::<R>(row, steps);
        }
    }
    codes
}

/// The coding of `numbers` in a grid of `steps` steps, and the grid.
fn code_of<R: KvRun>(numbers: &[f32], steps: f32) -> (Coding, KvGrid) {
    let (least, most) = numbers.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &number| {
        (least.min(number), most.max(number))
    });
    // A value that is not finite makes the whole grid NaN.
    let nan = if numbers.iter().all(|number| number.is_finite()) { 0.0 } else { f32::NAN };
    let scale = (most - least) / steps + nan;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (Coding { least, inverse }, KvGrid { least: least + R::ORIGIN * scale, scale })
}

#[cfg(test)]
mod tests {
    use half::f16;
    use slm_testing::Random;

    use super::*;
    use crate::kv::KvLayer;

    #[test]
    fn what_a_half_does_not_reach_is_refused() {
        let mut layer = KvLayer::<Vec<[f16; PANEL]>>::new(1, 2, 4);
        assert_eq!(layer.store(0, &[65504.0, 1e-9], &[-65504.0, 0.1]), Ok(()));
        assert_eq!(layer.store(1, &[1.0, 7e4], &[0.0; 2]), Err(KvOverflow { value: 7e4 }));
        assert_eq!(layer.store(1, &[1.0, 7.0], &[0.0, -1e30]), Err(KvOverflow { value: -1e30 }));
        assert_eq!(KvLayer::<Vec<[f32; PANEL]>>::new(1, 2, 4).store(0, &[1e30, 0.0], &[0.0; 2]), Ok(()));
        // The values on both sides of the limit, and values that are not finite.
        assert_eq!(layer.store(2, &[65519.996, f32::INFINITY], &[f32::NAN, -65519.996]), Ok(()));
        assert_eq!(layer.store(2, &[65520.0, 0.0], &[0.0; 2]), Err(KvOverflow { value: 65520.0 }));
    }

    /// Whole panels are written by a different path than single positions.
    fn is_the_same_in_any_pieces<R: KvRun + PartialEq>() {
        for (heads, dim) in [(1, 3), (2, 16), (3, 70)] {
            let mut random = Random(7);
            let rows = 53;
            let mut numbers = || -> Vec<f32> { (0..rows * heads * dim).map(|_| random.normal()).collect() };
            let (keys, values) = (numbers(), numbers());
            let mut once = KvLayer::<Vec<R>>::new(heads, dim, rows);
            once.store(0, &keys, &values).unwrap();
            for piece in [1, 5, 16, 37] {
                let mut pieces = KvLayer::<Vec<R>>::new(heads, dim, rows);
                let size = piece * heads * dim;
                for (index, (keys, values)) in keys.chunks(size).zip(values.chunks(size)).enumerate() {
                    pieces.store(index * piece, keys, values).unwrap();
                }
                assert_eq!(pieces.slice(0..heads), once.slice(0..heads), "{heads} {dim} {piece}");
            }
        }
    }

    #[test]
    fn positions_come_in_any_pieces() {
        is_the_same_in_any_pieces::<[f32; PANEL]>();
        is_the_same_in_any_pieces::<[f16; PANEL]>();
        is_the_same_in_any_pieces::<[i8; PANEL]>();
        is_the_same_in_any_pieces::<[u8; PANEL / 2]>();
    }
}
