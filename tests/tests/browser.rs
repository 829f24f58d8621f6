//! Reports in a real browser: Chromium reports no errors, the pages request nothing from the network, and they are
//! usable with the keyboard, on a phone, in dark colours and in print.
//!
//! With `SLM_SCREENSHOTS=DIR`, screenshots of every page are written to DIR.

use std::fs;
use std::path::Path;

use serde_json::json;
use slm_tests::{Browser, Sandbox, model, quantized};

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// Checks a page in light and dark colours, on a desktop and on a phone.
#[track_caller]
fn look_at(browser: &Browser, path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    for (width, height) in [DESKTOP, PHONE] {
        for dark in [false, true] {
            let what = format!("{name}, {width} pixels wide, dark {dark}");
            browser.emulate(width, height, dark);
            browser.open(path);
            // Opens only some of the layers, which are all alike.
            browser.run(
                "document.querySelectorAll('details').forEach((layer, index) => { layer.open = index < 3; })",
            );
            let overflow = browser
                .run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(overflow, 0, "{what}: the page is wider than the screen");
            if let Some(violations) = browser.violations() {
                assert_eq!(violations, Vec::<String>::new(), "{what}");
            }
            if let Some(folder) = std::env::var_os("SLM_SCREENSHOTS") {
                let whole = browser.run("return document.documentElement.scrollHeight").as_u64().unwrap();
                browser.emulate(width, whole.min(6000) as u32, dark);
                let colours = if dark { "dark" } else { "light" };
                let file = Path::new(&folder).join(format!("{name}-{width}-{colours}.png"));
                fs::write(file, browser.screenshot()).unwrap();
            }
        }
    }
    assert_eq!(browser.console(), Vec::<String>::new(), "{name}: the console");
    let requests = browser.requests();
    let own = |url: &&String| url.starts_with("file://") || url.starts_with("data:");
    assert!(!requests.is_empty() && requests.iter().all(|url| own(&url)), "{name}: {requests:?}");
}

#[test]
fn every_page_is_sound() {
    let Some(browser) = Browser::start() else { return };
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    let run = "[training]\nsteps = 6\nbatch_size = 1\nsequence_length = 16\nweight_decay = 0.0\neval_interval = 2\n";
    sandbox.put("run.toml", run);
    sandbox.put("train.toml", slm_tests::train_config(4));
    let text = "--data text.txt --max-tokens 256";
    for (page, line) in [
        (
            "ptq",
            "ptq --checkpoint model --calibration text.txt --bits 4 --granularity group:16 --mapping affine --out int4",
        ),
        ("inspect", "inspect int8"),
        ("float", "inspect model"),
        ("compare", &format!("compare model int8 {text}")),
        ("sensitivity", &format!("sensitivity --checkpoint model --by layer {text}")),
        ("eval", &format!("eval --checkpoint int8 --reference model {text}")),
        (
            "sizes",
            &format!("eval --checkpoint model --checkpoint int8 --checkpoint int4 --reference model {text}"),
        ),
        ("qat", "qat --checkpoint model --config run.toml --data text.txt --bits 4 --out qat"),
        ("finetune", "finetune --checkpoint int8 --config run.toml --data text.txt --out tuned"),
        ("train", "train --config train.toml --data text.txt --out trained"),
    ] {
        sandbox.slm(&format!("{line} --html {page}.html")).success();
        look_at(&browser, &sandbox.path(&format!("{page}.html")));
    }
}

#[test]
fn pages_can_be_used_without_a_mouse_and_printed() {
    let Some(browser) = Browser::start() else { return };
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox.slm("inspect int8 --html page.html").success();
    browser.emulate(DESKTOP.0, DESKTOP.1, false);
    browser.open(&sandbox.path("page.html"));
    let cells = |column: u32| {
        let script = format!(
            "return [...document.querySelector('table').tBodies[0].rows].map(row => row.cells[{column}].textContent)"
        );
        let cells = browser.run(&script);
        cells.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = cells(0);
    // Reaches the table, then the buttons of its first two columns.
    browser.press(&TAB.repeat(3));
    assert_eq!(browser.run("return document.activeElement.textContent"), "SQNR dB");
    browser.press(ENTER);
    let sorted: Vec<f64> = cells(1).iter().map(|cell| cell.parse().unwrap()).collect();
    assert!(sorted.is_sorted() && sorted.len() == before.len(), "{sorted:?}");
    assert_eq!(browser.run("return document.activeElement.parentElement.ariaSort"), "ascending");
    browser.press(ENTER);
    let sorted: Vec<f64> = cells(1).iter().map(|cell| cell.parse().unwrap()).collect();
    assert!(sorted.iter().rev().is_sorted(), "{sorted:?}");

    browser.run("document.getElementById('filter').focus()");
    browser.press("down_proj");
    let shown = browser.run("return [...document.querySelectorAll('details')].filter(layer => layer.checkVisibility()).map(layer => layer.dataset.name)");
    assert_eq!(shown, json!(["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"]));

    // Paper shows what the screen shows: the figures of all layers of a large model would fill a hundred sheets.
    let printed = || browser.devtools("Page.printToPDF", &json!({}))["data"].as_str().unwrap().len();
    let closed = printed();
    assert!(closed > 20_000);
    browser.run("document.querySelectorAll('details').forEach(layer => layer.open = true)");
    assert!(printed() > closed + 1000);
}

/// The number of layers is 211, as in SmolLM2-135M.
#[test]
fn a_page_of_many_layers_is_small_and_opens_in_a_second() {
    const BLOCKS: usize = 30;
    let sandbox = Sandbox::with_model();
    let mut model = model();
    model.config["num_hidden_layers"] = BLOCKS.into();
    let block: Vec<_> = model.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    for (name, tensor) in block {
        if let Some(rest) = name.strip_prefix("model.layers.0.") {
            let more = (2..BLOCKS).map(|index| (format!("model.layers.{index}.{rest}"), tensor.clone()));
            model.tensors.extend(more);
        }
    }
    model.write(sandbox.path("hf"));
    sandbox.slm("import hf --out deep").success();
    sandbox
        .slm("ptq --checkpoint deep --bits 4 --granularity group:4 --type weight-only --no-eval --out int4 --html page.html")
        .success();
    let page = sandbox.path("page.html");
    let bytes = fs::metadata(&page).unwrap().len();
    assert!(bytes < 3_000_000, "{bytes} bytes");
    let Some(browser) = Browser::start() else { return };
    browser.emulate(DESKTOP.0, DESKTOP.1, false);
    browser.open(&page);
    let seconds = browser.seconds();
    assert_eq!(browser.run("return document.querySelectorAll('details').length"), 7 * BLOCKS + 1);
    println!("{bytes} bytes, open after {seconds:.3} s of processor time");
    assert!(seconds < 1.0, "{seconds} s");
}
