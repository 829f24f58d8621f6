use serde_json::Value;

use super::*;
use crate::config::Position;
use crate::testing::{cpu_devices, longrope};

#[test]
fn rotation_by_hand_at_an_offset() {
    rotate_by_hand(4, [[1.0f32, 2.0, 3.0, 4.0], [-1.0, 0.5, 2.0, 0.0]], RotaryConfig::new(100.0));
}

#[test]
fn the_rest_of_a_head_stays() {
    let config = RotaryConfig { dims: Some(4), ..RotaryConfig::new(100.0) };
    rotate_by_hand(6, [[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [-1.0, 0.5, 2.0, 0.0, 7.0, -8.0]], config);
}

fn rotate_by_hand<const DIM: usize>(head_dim: usize, rows: [[f32; DIM]; 2], config: RotaryConfig) {
    let rotary = Rotary::new(head_dim, &config);
    assert_eq!(rotary.frequencies, [1.0, 0.1]);
    let x = [[rows]];
    for device in cpu_devices() {
        let y = rotary.tables(5, 2, &device).rotate(Tensor::from_data(x, &device));
        let y = y.into_data().try_into_vec::<f32>().unwrap();
        assert!((0..2).all(|t| y[t * DIM + 4..(t + 1) * DIM] == rows[t][4..]));
        for (t, row) in x[0][0].iter().enumerate() {
            for pair in 0..2 {
                let angle = (5 + t) as f64 * [1.0, 0.1][pair];
                let (a, b) = (f64::from(row[pair]), f64::from(row[pair + 2]));
                let expected = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()];
                for (half, e) in expected.into_iter().enumerate() {
                    let found = f64::from(y[t * DIM + half * 2 + pair]);
                    assert!((found - e).abs() < 1e-5, "{found} {e}");
                }
            }
        }
    }
}

/// `tests/data/rope.py` says how the file was made.
#[test]
fn frequencies_are_those_of_transformers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../tests/data/rope.json")).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let name = &case["name"];
        let mut config = case["config"].as_object().unwrap().clone();
        config.extend([("num_hidden_layers".to_owned(), 1.into()), ("vocab_size".to_owned(), 10.into())]);
        let model = crate::arch::read_config(&config).unwrap_or_else(|error| panic!("{name}: {error}")).model;
        let Position::Rotary(config) = &model.position else { panic!("{name}") };
        let rotary = Rotary::new(model.head_dim, config);
        for result in case["results"].as_array().unwrap() {
            let number = |value: &Value| value.as_f64().unwrap();
            let length = result["length"].as_u64().unwrap() as usize;
            let scale = number(&result["attention_factor"]);
            let frequencies = result["frequencies"].as_array().unwrap();
            // At position 1 they are the angles themselves; at the last position, errors in them have grown most.
            for position in [1, length - 1] {
                let angles = rotary.angles(position, 1, length);
                let (cos, sin) = angles.row(0);
                assert_eq!((cos.len(), sin.len()), (frequencies.len(), frequencies.len()), "{name}");
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let angle = position as f64 * number(frequency);
                    for (found, expected) in [(cos[pair], angle.cos()), (sin[pair], angle.sin())] {
                        let error = (f64::from(found) - scale * expected).abs();
                        assert!(error < 4e-5, "{name}, length {length}, pair {pair}: {error}");
                    }
                    assert!(
                        (f64::from(sin[pair].atan2(cos[pair])) - angle.sin().atan2(angle.cos())).abs() < 1e-4
                    );
                }
            }
        }
    }
}

#[test]
fn scaled_configs_come_back_from_files() {
    for (name, config) in crate::testing::configs() {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<crate::ModelConfig>(&text).unwrap(), config, "{name}");
        assert_eq!(toml::from_str::<crate::ModelConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}

/// A model whose positions are rotated by other angles in sequences of more than 12.
fn long(device: &Device) -> crate::Transformer {
    let mut config = crate::testing::configs()[0].1.clone();
    let scaling = Some(longrope(12));
    config.position = Position::Rotary(RotaryConfig { scaling, ..RotaryConfig::default() });
    crate::Transformer::new(&config, 5, device).unwrap()
}

#[test]
fn a_sequence_that_grows_beyond_the_original_context_is_computed_anew() {
    let prompt: Vec<u32> = (0..9).map(|i| i * 5 % 50).collect();
    for device in cpu_devices() {
        let model = long(&device);
        let options = crate::GenerateOptions {
            max_new_tokens: 8,
            sampling: crate::SamplingOptions::default(),
            stop_ids: vec![],
        };
        let output =
            crate::generate(&model, &prompt, &options, |_| std::ops::ControlFlow::Continue(())).unwrap();
        let mut ids = prompt.clone();
        for &next in &output.ids {
            let logits = crate::window_logits(&model, &ids).unwrap();
            let last = &logits[logits.len() - model.config().vocab_size..];
            let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(best - last[next as usize] < 1e-6, "after {} positions", ids.len());
            ids.push(next);
        }
        assert!(ids.len() > 12);
    }
}

#[test]
fn a_cache_of_the_other_angles_is_refused() {
    let model = long(&Device::flex());
    let mut engine = crate::CpuEngine::new(&model, 20).unwrap();
    engine.forward_last(&[1; 10]).unwrap();
    let error = engine.forward_last(&[2; 3]).unwrap_err();
    assert!(matches!(error, Error::RotaryChange { limit: 12 }), "{error}");
    engine.forward_last(&[2; 2]).unwrap();
    engine.truncate(0);
    engine.forward_last(&[1; 13]).unwrap();
    // The held positions were rotated for the longer sequence, however few are left.
    engine.truncate(5);
    assert!(matches!(engine.forward_last(&[2]), Err(Error::RotaryChange { limit: 12 })));
    engine.forward_last(&[2; 8]).unwrap();
}
