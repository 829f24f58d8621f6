//! Matrix products on all threads.

use std::cell::RefCell;

use rayon::prelude::*;
use slm_cpu_ops::{MatmulScratch, Matrix, PANEL_COLUMNS, matmul_rows, pack_panel};

/// Rows that a task computes at most: they and a panel of the right matrix stay in the second-level cache.
const MAX_ROWS: usize = 96;
/// Tasks for each thread at least, where there are rows enough, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;
/// Multiplications below which a product is not worth waking another thread.
const SERIAL: usize = 1 << 17;

thread_local! {
    static SCRATCH: RefCell<MatmulScratch> = RefCell::default();
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out = a b` of matrices in slices, on all threads of the present rayon pool. The same bits whatever their number.
///
/// # Shapes
/// - `a`: `[m, k]`
/// - `b`: `[k, n]`
/// - `out`: `[m, n]`, row-major
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    let (rows, depth, columns) = (a.rows(), a.cols(), b.cols());
    assert!(depth == b.rows() && out.len() == rows * columns, "matmul: shapes do not fit");
    if out.is_empty() {
        return;
    }
    // Taken out, not borrowed: while this thread waits it may begin another product.
    let mut packed = PACKED.take();
    let size = b.panels() * depth * PANEL_COLUMNS;
    if packed.len() < size {
        packed.resize(size, 0.0);
    }
    let serial = rows * depth * columns < SERIAL;
    if depth > 0 {
        let panels = packed[..size].chunks_exact_mut(depth * PANEL_COLUMNS);
        if serial {
            panels.enumerate().for_each(|(panel, out)| pack_panel(b, panel, out));
        } else {
            packed[..size]
                .par_chunks_exact_mut(depth * PANEL_COLUMNS)
                .enumerate()
                .for_each(|(panel, out)| pack_panel(b, panel, out));
        }
    }
    let run = |height: usize, task: usize, out: &mut [f32]| {
        let from = task * height;
        let rows = from..(from + height).min(rows);
        let mut scratch = SCRATCH.take();
        matmul_rows(a, rows, &packed[..size], columns, false, out, &mut scratch);
        SCRATCH.set(scratch);
    };
    if serial {
        run(rows, 0, out);
    } else {
        let tasks = rayon::current_num_threads() * TASKS_PER_THREAD;
        let height = rows.div_ceil(tasks).next_multiple_of(slm_cpu_ops::TILE_ROWS).min(MAX_ROWS);
        out.par_chunks_mut(height * columns).enumerate().for_each(|(task, out)| run(height, task, out));
    }
    PACKED.set(packed);
}
