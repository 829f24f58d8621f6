//! Causal self-attention of whole sequences.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_cpu_ops::{
    CausalScratch, CausalShape, Rotation, RowStatistics, causal_attention, causal_attention_backward,
};
use slm_runtime::zeros;

use crate::host::{HostBackend, dims};
use crate::parallel;
use crate::stored::Stored;

/// Cosines and sines of rotary positions `0 .. len`, `[len, pairs]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    /// Number of rotated pairs of a head: its first `2 * pairs` values.
    pub pairs: usize,
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

/// Options of an attention operation.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOptions {
    /// Number of query heads.
    pub heads: usize,
    /// Number of KV heads; each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Number of positions that a query attends to, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Factor of the scores before softmax; `None` for `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Rotation of queries and keys by their positions.
    pub rotary: Option<Arc<RotaryTable>>,
}

thread_local! {
    static SCRATCH: RefCell<CausalScratch> = RefCell::default();
}

/// Sizes that follow from inputs and options.
#[derive(Debug, Clone)]
struct Plan {
    options: AttentionOptions,
    batch: usize,
    shape: CausalShape,
}

impl Plan {
    fn new(q: &[usize], options: AttentionOptions) -> Self {
        let AttentionOptions { heads, kv_heads, window, .. } = options;
        let head_dim = q[2] / heads;
        let scale = options.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        let shape = CausalShape { len: q[1], group: heads / kv_heads, head_dim, window, scale };
        Self { options, batch: q[0], shape }
    }

    fn rotation(&self) -> Option<Rotation<'_>> {
        self.options.rotary.as_deref().map(|RotaryTable { pairs, cos, sin }| Rotation {
            pairs: *pairs,
            cos,
            sin,
        })
    }

    /// Widths of the rows of q, k and v that belong to one KV head.
    fn widths(&self) -> [usize; 3] {
        let CausalShape { group, head_dim, .. } = self.shape;
        [group * head_dim, head_dim, head_dim]
    }

    /// The rows of each sequence and KV head. All heads of a position lie side by side.
    fn rows<'a>(&self, data: &'a [f32], width: usize) -> Vec<Vec<&'a [f32]>> {
        let kv_heads = self.options.kv_heads;
        let mut units = self.units();
        for (row, values) in data.chunks_exact(kv_heads * width).enumerate() {
            let first = row / self.shape.len * kv_heads;
            for (unit, values) in units[first..].iter_mut().zip(values.chunks_exact(width)) {
                unit.push(values);
            }
        }
        units
    }

    /// Mutable variant of [`rows`](Self::rows).
    fn rows_mut<'a>(&self, data: &'a mut [f32], width: usize) -> Vec<Vec<&'a mut [f32]>> {
        let kv_heads = self.options.kv_heads;
        let mut units = self.units();
        for (row, values) in data.chunks_exact_mut(kv_heads * width).enumerate() {
            let first = row / self.shape.len * kv_heads;
            for (unit, values) in units[first..].iter_mut().zip(values.chunks_exact_mut(width)) {
                unit.push(values);
            }
        }
        units
    }

    /// Cost of attention, as a number of values of an elementwise pass.
    fn work(&self) -> usize {
        let CausalShape { len, head_dim, .. } = self.shape;
        self.batch * self.options.heads * len * len * head_dim / 16
    }

    fn units<T>(&self) -> Vec<Vec<T>> {
        (0..self.batch * self.options.kv_heads).map(|_| Vec::with_capacity(self.shape.len)).collect()
    }
}

/// The output, and the state that the backward pass needs.
pub(crate) fn forward<B: HostBackend>(
    inputs: [FloatTensor<B>; 3],
    options: AttentionOptions,
) -> (FloatTensor<B>, AttentionState) {
    let size = dims(&inputs[0]);
    let plan = Plan::new(&size, options);
    let CausalShape { len, group, .. } = plan.shape;
    let mut out = zeros(size.iter().product());
    let mut statistics = vec![RowStatistics::default(); plan.batch * plan.options.heads * len];
    let widths = plan.widths();
    let [q, k, v]: [Vec<Vec<&[f32]>>; 3] =
        std::array::from_fn(|i| plan.rows(B::values(&inputs[i]), widths[i]));
    let mut out_rows = plan.rows_mut(&mut out, widths[0]);
    let outputs = out_rows.iter_mut().zip(statistics.chunks_mut((group * len).max(1)));
    let units = outputs.zip(q.iter().zip(&k).zip(&v));
    parallel::for_each(plan.work(), units, |((out, statistics), ((q, k), v))| {
        let mut scratch = SCRATCH.take();
        causal_attention(&plan.shape, plan.rotation(), [q, k, v], out, statistics, &mut scratch);
        SCRATCH.set(scratch);
    });
    (B::from_values(out, &size), AttentionState { plan, statistics: Arc::new(statistics) })
}

/// Intermediate results that the backward pass needs in addition to inputs and output.
#[derive(Debug, Clone)]
pub(crate) struct AttentionState {
    plan: Plan,
    statistics: Arc<Vec<RowStatistics>>,
}

/// State: q, k and v, whose memory the gradients reuse, and the output.
#[derive(Debug)]
pub(crate) struct AttentionBackward;

impl<B: HostBackend> Backward<B, 3> for AttentionBackward {
    type State = ([Stored<B>; 3], Stored<B>, AttentionState);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (inputs, out, AttentionState { plan, statistics }) = ops.state;
        // The stored values are gone before they are written to.
        let mut inputs = inputs.map(|input| B::own(input.into_tensor()));
        let out = out.into_tensor();
        let [q, k, v] = &mut inputs;
        let widths = plan.widths();
        let mut q = plan.rows_mut(B::owned_mut(q), widths[0]);
        let mut k = plan.rows_mut(B::owned_mut(k), widths[1]);
        let mut v = plan.rows_mut(B::owned_mut(v), widths[2]);
        let out = plan.rows(B::values(&out), widths[0]);
        let by_out = plan.rows(B::values(&grad), widths[0]);
        let statistics = statistics.chunks((plan.shape.group * plan.shape.len).max(1));
        let inputs_of_units = q.iter_mut().zip(k.iter_mut().zip(&mut v));
        let units = inputs_of_units.zip(out.iter().zip(&by_out)).zip(statistics);
        parallel::for_each(plan.work(), units, |(((q, (k, v)), (out, grad)), statistics)| {
            let mut scratch = SCRATCH.take();
            let inputs: [&mut [&mut [f32]]; 3] = [q, k, v];
            let (shape, rotation) = (&plan.shape, plan.rotation());
            causal_attention_backward(shape, rotation, inputs, out, grad, statistics, &mut scratch);
            SCRATCH.set(scratch);
        });
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}
