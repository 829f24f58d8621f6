use half::bf16;
use slm_testing::Random;

use super::scalar::add_products;
use super::*;
use crate::matmul::PanelBlock;

/// Floats with random signs and fractions, and exponents between the two given.
fn floats(len: usize, random: &mut Random, exponents: (u32, u32)) -> Vec<f32> {
    let (low, high) = exponents;
    let count = u64::from(high - low + 1);
    let float = |random: &mut Random| {
        let bits = random.bits();
        let exponent = low + ((bits >> 32) % count) as u32;
        f32::from_bits((bits as u32 & 0x807F_FFFF) | exponent << 23)
    };
    (0..len).map(|_| float(random)).collect()
}

/// Ranges of exponents: ordinary values, products that underflow or nearly so, and all bits there are.
const EXPONENTS: [(u32, u32); 4] = [(120, 130), (50, 75), (0, 4), (0, 255)];

/// The bits, the same for every NaN.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

fn pairs(terms: &[f32]) -> Vec<Bf16Pair> {
    let mut out = vec![Bf16Pair::default(); Bf16Pair::count(terms.len())];
    Kernel::Scalar.round(terms, &mut out);
    out
}

#[test]
fn values_are_rounded_to_the_nearest() {
    let mut random = Random(1);
    let mut values = floats(10_000, &mut random, (1, 254));
    values.extend([0.0, -0.0, 1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
    values.extend([f32::MAX, f32::INFINITY, f32::NEG_INFINITY]);
    for (pair, values) in pairs(&values).iter().zip(values.chunks(2)) {
        let expected: Vec<f32> = values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!([pair.even(), pair.odd()], expected[..]);
    }
    let special = pairs(&[f32::NAN, 1e-40, -1e-40]);
    assert!(special[0].even().is_nan());
    assert_eq!(special[0].odd().to_bits(), 0);
    assert_eq!(special[1], pairs(&[-0.0])[0]);
}

#[test]
fn products_are_added_one_by_one_and_flushed() {
    let add = |sum, a: [f32; 2], b: [f32; 2]| add_products(sum, pairs(&a)[0], pairs(&b)[0]);
    assert_eq!(add(1.0, [2.0, 3.0], [5.0, 7.0]), 32.0);
    // The odd product is rounded away before the even one cancels the sum.
    let large = 2.0_f32.powi(24);
    assert_eq!(add(large, [large, 1.0], [-1.0, 1.0]), 0.0);
    assert_eq!(add(large, [1.0, large], [1.0, -1.0]), 1.0);
    // The sum is half a step below the smallest normal number, which rounds to it only among subnormal numbers.
    let least = f32::MIN_POSITIVE;
    let step = [2.0_f32.powi(-75), 0.0];
    assert_eq!(add(least, step, [-2.0_f32.powi(-75), 0.0]), 0.0);
    assert_eq!(add(least, step, [-2.0_f32.powi(-76), 0.0]), least);
    assert_eq!(add(0.0, [least, 0.0], [-0.5, 0.0]).to_bits(), (-0.0_f32).to_bits());
}

#[test]
fn kernels_round_alike() {
    let mut random = Random(2);
    for exponents in EXPONENTS {
        for len in [0, 1, 2, 31, 32, 33, 64, 95, 1000] {
            let terms = floats(len, &mut random, exponents);
            let mut found = vec![Bf16Pair::default(); Bf16Pair::count(len)];
            Kernel::best().round(&terms, &mut found);
            assert_eq!(found, pairs(&terms), "{exponents:?} {len}");
        }
        for len in [0, 1, 2, 7, 64] {
            let terms = floats(len * PANEL, &mut random, exponents);
            let (rows, _) = terms.as_chunks::<PANEL>();
            let [expected, found] = [Kernel::Scalar, Kernel::best()].map(|kernel| {
                let mut out = vec![[Bf16Pair::default(); PANEL]; Bf16Pair::count(len)];
                kernel.interleave(rows, &mut out);
                out
            });
            assert_eq!(found, expected, "{exponents:?} {len}");
        }
    }
}

#[test]
fn kernels_multiply_alike() {
    let mut random = Random(3);
    for exponents in EXPONENTS {
        for (height, count, depth, gap) in
            [(1, 1, 1, 0), (6, 4, 16, 0), (5, 6, 33, 2), (2, 9, 200, 1), (6, 4, 512, 0), (3, 3, 0, 1)]
        {
            let stride = depth + gap;
            let elements = pairs(&floats(count * stride * PANEL * 2, &mut random, exponents));
            let rows = pairs(&floats(height * (depth + 1) * 2, &mut random, exponents));
            let rows: Vec<&[Bf16Pair]> = rows.chunks(depth + 1).collect();
            let panels = PanelBlock { elements: &elements, count, stride, depth };
            let out_stride = count * PANEL + 3;
            let before = floats(height * out_stride, &mut random, exponents);
            for accumulate in [false, true] {
                let [expected, found] = [Kernel::Scalar, Kernel::best()].map(|kernel| {
                    let mut out = before.clone();
                    kernel.multiply(Tile { rows: &rows, panels, accumulate, out: &mut out, out_stride });
                    bits(&out)
                });
                assert_eq!(found, expected, "{exponents:?} {height} {count} {depth} {accumulate}");
                for (row, before) in found.chunks(out_stride).zip(bits(&before).chunks(out_stride)) {
                    assert_eq!(row[count * PANEL..], before[count * PANEL..]);
                }
            }
        }
    }
}
