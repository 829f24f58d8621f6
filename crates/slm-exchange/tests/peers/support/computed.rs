//! Results of slm for a checkpoint, as files for the scripts of `tests/peers`.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use slm_checkpoint::Checkpoint;
use slm_model::{Transformer, window_logits};
use slm_nn::{ForwardHook, attach_hook};

/// Length of a sequence, longer than the window of tiny-mistral-swa.
const LEN: u32 = 48;

/// Two sequences of ids of a vocabulary.
pub(crate) fn sequences(vocab_size: usize) -> [Vec<u32>; 2] {
    [37, 101].map(|step| (0..LEN).map(|i| (i * step + i * i + 11) % vocab_size as u32).collect())
}

/// Returns the logits of all sequences, concatenated.
pub(crate) fn logits(model: &Transformer, ids: &[Vec<u32>]) -> Vec<f32> {
    ids.iter().flat_map(|ids| window_logits(model, ids).unwrap()).collect()
}

/// Computes two sequences, and writes the logits and the inputs of quantized layers as 32-bit floats to files under
/// `root`. The fields are `label`, `checkpoint`, `ids`, `logits` and `inputs`, which lists layers and their files.
pub(crate) fn computed(checkpoint: &Checkpoint, root: &Path, label: &str) -> Value {
    let mut model = checkpoint.load_model(&Device::flex()).unwrap();
    let recorder = Arc::new(Recorder::default());
    if checkpoint.is_quantized() {
        attach_hook(&mut model, &(Arc::clone(&recorder) as Arc<dyn ForwardHook>));
    }
    let ids = sequences(model.config().vocab_size);
    let file = root.join(format!("{label}.logits"));
    fs::write(&file, bytes_of(&logits(&model, &ids))).unwrap();
    let mut inputs = Vec::new();
    for (layer, values) in recorder.0.lock().unwrap().iter() {
        let file = root.join(format!("{label}-{layer}.input"));
        fs::write(&file, bytes_of(values)).unwrap();
        inputs.push(json!([layer, file]));
    }
    json!({ "label": label, "checkpoint": checkpoint.dir(), "ids": ids, "logits": file, "inputs": inputs })
}

/// The inputs of layers, in the order in which they are computed.
#[derive(Default)]
struct Recorder(Mutex<Vec<(String, Vec<f32>)>>);

impl ForwardHook for Recorder {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        let values: Vec<f32> = input.to_data().try_into_vec().unwrap();
        let mut layers = self.0.lock().unwrap();
        match layers.iter_mut().find(|(known, _)| known == layer) {
            Some((_, known)) => known.extend(values),
            None => layers.push((layer.to_owned(), values)),
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
