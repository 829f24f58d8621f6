//! Products with float weights: every kernel of this machine agrees with the definition, and with the scalar kernel bit
//! for bit, whatever the number of rows and threads.

use half::{bf16, f16};
use proptest::prelude::*;
use slm_kernels::{
    FloatMatrix, FloatValues, KernelKind, LinearInput, MatmulTask, PANEL_ROWS, PANEL_WIDTH, PanelValues,
    Panels, QuantizedActivations, Workspace, linear_many, multiply_panels,
};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Error};

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Weights in each type.
struct Weights {
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Weights {
    fn new(count: usize, seed: u64) -> Self {
        let f32 = values(count, seed);
        Self {
            f16: f32.iter().copied().map(f16::from_f32).collect(),
            bf16: f32.iter().copied().map(bf16::from_f32).collect(),
            f32,
        }
    }

    /// Each type, and the values that it holds.
    fn each(&self) -> [(FloatValues<'_>, Vec<f32>); 3] {
        [
            (FloatValues::F32(&self.f32), self.f32.clone()),
            (FloatValues::F16(&self.f16), self.f16.iter().map(|w| w.to_f32()).collect()),
            (FloatValues::BF16(&self.bf16), self.bf16.iter().map(|w| w.to_f32()).collect()),
        ]
    }
}

fn product(matrix: FloatMatrix<'_>, x: &[f32], m: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * matrix.rows()];
    let tasks = &mut [MatmulTask::new(matrix, bias, &mut out)];
    linear_many(LinearInput::Float(x, m), tasks, &mut Workspace::new()).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn check(m: usize, rows: usize, cols: usize, seed: u64) {
    let (x, bias, weights) =
        (values(m * cols, seed), values(rows, seed + 1), Weights::new(rows * cols, seed + 2));
    let bias = (!seed.is_multiple_of(3)).then_some(&bias[..]);
    for (values, wide) in weights.each() {
        let of = |kind| FloatMatrix::new(values, rows, cols, kind).unwrap();
        let expected = product(of(KernelKind::Scalar), &x, m, bias);
        for (at, &found) in expected.iter().enumerate() {
            let (i, n) = (at / rows, at % rows);
            let products = x[i * cols..][..cols].iter().zip(&wide[n * cols..][..cols]);
            let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let sum = sum + bias.map_or(0.0, |bias| f64::from(bias[n]));
            assert!((f64::from(found) - sum).abs() < 1e-6 * (2.0 + (cols as f64).sqrt()), "{found} {sum}");
        }
        for kind in KernelKind::available() {
            assert_eq!(bits(&product(of(kind), &x, m, bias)), bits(&expected), "{kind} {m} {rows} {cols}");
            for i in 0..m {
                let alone = product(of(kind), &x[i * cols..][..cols], 1, bias);
                assert_eq!(bits(&alone), bits(&expected[i * rows..][..rows]), "{kind}, row {i} of {m}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_kernel_agrees_on_random_shapes(
        m in 1usize..40,
        rows in 1usize..90,
        cols in 1usize..700,
        seed in any::<u32>(),
    ) {
        check(m, rows, cols, u64::from(seed));
    }
}

/// Shapes around the tiles, squares and blocks of kernels, and rows at distances of a power of two.
#[test]
fn edges_of_tiles() {
    for (m, rows, cols) in [
        (1, 1, 1),
        (1, 16, 16),
        (2, 17, 15),
        (4, 64, 17),
        (5, 33, 256),
        (12, 32, 257),
        (13, 48, 512),
        (200, 16, 1024),
    ] {
        check(m, rows, cols, 7);
    }
}

#[test]
fn threads_change_no_bit() {
    let (m, rows, cols) = (50, 300, 300);
    let (x, weights) = (values(m * cols, 1), values(rows * cols, 2));
    let matrix = FloatMatrix::new(FloatValues::F32(&weights), rows, cols, KernelKind::best()).unwrap();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (product(matrix, &x, m, None), product(matrix, &x[..cols], 1, None)))
    };
    let one = with(1);
    assert!([2, 3].into_iter().all(|threads| with(threads) == one));
}

/// A NaN spoils its own row and no other.
#[test]
fn rows_with_nan_are_apart() {
    let (m, rows, cols) = (20, 40, 64);
    let (mut x, weights) = (values(m * cols, 1), values(rows * cols, 2));
    let matrix = FloatMatrix::new(FloatValues::F32(&weights), rows, cols, KernelKind::best()).unwrap();
    let clean = product(matrix, &x, m, None);
    x[7 * cols + 3] = f32::NAN;
    let found = product(matrix, &x, m, None);
    assert!(found[7 * rows..8 * rows].iter().all(|v| v.is_nan()));
    assert_eq!(bits(&found[..7 * rows]), bits(&clean[..7 * rows]));
    assert_eq!(bits(&found[8 * rows..]), bits(&clean[8 * rows..]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let weights = vec![0.0; 12];
    let of = |rows, cols| FloatMatrix::new(FloatValues::F32(&weights), rows, cols, KernelKind::best());
    assert!(matches!(of(3, 5), Err(Error::Length { .. })));
    assert!(matches!(of(usize::MAX, 4), Err(Error::Length { .. })));
    assert!(matches!(of(0, 4), Err(Error::Empty { .. })));
    let mut out = [7.0; 3];
    let quant = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    let codes: QuantizedActivations = slm_kernels::quantize_activations(&[1.0; 4], 1, 4, &quant).unwrap();
    let mut multiply = |input| {
        let tasks = &mut [MatmulTask::new(of(3, 4).unwrap(), None, &mut out)];
        linear_many(input, tasks, &mut Workspace::new())
    };
    assert!(matches!(multiply(LinearInput::Quantized(&codes)), Err(Error::Parameter { .. })));
    assert!(matches!(multiply(LinearInput::Float(&[1.0; 3], 1)), Err(Error::Length { .. })));
    assert_eq!(out, [7.0; 3]);
}

fn halves() -> Vec<u16> {
    (0..=u16::MAX).collect()
}

#[test]
fn every_half_is_widened_exactly() {
    let number = |half: f16| if half.is_nan() { f16::ZERO } else { half };
    let f16s: Vec<f16> = halves().into_iter().map(f16::from_bits).map(number).collect();
    let number = |half: bf16| if half.is_nan() { bf16::ZERO } else { half };
    let bf16s: Vec<bf16> = halves().into_iter().map(bf16::from_bits).map(number).collect();
    for kind in KernelKind::available() {
        let mut wide = vec![0.0; f16s.len()];
        slm_kernels::widen(kind, FloatValues::F16(&f16s).into(), &mut wide);
        assert!(
            wide.iter().zip(&f16s).all(|(wide, half)| wide.to_bits() == half.to_f32().to_bits()),
            "{kind}"
        );
        let mut wide = vec![0.0; bf16s.len()];
        slm_kernels::widen(kind, FloatValues::BF16(&bf16s).into(), &mut wide);
        assert!(
            wide.iter().zip(&bf16s).all(|(wide, half)| wide.to_bits() == half.to_f32().to_bits()),
            "{kind}"
        );
    }
}

/// Products of rows with panels: each kernel agrees with the definition, and rows together give the same bits as each
/// row by itself.
#[test]
fn panels_are_multiplied_alike() {
    for (count, depth, gap) in [(1, 1, 0), (2, 16, 0), (3, 64, 1), (4, 17, 2), (7, 100, 1), (9, 64, 0)] {
        let stride = depth + gap;
        let weights = Weights::new(count * stride * PANEL_WIDTH, 3);
        let x = values(PANEL_ROWS * depth, 4);
        let i8s: Vec<[i8; PANEL_WIDTH]> = (0..count * stride)
            .map(|run| std::array::from_fn(|lane| (run * 37 + lane * 101) as i8))
            .collect();
        let u4s: Vec<[u8; PANEL_WIDTH / 2]> =
            (0..count * stride).map(|run| std::array::from_fn(|byte| (run * 53 + byte * 97) as u8)).collect();
        let half = |run: &[u8; PANEL_WIDTH / 2]| {
            let codes = run.iter().map(|byte| byte & 15).chain(run.iter().map(|byte| byte >> 4));
            codes.map(f32::from).collect::<Vec<_>>()
        };
        let integers = [
            (PanelValues::I8(&i8s), i8s.iter().flatten().map(|&code| f32::from(code)).collect()),
            (PanelValues::U4(&u4s), u4s.iter().flat_map(half).collect::<Vec<f32>>()),
        ];
        let floats = weights.each().map(|(values, wide)| (PanelValues::from(values), wide));
        for (values, wide) in floats.into_iter().chain(integers) {
            let mut widened = vec![0.0; wide.len()];
            slm_kernels::widen(KernelKind::best(), values, &mut widened);
            assert_eq!(bits(&widened), bits(&wide));
            let tolerance =
                1e-7 * wide.iter().fold(64.0_f64, |most, value| most.max(f64::from(value.abs()) * 64.0));
            let panels = Panels { values, count, stride, depth };
            let (width, out_stride) = (count * PANEL_WIDTH, count * PANEL_WIDTH + 3);
            for m in 1..=PANEL_ROWS {
                let rows: Vec<&[f32]> = x.chunks(depth).take(m).collect();
                let of = |kind, accumulate| {
                    let mut out = vec![7.0; m * out_stride];
                    multiply_panels(kind, &rows, panels, accumulate, &mut out, out_stride);
                    out
                };
                let expected = of(KernelKind::Scalar, false);
                let in_panels = |i: usize| i % out_stride < width;
                let added: Vec<f32> =
                    (0..expected.len()).map(|i| if in_panels(i) { 7.0 + expected[i] } else { 7.0 }).collect();
                for (i, found) in expected.chunks(out_stride).enumerate() {
                    for (column, found) in found[..width].iter().enumerate() {
                        let at = |k: usize| {
                            (column / PANEL_WIDTH * stride + k) * PANEL_WIDTH + column % PANEL_WIDTH
                        };
                        let sum: f64 =
                            (0..depth).map(|k| f64::from(rows[i][k]) * f64::from(wide[at(k)])).sum();
                        assert!((f64::from(*found) - sum).abs() < tolerance, "{found} {sum}");
                    }
                    assert_eq!(found[width..], [7.0; 3]);
                    let mut alone = vec![0.0; width];
                    multiply_panels(KernelKind::best(), &rows[i..=i], panels, false, &mut alone, width);
                    assert_eq!(bits(&alone), bits(&found[..width]));
                }
                for kind in KernelKind::available() {
                    assert_eq!(bits(&of(kind, false)), bits(&expected), "{kind} {count} {depth}");
                    assert_eq!(bits(&of(kind, true)), bits(&added), "{kind} {count} {depth}");
                }
            }
        }
    }
}
