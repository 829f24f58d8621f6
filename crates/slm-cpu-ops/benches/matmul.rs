//! Speed of matrix products in f32 and in BF16, on one thread.
//!
//! `cargo bench -p slm-cpu-ops -- [product]`, with any of `forward`, `input` and `weight`: the three products of a linear
//! layer in training. The shapes are those of smollm2-135m. The clock of a shared machine changes from second to second, so
//! both precisions are measured in turns, and the best of them count.

use std::hint::black_box;
use std::time::Instant;

use slm_cpu_ops::{
    Bf16Pair, MatmulScratch, Matrix, PANEL_COLUMNS, PanelElement, has_bf16_products, matmul_rows, pack_panel,
};

/// Number of rows of the input.
const ROWS: usize = 1024;

/// Inputs and outputs of the layers, the last one a part of the head.
const LAYERS: [(usize, usize); 5] = [(576, 576), (576, 192), (576, 1536), (1536, 576), (576, 8192)];

/// Number of rows that a thread computes at a time.
const TASK_ROWS: usize = 96;

const TURNS: usize = 15;

/// Packs `b` and multiplies; returns the seconds that it takes.
fn seconds<E: PanelElement>(a: Matrix<'_>, b: Matrix<'_>, packed: &mut Vec<E>, out: &mut [f32]) -> f64 {
    let start = Instant::now();
    let size = E::count(b.rows()) * PANEL_COLUMNS;
    packed.resize(b.panels() * size, E::default());
    packed.chunks_exact_mut(size).enumerate().for_each(|(panel, out)| pack_panel(b, panel, out));
    let mut scratch = MatmulScratch::default();
    for (task, out) in out.chunks_mut(TASK_ROWS * b.cols()).enumerate() {
        let first = task * TASK_ROWS;
        let rows = first..(first + TASK_ROWS).min(a.rows());
        matmul_rows(a, rows, packed, b.cols(), false, out, &mut scratch);
    }
    black_box(out);
    start.elapsed().as_secs_f64()
}

fn values(len: usize, step: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * step) % 997) as f32 / 498.0 - 1.0).collect()
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if !has_bf16_products() {
        println!("this processor has no instructions for BF16: its products take the portable loop");
    }
    println!("product           m      k      n   f32 GFLOP/s  BF16 GFLOP/s  times");
    for (inputs, outputs) in LAYERS {
        let (x, weight) = (values(ROWS * inputs, 31), values(outputs * inputs, 17));
        let grad = values(ROWS * outputs, 7);
        let (x, weight) = (Matrix::new(&x, ROWS, inputs), Matrix::new(&weight, outputs, inputs));
        let grad = Matrix::new(&grad, ROWS, outputs);
        for (name, a, b) in
            [("forward", x, weight.transpose()), ("input", grad, weight), ("weight", grad.transpose(), x)]
        {
            if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
                continue;
            }
            let mut out = vec![0.0; a.rows() * b.cols()];
            let (mut panels, mut pairs): (Vec<f32>, Vec<Bf16Pair>) = (Vec::new(), Vec::new());
            let mut best = [f64::INFINITY; 2];
            for _ in 0..TURNS {
                best[0] = best[0].min(seconds(a, b, &mut panels, &mut out));
                best[1] = best[1].min(seconds(a, b, &mut pairs, &mut out));
            }
            let operations = 2.0 * (a.rows() * a.cols() * b.cols()) as f64;
            let [f32, bf16] = best.map(|seconds| operations / seconds / 1e9);
            println!(
                "{name:<10} {:>8} {:>6} {:>6} {f32:>13.1} {bf16:>13.1} {:>6.2}",
                a.rows(),
                a.cols(),
                b.cols(),
                bf16 / f32
            );
        }
    }
}
