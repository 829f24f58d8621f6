//! The shipped model, as `cargo run --release -p slm-cli -- ptq` quantizes it.

use std::fs;
use std::path::Path;

use slm_tests::Sandbox;

#[test]
fn the_shipped_model_is_small_and_survives_quantization() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let package = root.join("crates/slm-cli");
    let files = fs::read_dir(root.join("models/stories")).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 3_000_000, "the shipped checkpoint has {bytes} bytes");

    // The output goes to the working directory, which is temporary.
    let sandbox = Sandbox::new();
    let variable = [("CARGO_MANIFEST_DIR", package.to_str().unwrap())];
    for (bits, most_loss, most_bytes) in [("8", 1.01, 0.2505), ("4", 1.5, 0.1255)] {
        let json = sandbox.slm_with("ptq --json --bits", &[bits], &variable).json();
        let float = json["perplexity_float"].as_f64().unwrap();
        let quantized = json["perplexity_quantized"].as_f64().unwrap();
        let ratio = json["sizes"]["linear_ratio"].as_f64().unwrap();
        println!("int{bits}: perplexity {float:.4} -> {quantized:.4}, linear layers {ratio:.4}x");
        assert!(quantized / float < most_loss, "int{bits}: {float} -> {quantized}");
        assert!(ratio <= most_bytes, "int{bits}: {ratio}");
        assert_eq!(json["skipped"].as_array().unwrap().len(), 0);
    }
    let line = "generate --checkpoint out/ptq-int8-static-tensor --max-new-tokens 40 --json --prompt";
    let json = sandbox.slm_with(line, &["Once upon a time"], &[]).json();
    assert!(json["text"].as_str().unwrap().contains(' '), "{json}");
}

#[test]
fn a_model_that_quantization_breaks_ends_with_the_cause() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let package = root.join("crates/slm-cli");
    let variable = [("CARGO_MANIFEST_DIR", package.to_str().unwrap())];
    let sandbox = Sandbox::new();
    let short = "ptq --calibration-tokens 1024 --eval-tokens 2048";
    // Ranges that clip most values, first of the activations and then of the weights.
    for (options, parts) in [
        (
            "--activation-observer percentile:60",
            ["8-bit static activations", "with float activations", "--type dynamic"],
        ),
        (
            "--type dynamic --observer percentile:60",
            ["weights (rtn, percentile:60 observer)", "dB", "min-max"],
        ),
    ] {
        let run = sandbox.slm_with(&format!("{short} {options}"), &[], &variable).success();
        let (_, warning) =
            run.stdout.split_once("\nwarning: ").unwrap_or_else(|| panic!("no warning in\n{run}"));
        for part in parts {
            assert!(warning.contains(part), "{part} is not in\n{warning}");
        }
        let json = sandbox.slm_with(&format!("{short} {options} --json"), &[], &variable).json();
        assert_eq!(json["warning"].as_str().unwrap().trim(), warning.trim());
    }
    let json = sandbox.slm_with(&format!("{short} --json"), &[], &variable).json();
    assert!(json["warning"].is_null(), "{json}");
}
