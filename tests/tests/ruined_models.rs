//! Models and settings that are difficult to quantize: outliers, large activations of first tokens, overflow, small
//! models with large vocabularies. The defaults handle them, or the report explains the result.

use slm_tests::{HuggingFace, Sandbox, model, text};

/// Creates a sandbox with the changed model as `model`, and the text.
fn sandbox(change: impl FnOnce(&mut HuggingFace)) -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    change(&mut model);
    model.write(sandbox.path("hf"));
    sandbox.slm("import hf --out model").success();
    sandbox.put("text.txt", text());
    sandbox
}

/// Mean divergence from the float model after `ptq` with `options`.
fn divergence(sandbox: &Sandbox, options: &str, eval: &str) -> f64 {
    let ptq = "ptq --checkpoint model --calibration text.txt --out quantized --overwrite";
    let outcome = sandbox.slm(&format!("{ptq} {options}"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let eval = format!("eval --checkpoint quantized --data text.txt --reference model --json {eval}");
    sandbox.slm(&eval).json()["divergence"]["kl_mean"].as_f64().unwrap()
}

/// Multiplies one channel before each group of linear layers by `factor`, as in large models, without changing the
/// outputs.
fn outlier(model: &mut HuggingFace, factor: f32, channel: usize) {
    for layer in 0..2 {
        for (norm, readers) in [
            ("input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"][..]),
            ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
        ] {
            let weight = model.tensors.get_mut(&format!("model.layers.{layer}.{norm}.weight")).unwrap();
            weight.1[channel] *= factor;
            for reader in readers {
                let weight = model.tensors.get_mut(&format!("model.layers.{layer}.{reader}.weight")).unwrap();
                weight.1.iter_mut().skip(channel).step_by(64).for_each(|value| *value /= factor);
            }
        }
    }
}

#[test]
fn outlier_channels_are_coped_with_by_default() {
    let plain = divergence(&sandbox(|_| {}), "--granularity channel", "");
    let sandbox = sandbox(|model| outlier(model, 100.0, 10));
    let ruined =
        divergence(&sandbox, "--granularity channel --rotate off --smooth off --dynamic-inputs none", "");
    let coped = divergence(&sandbox, "--granularity channel", "");
    assert!(coped < ruined / 4.0 && coped < 3.0 * plain, "plain {plain}, coped {coped}, ruined {ruined}");
    let ruined = divergence(&sandbox, "--type dynamic --granularity channel --rotate off --smooth off", "");
    let coped = divergence(&sandbox, "--type dynamic --granularity channel", "");
    let smoothed = divergence(&sandbox, "--type dynamic --granularity channel --rotate off --smooth 0.5", "");
    assert!(
        coped < ruined / 2.0 && smoothed < ruined / 2.0,
        "coped {coped}, smoothed {smoothed}, ruined {ruined}"
    );
}

/// A beginning-of-sequence token with channels unlike those of any text.
#[test]
fn static_ranges_suit_the_token_that_prompts_begin_with() {
    let sandbox = sandbox(|model| {
        model.put_bos_before_prompts();
        let row = &mut model.tensors.get_mut("model.embed_tokens.weight").unwrap().1[..64];
        row.iter_mut()
            .enumerate()
            .for_each(|(channel, value)| *value = if channel == 7 { 9.0 } else { 0.01 });
    });
    let options = "--granularity channel --rotate off --smooth off --dynamic-inputs none --window 16";
    let with = divergence(&sandbox, options, "--bos --window 16");
    let without = divergence(&sandbox, &format!("{options} --no-calibration-bos"), "--bos --window 16");
    assert!(with < without / 2.0, "calibrated with the token {with}, without it {without}");
}

#[test]
fn overflow_in_calibration_is_called_that() {
    let sandbox = sandbox(|model| {
        for part in ["gate_proj", "up_proj", "down_proj"] {
            let weight = model.tensors.get_mut(&format!("model.layers.0.mlp.{part}.weight")).unwrap();
            weight.1.iter_mut().for_each(|value| *value *= 1e25);
        }
    });
    let ptq = "ptq --checkpoint model --calibration text.txt --window 32 --no-eval --out int8";
    let outcome = sandbox.refuses(ptq, 1, &["layers.0.mlp"]);
    assert!(["overflow", "diverged"].iter().any(|word| outcome.stderr.contains(word)), "{outcome}");
}

#[test]
fn tied_tables_are_told_of_and_can_be_one() {
    let sandbox = sandbox(|_| {});
    let ptq = "ptq --checkpoint model --type weight-only --no-eval --overwrite --out quantized";
    let said = sandbox.slm(&format!("{ptq} --bits 4")).success();
    assert!(said.stdout.contains("separate copy") && said.stdout.contains("--embeddings int8"), "{said}");
    let size = |options: &str| -> u64 {
        sandbox.slm(&format!("{ptq} {options}")).success();
        std::fs::metadata(sandbox.path("quantized/model.safetensors")).unwrap().len()
    };
    let copied = size("--bits 4");
    assert!(size("--bits 4 --skip lm_head") < copied);
    // One INT8 table for both has half the size of the model in BF16.
    let bf16 = std::fs::metadata(sandbox.path("hf/model.safetensors")).unwrap().len() / 2;
    let shared = size("--embeddings int8");
    // The norm before a head that shares the table is not smoothed.
    size("--embeddings int8 --smooth 0.5 --calibration text.txt --window 32");
    assert!((shared as f64) < 0.6 * bf16 as f64, "{shared} of {bf16}");
}

/// A run that ruins the model reports this, instead of a share of "recovered" loss.
#[test]
fn training_that_makes_it_worse_says_so() {
    let sandbox = sandbox(|_| {});
    sandbox.put(
        "run.toml",
        "[training]\nsteps = 20\nbatch_size = 1\nsequence_length = 16\nlearning_rate = 1.0\ngrad_clip = 0.0\nweight_decay = 0.0\n",
    );
    let line = "qat --checkpoint model --config run.toml --data text.txt --type weight-only --bits 4 --window 16 \
                --eval-tokens 256 --out qat";
    let outcome = sandbox.slm(line);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stdout.contains("worse") && !outcome.stdout.contains("recovers"), "{outcome}");
}
