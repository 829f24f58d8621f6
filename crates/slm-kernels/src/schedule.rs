//! Several products of one input, scheduled as one parallel region.

use std::ops::Range;

use slm_quant_core::{Result, check_len};
use slm_runtime::{SharedSlice, StealQueue, for_each_task};

use crate::FloatMatrix;
use crate::PackedMatrix;
use crate::Workspace;
use crate::kernel::{Input, MatmulPart, NR};
use crate::tile::Tile;

/// Maximum number of input rows that are treated as *decode*: each thread has a range of weights and reads it once for
/// all rows. [`StealQueue`] describes how ranges are divided.
pub(crate) const DECODE_ROWS: usize = 4;

/// Minimum of bytes of weights times rows of input for which a parallel region pays.
const SERIAL_WORK: usize = 16 * 1024;

/// Minimum bytes of weights in a chunk of decode: half a microsecond of work, compared with which taking it is cheap.
const CHUNK_BYTES: usize = 16 * 1024;

/// Input rows, and bytes of weights, of a task of many rows. Both stay in the second-level cache of current cores.
const TASK_ROWS: usize = 192;
const TASK_BYTES: usize = 256 * 1024;

/// The weights of a product.
#[derive(Debug, Clone, Copy)]
pub enum MatmulWeights<'a> {
    /// Quantized weights.
    Packed(&'a PackedMatrix),
    /// Float weights, which only float inputs can be multiplied with.
    Float(FloatMatrix<'a>),
}

impl<'a> From<&'a PackedMatrix> for MatmulWeights<'a> {
    fn from(weights: &'a PackedMatrix) -> Self {
        Self::Packed(weights)
    }
}

impl<'a> From<FloatMatrix<'a>> for MatmulWeights<'a> {
    fn from(weights: FloatMatrix<'a>) -> Self {
        Self::Float(weights)
    }
}

impl MatmulWeights<'_> {
    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Packed(weights) => weights.rows(),
            Self::Float(weights) => weights.rows(),
        }
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        match self {
            Self::Packed(weights) => weights.cols(),
            Self::Float(weights) => weights.cols(),
        }
    }

    /// Panels of [`NR`] rows.
    fn panels(&self) -> usize {
        self.rows().div_ceil(NR)
    }

    /// Bytes of the codes or floats of a panel.
    fn panel_bytes(&self) -> usize {
        match self {
            Self::Packed(weights) => weights.packed().panel_bytes(),
            Self::Float(weights) => weights.panel_bytes(),
        }
    }

    /// Granularity of panels in parts of many rows.
    fn panels_per_tile(&self) -> usize {
        match self {
            Self::Packed(weights) => weights.packed().panels_per_tile(),
            Self::Float(weights) => weights.panels_per_tile(),
        }
    }

    fn pack_lhs(&self, x: Input<'_>, workspace: &mut Workspace) -> usize {
        match self {
            Self::Packed(weights) => weights.packed().pack_lhs(x, workspace),
            Self::Float(weights) => weights.pack_lhs(x, workspace),
        }
    }

    fn part(&self, part: MatmulPart<'_>) {
        match (self, part.x) {
            (Self::Packed(weights), _) => weights.packed().part(part),
            (Self::Float(weights), Input::Float(x, rows)) => weights.part(x, rows, part),
            (Self::Float(_), Input::Quantized(_)) => unreachable!("linear_many has refused it"),
        }
    }
}

/// One of several products of the same input: weights `[rows, cols]`, a bias of `rows` values, and an output
/// `[m, rows]`.
#[derive(Debug)]
pub struct MatmulTask<'a> {
    weights: MatmulWeights<'a>,
    bias: Option<&'a [f32]>,
    out: SharedSlice<'a, f32>,
    /// The workspace slot of the input that is packed for this product.
    slot: usize,
}

impl<'a> MatmulTask<'a> {
    /// Describes a product. Lengths are checked when it is computed.
    pub fn new(weights: impl Into<MatmulWeights<'a>>, bias: Option<&'a [f32]>, out: &'a mut [f32]) -> Self {
        Self { weights: weights.into(), bias, out: SharedSlice::new(out), slot: 0 }
    }

    /// The weights of the product.
    pub fn weights(&self) -> MatmulWeights<'a> {
        self.weights
    }

    /// Rejects an input, a bias or an output whose shape does not fit the weights.
    pub(crate) fn check(&self, m: usize, cols: usize) -> Result<()> {
        check_len("activation columns", self.weights.cols(), cols)?;
        check_len("output", m * self.weights.rows(), self.out.len())?;
        self.bias.map_or(Ok(()), |bias| check_len("bias", self.weights.rows(), bias.len()))
    }

    /// Bytes of the codes or floats.
    fn bytes(&self) -> usize {
        self.weights.panels() * self.weights.panel_bytes()
    }

    /// Computes some rows and panels of the product.
    ///
    /// # Safety
    /// During the call no other call may compute any of these rows of any of these panels.
    unsafe fn part(&self, x: Input<'_>, workspace: &Workspace, rows: Range<usize>, panels: Range<usize>) {
        let Self { bias, out, slot, .. } = *self;
        let width = self.weights.rows();
        let columns = panels.start * NR..width.min(panels.end * NR);
        // SAFETY: the task borrows its output mutably, and by this function's contract no other call has these cells.
        let out = unsafe { Tile::new(out, width, rows, columns) };
        self.weights.part(MatmulPart { x, workspace, slot, bias, out, panels });
    }
}

/// Computes products whose shapes have been checked.
pub(crate) fn multiply(x: Input<'_>, products: &mut [MatmulTask<'_>], workspace: &mut Workspace) {
    let rows = x.rows();
    if rows == 0 {
        return;
    }
    workspace.clear();
    for product in &mut *products {
        product.slot = product.weights.pack_lhs(x, workspace);
    }
    let products = &*products;
    let threads = rayon::current_num_threads();
    let bytes: usize = products.iter().map(MatmulTask::bytes).sum();
    if threads == 1 || rows * bytes < SERIAL_WORK {
        for product in products {
            // SAFETY: this thread computes all of it.
            unsafe { product.part(x, workspace, 0..rows, 0..product.weights.panels()) };
        }
    } else if rows <= DECODE_ROWS {
        assign_panels(products, threads, bytes, &mut workspace.queue);
        let workspace = &*workspace;
        for_each_task(threads, |thread| {
            while let Some(panels) = workspace.queue.take(thread) {
                let mut start = 0;
                for product in products {
                    let end = start + product.weights.panels();
                    let own = panels.start.max(start)..panels.end.min(end);
                    if !own.is_empty() {
                        let own = own.start - start..own.end - start;
                        // SAFETY: the queue gives each panel of all products to one thread, once.
                        unsafe { product.part(x, workspace, 0..rows, own) };
                    }
                    start = end;
                }
            }
        });
    } else {
        let workspace = &*workspace;
        let split = |product: &MatmulTask<'_>| Split::new(product.weights, rows, threads);
        let tasks = products.iter().map(|product| split(product).tasks()).sum();
        for_each_task(tasks, |mut task| {
            for product in products {
                let split = split(product);
                if task < split.tasks() {
                    let (rows, panels) = split.part(task);
                    // SAFETY: each task runs once, and no two tasks of a product have the same rows and panels.
                    return unsafe { product.part(x, workspace, rows, panels) };
                }
                task -= split.tasks();
            }
        });
    }
}

/// Assigns each thread a range of the panels of all products, equal in bytes.
fn assign_panels(products: &[MatmulTask<'_>], threads: usize, bytes: usize, queue: &mut StealQueue) {
    // The first panel that starts at or after a byte offset.
    let panel_at = |byte: usize| {
        let (mut panels, mut start) = (0, 0);
        for product in products {
            let within = byte.saturating_sub(start).div_ceil(product.weights.panel_bytes());
            panels += within.min(product.weights.panels());
            start += product.bytes();
        }
        panels
    };
    let largest = products.iter().map(|p| p.weights.panel_bytes()).max().unwrap_or(1);
    let ranges = (0..=threads).map(|thread| panel_at(bytes * thread / threads));
    queue.restart(ranges, CHUNK_BYTES.div_ceil(largest));
}

/// The split of a product of many rows into tasks.
struct Split {
    rows: usize,
    rows_per_task: usize,
    panels: usize,
    panels_per_task: usize,
}

impl Split {
    fn new(weights: MatmulWeights<'_>, rows: usize, threads: usize) -> Self {
        let (panels, tile) = (weights.panels(), weights.panels_per_tile());
        let fitting = TASK_BYTES / weights.panel_bytes();
        // At least a few tasks per thread, so that a slowed-down thread gets fewer.
        let even = panels.div_ceil(4 * threads);
        let panels_per_task = fitting.min(even).max(1).next_multiple_of(tile);
        // Float weights are transposed once for all rows.
        let rows_per_task = match weights {
            MatmulWeights::Packed(_) => TASK_ROWS,
            MatmulWeights::Float(_) => rows,
        };
        Self { rows, rows_per_task, panels, panels_per_task }
    }

    fn row_tasks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task)
    }

    fn tasks(&self) -> usize {
        self.row_tasks() * self.panels.div_ceil(self.panels_per_task)
    }

    /// Rows and panels of a task.
    fn part(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let row = task % self.row_tasks() * self.rows_per_task;
        let panel = task / self.row_tasks() * self.panels_per_task;
        (row..self.rows.min(row + self.rows_per_task), panel..self.panels.min(panel + self.panels_per_task))
    }
}
