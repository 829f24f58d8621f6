use burn::module::ModuleVisitor;
use burn::optim::{GradientsParams, SgdConfig};
use slm_nn::linear_names;

use super::*;
use crate::names::expected_tensors;
use crate::testing::{ShapeOf, configs, cpu_devices, random_weights, tensors_of};

const IDS: [u32; 13] = [3, 49, 0, 17, 17, 8, 25, 31, 1, 44, 12, 9, 30];

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn cached_passes_equal_one_full_pass() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let model = random_weights(&config, &device);
            let full = values(model.forward(model.ids_tensor(&IDS)));
            assert!(full.iter().any(|v| v.abs() > 0.1), "{name}: logits too flat to compare");
            // A prompt, single tokens, several tokens at once, and again single ones.
            for chunks in [&[13][..], &[1; 13], &[4, 1, 1, 5, 1, 1], &[7, 6]] {
                let mut cache = model.new_cache(1, 13);
                let mut found = Vec::new();
                let mut start = 0;
                for &len in chunks {
                    let ids = model.ids_tensor(&IDS[start..start + len]);
                    found.extend(values(model.forward_cached(ids, &mut cache)));
                    start += len;
                    assert_eq!(cache.len(), start);
                }
                let difference = max_difference(&full, &found);
                assert!(difference < 1e-5, "{name} on {device:?} by {chunks:?}: {difference}");
            }
            let mut cache = model.new_cache(1, 20);
            let last = values(model.forward_last(model.ids_tensor(&IDS), &mut cache));
            assert!(max_difference(&last, &full[12 * 50..]) < 1e-5, "{name}");
        }
    }
}

#[test]
fn a_truncated_cache_continues_from_where_it_was_cut() {
    for device in cpu_devices() {
        let model = random_weights(&configs()[4].1, &device);
        let full = values(model.forward(model.ids_tensor(&IDS)));
        let mut cache = model.new_cache(1, 13);
        model.forward_cached(model.ids_tensor(&IDS[..9]), &mut cache);
        cache.truncate(6);
        let rest = values(model.forward_cached(model.ids_tensor(&IDS[6..]), &mut cache));
        assert!(max_difference(&rest, &full[6 * 50..]) < 1e-5);
    }
}

#[test]
#[cfg(feature = "ndarray")]
fn both_devices_agree() {
    for (name, config) in configs() {
        let [a, b] = <[_; 2]>::try_from(cpu_devices()).unwrap().map(|device| {
            let model = random_weights(&config, &device);
            values(model.forward(model.ids_tensor(&IDS)))
        });
        assert!(max_difference(&a, &b) < 1e-5, "{name}");
    }
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let model = random_weights(&config, &device);
            let other: Vec<u32> = IDS.iter().map(|id| (id + 5) % 50).collect();
            let batch = Tensor::cat(vec![model.ids_tensor(&IDS), model.ids_tensor(&other)], 0);
            let together = values(model.forward(batch));
            let alone = [&IDS[..], &other].map(|ids| values(model.forward(model.ids_tensor(ids)))).concat();
            assert!(max_difference(&together, &alone) < 1e-5, "{name}");
        }
    }
}

#[test]
fn later_tokens_do_not_change_earlier_logits() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let model = random_weights(&config, &device);
            let mut changed = IDS;
            changed[8] = 2;
            let [a, b] = [IDS, changed].map(|ids| values(model.forward(model.ids_tensor(&ids))));
            assert!(max_difference(&a[..8 * 50], &b[..8 * 50]) < 1e-6, "{name}");
            assert!(max_difference(&a[8 * 50..], &b[8 * 50..]) > 1e-3, "{name}");
        }
    }
}

#[test]
fn a_sliding_window_hides_what_is_behind_it() {
    for device in cpu_devices() {
        let mut config = configs()[4].1.clone();
        config.num_layers = 1;
        let model = random_weights(&config, &device);
        let mut changed = IDS;
        changed[2] = 33;
        let [a, b] = [IDS, changed].map(|ids| values(model.forward(model.ids_tensor(&ids))));
        // One layer with a window of 5: positions 2 to 6 see position 2, the others do not.
        for t in 0..IDS.len() {
            let difference = max_difference(&a[t * 50..(t + 1) * 50], &b[t * 50..(t + 1) * 50]);
            assert_eq!(difference > 1e-6, (2..7).contains(&t), "position {t}: {difference}");
        }
    }
}

#[test]
fn grouped_queries_equal_repeated_kv_heads() {
    for device in cpu_devices() {
        for index in [0, 1, 7] {
            let (name, grouped) = configs()[index].clone();
            let model = random_weights(&grouped, &device);
            let (_, mut source) = tensors_of(&model);
            let (width, groups) = (grouped.head_dim * 32, grouped.heads_per_kv_head());
            for (name, (shape, values)) in &mut source.0 {
                if name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight") {
                    shape[0] *= groups;
                    *values = values.chunks(width).flat_map(|head| head.repeat(groups)).collect();
                }
            }
            let mut repeated = grouped.clone();
            repeated.num_kv_heads = repeated.num_heads;
            let repeated = Transformer::from_tensors(&repeated, &mut source, &device).unwrap();
            let [a, b] = [&model, &repeated].map(|m| values(m.forward(m.ids_tensor(&IDS))));
            assert!(max_difference(&a, &b) < 1e-5, "{name}");
        }
    }
}

#[test]
fn untying_the_head_leaves_the_logits_and_the_embedding() {
    for device in cpu_devices() {
        let (_, config) = configs()[0].clone();
        let mut model = random_weights(&config, &device);
        let before = values(model.forward(model.ids_tensor(&IDS)));
        assert!(model.head_is_tied() && !linear_names(&model).contains(&"lm_head".to_owned()));
        model.untie_head();
        assert!(!model.head_is_tied() && !model.config().tie_word_embeddings);
        assert_eq!(linear_names(&model).last().map(String::as_str), Some("lm_head"));
        assert_eq!(values(model.forward(model.ids_tensor(&IDS))), before);
        let (list, source) = tensors_of(&model);
        assert_eq!(list.last().unwrap(), &("lm_head.weight".to_owned(), vec![50, 32]));
        assert_eq!(source.0["lm_head.weight"], source.0["embed_tokens.weight"]);
        // Saving and loading gives the same model.
        let again = Transformer::from_tensors(model.config(), &mut source.clone(), &device).unwrap();
        assert_eq!(values(again.forward(again.ids_tensor(&IDS))), before);
    }
}

#[test]
fn tensors_leave_as_the_config_expects_them_and_come_back() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let model = random_weights(&config, &device);
            let (list, mut source) = tensors_of(&model);
            let expected: Vec<ShapeOf> =
                expected_tensors(&config).into_iter().map(|t| (t.name, t.shape)).collect();
            assert_eq!(list, expected, "{name}");
            assert_eq!(config.parameter_count(), model.num_params() as u64, "{name}");
            let again = Transformer::from_tensors(&config, &mut source, &device).unwrap();
            assert!(source.0.is_empty(), "{name}: every tensor is asked for");
            assert_eq!(tensors_of(&again).1.0, tensors_of(&model).1.0);
        }
    }
}

#[test]
fn linear_names_follow_the_forward_order() {
    let model = Transformer::new(&configs()[2].1, 0, &Device::flex()).unwrap();
    let names = linear_names(&model);
    let layer = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let layer = layer.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    let expected: Vec<String> = (0..2)
        .flat_map(|n| layer.clone().map(move |name| format!("layers.{n}.{name}")))
        .chain(["lm_head".to_owned()])
        .collect();
    assert_eq!(names, expected);
    let mut model = model;
    let mut mutable = Vec::new();
    model.for_each_linear_mut(&mut |name, _| mutable.push(name.to_owned()));
    assert_eq!(mutable, expected);
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let device = &Device::flex();
    let config = &configs()[9].1;
    let (_, source) = tensors_of(&Transformer::new(config, 0, device).unwrap());
    for name in ["embed_positions.weight", "layers.1.mlp.up_proj.bias", "layers.0.self_attn.o_proj.weight"] {
        let mut missing = source.clone();
        missing.0.remove(name);
        let error = Transformer::from_tensors(config, &mut missing, device).unwrap_err();
        assert!(matches!(&error, Error::MissingTensor { name: found, .. } if found == name), "{error}");
        let mut misshapen = source.clone();
        misshapen.0.get_mut(name).unwrap().0[0] += 1;
        let error = Transformer::from_tensors(config, &mut misshapen, device).unwrap_err();
        assert!(matches!(&error, Error::TensorShape { name: found, .. } if found == name), "{error}");
    }
    let mut config = config.clone();
    config.num_kv_heads = 3;
    assert!(matches!(Transformer::new(&config, 0, device), Err(Error::Config { .. })));
}

#[test]
fn a_seed_gives_the_same_model_on_every_device() {
    let config = &configs()[0].1;
    let weights = |seed, device: &Device| tensors_of(&Transformer::new(config, seed, device).unwrap()).1.0;
    let [first, other] = [weights(1, &Device::flex()), weights(2, &Device::flex())];
    assert_ne!(first, other);
    for device in cpu_devices() {
        assert_eq!(weights(1, &device), first);
    }
}

#[test]
fn gradients_reach_every_tensor_and_training_lowers_the_loss() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let device = device.clone().autodiff();
            let mut model = random_weights(&config, &device);
            let mut optimizer = SgdConfig::new().init();
            let loss_of = |model: &Transformer| {
                let logits = model.forward(model.ids_tensor(&IDS[..12])).reshape([12, 50]);
                let targets: Tensor<1, Int> = model.ids_tensor(&IDS[1..]).reshape([12]);
                burn::nn::loss::CrossEntropyLossConfig::new().init(&device).forward(logits, targets)
            };
            let first: f32 = loss_of(&model).into_scalar();
            for _ in 0..3 {
                let grads = GradientsParams::from_grads(loss_of(&model).backward(), &model);
                // Learned positions have a row for each position, but one parameter: all tensors have gradients.
                assert_eq!(grads.len(), expected_tensors(&config).len(), "{name}");
                model = optimizer.step(0.05, model, grads);
            }
            let last: f32 = loss_of(&model).into_scalar();
            assert!(last < first, "{name}: {first} to {last}");
        }
    }
}

/// Sum of the squares of all gradients.
fn squared_norm(model: &Transformer, gradients: &GradientsParams) -> f64 {
    struct Squares<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let squares =
                values(self.0.get::<D>(param.id).unwrap()).into_iter().map(|g| f64::from(g).powi(2));
            self.1 += squares.sum::<f64>();
        }
    }
    let mut squares = Squares(gradients, 0.0);
    model.visit(&mut squares);
    squares.1
}

/// Training uses `slm-autograd`; without gradients the model uses Burn's operations.
#[test]
fn what_trains_is_what_tensor_operations_compute() {
    for device in cpu_devices() {
        for (name, config) in configs() {
            let training = device.clone().autodiff();
            assert!(slm_autograd::is_preferred(&training) && !slm_autograd::is_preferred(&device));
            let model = random_weights(&config, &training);
            let logits = |model: &Transformer| model.forward(model.ids_tensor(&IDS[..12])).reshape([12, 50]);
            let plain = values::<2>(logits(&random_weights(&config, &device)));
            let size = plain.iter().fold(0.0f32, |max, logit| max.max(logit.abs()));
            assert!(max_difference(&values::<2>(logits(&model)), &plain) < 1e-5 * size, "{name}");

            let loss_of = |model: &Transformer| {
                let targets: Tensor<1, Int> = model.ids_tensor(&IDS[1..]).reshape([12]);
                burn::nn::loss::CrossEntropyLossConfig::new()
                    .init(&model.device())
                    .forward(logits(model), targets)
            };
            // Along the gradient a loss changes by the gradient's square.
            let gradients = || GradientsParams::from_grads(loss_of(&model).backward(), &model);
            let square = squared_norm(&model, &gradients());
            let rate = 1e-2 / square.sqrt();
            let moved = |rate: f64| {
                let moved = SgdConfig::new().init().step(rate, model.clone(), gradients());
                f64::from(loss_of(&moved.valid()).into_scalar::<f32>())
            };
            let slope = (moved(-rate) - moved(rate)) / (2.0 * rate);
            assert!((slope / square - 1.0).abs() < 0.01, "{name}: {slope}, expected {square}");
        }
    }
}
