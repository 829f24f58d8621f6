//! Quantization and dequantization.

use slm_quant_core::{
    Bits, Granularity, ObserverKind, QParams, QuantRange, QuantScheme, choose_qparams, dequantize, quantize,
    quantize_matrix,
};

use crate::harness::{Case, mapping};

pub(crate) fn case(case: &mut Case) {
    match case.op() {
        "quantize_per_tensor" => {
            let qparams = case.qparams_of("inputs", "scale", "zero_point")[0];
            let codes: Vec<i16> = quantize(&case.input("x"), qparams, case.range()).unwrap();
            case.check("q", &codes);
            check_dequantized(case, |recorded| dequantize(recorded, qparams));
        }
        "dequantize_per_tensor" => {
            let qparams = case.qparams_of("inputs", "scale", "zero_point")[0];
            case.check("dq", &dequantize(&case.input_ints("q"), qparams));
        }
        "quantize_per_channel" => per_channel(case),
        "quantize_affine_blockwise" => blockwise(case),
        _ => case.unknown_op(),
    }
}

fn check_dequantized(case: &mut Case, dequantize: impl Fn(&[i32]) -> Vec<f32>) {
    let recorded: Vec<i32> = case.recorded("q").iter().map(|q| *q as i32).collect();
    let values = dequantize(&recorded);
    case.check("dq", &values);
}

/// Runs `f` over every channel of a matrix, along either axis.
pub(crate) fn by_channel<T: Copy, U: Copy + Default>(
    x: &[T],
    shape: &[usize],
    axis: usize,
    mut f: impl FnMut(usize, &[T]) -> Vec<U>,
) -> Vec<U> {
    let (rows, cols) = (shape[0], shape[1]);
    let at = |channel: usize, i: usize| if axis == 0 { channel * cols + i } else { i * cols + channel };
    let (channels, len) = if axis == 0 { (rows, cols) } else { (cols, rows) };
    let mut out = vec![U::default(); x.len()];
    for channel in 0..channels {
        let values: Vec<T> = (0..len).map(|i| x[at(channel, i)]).collect();
        for (i, y) in f(channel, &values).into_iter().enumerate() {
            out[at(channel, i)] = y;
        }
    }
    out
}

fn per_channel(case: &mut Case) {
    let (axis, shape, range) =
        (case.param_usize("axis"), case.tensor("inputs", "x").shape.clone(), case.range());
    let qparams = case.qparams_of("inputs", "scale", "zero_point");
    let codes: Vec<i16> =
        by_channel(&case.input("x"), &shape, axis, |c, x| quantize(x, qparams[c], range).unwrap());
    case.check("q", &codes);
    check_dequantized(case, |q| by_channel(q, &shape, axis, |c, q| dequantize(q, qparams[c])));
}

fn blockwise(case: &mut Case) {
    let shape = case.tensor("inputs", "x").shape.clone();
    let (rows, cols) = (shape[0], shape[1]);
    let block: Vec<usize> =
        case.param("block").as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as usize).collect();
    let (range, mapping, eps) = (case.range(), mapping(case.param("mapping")), case.param_f32("eps"));
    let x = case.input("x");

    // A block spans whole rows or lies within one, so that blocks in order are runs of values.
    assert!(block[0] == 1 || block[1] == cols, "block {block:?}");
    let run = block[0] * block[1];
    let chosen: Vec<QParams> = x
        .chunks(run)
        .map(|values| {
            let (lo, hi) = ObserverKind::MinMax.choose_range(values, range, mapping, eps).unwrap();
            choose_qparams(lo, hi, range, mapping, eps).unwrap()
        })
        .collect();
    crate::qparams::check_qparams(case, &chosen);

    let recorded = case.qparams_of("expected", "scale", "zero_point");
    let codes: Vec<i16> =
        x.chunks(run).zip(&recorded).flat_map(|(x, q)| quantize::<i16>(x, *q, range).unwrap()).collect();
    case.check("q", &codes);
    check_dequantized(case, |q| q.chunks(run).zip(&recorded).flat_map(|(q, p)| dequantize(q, *p)).collect());

    // The same through a packed matrix if the case has a scheme it supports: full signed range and torchao's eps.
    let bits = match case.param_usize("bits") {
        8 => Bits::Int8,
        4 => Bits::Int4,
        other => panic!("{other} bits"),
    };
    if range != bits.signed_range() || eps != slm_quant_core::TORCHAO_EPS {
        assert!(range != QuantRange::INT8 && range != QuantRange::INT4 || eps > slm_quant_core::TORCHAO_EPS);
        return;
    }
    let granularity = match case.param("granularity").as_str().unwrap() {
        "tensor" => Granularity::PerTensor,
        "row" => Granularity::PerChannel,
        _ => Granularity::PerGroup { group_size: block[1] },
    };
    let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(mapping);
    let matrix = quantize_matrix(&x, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
    case.check("scale", &matrix.scales().to_f32());
    case.check("q", &(0..rows * cols).map(|i| matrix.code(i / cols, i % cols)).collect::<Vec<_>>());
    case.check("dq", &matrix.dequantize());
}
