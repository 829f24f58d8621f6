//! Reductions in many running values, which compilers turn into vector instructions.

/// Number of running values: four AVX2 registers of f32, enough to hide the latency of an addition.
const LANES: usize = 32;

/// Reduces all of `x` from `start`: each value is mapped by `step(running value, x)`, and running values are joined by
/// `combine`.
#[inline(always)]
pub(crate) fn reduce(
    x: &[f32],
    start: f32,
    step: impl Fn(f32, f32) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, x);
    }
    fold(lanes, combine)
}

/// Reduces running values to one by halving their number again and again.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of all values.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    reduce(x, 0.0, |a, x| a + x, |a, b| a + b)
}

/// The sum of squared differences from `center`.
#[inline(always)]
pub(crate) fn sum_squares(x: &[f32], center: f32) -> f32 {
    reduce(x, 0.0, |a, x| (x - center).mul_add(x - center, a), |a, b| a + b)
}

/// The sum of products.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    dot_centred(x, y, 0.0)
}

/// The sum of `x * (y - center)`.
#[inline(always)]
pub(crate) fn dot_centred(x: &[f32], y: &[f32], center: f32) -> f32 {
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane = x.mul_add(y - center, *lane);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = x.mul_add(y - center, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest value; `-inf` for an empty slice. NaN is ignored.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    reduce(x, f32::NEG_INFINITY, larger, larger)
}
