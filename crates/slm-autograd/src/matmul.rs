//! Matrix products on all threads.

use std::cell::RefCell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;
use slm_cpu_ops::{
    Bf16Pair, MatmulScratch, Matrix, PANEL_COLUMNS, PanelElement, TILE_ROWS, matmul_rows, pack_panel,
};
use slm_runtime::{equal_parts, written_by_parts};

use crate::precision::Precision;

/// Maximum number of rows of a task: they and a panel of the right matrix stay in the second-level cache.
const MAX_ROWS: usize = 96;
/// Minimum number of tasks for each thread, if there are enough rows, so that no thread waits long for the last task.
const TASKS_PER_THREAD: usize = 4;
/// Bytes of a packed matrix that a task may read again from a cache. It reads a larger one from memory, so that there should
/// be few tasks. Threads keep the memory of smaller ones.
const CACHED: usize = 8 << 20;
/// Number of multiplications below which waking another thread does not pay.
const SERIAL: usize = 1 << 17;

thread_local! {
    static SCRATCH: RefCell<MatmulScratch> = RefCell::default();
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_BF16: RefCell<Vec<Bf16Pair>> = const { RefCell::new(Vec::new()) };
}

/// An element of packed matrices, with memory that a thread keeps from product to product.
pub(crate) trait Element: PanelElement {
    fn memory() -> &'static LocalKey<RefCell<Vec<Self>>>;
}

impl Element for f32 {
    fn memory() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &PACKED
    }
}

impl Element for Bf16Pair {
    fn memory() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &PACKED_BF16
    }
}

/// All panels of a matrix.
pub(crate) struct Packed<E: Element> {
    memory: Vec<E>,
    size: usize,
    columns: usize,
}

/// Packs all panels of `b`: on this thread if `serial`, otherwise on all threads.
pub(crate) fn pack<E: Element>(b: Matrix<'_>, serial: bool) -> Packed<E> {
    let panel_size = E::count(b.rows()) * PANEL_COLUMNS;
    let size = b.panels() * panel_size;
    if size * size_of::<E>() > CACHED {
        let write = |panel, [out]: [&mut [E]; 1]| pack_panel(b, panel, out);
        let ([memory], _) = written_by_parts(&equal_parts(size, panel_size), write);
        return Packed { memory, size, columns: b.cols() };
    }
    // Taken out, not borrowed: while this thread waits, it may begin another product.
    let mut memory = E::memory().take();
    if memory.len() < size {
        memory.resize(size, E::default());
    }
    if size > 0 {
        let panels = &mut memory[..size];
        if serial {
            panels
                .chunks_exact_mut(panel_size)
                .enumerate()
                .for_each(|(panel, out)| pack_panel(b, panel, out));
        } else {
            panels
                .par_chunks_exact_mut(panel_size)
                .enumerate()
                .for_each(|(panel, out)| pack_panel(b, panel, out));
        }
    }
    Packed { memory, size, columns: b.cols() }
}

impl<E: Element> Packed<E> {
    fn elements(&self) -> &[E] {
        &self.memory[..self.size]
    }

    /// Keeps the memory for the next matrix of this thread, unless it is large.
    pub(crate) fn give_back(self) {
        if size_of_val(self.memory.as_slice()) <= CACHED {
            E::memory().set(self.memory);
        }
    }

    /// Computes `out = a b` for the packed `b`, or adds it to `out`. On this thread if `serial`, otherwise on all threads.
    pub(crate) fn multiply(&self, a: Matrix<'_>, accumulate: bool, serial: bool, out: &mut [f32]) {
        if serial {
            return self.run(a, 0..a.rows(), accumulate, out);
        }
        let mut rest = out;
        let part = |rows: Range<usize>| {
            let part = rest.split_off_mut(..rows.len() * self.columns).unwrap_or_default();
            (rows, part)
        };
        let tasks: Vec<_> = self.tasks(a.rows(), serial).into_iter().map(part).collect();
        tasks.into_par_iter().for_each(|(rows, out)| self.run(a, rows, accumulate, out));
    }

    /// Returns `a b` for the packed `b`. On this thread if `serial`, otherwise on all threads.
    fn product(&self, a: Matrix<'_>, serial: bool) -> Vec<f32> {
        let tasks = self.tasks(a.rows(), serial);
        let lens: Vec<usize> = tasks.iter().map(|rows| rows.len() * self.columns).collect();
        let ([product], _) =
            written_by_parts(&lens, |task, [out]| self.run(a, tasks[task].clone(), false, out));
        product
    }

    /// Computes `rows` of `a b` on this thread.
    fn run(&self, a: Matrix<'_>, rows: Range<usize>, accumulate: bool, out: &mut [f32]) {
        let mut scratch = SCRATCH.take();
        matmul_rows(a, rows, self.elements(), self.columns, accumulate, out, &mut scratch);
        SCRATCH.set(scratch);
    }

    /// The rows of each task: one if `serial`, otherwise as many for all threads, and as many tiles in all tasks but one.
    fn tasks(&self, rows: usize, serial: bool) -> Vec<Range<usize>> {
        let threads = rayon::current_num_threads();
        let (per_thread, most) = match size_of_val(self.elements()) > CACHED {
            true => (1, 2 * MAX_ROWS),
            false => (TASKS_PER_THREAD, MAX_ROWS),
        };
        let tiles = rows.div_ceil(TILE_ROWS);
        let tasks = match serial {
            true => 1,
            false => rows.div_ceil(most).max(threads * per_thread).next_multiple_of(threads),
        };
        let tasks = tasks.min(tiles);
        let end = |task: usize| (task * tiles / tasks * TILE_ROWS).min(rows);
        (0..tasks).map(|task| end(task)..end(task + 1)).collect()
    }
}

/// Returns `a b` for matrices in slices, both rounded to `precision`, computed on all threads of the current rayon pool. The
/// result is bit-identical for any number of threads.
///
/// # Shapes
/// - `a`: `[m, k]`
/// - `b`: `[k, n]`
/// - the result: `[m, n]`, row-major
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(precision: Precision, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    match precision {
        Precision::F32 => matmul_as::<f32>(a, b),
        Precision::Bf16 => matmul_as::<Bf16Pair>(a, b),
    }
}

fn matmul_as<E: Element>(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let (rows, depth, columns) = (a.rows(), a.cols(), b.cols());
    assert!(depth == b.rows(), "matmul: shapes do not fit");
    if rows * columns == 0 {
        return Vec::new();
    }
    let serial = rows * depth * columns < SERIAL;
    let packed = pack::<E>(b, serial);
    let product = packed.product(a, serial);
    packed.give_back();
    product
}

/// Rows and columns of a block of a [Gram matrix](add_gram).
const GRAM_BLOCK: usize = 192;

/// Adds `xᵀ x` to `sums`, on all threads of the current rayon pool. The result is bit-identical for any number of
/// threads. Only half of the product is computed; the other half is its mirror image.
///
/// # Shapes
/// - `x`: `[rows, cols]`, not transposed
/// - `sums`: `[cols, cols]`, symmetric
///
/// # Panics
/// When the shapes do not fit.
pub fn add_gram(x: Matrix<'_>, sums: &mut [f32]) {
    let (depth, cols) = (x.rows(), x.cols());
    assert!(sums.len() == cols * cols, "add_gram: shapes do not fit");
    if depth == 0 || cols == 0 {
        return;
    }
    let panel_size = depth * PANEL_COLUMNS;
    let packed = pack::<f32>(x, false);
    // Rows of the result from the diagonal on: every block of rows starts with a new panel.
    let block = |(index, out): (usize, &mut [f32])| {
        let first = index * GRAM_BLOCK;
        let (height, width) = (out.len() / cols, cols - first);
        let panels = &packed.elements()[first / PANEL_COLUMNS * panel_size..];
        let mut product = vec![0.0; height * width];
        let mut scratch = SCRATCH.take();
        matmul_rows(x.transpose(), first..first + height, panels, width, false, &mut product, &mut scratch);
        SCRATCH.set(scratch);
        for (out, product) in out.chunks_exact_mut(cols).zip(product.chunks_exact(width)) {
            out[first..].iter_mut().zip(product).for_each(|(sum, value)| *sum += value);
        }
    };
    sums.par_chunks_mut(GRAM_BLOCK * cols).enumerate().for_each(block);
    packed.give_back();
    for row in 1..cols {
        for column in 0..row / GRAM_BLOCK * GRAM_BLOCK {
            sums[row * cols + column] = sums[column * cols + row];
        }
    }
}
