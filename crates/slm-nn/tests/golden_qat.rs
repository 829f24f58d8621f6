//! Five SGD steps of quantization-aware training of a linear layer, against PyTorch's.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use serde_json::Value;
use slm_nn::{
    FakeQuantizedInput, FakeQuantizedWeight, Linear, SharedQatStage, Weight, cpu_devices, to_vec_f32,
};
use slm_quant_core::{Bits, Granularity, Mapping, ObserverKind, QuantScheme};
use slm_testing::shared_dir;

struct Golden<'a> {
    case: &'a Value,
    tensors: &'a SafeTensors<'a>,
}

impl Golden<'_> {
    fn values(&self, role: &str, name: &str) -> Vec<f32> {
        let key = self.case[role][name].as_str().unwrap();
        let (values, _) = self.tensors.tensor(key).unwrap().data().as_chunks::<4>();
        values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// Compares the values of one step.
    fn check(&self, name: &str, step: usize, found: &[f32]) {
        let expected = self.values("expected", name);
        let expected = &expected[step * found.len()..][..found.len()];
        let rule = &self.case["tolerance"][name];
        let (abs, rel) = match rule["mode"].as_str().unwrap() {
            "exact" => (0.0, 0.0),
            "abs_rel" => (rule["abs"].as_f64().unwrap() as f32, rule["rel"].as_f64().unwrap() as f32),
            other => panic!("{name}: tolerance {other}"),
        };
        for (found, expected) in found.iter().zip(expected) {
            let allowed = abs + rel * expected.abs();
            let case = &self.case["name"];
            assert!((found - expected).abs() <= allowed, "{case} {name}, step {step}: {found} {expected}");
        }
    }
}

/// The scheme of a case, for those whose codes have the full range of their width.
fn scheme(weight: &Value) -> Option<QuantScheme> {
    let bits = match (weight["qmin"].as_i64()?, weight["qmax"].as_i64()?) {
        (-128, 127) => Bits::Int8,
        (-8, 7) => Bits::Int4,
        _ => return None,
    };
    let granularity = match weight["granularity"].as_str()? {
        "tensor" => Granularity::PerTensor,
        _ => Granularity::PerChannel,
    };
    Some(QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(Mapping::SymmetricTorch))
}

#[test]
fn golden_steps_of_a_fake_quantized_linear() {
    let Some(dir) = shared_dir("golden") else { return };
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut run = 0;
    for case in index["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "qat") {
        let Some(scheme) = scheme(&case["params"]["weight_fake_quant"]) else { continue };
        for device in cpu_devices() {
            steps(&Golden { case, tensors: &tensors }, scheme, &device.autodiff());
        }
        run += 1;
    }
    println!("{run} cases");
    assert!(run >= 6, "{run} cases");
}

fn steps(golden: &Golden<'_>, scheme: QuantScheme, device: &Device) {
    let params = &golden.case["params"];
    let size = |name: &str| params[name].as_u64().unwrap() as usize;
    let (k, n, m) = (size("in_features"), size("out_features"), size("batch"));
    let lr = params["lr"].as_f64().unwrap();
    let constant = |who: &str| params[who]["averaging_constant"].as_f64().unwrap() as f32;
    let tensor = |values: Vec<f32>, shape: [usize; 2]| -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    let weight = Param::from_tensor(tensor(golden.values("inputs", "weight0"), [n, k]));
    let observer = ObserverKind::MovingAverage { averaging_constant: constant("weight_fake_quant") };
    let input = FakeQuantizedInput::Observed { averaging_constant: constant("activation_fake_quant") };
    let stage = SharedQatStage::default();
    let mut fake = FakeQuantizedWeight::new(weight, scheme, observer, input, &stage).unwrap();
    let bias = golden.values("inputs", "bias0");
    let mut bias: Tensor<1> = Tensor::from_data(TensorData::new(bias, [n]), device).require_grad();
    let (x, target) = (golden.values("inputs", "x"), golden.values("inputs", "target"));
    for step in 0..size("steps") {
        // One batch for all steps, or one for each.
        let batch = |all: &[f32], len: usize| {
            if all.len() == len { all.to_vec() } else { all[step * len..][..len].to_vec() }
        };
        let (x, target) = (tensor(batch(&x, m * k), [m, k]), tensor(batch(&target, m * n), [m, n]));
        let mut linear = Linear::new(Weight::FakeQuantized(fake.clone()), None).unwrap();
        linear.bias = Some(Param::from_tensor(bias.clone()));
        let bias_param = linear.bias.as_ref().unwrap().val();
        let y = linear.forward(x);
        golden.check("y", step, &to_vec_f32("y", y.clone()).unwrap());
        let difference = y - target;
        let loss = (difference.clone() * difference).mean();
        golden.check("loss", step, &to_vec_f32("loss", loss.clone()).unwrap());
        let grads = loss.backward();
        let (min, max) = fake.input_bounds().unwrap();
        golden.check("x_min", step, &[min]);
        golden.check("x_max", step, &[max]);
        let scales = fake.quantize().unwrap().scales().to_f32();
        golden.check("w_scale", step, &scales);
        let by_weight = fake.float_weight().grad(&grads).unwrap();
        let by_bias = bias_param.grad(&grads).unwrap();
        golden.check("grad_weight", step, &to_vec_f32("grad", by_weight.clone()).unwrap());
        golden.check("grad_bias", step, &to_vec_f32("grad", by_bias.clone()).unwrap());

        let updated = fake.float_weight().inner() - by_weight * lr;
        golden.check("weight", step, &to_vec_f32("weight", updated.clone()).unwrap());
        let state = fake.state().unwrap();
        let weight = Param::from_tensor(Tensor::from_inner(updated));
        fake = FakeQuantizedWeight::new(weight, scheme, observer, input, &stage).unwrap();
        fake.restore(&state).unwrap();
        let updated = bias_param.inner() - by_bias * lr;
        golden.check("bias", step, &to_vec_f32("bias", updated.clone()).unwrap());
        bias = Tensor::from_inner(updated).require_grad();
    }
}
