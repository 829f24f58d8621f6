//! Schemes chosen to fit a size.

use slm_tests::Sandbox;

/// Size in bytes of all tensors of a checkpoint, without the header of the file.
fn tensor_bytes(sandbox: &Sandbox, dir: &str) -> u64 {
    let file = sandbox.read(&format!("{dir}/model.safetensors"));
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    file.len() as u64 - 8 - header
}

#[test]
fn a_plan_has_the_size_that_was_asked_for_and_quantizes_so() {
    let sandbox = Sandbox::with_model();
    let whole = tensor_bytes(&sandbox, "model");
    let mut divergences = Vec::new();
    for (name, share) in [("small", 0.45), ("large", 0.7)] {
        let target = (whole as f64 * share) as u64;
        let plan = sandbox
            .slm(&format!(
                "plan --json --checkpoint model --data text.txt --target-size {target} --by layer --choices \
                 int4:group:16,int8:channel,float --out {name}.toml"
            ))
            .json();
        let bytes = plan["bytes"].as_u64().unwrap();
        assert!(bytes <= target && bytes > target / 100 * 90, "{bytes} of {target}");
        assert_eq!(plan["target_bytes"].as_u64(), Some(target));
        divergences.push(plan["kl_mean"].as_f64().unwrap());

        sandbox.slm(&format!("ptq --checkpoint model --config {name}.toml --no-eval --out {name}")).success();
        assert_eq!(tensor_bytes(&sandbox, name), bytes, "{name}");
        let metadata = sandbox.read_json(&format!("{name}/quantization_metadata.json"));
        let layers = metadata["layers"].as_array().unwrap();
        for unit in plan["units"].as_array().unwrap() {
            let layer = layers.iter().find(|layer| layer["name"] == unit["name"]);
            assert_eq!(layer.is_some(), unit["scheme"] != "float", "{unit}");
        }
    }
    assert!(divergences[1] < divergences[0] && divergences[1] > 0.0, "{divergences:?}");
}

#[test]
fn bits_a_weight_are_an_average_over_linear_layers() {
    let sandbox = Sandbox::with_model();
    let plan = sandbox.slm("plan --json --checkpoint model --data text.txt --bits-per-weight 7").json();
    let bits = plan["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 7.0 && bits > 4.0, "{bits}");
    let config = plan["config"].as_str().unwrap();
    assert!(config.contains("pattern = \"*.down_proj\"") && config.contains("rotate = \"off\""), "{config}");
    let text = sandbox.slm("plan --checkpoint model --data text.txt --bits-per-weight 7").success();
    assert!(text.stdout.contains("[[quantization.layers]]"), "{}", text.stdout);
}

#[test]
fn a_plan_lists_what_costs_most_first_and_accounts_for_every_byte() {
    let sandbox = Sandbox::with_model();
    let line = "plan --checkpoint model --data text.txt --bits-per-weight 7";
    let plan = sandbox.slm(&format!("{line} --json")).json();
    let units = plan["units"].as_array().unwrap();
    let costs: Vec<f64> = units.iter().map(|unit| unit["kl_mean"].as_f64().unwrap()).collect();
    assert!(costs.len() > 3 && costs.is_sorted_by(|a, b| a >= b), "{costs:?}");
    let bytes: u64 = units.iter().map(|unit| unit["bytes"].as_u64().unwrap()).sum();
    assert_eq!(plan["bytes"].as_u64(), Some(bytes + plan["float_bytes"].as_u64().unwrap()), "{plan}");
    let text = sandbox.slm(line).success().stdout;
    let place = |part: &str| text.lines().position(|line| line.starts_with(part)).unwrap();
    let name = |index: usize| units[index]["name"].as_str().unwrap();
    assert!(place(name(0)) < place(name(1)) && place(name(1)) < place("embedding, norms"), "{text}");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let sandbox = Sandbox::with_model();
    let plan = "plan --checkpoint model --data text.txt";
    sandbox.refuses(&format!("{plan} --target-size 10kB"), 2, &["too small", "give a larger one"]);
    sandbox.refuses(&format!("{plan} --bits-per-weight 1"), 2, &["too small", "smaller --choices"]);
    sandbox.refuses(&format!("{plan} --target-size 1GB"), 2, &["nothing to quantize", "a smaller one"]);
    sandbox.refuses(&format!("{plan} --target-size 60XB"), 2, &["60MB"]);
    sandbox.refuses(plan, 2, &["--target-size"]);
}
