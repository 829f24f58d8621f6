use std::collections::BTreeMap;
use std::sync::Mutex;

use burn::module::Param;
use burn::tensor::Tensor;
use slm_nn::detach_hooks;

use super::*;
use crate::error::SourceError;
use crate::eval::window_logits;
use crate::testing::{MapSource, configs, cpu_devices, random_weights, tensors_of};

/// Inputs and outputs of each layer, in the order in which they were seen, as bits.
#[derive(Default, Debug, PartialEq, Clone)]
struct Seen(BTreeMap<String, Vec<Vec<u32>>>);

struct Recorder(Mutex<Seen>);

impl ForwardHook for Recorder {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        let bits = |tensor: &Tensor<2>| {
            let values = tensor.clone().into_data().try_into_vec::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let mut seen = self.0.lock().unwrap();
        seen.0.entry(layer.to_owned()).or_default().extend([bits(input), bits(output)]);
    }
}

fn recorder() -> (Arc<Recorder>, Arc<dyn ForwardHook>) {
    let recorder = Arc::new(Recorder(Mutex::default()));
    (Arc::clone(&recorder), recorder)
}

/// A source that provides tensors as often as they are requested, and counts the requests.
struct Kept {
    tensors: MapSource,
    taken: usize,
}

impl TensorSource for Kept {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.shape(name)
    }
    fn take_f32(&mut self, name: &str, _: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.taken += 1;
        Ok(self.tensors.0[name].1.clone())
    }
}

#[test]
fn hooks_see_what_they_see_of_a_whole_model() {
    let ids: Vec<u32> = (0..37).map(|i| (i * i * 7 + i) % 50).collect();
    let windows: Vec<&[u32]> = ids.chunks(16).collect();
    for device in cpu_devices() {
        for (name, config) in configs() {
            let mut model = random_weights(&config, &device);
            let mut source = Kept { tensors: tensors_of(&model).1, taken: 0 };
            model.untie_head();
            let (whole, hook) = recorder();
            attach_hook(&mut model, &hook);
            windows.iter().for_each(|ids| drop(window_logits(&model, ids).unwrap()));
            detach_hooks(&mut model);
            let mut expected = whole.0.lock().unwrap().clone();

            for with_head in [true, false] {
                let (layers, hook) = recorder();
                let mut steps = 0;
                source.taken = 0;
                let mut done = || {
                    steps += 1;
                    Ok::<_, Error>(())
                };
                let windows = &windows[..];
                forward_layerwise(&config, &mut source, &device, windows, with_head, &hook, &mut done)
                    .unwrap();
                assert_eq!(steps, layerwise_steps(&config, windows.len(), with_head, false));
                assert!(*layers.0.lock().unwrap() == expected, "{name}, {with_head}");
                let twice = usize::from(config.tie_word_embeddings);
                // Neither the last norm nor the head is read if the head is not observed.
                let left_out =
                    source.tensors.0.keys().filter(|name| {
                        name.starts_with(&format!("{FINAL_NORM}.")) || name.starts_with(LM_HEAD)
                    });
                let expected_reads = match with_head {
                    true => source.tensors.0.len() + twice,
                    false => source.tensors.0.len() - left_out.count(),
                };
                assert_eq!(source.taken, expected_reads, "{name}");
                expected.0.remove(LM_HEAD);
            }
        }
    }
}

#[test]
fn bad_windows_are_errors_and_a_run_can_be_ended() {
    let (_, config) = configs().swap_remove(0);
    let device = &Device::flex();
    let tensors = tensors_of(&random_weights(&config, device)).1;
    let run = |windows: &[&[u32]], steps: usize| {
        let mut source = Kept { tensors: tensors.clone(), taken: 0 };
        let mut left = steps;
        let mut done = || match left {
            0 => Err(Error::EmptyPrompt),
            _ => {
                left -= 1;
                Ok(())
            }
        };
        let (_, hook) = recorder();
        forward_layerwise(&config, &mut source, device, windows, true, &hook, &mut done)
    };
    run(&[&[1, 2], &[3]], 6).unwrap();
    assert!(matches!(run(&[&[1, 2], &[3]], 5), Err(Error::EmptyPrompt)));
    assert!(matches!(run(&[&[1, 2], &[]], 99), Err(Error::EmptyPrompt)));
    assert!(matches!(run(&[&[1, 99]], 99), Err(Error::TokenId { index: 1, .. })));
    assert!(matches!(run(&[&[1; 65]], 99), Err(Error::TooManyPositions { needed: 65, max: 64 })));
}

/// Halves the weights of every layer that it is shown.
struct Halving {
    steps: usize,
    layers: Vec<String>,
}

impl LayerwiseVisitor<Error> for Halving {
    fn after_window(&mut self) -> Result<(), Error> {
        self.steps += 1;
        Ok(())
    }

    fn changes_weights(&self) -> bool {
        true
    }

    fn after_layer(&mut self, layer: &mut dyn NamedLinears) -> Result<(), Error> {
        layer.for_each_linear_mut(&mut |name, linear| {
            self.layers.push(name.to_owned());
            let halved = linear.float_weight().unwrap() * 0.5;
            linear.weight = slm_nn::Weight::Float(Param::from_tensor(halved));
        });
        Ok(())
    }
}

/// A layer's inputs come from the changed blocks before it and the changed attention of its own block, and the hook sees
/// each window once.
#[test]
fn changed_weights_are_what_the_next_layers_see() {
    let ids: Vec<u32> = (0..37).map(|i| (i * i * 7 + i) % 50).collect();
    let windows: Vec<&[u32]> = ids.chunks(16).collect();
    for device in cpu_devices() {
        for (name, config) in configs() {
            let mut model = random_weights(&config, &device);
            let mut source = Kept { tensors: tensors_of(&model).1, taken: 0 };
            let (layers, hook) = recorder();
            let mut visitor = Halving { steps: 0, layers: Vec::new() };
            forward_layerwise(&config, &mut source, &device, &windows, true, &hook, &mut visitor).unwrap();
            assert_eq!(visitor.steps, layerwise_steps(&config, windows.len(), true, true), "{name}");
            let seen = layers.0.lock().unwrap().clone();

            // The whole model, with the layers before the observed part changed and the rest unchanged.
            model.untie_head();
            let mut names = Vec::new();
            model.for_each_linear(&mut |name, _| names.push(name.to_owned()));
            assert_eq!(visitor.layers, names, "{name}");
            let part_of = |name: &str| {
                let index = name.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
                let Some(index) = index.map(|index| index.parse::<usize>().unwrap()) else {
                    return 2 * config.num_layers;
                };
                2 * index + usize::from(name.contains(".mlp.") && !config.layer(index).parallel_residual)
            };
            for part in 0..=2 * config.num_layers {
                let (whole, hook) = recorder();
                attach_hook(&mut model, &hook);
                windows.iter().for_each(|ids| drop(window_logits(&model, ids).unwrap()));
                detach_hooks(&mut model);
                let whole = whole.0.lock().unwrap();
                for name in names.iter().filter(|name| part_of(name) == part) {
                    assert!(seen.0[name] == whole.0[name], "{name}");
                }
                drop(whole);
                model.for_each_linear_mut(&mut |name, linear| {
                    if part_of(name) == part {
                        let halved = linear.float_weight().unwrap() * 0.5;
                        linear.weight = slm_nn::Weight::Float(Param::from_tensor(halved));
                    }
                });
            }
        }
    }
}

/// A hook that reads only inputs, and forwards to another hook.
struct InputsOnly(Arc<dyn ForwardHook>);

impl ForwardHook for InputsOnly {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        self.0.on_forward(layer, input, output);
    }

    fn reads_output(&self) -> bool {
        false
    }
}

/// Inputs are the same if no hook reads outputs, and the visitor gets whole layers.
#[test]
fn layers_whose_outputs_nobody_reads_see_the_same_inputs() {
    let ids: Vec<u32> = (0..37).map(|i| (i * i * 7 + i) % 50).collect();
    let windows: Vec<&[u32]> = ids.chunks(16).collect();
    for device in cpu_devices() {
        for (name, config) in configs() {
            let tensors = tensors_of(&random_weights(&config, &device)).1;
            let run = |reads_output| {
                let mut source = Kept { tensors: tensors.clone(), taken: 0 };
                let (layers, hook) = recorder();
                let hook = if reads_output { hook } else { Arc::new(InputsOnly(hook)) };
                let mut visitor = Halving { steps: 0, layers: Vec::new() };
                forward_layerwise(&config, &mut source, &device, &windows, true, &hook, &mut visitor)
                    .unwrap();
                let seen = layers.0.lock().unwrap().clone();
                (visitor.steps, visitor.layers, seen.0)
            };
            let (whole, first) = (run(true), run(false));
            assert_eq!((whole.0, &whole.1), (first.0, &first.1), "{name}");
            for (layer, seen) in &whole.2 {
                let width = match layer {
                    layer if layer == LM_HEAD => config.vocab_size,
                    layer if !(layer.ends_with("o_proj") || layer.ends_with("down_proj")) => 1,
                    _ if config.layer(0).parallel_residual => 1,
                    _ => config.hidden_size,
                };
                // Inputs and outputs in turn.
                for (index, (whole, first)) in seen.iter().zip(&first.2[layer]).enumerate() {
                    match index % 2 {
                        0 => assert!(whole == first, "{name}, {layer}"),
                        _ => assert_eq!(first.len() * width, whole.len(), "{name}, {layer}"),
                    }
                }
            }
        }
    }
}

/// A visitor that changes weights while a hook also sees the original model.
struct Following {
    halving: Halving,
    model: Arc<Mutex<ObservedModel>>,
}

impl LayerwiseVisitor<Error> for Following {
    fn after_window(&mut self) -> Result<(), Error> {
        self.halving.after_window()
    }

    fn changes_weights(&self) -> bool {
        true
    }

    fn follows_original(&self) -> bool {
        true
    }

    fn before_window(&mut self, model: ObservedModel) {
        *self.model.lock().unwrap() = model;
    }

    fn after_layer(&mut self, layer: &mut dyn NamedLinears) -> Result<(), Error> {
        self.halving.after_layer(layer)
    }
}

/// A hook with a recorder for each model.
struct Both {
    model: Arc<Mutex<ObservedModel>>,
    original: Arc<dyn ForwardHook>,
    changed: Arc<dyn ForwardHook>,
}

impl ForwardHook for Both {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        match *self.model.lock().unwrap() {
            ObservedModel::Original => self.original.on_forward(layer, input, output),
            ObservedModel::Changed => self.changed.on_forward(layer, input, output),
        }
    }
}

#[test]
fn the_model_as_it_was_is_seen_next_to_the_changed_one() {
    let ids: Vec<u32> = (0..37).map(|i| (i * i * 7 + i) % 50).collect();
    let windows: Vec<&[u32]> = ids.chunks(16).collect();
    for device in cpu_devices() {
        for (name, config) in configs() {
            let tensors = tensors_of(&random_weights(&config, &device)).1;
            let source = || Kept { tensors: tensors.clone(), taken: 0 };
            let (expected_original, hook) = recorder();
            let mut done = || Ok::<_, Error>(());
            forward_layerwise(&config, &mut source(), &device, &windows, true, &hook, &mut done).unwrap();
            let (expected_changed, hook) = recorder();
            let mut halving = Halving { steps: 0, layers: Vec::new() };
            forward_layerwise(&config, &mut source(), &device, &windows, true, &hook, &mut halving).unwrap();

            let ((seen_original, original), (seen_changed, changed)) = (recorder(), recorder());
            let model = Arc::new(Mutex::new(ObservedModel::Changed));
            let hook: Arc<dyn ForwardHook> = Arc::new(Both { model: Arc::clone(&model), original, changed });
            let mut visitor = Following { halving: Halving { steps: 0, layers: Vec::new() }, model };
            forward_layerwise(&config, &mut source(), &device, &windows, true, &hook, &mut visitor).unwrap();
            assert_eq!(visitor.halving.steps, halving.steps, "{name}");
            assert!(*seen_original.0.lock().unwrap() == *expected_original.0.lock().unwrap(), "{name}");
            assert!(*seen_changed.0.lock().unwrap() == *expected_changed.0.lock().unwrap(), "{name}");
        }
    }
}
