use super::*;
use crate::testing::{by_path, cpu_devices, poisoned, tiny_config};
use slm_model::Transformer;

fn model(device: &Device) -> Transformer {
    Transformer::new(&tiny_config().model, 3, &device.clone().autodiff()).unwrap()
}

fn gradients(model: &Transformer, factor: f64) -> GradientsParams {
    let ids: Vec<u32> = (0..20).collect();
    let loss = model.forward(model.ids_tensor(&ids)).square().mean().mul_scalar(factor);
    GradientsParams::from_grads(loss.backward(), model)
}

fn values(model: &Transformer) -> BTreeMap<String, Vec<f32>> {
    by_path(model, None)
}

#[test]
fn only_weights_of_linear_layers_decay() {
    for device in cpu_devices() {
        let model = model(&device);
        let before = values(&model);
        let options = TrainingOptions { weight_decay: 0.5, epsilon: 1.0, ..TrainingOptions::default() };
        // Gradients so small compared with epsilon that only decay has an effect.
        let mut tiny = gradients(&model, 1e-12);
        let norm = global_norm(&model, &tiny).unwrap();
        let model = ModelOptimizer::new(&options, 0.1).step(0.1, model, &mut tiny, norm);
        let mut decayed = 0;
        for (path, after) in values(&model) {
            let linear = path.ends_with("_proj.weight.Float");
            let factor = if linear { 1.0 - 0.1 * 0.5 } else { 1.0 };
            decayed += usize::from(linear);
            for (before, after) in before[&path].iter().zip(after) {
                assert!((before * factor - after).abs() < 1e-6, "{path}: {before} {after}");
            }
        }
        assert_eq!(decayed, 2 * 7, "q, k, v, o, gate, up and down of two layers");
    }
}

/// States that were saved before the variant was renamed can be read, and are written under the old name.
#[test]
fn saved_states_name_trained_codes_as_they_always_have() {
    assert_eq!(stored_segment("QuantizedTrainable"), "Tuned");
    for name in ["Float", "FakeQuantized", "weight", "update"] {
        assert_eq!(stored_segment(name), name);
    }
}

#[test]
fn the_norm_is_that_of_all_gradients_together() {
    let model = model(&Device::flex());
    let found = gradients(&model, 1.0);
    struct Sum<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = self.0.get::<D>(param.id).unwrap().into_data().try_into_vec::<f32>().unwrap();
            self.1 += values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        }
    }
    let mut sum = Sum(&found, 0.0);
    model.visit(&mut sum);
    let norm = global_norm(&model, &found).unwrap();
    assert!((norm / sum.1.sqrt() - 1.0).abs() < 1e-5, "{norm}");
}

/// AdamW divides by the size of the gradient, so clipping shows in the moments.
#[test]
fn clipping_scales_all_gradients_alike() {
    let model = model(&Device::flex());
    let mut found = gradients(&model, 1.0);
    let norm = global_norm(&model, &found).unwrap();
    let moments = |grad_clip: f64, gradients: &mut GradientsParams| {
        let mut optimizer =
            ModelOptimizer::new(&TrainingOptions { grad_clip, ..TrainingOptions::default() }, 0.1);
        optimizer.step(1e-3, model.clone(), gradients, norm);
        let states: Vec<f32> = optimizer
            .states
            .values()
            .flat_map(|Moments(state)| state.moment_1.to_data().try_into_vec::<f32>().unwrap())
            .collect();
        states
    };
    let clipped = moments(norm / 4.0, &mut gradients(&model, 1.0));
    let loose = moments(norm * 4.0, &mut gradients(&model, 1.0));
    let off = moments(0.0, &mut found);
    assert_eq!(loose, off);
    for (clipped, off) in clipped.iter().zip(&off) {
        assert!((clipped * 4.0 - off).abs() <= 1e-5 * off.abs() + 1e-12, "{clipped} {off}");
    }
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    let model = model(&Device::flex());
    let poisoned = poisoned(model.clone());
    let before = values(&model);
    let mut optimizer = ModelOptimizer::new(&TrainingOptions::default(), 0.1);
    let mut bad = gradients(&poisoned, 1.0);
    let norm = global_norm(&model, &bad).unwrap();
    let after = optimizer.step(0.1, model, &mut bad, norm);
    assert!(norm.is_nan());
    assert_eq!(values(&after), before);
    assert!(optimizer.states.is_empty());
}

/// The serialized state.
fn bytes_of(optimizer: &ModelOptimizer) -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    optimizer.write_file(&path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn state_comes_back_and_damage_is_named() {
    let device = Device::flex();
    let model = model(&device);
    let options = TrainingOptions::default();
    let mut optimizer = ModelOptimizer::new(&options, 0.1);
    let model = optimizer.step(1e-2, model.clone(), &mut gradients(&model, 1.0), 1.0);
    let bytes = bytes_of(&optimizer);
    let mut loaded = ModelOptimizer::new(&options, 0.1);
    loaded.load(&bytes, 1, 0, &model, &device).unwrap();
    assert_eq!(bytes_of(&loaded), bytes);
    let a = optimizer.step(1e-2, model.clone(), &mut gradients(&model, 1.0), 1.0);
    let b = loaded.step(1e-2, model.clone(), &mut gradients(&model, 1.0), 1.0);
    assert_eq!(values(&a), values(&b));

    let mut refuse =
        |bytes: &[u8], model: &Transformer| loaded.load(bytes, 1, 0, model, &device).unwrap_err().to_string();
    assert!(refuse(&bytes[..bytes.len() / 2], &model).contains("optimizer"));
    let mut wide = tiny_config().model;
    wide.intermediate_size += 1;
    let wide = Transformer::new(&wide, 0, &device.clone().autodiff()).unwrap();
    let message = refuse(&bytes, &wide);
    assert!(message.contains("proj.weight.Float.moment_1"), "{message}");
    wide_layers(&mut refuse, &bytes, &device);
}

fn wide_layers(refuse: &mut impl FnMut(&[u8], &Transformer) -> String, bytes: &[u8], device: &Device) {
    let mut deep = tiny_config().model;
    deep.num_layers += 1;
    let message = refuse(bytes, &Transformer::new(&deep, 0, &device.clone().autodiff()).unwrap());
    assert!(message.contains("the model needs"), "{message}");
}
