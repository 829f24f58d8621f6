//! Quantized linear layers: codes, exact accumulators, and the values that they represent.

use slm_kernels::{KernelKind, PackedMatrix, QuantizedActivations, linear, linear_quantized};
use slm_quant_core::{
    ActivationQuant, Bits, Code, Granularity, Mapping, ObserverKind, QParams, QuantRange, QuantScheme,
    QuantizedMatrix, ScaleDtype, Scales, choose_qparams, choose_qparams_dynamic, int_matmul,
    int_matmul_grouped, pack_int4, quantize,
};

use crate::harness::{Case, mapping, range_of};

pub(crate) fn case(case: &mut Case) {
    match case.op() {
        "linear_dynamic" => dynamic(case),
        "linear_static" => fixed(case),
        "linear_weight_only" => weight_only(case),
        "linear_dynamic_per_token" => per_token(case),
        _ => case.unknown_op(),
    }
}

fn has_input(case: &Case, role: &str) -> bool {
    case.json["inputs"].get(role).is_some()
}

/// The weight of a case; its granularity follows from the number of scales.
fn weight(case: &Case, bits: Bits) -> QuantizedMatrix {
    let (n, k) = (case.param_usize("N"), case.param_usize("K"));
    let scales = case.input("w_scale");
    let granularity = match scales.len() {
        1 => Granularity::PerTensor,
        count if count == n => Granularity::PerChannel,
        count => Granularity::PerGroup { group_size: k.div_ceil(count / n) },
    };
    let zero_points: Option<Vec<i8>> = has_input(case, "w_zero_point")
        .then(|| case.input_ints("w_zero_point").iter().map(|z| i8::try_from(*z).unwrap()).collect());
    let mapping = if zero_points.is_some() { Mapping::Affine } else { Mapping::SymmetricTorch };
    let codes: Vec<i8> = case.input_ints("w_q").iter().map(|q| i8::try_from(*q).unwrap()).collect();
    let mut packed = vec![0; n * bits.row_bytes(k)];
    for (packed, codes) in packed.chunks_mut(bits.row_bytes(k)).zip(codes.chunks(k)) {
        match bits {
            Bits::Int4 => pack_int4(codes, packed).unwrap(),
            Bits::Int8 => packed.iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.cast_unsigned()),
        }
    }
    let scheme = QuantScheme { bits, granularity, mapping, scale_dtype: ScaleDtype::F32 };
    QuantizedMatrix::from_parts(n, k, scheme, packed, Scales::F32(scales), zero_points).unwrap()
}

fn bias(case: &Case) -> Option<Vec<f32>> {
    has_input(case, "bias").then(|| case.input("bias"))
}

/// `Σ_g acc * x_scale * w_scale + bias` in f64, of `[M, N, G]` accumulators.
fn reference(acc: &[i32], x_scales: &[f64], weight: &QuantizedMatrix, bias: Option<&[f32]>) -> Vec<f64> {
    let (n, groups) = (weight.rows(), weight.groups_per_row());
    let y = acc.chunks(groups).enumerate().map(|(i, acc)| {
        let (row, output) = (i / n, i % n);
        let x_scale = x_scales[if x_scales.len() == 1 { 0 } else { row }];
        let sum: f64 = acc
            .iter()
            .enumerate()
            .map(|(g, acc)| {
                f64::from(*acc) * x_scale * f64::from(weight.qparams(weight.scale_index(output, g)).scale)
            })
            .sum();
        sum + bias.map_or(0.0, |bias| f64::from(bias[output]))
    });
    y.collect()
}

fn recorded_codes<C: Code>(case: &Case, group: &str) -> Vec<C> {
    case.tensor(group, "x_q").values.iter().map(|q| C::narrow(*q as i32)).collect()
}

/// Runs the packed linear with every kernel there is and compares under `role`.
fn check_kernels(
    case: &mut Case,
    role: &str,
    weight: &QuantizedMatrix,
    run: impl Fn(&PackedMatrix, &mut [f32]),
) {
    for kernel in KernelKind::available() {
        let mut y = vec![0.0; case.param_usize("M") * weight.rows()];
        run(&PackedMatrix::new(weight.clone(), kernel).unwrap(), &mut y);
        case.check(role, &y);
    }
}

fn dynamic(case: &mut Case) {
    let m = case.param_usize("M");
    let x = case.input("x");
    let bounds = case.param("act_qparam_range").as_array().unwrap().clone();
    let range =
        QuantRange::new(bounds[0].as_i64().unwrap() as i32, bounds[1].as_i64().unwrap() as i32).unwrap();
    let (lo, hi) = ObserverKind::MinMax.choose_range(&x, range, Mapping::Affine, 0.0).unwrap();
    let chosen = choose_qparams_dynamic(lo, hi, range).unwrap();
    case.check("x_scale", &[chosen.scale]);
    case.check("x_zero_point", &[chosen.zero_point]);

    let recorded = case.qparams_of("expected", "x_scale", "x_zero_point")[0];
    let codes: Vec<u8> = quantize(&x, recorded, QuantRange::UINT8).unwrap();
    case.check("x_q", &codes);

    let (weight, bias) = (weight(case, Bits::Int8), bias(case));
    let codes: Vec<u8> = recorded_codes(case, "expected");
    let acc = int_matmul(&codes, &vec![recorded.zero_point; m], &weight).unwrap();
    case.check("acc", &acc);
    let y = reference(&acc, &[recorded.scale.into()], &weight, bias.as_deref());
    case.check("y_ref", &y);
    let input = QuantizedActivations::from_codes(m, weight.cols(), codes, vec![recorded]).unwrap();
    check_kernels(case, "y_torch", &weight, |w, y| linear_quantized(&input, w, bias.as_deref(), y).unwrap());
}

fn fixed(case: &mut Case) {
    let (weight, bias) = (weight(case, Bits::Int8), bias(case));
    let input = case.qparams_of("inputs", "x_scale", "x_zero_point")[0];
    let output = case.qparams_of("inputs", "y_scale", "y_zero_point")[0];
    let zero_points = vec![input.zero_point; case.param_usize("M")];
    let acc = if case.param("act_dtype") == "quint8" {
        int_matmul(&recorded_codes::<u8>(case, "inputs"), &zero_points, &weight)
    } else {
        int_matmul(&recorded_codes::<i8>(case, "inputs"), &zero_points, &weight)
    };
    let acc = acc.unwrap();
    case.check("acc", &acc);
    let y = reference(&acc, &[input.scale.into()], &weight, bias.as_deref());
    case.check("y_ref", &y);
    let y: Vec<f32> = y.iter().map(|y| *y as f32).collect();
    let codes: Vec<i16> = quantize(&y, output, case.range()).unwrap();
    for role in ["y_q", "y_q_ref"] {
        if case.has_expected(role) {
            case.check(role, &codes);
        }
    }
}

fn weight_only(case: &mut Case) {
    let bits = Bits::try_from(case.param_usize("bits") as u8).unwrap();
    let (weight, bias, m) = (weight(case, bits), bias(case), case.param_usize("M"));
    assert_eq!(weight.group_width(), case.param_usize("group_size"));
    let (x, w) = (case.input("x"), weight.dequantize());
    let (n, k) = (weight.rows(), weight.cols());
    let y: Vec<f64> = (0..m * n)
        .map(|i| {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[i % n]))
        })
        .collect();
    case.check("y_ref", &y);
    check_kernels(case, "y_torch", &weight, |w, y| {
        linear(&x, m, w, &ActivationQuant::Float, bias.as_deref(), y).unwrap();
    });
}

fn per_token(case: &mut Case) {
    let params = &case.json["params"];
    let range = range_of(params, "act_qmin", "act_qmax");
    let mapping = mapping(case.param("act_mapping"));
    let eps = case.param_f32("act_eps");
    let bits = if range_of(params, "w_qmin", "w_qmax") == QuantRange::INT4 { Bits::Int4 } else { Bits::Int8 };
    let (weight, bias) = (weight(case, bits), bias(case));
    let (x, k) = (case.input("x"), weight.cols());

    let choose = |row: &[f32]| {
        let (lo, hi) = ObserverKind::MinMax.choose_range(row, range, mapping, eps).unwrap();
        choose_qparams(lo, hi, range, mapping, eps).unwrap()
    };
    let chosen: Vec<QParams> = x.chunks(k).map(choose).collect();
    case.check("x_scale", &chosen.iter().map(|q| q.scale).collect::<Vec<_>>());
    case.check("x_zero_point", &chosen.iter().map(|q| q.zero_point).collect::<Vec<_>>());

    let recorded = case.qparams_of("expected", "x_scale", "x_zero_point");
    let codes: Vec<i8> =
        x.chunks(k).zip(&recorded).flat_map(|(row, q)| quantize::<i8>(row, *q, range).unwrap()).collect();
    case.check("x_q", &codes);

    let zero_points: Vec<i32> = recorded.iter().map(|q| q.zero_point).collect();
    let acc = int_matmul_grouped(&recorded_codes::<i8>(case, "expected"), &zero_points, &weight).unwrap();
    case.check("acc", &acc);
    let scales: Vec<f64> = recorded.iter().map(|q| f64::from(q.scale)).collect();
    case.check("y_ref", &reference(&acc, &scales, &weight, bias.as_deref()));
}
