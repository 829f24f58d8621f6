use slm_nn::linear_names;

use super::*;
use crate::eval::window_logits;
use crate::testing::{configs, cpu_devices, random_weights, tensors_of};

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
fn blocks_in_turn_compute_what_the_model_does() {
    let ids: Vec<u32> = (0..13).map(|i| (i * i * 7 + i) % 50).collect();
    let autodiff = cpu_devices().into_iter().map(Device::autodiff);
    for device in cpu_devices().into_iter().chain(autodiff) {
        for (name, config) in configs() {
            let model = random_weights(&config, &Device::flex());
            let expected = window_logits(&model, &ids).unwrap();
            let mut source = tensors_of(&model).1;
            // A tied embedding is read twice.
            let mut of_head = source.clone();
            let mut blocks = BlockwiseModel::new(&config, &mut source).unwrap();
            assert_eq!(blocks.layers(), config.num_layers);
            let mut stream = blocks.embed(&[&ids], &device).unwrap().remove(0);
            for index in 0..blocks.layers() {
                let block = blocks.block(index, &device).unwrap();
                assert!(linear_names(&block)[0].starts_with(&format!("layers.{index}.")), "{name}");
                stream = block.forward(stream);
            }
            let head = BlockwiseModel::new(&config, &mut of_head).unwrap().head(&device).unwrap();
            let x = head.inputs(stream);
            let mut logits = Vec::new();
            head.for_each_linear(&mut |_, head| logits = values(head.forward(x.clone())));
            let factor = config.logit_multiplier as f32;
            assert_eq!(logits.len(), expected.len(), "{name}");
            for (logit, expected) in logits.iter().zip(&expected) {
                assert!((logit * factor - expected).abs() < 1e-4, "{name}, {device:?}: {logit} {expected}");
            }
        }
    }
}

#[test]
fn windows_that_do_not_fit_are_errors() {
    let (_, config) = configs().swap_remove(0);
    let device = &Device::flex();
    let mut source = tensors_of(&random_weights(&config, device)).1;
    let mut blocks = BlockwiseModel::new(&config, &mut source).unwrap();
    let mut embed = |ids: &[u32]| blocks.embed(&[ids], device).map(|streams| streams.len());
    assert!(matches!(embed(&[]), Err(Error::EmptyPrompt)));
    assert!(matches!(embed(&[50]), Err(Error::TokenId { .. })));
    assert!(matches!(embed(&[0; 65]), Err(Error::TooManyPositions { .. })));
}
