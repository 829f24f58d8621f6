//! Numbers in the documentation, compared with the program that produced them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use slm_tests::{Sandbox, binary, llama_cpp, peer_python, shared, text};

/// Largest relative difference of a perplexity from the recorded one: processors may sum float products in different
/// orders.
const TOLERANCE: f64 = 1e-4;

/// Rows of `docs/measurements/stories260k.csv` that are recomputed: table, row, mapping, bits, granularity, and the
/// options from `docs/measurements/stories260k`.
const ROWS: [([&str; 5], &str); 4] = [
    (["types", "static", "symmetric", "8", "tensor"], "--type static"),
    (["types", "dynamic", "symmetric", "4", "group:32"], "--type dynamic"),
    (["weights", "percentile:99", "affine", "4", "channel"], "--type weight-only --observer percentile:99"),
    (
        ["gptq", "weighted-mse", "symmetric", "4", "group:32"],
        "--type weight-only --method gptq --observer weighted-mse",
    ),
];

/// The options of `slm ptq` in `docs/measurements/shipped` that are tested.
const SHIPPED: [&str; 2] = ["--bits 8", "--bits 4 --granularity group:32"];

#[test]
fn documented_perplexities_of_the_shipped_model_are_those_of_the_program() {
    let record = std::fs::read_to_string("../docs/measurements/shipped.csv").unwrap();
    let page = std::fs::read_to_string("../docs/shipped-model.md").unwrap();
    for row in record.lines().skip(1) {
        let perplexity: f64 = row.rsplit(',').next().unwrap().parse().unwrap();
        let digits = if row.starts_with("float,") { 3 } else { 4 };
        assert!(page.contains(&format!("| {perplexity:.digits$} |")), "the page lacks {row}");
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates/slm-cli");
    let variable = [("CARGO_MANIFEST_DIR", package.to_str().unwrap())];
    let sandbox = Sandbox::new();
    for options in SHIPPED {
        let row = record.lines().find_map(|line| line.strip_prefix(&format!("{options},"))).unwrap();
        let recorded: f64 = row.rsplit(',').next().unwrap().parse().unwrap();
        let report = sandbox.slm_with(&format!("ptq --json {options}"), &[], &variable).json();
        let found = report["perplexity"].as_f64().unwrap();
        assert!((found / recorded - 1.0).abs() < TOLERANCE, "{options}: {found}, recorded {recorded}");
    }
}

#[test]
fn documented_perplexities_of_stories260k_are_those_of_the_program() {
    let Some(shared) = shared() else { return };
    let model = shared.join("models/stories260k");
    let record = std::fs::read_to_string("../docs/measurements/stories260k.csv").unwrap();
    let sandbox = Sandbox::new();
    let text = model.join("stories-sample.txt");
    std::fs::copy(&text, sandbox.path("text.txt")).unwrap();
    sandbox.slm(&format!("import {} --out float", model.display())).success();
    for (row, options) in ROWS {
        let start = format!("{},", row.join(","));
        let recorded = record.lines().find_map(|line| line.strip_prefix(&start));
        let recorded: f64 = recorded.unwrap_or_else(|| panic!("no row {start}")).parse().unwrap();
        let [_, _, mapping, bits, granularity] = row;
        let report = sandbox
            .slm(&format!(
                "ptq --json --checkpoint float --calibration text.txt --eval text.txt --out q --overwrite --bits {bits} \
                 --granularity {granularity} --mapping {mapping} {options}"
            ))
            .json();
        let found = report["perplexity_quantized"].as_f64().unwrap();
        assert!((found / recorded - 1.0).abs() < TOLERANCE, "{start} {found}, recorded {recorded}");
    }
}

/// The rows of a CSV file under `docs/measurements`, each with its values by the names of the columns.
fn recorded(name: &str) -> Vec<BTreeMap<String, String>> {
    let file = std::fs::read_to_string(format!("../docs/measurements/{name}.csv")).unwrap();
    let mut lines = file.lines().map(|line| line.split(',').map(str::to_owned));
    let columns: Vec<String> = lines.next().unwrap().collect();
    lines.map(|values| columns.iter().cloned().zip(values).collect()).collect()
}

#[test]
fn documented_figures_of_smollm2_are_those_of_the_data_files() {
    let page = std::fs::read_to_string("../docs/quantization.md").unwrap();
    for row in recorded("smollm2") {
        let [float, found] = ["perplexity_float", "perplexity"].map(|column| number(&row, column));
        let options = match row["options"].as_str() {
            // Prose.
            "--type weight-only --rotate off --observer mse" => {
                assert!(page.contains(&format!("{found:.2} with `mse`")), "the page lacks {row:?}");
                continue;
            }
            "" => "none: INT8 tensor, static".to_owned(),
            options => format!("`{options}`"),
        };
        let text = match row["calibration"].as_str() {
            "text" => "",
            "no-text" => ", without a text",
            _ => ", with a text that the model wrote",
        };
        let tokens: usize = row["tokens"].parse().unwrap();
        let (thousands, rest) = (tokens / 1000, tokens % 1000);
        let change = (found / float - 1.0) * 100.0;
        let line = format!(
            "| {options}{text} | {thousands},{rest:03} | {float:.3} | {found:.3} | {change:+.1} % |\n"
        );
        assert!(page.contains(&line), "the page lacks {line}");
    }
    for row in recorded("observers") {
        let figures = match row["options"].as_str() {
            "float" => format!("FP32 {:.2}", number(&row, "perplexity")),
            options if options.contains("--bits 4") => cell(number(&row, "perplexity")),
            _ => format!("| {:.4} ", number(&row, "kl_mean")),
        };
        assert!(page.contains(&figures), "the page lacks {figures} of {row:?}");
    }
    for row in recorded("sizes") {
        let bytes = number(&row, "bytes");
        let share = bytes / number(&row, "bytes_of_weights_in_bf16");
        let digits = format!("{bytes:09}");
        let line = format!(
            "| `{}` | {},{},{} | {share:.3}x |\n",
            row["options"],
            digits[..3].trim_start_matches('0'),
            &digits[3..6],
            &digits[6..]
        );
        assert!(page.contains(&line), "the page lacks {line}");
    }
}

#[test]
fn the_schemes_of_the_tutorial_are_those_of_the_data_file() {
    let page = std::fs::read_to_string("../docs/tutorials/four-bits.md").unwrap();
    for row in recorded("four-bits") {
        let [bytes, divergence, perplexity] =
            ["weight_bytes", "kl_mean", "perplexity"].map(|column| number(&row, column));
        let line =
            format!("| {} | {:.1} MB | {divergence:.3} nats | {perplexity:.1} |\n", row["row"], bytes / 1e6);
        assert!(page.contains(&line), "the page lacks {line}");
    }
}

fn number(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap()
}

/// A perplexity with three significant digits, as a cell of a table.
fn cell(perplexity: f64) -> String {
    match perplexity {
        ..100.0 => format!("| {perplexity:.1} "),
        100.0..10_000.0 => format!("| {perplexity:.0} "),
        _ => format!("| {perplexity:.0e} "),
    }
}

/// Runs `docs/measurements/llama-cpp` on the shipped model, with shorter windows. With float inputs both programs compute the
/// same losses; a second run measures nothing again.
#[test]
fn the_comparison_with_llama_cpp_finds_the_same_losses() {
    let (Some(python), Some(logits)) = (peer_python("tokenizers"), llama_cpp("llama-logits")) else { return };
    let sandbox = Sandbox::new();
    let script = std::fs::read_to_string("../docs/measurements/llama-cpp").unwrap();
    assert!(script.contains("WINDOW = 512\n"));
    sandbox.put("llama-cpp", script.replace("WINDOW = 512\n", "WINDOW = 128\n"));
    sandbox.put("text.txt", text());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/stories");
    let run = || {
        let mut command = Command::new(&python);
        command.arg(sandbox.path("llama-cpp")).arg(binary()).arg(logits.parent().unwrap()).arg(&model);
        command.args([sandbox.path("text.txt"), sandbox.path("work")]).args(["--windows", "2"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(sandbox.read("llama-cpp.csv")).unwrap())
    };
    let (table, record) = run();
    let losses: BTreeMap<&str, f64> = record
        .lines()
        .skip(1)
        .map(|line| line.rsplit_once(',').unwrap())
        .map(|(row, loss)| (row, loss.parse().unwrap()))
        .collect();
    for (kind, way) in [("F32", "own"), ("Q8_0", "float"), ("Q4_0", "float")] {
        for window in 0..2 {
            let of = |inputs: &str| losses[format!("{kind},{inputs},{window}").as_str()];
            let (own, other) = (of("slm float"), of(&format!("llama.cpp {way}")));
            assert!((own - other).abs() < 1e-5, "{kind}, window {window}: {own} and {other}");
        }
        assert!(table.contains(&format!("| {kind} | llama.cpp {way} | ")), "{table}");
    }
    assert_eq!(run(), (table, record));
}
