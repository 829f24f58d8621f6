//! A model that overflows is an error that names the layer, in every command.

use slm_tests::{Sandbox, model, text};

const CONFIG: &str = "
[training]
steps = 2
batch_size = 1
sequence_length = 16
validation_fraction = 0.2
validation_windows = 2
";

/// Creates `big`, a checkpoint with finite weights and infinite activations: the second block's MLP is too large.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    let weight = model.tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap();
    weight.1.iter_mut().for_each(|value| *value = value.signum() * 3e38);
    model.write(sandbox.path("hf"));
    sandbox.slm("import hf --out big").success();
    sandbox.put("text.txt", text());
    sandbox.put("run.toml", CONFIG);
    sandbox
}

const LAYER: &str = "layers.1.mlp.down_proj";

#[test]
fn evaluation_names_the_layer() {
    let sandbox = sandbox();
    for device in slm_tests::CPU_DEVICES {
        let eval = format!("eval --checkpoint big --data text.txt --window 32 --device {device}");
        sandbox.refuses(&eval, 1, &["is NaN", &format!("first in layer {LAYER}")]);
    }
}

#[test]
fn calibration_and_training_name_the_layer() {
    let sandbox = sandbox();
    let ptq = "ptq --checkpoint big --calibration text.txt --window 32 --no-eval --out int8";
    sandbox.refuses(ptq, 1, &["layer lm_head: ", "is not finite"]);
    let finetune = "finetune --checkpoint big --config run.toml --data text.txt --window 32 --out tuned";
    sandbox.refuses(finetune, 1, &[&format!("first in layer {LAYER}")]);
}
