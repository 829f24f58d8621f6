//! Speed of the kernels themselves, compared with the processor's peaks.
//!
//! `cargo bench -p slm-kernels -- [kernel] [regime] [scheme]`, any number of each; `RAYON_NUM_THREADS`
//! chooses the threads. The regimes:
//!
//! | regime | what | compared with |
//! |---|---|---|
//! | decode | one row, weights from memory | the read bandwidth |
//! | cached | one row, weights that stay in cache | the best kernel's peak, on integers or floats |
//! | prefill | 512 rows | the best kernel's peak, on integers or floats |
//! | step | all products of one token of smollm-135m, with 3 us of other work between regions | the time in which its weights can be read |
//!
//! Memory and clock of a shared machine change from second to second, so each case is measured in turns with its limit.
//! The share is the median of the turns; time and limit are the best of all.

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use slm_kernels::{
    FloatMatrix, FloatValues, KernelKind, LinearInput, MatmulTask, MatmulWeights, PackedMatrix,
    QuantizedActivations, Workspace, linear_many, measure_peak_flops, measure_peak_ops,
    measure_read_bandwidth, quantize_activations_into,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, QuantScheme, QuantizedMatrix, ScaleDtype,
    Scales,
};
use slm_runtime::HugeVec;

/// Outputs and inputs of the matrices of tinyllama-1.1b, and of the smaller smollm-135m.
const SHAPES: [(usize, usize); 7] =
    [(2048, 2048), (5632, 2048), (2048, 5632), (32_000, 2048), (576, 576), (1536, 576), (576, 1536)];

/// Total bytes of the matrices of a decode run, so that none stays in cache.
const COLD_BYTES: usize = 256 << 20;

/// Number of rows of the prefill.
const PREFILL_ROWS: usize = 512;

/// Turns of a case and its limit, and how long the case runs in each.
const TURNS: usize = 9;
const TURN_TIME: Duration = Duration::from_millis(60);

/// Layers of smollm-135m, and for each region of one of them the outputs and inputs of its products.
const STEP_LAYERS: usize = 30;
const STEP_REGIONS: [&[(usize, usize)]; 4] =
    [&[(576, 576), (192, 576), (192, 576)], &[(576, 576)], &[(1536, 576), (1536, 576)], &[(576, 1536)]];
const STEP_HEAD: (usize, usize) = (49_152, 576);
const STEP_OTHER_WORK: Duration = Duration::from_micros(3);

const REGIMES: [&str; 4] = ["decode", "cached", "prefill", "step"];

struct Scheme {
    name: &'static str,
    weights: WeightType,
    activations: ActivationQuant,
}

#[derive(Clone, Copy)]
enum WeightType {
    Quantized(QuantScheme),
    F32,
    F16,
    BF16,
}

/// Weights of some type.
#[derive(Clone)]
enum Matrix {
    Packed(Box<PackedMatrix>),
    Float { kernel: KernelKind, rows: usize, cols: usize, values: Floats },
}

#[derive(Clone)]
enum Floats {
    F32(HugeVec<f32>),
    F16(HugeVec<f16>),
    BF16(HugeVec<bf16>),
}

impl Matrix {
    fn new(rows: usize, cols: usize, weights: WeightType, kernel: KernelKind) -> Self {
        let value = |i: usize| (i * 7919 % 255) as f32 / 1270.0 - 0.1;
        let count = rows * cols;
        let values = match weights {
            WeightType::Quantized(scheme) => {
                return Self::Packed(Box::new(packed(rows, cols, scheme, kernel)));
            }
            WeightType::F32 => Floats::F32(HugeVec::from_values((0..count).map(value))),
            WeightType::F16 => Floats::F16(HugeVec::from_values((0..count).map(|i| f16::from_f32(value(i))))),
            WeightType::BF16 => {
                Floats::BF16(HugeVec::from_values((0..count).map(|i| bf16::from_f32(value(i)))))
            }
        };
        Self::Float { kernel, rows, cols, values }
    }

    fn weights(&self) -> MatmulWeights<'_> {
        match self {
            Self::Packed(matrix) => (&**matrix).into(),
            Self::Float { kernel, rows, cols, values } => {
                let values = match values {
                    Floats::F32(values) => FloatValues::F32(values),
                    Floats::F16(values) => FloatValues::F16(values),
                    Floats::BF16(values) => FloatValues::BF16(values),
                };
                FloatMatrix::new(values, *rows, *cols, *kernel).unwrap().into()
            }
        }
    }

    fn byte_size(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.byte_size(),
            Self::Float { values: Floats::F32(values), .. } => size_of_val(&values[..]),
            Self::Float { values: Floats::F16(values), .. } => size_of_val(&values[..]),
            Self::Float { values: Floats::BF16(values), .. } => size_of_val(&values[..]),
        }
    }
}

fn schemes() -> Vec<Scheme> {
    let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    let channel = |bits| QuantScheme::per_tensor(bits).with_granularity(Granularity::PerChannel);
    let group = |bits| {
        QuantScheme::per_tensor(bits)
            .with_granularity(Granularity::PerGroup { group_size: 32 })
            .with_scale_dtype(ScaleDtype::F16)
    };
    let scheme =
        |name, weights, activations| Scheme { name, weights: WeightType::Quantized(weights), activations };
    let float = |name, weights| Scheme { name, weights, activations: ActivationQuant::Float };
    vec![
        scheme("int8-channel", channel(Bits::Int8), dynamic),
        scheme("int8-group32", group(Bits::Int8), dynamic),
        scheme("int4-channel", channel(Bits::Int4), dynamic),
        scheme("int4-group32", group(Bits::Int4), dynamic),
        scheme("int8-channel-weight-only", channel(Bits::Int8), ActivationQuant::Float),
        scheme("int8-group32-weight-only", group(Bits::Int8), ActivationQuant::Float),
        scheme("int4-channel-weight-only", channel(Bits::Int4), ActivationQuant::Float),
        scheme("int4-group32-weight-only", group(Bits::Int4), ActivationQuant::Float),
        float("f32", WeightType::F32),
        float("f16", WeightType::F16),
        float("bf16", WeightType::BF16),
    ]
}

fn packed(rows: usize, cols: usize, scheme: QuantScheme, kernel: KernelKind) -> PackedMatrix {
    let count = scheme.granularity.scale_count(rows, cols).unwrap();
    let codes = (0..rows * scheme.bits.row_bytes(cols)).map(|i| ((i * 2_654_435_761) >> 11) as u8).collect();
    let scales = Scales::from_f32(vec![0.01; count], scheme.scale_dtype);
    let matrix = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, None).unwrap();
    PackedMatrix::new(matrix, kernel).unwrap()
}

/// Inputs, outputs and memory of linear layers.
struct Layer {
    x: Vec<f32>,
    y: Vec<f32>,
    codes: QuantizedActivations,
    workspace: Workspace,
}

impl Layer {
    fn new(values: usize, outputs: usize) -> Self {
        Self {
            x: (0..values).map(|i| (i * 7919 % 255) as f32 / 127.0 - 1.0).collect(),
            y: vec![0.0; outputs],
            codes: QuantizedActivations::empty(),
            workspace: Workspace::new(),
        }
    }

    /// Quantizes `m` rows of input, if the scheme does, and multiplies them with each of `weights` in one region.
    fn run<'w>(&'w mut self, m: usize, weights: &'w [Matrix], quant: &ActivationQuant) {
        let cols = weights[0].weights().cols();
        let x = &self.x[..m * cols];
        let input = if *quant == ActivationQuant::Float {
            LinearInput::Float(x, m)
        } else {
            quantize_activations_into(x, m, cols, quant, &mut self.codes).unwrap();
            LinearInput::Quantized(&self.codes)
        };
        let mut rest = &mut self.y[..];
        let mut product = |w: &'w Matrix| {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(m * w.weights().rows());
            rest = after;
            MatmulTask::new(w.weights(), None, out)
        };
        match weights {
            [a] => linear_many(input, &mut [product(a)], &mut self.workspace),
            [a, b] => linear_many(input, &mut [product(a), product(b)], &mut self.workspace),
            [a, b, c] => linear_many(input, &mut [product(a), product(b), product(c)], &mut self.workspace),
            _ => unreachable!("a region has one to three products"),
        }
        .unwrap();
        black_box(&self.y);
    }
}

/// A case and the limit that it is compared with.
struct Measured {
    /// Time of the fastest run.
    seconds: f64,
    /// The best limit measured.
    limit: f64,
    /// Speed as a share of the limit of the same turn; the median of all turns.
    share: f64,
}

/// Measures `work` in turns with `limit`. `amount` is the work of a run, in operations or bytes as in the limit.
fn in_turns(amount: f64, mut work: impl FnMut(), mut limit: impl FnMut() -> f64) -> Measured {
    let (mut seconds, mut best_limit) = (f64::INFINITY, 0.0);
    let mut shares = [0.0; TURNS];
    for share in &mut shares {
        let limit = limit();
        let mut best = f64::INFINITY;
        let turn = Instant::now();
        let mut last = turn;
        while last - turn < TURN_TIME {
            work();
            let now = Instant::now();
            best = f64::min(best, (now - last).as_secs_f64());
            last = now;
        }
        *share = amount / best / limit;
        seconds = f64::min(seconds, best);
        best_limit = f64::max(best_limit, limit);
    }
    shares.sort_by(f64::total_cmp);
    Measured { seconds, limit: best_limit, share: shares[TURNS / 2] }
}

fn bandwidth() -> f64 {
    measure_read_bandwidth(1)
}

/// The peak of the best vector kernel on integers or floats, in operations per second; NaN on a machine without vector
/// kernels.
fn peak(activations: &ActivationQuant) -> f64 {
    let peak = match activations {
        ActivationQuant::Float => measure_peak_flops(KernelKind::best(), 2),
        _ => measure_peak_ops(KernelKind::best(), 2),
    };
    peak.unwrap().unwrap_or(f64::NAN)
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let schemes = schemes();
    let kernels: Vec<String> = KernelKind::available().iter().map(KernelKind::to_string).collect();
    let known = |name: &str| {
        kernels.iter().any(|k| k == name) || REGIMES.contains(&name) || schemes.iter().any(|s| s.name == name)
    };
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> = schemes.iter().map(|s| s.name).collect();
        eprintln!(
            "{unknown:?} is none of {}, {}, {}",
            kernels.join(", "),
            REGIMES.join(", "),
            names.join(", ")
        );
        std::process::exit(2);
    }
    let is_wanted = |name: &str, kind: &dyn Fn(&str) -> bool| {
        let mut of_kind = wanted.iter().filter(|w| kind(w)).peekable();
        of_kind.peek().is_none() || of_kind.any(|w| w == name)
    };
    let scheme_wanted = |name: &str| is_wanted(name, &|w| schemes.iter().any(|s| s.name == w));
    let regime_wanted = |name: &str| is_wanted(name, &|w| REGIMES.contains(&w));
    let kernel_wanted = |name: &str| is_wanted(name, &|w| kernels.iter().any(|k| k == w));

    println!("threads {}, read bandwidth {:.1} GB/s", rayon::current_num_threads(), bandwidth() / 1e9);
    for kernel in KernelKind::available() {
        if let Some(peak) = measure_peak_ops(kernel, 30).unwrap() {
            let floats = measure_peak_flops(kernel, 30).unwrap().unwrap_or(f64::NAN);
            println!("{kernel}: {:.0} GOP/s, {:.0} GFLOP/s in registers", peak / 1e9, floats / 1e9);
        }
    }
    println!(
        "{:<10} {:<7} {:<24} {:>12} {:>12} {:>7} {:>6}  share of the limit",
        "kernel", "regime", "scheme", "rows x cols", "time", "GOP/s", "GB/s"
    );
    for kernel in KernelKind::available().into_iter().rev().filter(|k| kernel_wanted(&k.to_string())) {
        for scheme in schemes.iter().filter(|s| scheme_wanted(s.name)) {
            for regime in REGIMES.into_iter().filter(|r| regime_wanted(r)) {
                run(kernel, regime, scheme);
            }
        }
    }
}

fn run(kernel: KernelKind, regime: &str, scheme: &Scheme) {
    let line = |shape: &str, operations: f64, bytes: f64, seconds: f64, measured: &Measured| {
        println!(
            "{kernel:<10} {regime:<7} {:<24} {shape:>12} {:>9.1} us {:>7.1} {:>6.1}  {:>5.1} % (limit {:.1})",
            scheme.name,
            seconds * 1e6,
            operations / seconds / 1e9,
            bytes / seconds / 1e9,
            100.0 * measured.share,
            measured.limit / 1e9,
        );
    };
    if regime == "step" {
        let (measured, bytes, products) = step(kernel, scheme);
        return line("smollm-135m", 2.0 * products, bytes, measured.seconds, &measured);
    }
    for (rows, cols) in SHAPES {
        // The reference is for comparison, not for use.
        if kernel == KernelKind::Scalar && (rows, cols) != (576, 576) {
            continue;
        }
        let m = if regime == "prefill" { PREFILL_ROWS } else { 1 };
        let weights = Matrix::new(rows, cols, scheme.weights, kernel);
        let bytes = weights.byte_size() as f64;
        let operations = 2.0 * (m * rows * cols) as f64;
        let mut layer = Layer::new(m * cols, m * rows);
        let shape = format!("{rows} x {cols}");
        if regime == "decode" {
            // A pass over many copies, because single calls are too short to time well.
            let copies = vec![weights; COLD_BYTES / bytes as usize + 1];
            let count = copies.len() as f64;
            let work = || copies.chunks(1).for_each(|w| layer.run(m, w, &scheme.activations));
            let measured = in_turns(count * bytes, work, bandwidth);
            line(&shape, operations, bytes, measured.seconds / count, &measured);
        } else {
            let work = || layer.run(m, std::slice::from_ref(&weights), &scheme.activations);
            let measured = in_turns(operations, work, || peak(&scheme.activations));
            line(&shape, operations, bytes, measured.seconds, &measured);
        }
    }
}

/// Measures a step. Returns the result, the bytes of its weights, and the number of its products of a weight and an
/// input.
fn step(kernel: KernelKind, scheme: &Scheme) -> (Measured, f64, f64) {
    let pack = |&(rows, cols): &(usize, usize)| Matrix::new(rows, cols, scheme.weights, kernel);
    let layers: Vec<Vec<Vec<Matrix>>> = (0..STEP_LAYERS)
        .map(|_| STEP_REGIONS.iter().map(|region| region.iter().map(pack).collect()).collect())
        .collect();
    let head = [pack(&STEP_HEAD)];
    let regions = || layers.iter().flatten().map(Vec::as_slice).chain([head.as_slice()]);
    let bytes: usize = regions().flatten().map(Matrix::byte_size).sum();
    let products: usize = regions().flatten().map(|w| w.weights().rows() * w.weights().cols()).sum();
    let mut layer = Layer::new(1536, STEP_HEAD.0);
    let work = || {
        for weights in regions() {
            layer.run(1, weights, &scheme.activations);
            let start = Instant::now();
            while start.elapsed() < STEP_OTHER_WORK {
                std::hint::spin_loop();
            }
        }
    };
    (in_turns(bytes as f64, work, bandwidth), bytes as f64, products as f64)
}
