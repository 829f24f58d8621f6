//! Reports as HTML pages: their content, and that they need no external resources.

use std::path::Path;
use std::process::Command;

use slm_tests::{Sandbox, quantized};

/// Elements without an end tag.
const VOID: [&str; 5] = ["meta", "link", "input", "!DOCTYPE", "!--"];

/// Checks the structure of a page: properly nested elements, one top-level heading, a language, a title, labels for
/// images and fields, and no external resources.
#[track_caller]
fn is_sound(html: &str) {
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<html lang=\"en\">"));
    for outside in ["http:", "https:", "//cdn", "src=", "@import", "url(", "javascript:"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("<h1").count(), 1);
    assert_eq!(html.matches("<script").count(), 1);
    assert!(html.contains("name=\"viewport\"") && html.contains("prefers-color-scheme: dark"));
    assert!(html.contains("@media print") && html.contains("Content-Security-Policy"));
    assert!(!html.contains("NaN") && !html.contains(">undefined<"), "a number is none");
    let (body, _) = html.split_once("<script>").unwrap();
    let (_, body) = body.split_once("<body>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("<{part}"));
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> in {:?}", &part[..part.len().min(80)]);
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name);
        }
        if name == "svg" && !tag.starts_with('/') {
            assert!(tag.contains("role=\"img\"") && tag.contains("aria-label=\""), "{tag}");
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    // Fields are inside their labels, and table headers are buttons that can be reached with the keyboard.
    assert_eq!(body.matches("<input").count(), body.matches("<label>").count());
    assert_eq!(body.matches("<th ").count(), body.matches("<th scope=\"col\"><button").count());
}

/// Returns the number of rows of the table whose columns begin with `first`.
fn rows(html: &str, first: &str) -> usize {
    let marker = format!("<tr><th scope=\"col\"><button type=\"button\">{first}</button>");
    let (_, table) = html.split_once(&marker).unwrap_or_else(|| panic!("no table of {first}"));
    table.split_once("</tbody>").unwrap().0.matches("<tr><td").count()
}

#[test]
fn every_report_can_be_a_page() {
    let sandbox = Sandbox::with_model();
    let page = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    let ptq = "ptq --checkpoint model --calibration text.txt";
    sandbox
        .slm(&format!("{ptq} --granularity group:32 --mapping affine --bits 4 --out int4 --html ptq.html"))
        .success();
    let html = page("ptq.html");
    is_sound(&html);
    // The verdict comes first, then actions, sizes, quality, layers, lineage.
    let order = [
        "class=\"verdict",
        "<dt>weights</dt>",
        "<h2>Size</h2>",
        "<h2>Quality</h2>",
        "SQNR of the weights by depth",
    ];
    let order = order.into_iter().chain([">Layers</h2>", "Layers one by one", "<h2>Lineage</h2>"]);
    let places: Vec<usize> = order.map(|part| html.find(part).unwrap_or_else(|| panic!("{part}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(rows(&html, "layer"), 15);
    assert_eq!(html.matches("<details").count(), 15);
    assert_eq!(html.matches("Histogram of the weights of").count(), 15);
    assert_eq!(html.matches("aria-label=\"Scales of").count(), 15);
    assert_eq!(html.matches("<circle").count(), 15);

    // For each static input, the range that is kept and the extremes observed in calibration.
    let (kept, observed) = ("Input: 8-bit, kept from", "Observed in calibration: from");
    let static_inputs = html.matches(kept).count();
    assert!(static_inputs > 0);
    assert_eq!(html.matches(observed).count(), static_inputs);
    for class in ["range", "observed"] {
        assert_eq!(html.matches(&format!("<path class=\"{class}\"")).count(), static_inputs, "{class}");
    }

    sandbox.slm("inspect int4 --html inspect.html").success();
    let html = page("inspect.html");
    is_sound(&html);
    assert_eq!((html.matches(kept).count(), html.matches(observed).count()), (static_inputs, static_inputs));
    assert_eq!((rows(&html, "layer"), html.matches("<details").count()), (15, 15));
    assert!(rows(&html, "tensor") > 15);
    sandbox.slm("inspect model --html float.html").success();
    is_sound(&page("float.html"));

    sandbox.put_dir("int8", quantized());
    sandbox.slm("compare model int8 --data text.txt --max-tokens 256 --html compare.html").success();
    let html = page("compare.html");
    is_sound(&html);
    assert!(html.contains("class=\"verdict good\"") && html.contains("errors accumulate"));
    // A disc and a ring for each layer.
    assert_eq!((rows(&html, "layer output"), html.matches("<circle").count()), (15, 30));

    sandbox
        .slm("sensitivity --checkpoint model --data text.txt --max-tokens 128 --by layer --html sensitivity.html")
        .success();
    let html = page("sensitivity.html");
    is_sound(&html);
    assert_eq!(rows(&html, "quantized alone"), 15);

    sandbox.put("other.txt", slm_tests::text());
    let eval = "eval --checkpoint int8 --data text.txt --data other.txt --max-tokens 256 --reference model --html eval.html";
    sandbox.slm(eval).success();
    let html = page("eval.html");
    is_sound(&html);
    assert_eq!(rows(&html, "text"), 2);
    assert!(html.contains("KL divergence from the reference"));
}

#[test]
fn a_page_does_not_take_the_place_of_another_file() {
    let sandbox = Sandbox::with_model();
    sandbox.put("notes.html", "<p>mine</p>");
    sandbox.refuses(
        "inspect model --html notes.html",
        1,
        &["notes.html", "not a page that slm wrote", "--html"],
    );
    sandbox.refuses(
        "inspect model --html nowhere/page.html",
        1,
        &["nowhere/page.html", "there is no directory", "--html"],
    );
    sandbox.refuses("inspect model --html -", 2, &["--html -"]);
    sandbox.refuses("inspect model --html page.html --layer lm_head", 2, &["--html", "--layer"]);
    for _ in 0..2 {
        sandbox.slm("inspect model --html page.html").success();
    }
    // With --json, the JSON object and the page are written.
    sandbox.slm("inspect model --html page.html --json").json();
}

/// Names with special characters must not break a page.
#[test]
fn hostile_names_are_shown_as_they_are() {
    let sandbox = Sandbox::with_model();
    sandbox.put("<b>.txt", slm_tests::text());
    sandbox
        .slm_with("compare model model --max-tokens 128 --html page.html --data", &["<b>.txt"], &[])
        .success();
    let html = String::from_utf8(sandbox.read("page.html")).unwrap();
    is_sound(&html);
    assert!(html.contains("&lt;b&gt;.txt") && !html.contains("<b>.txt"));
}

/// The script of a page is valid for node, if node is installed.
#[test]
fn the_script_has_no_syntax_error() {
    let sandbox = Sandbox::with_model();
    sandbox.slm("inspect model --html page.html").success();
    let html = String::from_utf8(sandbox.read("page.html")).unwrap();
    let (_, script) = html.split_once("<script>").unwrap();
    sandbox.put("page.js", script.split_once("</script>").unwrap().0);
    let checked = Command::new("node").arg("--check").arg(sandbox.path("page.js")).output();
    match checked {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("skipped: no node"),
    }
    assert!(Path::new(&sandbox.path("page.js")).is_file());
}
