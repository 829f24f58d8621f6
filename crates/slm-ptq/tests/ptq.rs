//! Tests of post-training quantization of a user-defined module, and of the properties that users of the library rely
//! on.

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation::relu};
use slm_nn::{Linear, NamedLinears, to_vec_f32};
use slm_ptq::{
    Calibration, ChannelFactors, DynamicInputs, Error, LayerComparison, Plan, PtqConfig, RoundingMethod,
    calibrate, convert,
};
use slm_quant_core::{
    ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QuantRange, QuantScheme, QuantizationType,
    TORCH_EPS, choose_qparams,
};
use slm_testing::{Random, ramp as values};

#[derive(Module, Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl NamedLinears for Mlp {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit("up", &self.up);
        visit("down", &self.down);
    }
    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit("up", &mut self.up);
        visit("down", &mut self.down);
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    slm_testing::tensor(values, shape, &Device::flex())
}

fn linear(seed: usize, outputs: usize, inputs: usize) -> Linear {
    Linear::from_weight(tensor(values(seed, outputs * inputs), [outputs, inputs]), None).unwrap()
}

fn mlp() -> Mlp {
    Mlp { up: linear(1, 24, 16), down: linear(2, 16, 24) }
}

impl Mlp {
    fn run(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(relu(self.up.forward(x)))
    }
}

fn input() -> Tensor<2> {
    tensor(values(3, 5 * 16), [5, 16])
}

fn config(quantization_type: QuantizationType) -> PtqConfig {
    PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), quantization_type)
}

fn calibrated(model: &mut Mlp, plan: &Plan, config: &PtqConfig) -> Calibration {
    calibrate(model, plan, config, |model| {
        model.run(input());
        Ok::<_, Error>(())
    })
    .unwrap()
}

#[test]
fn static_parameters_are_those_of_the_inputs_that_were_seen() {
    let mut model = mlp();
    let mut config = config(QuantizationType::Static);
    config.activation_observer = ObserverKind::MinMax;
    let plan = Plan::new(&model, &config).unwrap();
    let calibration = calibrated(&mut model, &plan, &config);

    let hidden = to_vec_f32("hidden", relu(model.up.forward(input()))).unwrap();
    let most = hidden.iter().copied().fold(0.0, f32::max);
    let expected = choose_qparams(0.0, most, QuantRange::UINT8, Mapping::Affine, TORCH_EPS).unwrap();
    let down = calibration.layers["down"].activation.unwrap();
    assert_eq!((down.qparams, down.max), (expected, most));

    let reports = convert(&mut model, &plan, &config, Some(&calibration), &mut |_| {}).unwrap();
    assert_eq!(reports[1].activation, ActivationQuant::Static(expected));
    assert_eq!(model.down.packed().unwrap().activation(), ActivationQuant::Static(expected));
}

#[test]
fn the_extremes_of_inputs_are_kept_next_to_the_range_that_was_chosen() {
    // An outlier at each end, in separate batches.
    let batches =
        [vec![0.5; 16], [vec![-7.25], vec![0.25; 15]].concat(), [vec![0.25; 31], vec![40.0]].concat()];
    let run = |model: &Mlp| {
        for batch in &batches {
            model.run(tensor(batch.clone(), [batch.len() / 16, 16]));
        }
        Ok::<_, Error>(())
    };
    let mut config = config(QuantizationType::Static);
    config.dynamic_inputs = DynamicInputs::None;
    let moving_average = ObserverKind::MovingAverage { averaging_constant: 0.01 };
    for observer in [ObserverKind::Percentile { percentile: 90.0 }, moving_average, ObserverKind::MinMax] {
        config.activation_observer = observer;
        let mut model = mlp();
        let plan = Plan::new(&model, &config).unwrap();
        let calibration = calibrate(&mut model, &plan, &config, run).unwrap();
        assert_eq!(calibration.layers["up"].activation.unwrap().observed, (-7.25, 40.0), "{observer}");
        let reports = convert(&mut model, &plan, &config, Some(&calibration), &mut |_| {}).unwrap();
        assert_eq!(reports[0].observed_input, Some((-7.25, 40.0)), "{observer}");
        let kept = reports[0].activation.static_params().unwrap().scale * 255.0;
        let is_whole = observer == ObserverKind::MinMax;
        assert!(if is_whole { (kept - 47.25).abs() < 1e-3 } else { kept < 2.0 }, "{observer}: {kept}");
    }

    // Nothing is observed if ranges are computed from each input.
    config.quantization_type = QuantizationType::Dynamic;
    let mut model = mlp();
    let plan = Plan::new(&model, &config).unwrap();
    let calibration = calibrate(&mut model, &plan, &config, run).unwrap();
    let reports = convert(&mut model, &plan, &config, Some(&calibration), &mut |_| {}).unwrap();
    assert_eq!(reports[0].observed_input, None);
}

#[test]
fn every_type_stays_close_to_the_float_model_and_reports_what_it_did() {
    for quantization_type in
        [QuantizationType::WeightOnly, QuantizationType::Dynamic, QuantizationType::Static]
    {
        let mut model = mlp();
        let config = config(quantization_type);
        let plan = Plan::new(&model, &config).unwrap();
        let calibration = calibrated(&mut model, &plan, &config);
        let mut seen = Vec::new();
        let reports = convert(&mut model, &plan, &config, Some(&calibration), &mut |layer| {
            seen.push(layer.name.clone())
        })
        .unwrap();
        assert_eq!(seen, ["up", "down"]);
        for report in &reports {
            assert_eq!(report.bytes_before, 24 * 16 * 4);
            assert_eq!(report.bytes_after, 24 * 16 + 4);
            assert_eq!(report.qparams.len(), 1);
            assert!(report.error.sqnr_db() > 38.0, "{quantization_type}: {} dB", report.error.sqnr_db());
            assert_eq!(
                report.activation.static_params().is_some(),
                quantization_type == QuantizationType::Static
            );
        }
        let mut float = mlp();
        let mut comparison = LayerComparison::new(&float, &model).unwrap();
        let run = |model: &Mlp| Ok::<_, Error>(model.run(input()));
        comparison.observe(&mut float, &mut model, run, run).unwrap();
        for layer in comparison.finish() {
            let sqnr = layer.error.sqnr_db();
            assert!(sqnr > 30.0 && sqnr.is_finite(), "{quantization_type}: {} {sqnr} dB", layer.name);
            // The first layer inherits no error; the second adds its own error to the inherited one.
            let own = layer.own_error.sqnr_db();
            if layer.name == "up" {
                assert_eq!(own, sqnr, "{quantization_type}");
            } else {
                assert!(own.is_finite() && own > sqnr, "{quantization_type}: {own} dB, {sqnr} dB in all");
            }
        }
    }
}

#[test]
fn a_model_compared_with_itself_shows_no_error() {
    let (mut a, mut b) = (mlp(), mlp());
    let mut comparison = LayerComparison::new(&a, &b).unwrap();
    let run = |model: &Mlp| Ok::<_, Error>(model.run(input()));
    comparison.observe(&mut a, &mut b, run, run).unwrap();
    let differences = comparison.finish();
    assert_eq!(differences.len(), 2);
    assert!(differences.iter().all(|layer| layer.error.sqnr_db() == f64::INFINITY));
    assert!(differences.iter().all(|layer| layer.own_error.sqnr_db() == f64::INFINITY));
    assert!(differences.iter().all(|layer| layer.own_error.count() == layer.error.count()));
}

/// With known factors, a model whose channels were scaled between two layers compares as equal.
#[test]
fn factors_between_channels_are_taken_out() {
    let (mut a, mut b) = (mlp(), mlp());
    let factors: Vec<f32> = (0..24).map(|index| 0.5 + index as f32 / 16.0).collect();
    let scaled = |linear: &Linear, shape: [usize; 2], factor: &dyn Fn(usize) -> f32| {
        let weight = linear.weight.clone();
        let slm_nn::Weight::Float(weight) = weight else { panic!("float") };
        let values = to_vec_f32("weight", weight.val()).unwrap();
        let values = values.iter().enumerate().map(|(index, value)| value * factor(index)).collect();
        Linear::from_weight(tensor(values, shape), None).unwrap()
    };
    b.up = scaled(&b.up, [24, 16], &|index| factors[index / 16]);
    b.down = scaled(&b.down, [16, 24], &|index| 1.0 / factors[index % 24]);
    let run = |model: &Mlp| Ok::<_, Error>(model.run(input()));
    let compared = |comparison: LayerComparison, a: &mut Mlp, b: &mut Mlp| {
        let mut comparison = comparison;
        comparison.observe(a, b, run, run).unwrap();
        let of = |layer: slm_ptq::LayerDifference| [layer.error.sqnr_db(), layer.own_error.sqnr_db()];
        comparison.finish().into_iter().flat_map(of).collect::<Vec<_>>()
    };
    let plain = compared(LayerComparison::new(&a, &b).unwrap(), &mut a, &mut b);
    assert!(plain[0] < 20.0 && plain[1] < 20.0 && plain[3] < 20.0, "{plain:?}");
    assert!(plain[2] > 100.0, "the model computes the same: {plain:?}");
    let known = [
        ("up", ChannelFactors { input: None, output: Some(factors.clone()) }),
        ("down", ChannelFactors { input: Some(factors), output: None }),
    ];
    let known = known.map(|(name, factors)| (name.to_owned(), factors)).into();
    let comparison = LayerComparison::new(&a, &b).unwrap().with_factors(known);
    let out = compared(comparison, &mut a, &mut b);
    assert!(out.iter().all(|sqnr| *sqnr > 100.0), "{out:?}");
}

#[test]
fn skipped_layers_stay_float_and_say_why() {
    let mut model = mlp();
    let mut config = config(QuantizationType::Dynamic);
    config.skip = vec!["do*".to_owned()];
    let plan = Plan::new(&model, &config).unwrap();
    assert_eq!(plan.skipped[0].name, "down");
    assert_eq!(plan.skipped[0].reason, "skip pattern \"do*\"");
    let reports = convert(&mut model, &plan, &config, None, &mut |_| {}).unwrap();
    assert_eq!(reports.len(), 1);
    assert!(model.up.packed().is_some() && model.down.packed().is_none());
}

#[test]
fn what_cannot_be_done_is_said_before_anything_changes() {
    let model = mlp();
    let refused = |change: &dyn Fn(&mut PtqConfig)| {
        let mut config = config(QuantizationType::Dynamic);
        change(&mut config);
        Plan::new(&model, &config).unwrap_err().to_string()
    };
    let message = refused(&|config| config.skip = vec!["lm_head".to_owned()]);
    assert!(
        message.contains("\"lm_head\" matches no linear layer") && message.contains("\"up\""),
        "{message}"
    );
    let message = refused(&|config| config.skip = vec!["[".to_owned()]);
    assert!(message.contains("skip pattern \"[\""), "{message}");
    let message = refused(&|config| config.skip = vec!["*".to_owned()]);
    assert!(message.contains("skip patterns match all 2 linear layers"), "{message}");
    let message = refused(&|config| config.scheme.granularity = Granularity::PerGroup { group_size: 17 });
    assert!(message.contains("layer up: group size 17 does not fit a width of 16"), "{message}");
}

#[test]
fn static_quantization_needs_calibration_that_reaches_every_layer() {
    let mut model = mlp();
    let config = config(QuantizationType::Static);
    let plan = Plan::new(&model, &config).unwrap();
    let unreached = calibrate(&mut model, &plan, &config, |model| {
        model.up.forward(input());
        Ok::<_, Error>(())
    });
    assert!(matches!(unreached, Err(Error::NotCalibrated { layer }) if layer == "down"));
    let uncalibrated = convert(&mut model, &plan, &config, None, &mut |_| {});
    assert!(matches!(uncalibrated, Err(Error::NotCalibrated { layer }) if layer == "up"));
    assert!(model.up.packed().is_none());
}

#[test]
fn inputs_that_are_not_finite_fail_calibration_by_name() {
    let mut model = mlp();
    let config = config(QuantizationType::Static);
    let plan = Plan::new(&model, &config).unwrap();
    let failed = calibrate(&mut model, &plan, &config, |model| {
        model.run(tensor(vec![f32::NAN; 16], [1, 16]));
        Ok::<_, Error>(())
    });
    assert!(failed.unwrap_err().to_string().contains("layer up: "));
}

#[test]
fn a_packed_layer_is_not_quantized_again() {
    let mut model = mlp();
    let config = config(QuantizationType::WeightOnly);
    let plan = Plan::new(&model, &config).unwrap();
    convert(&mut model, &plan, &config, None, &mut |_| {}).unwrap();
    let again = Plan::new(&model, &config).unwrap_err().to_string();
    assert!(again.contains("layer up") && again.contains("packed"), "{again}");
}

/// Inputs of few directions and many sizes, as those of a language model are.
fn typical_input() -> Tensor<2> {
    let mut random = Random(7);
    let directions: Vec<f32> = (0..3 * 16).map(|_| random.normal()).collect();
    let mut x = Vec::new();
    for _ in 0..200 {
        let strengths: [f32; 3] = std::array::from_fn(|_| random.normal());
        for i in 0..16 {
            let common: f32 = (0..3).map(|k| strengths[k] * directions[16 * k + i]).sum();
            x.push([0.1, 1.0, 4.0][i % 3] * (common + 0.3 * random.normal()));
        }
    }
    tensor(x, [200, 16])
}

/// Squared error of the outputs of a quantized layer.
fn output_error(config: &PtqConfig, calibrated: bool) -> f64 {
    let mut random = Random(8);
    let weight = (0..24 * 16).map(|_| random.normal()).collect();
    let up = Linear::from_weight(tensor(weight, [24, 16]), None).unwrap();
    let mut model = Mlp { up, down: linear(2, 16, 24) };
    let expected = model.up.forward(typical_input());
    let plan = Plan::new(&model, config).unwrap();
    let forward = |model: &Mlp| {
        model.run(typical_input());
        Ok::<_, Error>(())
    };
    let calibration = calibrated.then(|| calibrate(&mut model, &plan, config, forward).unwrap());
    convert(&mut model, &plan, config, calibration.as_ref(), &mut |_| {}).unwrap();
    let difference = model.up.forward(typical_input()) - expected;
    to_vec_f32("difference", difference).unwrap().iter().map(|x| f64::from(*x).powi(2)).sum()
}

#[test]
fn calibration_makes_outputs_better_and_gptq_more_so() {
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    for granularity in
        [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 8 }]
    {
        let mut config = PtqConfig::new(scheme.with_granularity(granularity), QuantizationType::WeightOnly);
        assert_eq!(config.weight_observer(false), ObserverKind::MinMax);
        assert_eq!(config.weight_observer(true), ObserverKind::WeightedMse);
        let (without, with) = (output_error(&config, false), output_error(&config, true));
        config.method = RoundingMethod::Gptq;
        let gptq = output_error(&config, true);
        assert!(with < without, "{granularity}: {with} against {without}");
        assert!(gptq < 0.8 * with, "{granularity}: {gptq} against {with}");
    }
}

#[test]
fn methods_that_need_inputs_say_so() {
    for change in [(|config| config.method = RoundingMethod::Gptq) as fn(&mut PtqConfig), |config| {
        config.observer = Some(ObserverKind::WeightedMse)
    }] {
        let mut config = config(QuantizationType::WeightOnly);
        change(&mut config);
        let mut model = mlp();
        let plan = Plan::new(&model, &config).unwrap();
        let refused = convert(&mut model, &plan, &config, None, &mut |_| {}).unwrap_err();
        assert!(matches!(&refused, Error::NotCalibrated { layer } if layer == "up"), "{refused}");
        assert!(config.needs_calibration());
    }
    let unknown = "nearest".parse::<RoundingMethod>().unwrap_err().to_string();
    assert!(unknown.starts_with("must be rtn (") && unknown.ends_with("not \"nearest\""), "{unknown}");
}
