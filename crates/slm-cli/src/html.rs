//! Reports as self-contained HTML pages: one file with style, images and script, and no external resources.

mod layers;
mod svg;
mod training;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use minijinja::{Environment, context};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::out_file::OutFile;
use crate::output::Output;
use crate::table;

pub(crate) use layers::{FloatWeights, input_ranges, layers};
pub(crate) use svg::{Mark, Point, depth, scatter};
pub(crate) use training::training_curves;

const TEMPLATE: &str = include_str!("html/report.html");

/// The note of a table that explains only sorting.
pub(crate) const SORT_NOTE: &str = "Click a column's name to sort by it.";

/// Mark near the beginning of a page that slm wrote.
const MARK: &str = "<!-- slm report -->";

/// The option for writing a report as a page.
#[derive(Debug, Args)]
pub(crate) struct HtmlArgs {
    /// Also write the report to FILE as a self-contained page, with plots and sortable tables. A page that slm wrote is
    /// replaced
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl HtmlArgs {
    /// Returns `true` if a page was requested.
    pub(crate) fn is_wanted(&self) -> bool {
        self.html.is_some()
    }

    /// Fails early if the page cannot be written.
    pub(crate) fn prepare(&self) -> Result<()> {
        self.html.as_deref().map_or(Ok(()), |path| file(path).map(drop))
    }

    /// Writes the page that `page` creates, if one was requested, and says where it is.
    pub(crate) fn write(&self, output: &Output, page: impl FnOnce() -> Result<Page>) -> Result<()> {
        let Some(path) = &self.html else { return Ok(()) };
        let html = page()?.render()?;
        file(path)?.write(html)?;
        output.say(format!("\nwrote page        {}", path.display()))
    }
}

/// Prepares to write a page, which may replace only another page.
fn file(path: &Path) -> Result<OutFile> {
    if path.is_file() && !is_ours(path) {
        let detail = "already exists, and is not a page that slm wrote; choose another --html, or remove it";
        return Err(Error::file(path, detail));
    }
    OutFile::of_option("--html", path, true)
}

/// Returns `true` if a file is a page that slm wrote.
fn is_ours(path: &Path) -> bool {
    let mut start = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read(&mut start));
    read.is_ok_and(|read| String::from_utf8_lossy(&start[..read]).contains(MARK))
}

/// The content of a page, in display order.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Verdict: `good`, `worse`, `broken`, or empty.
    pub(crate) grade: String,
    pub(crate) verdict: String,
    pub(crate) facts: Vec<Fact>,
    pub(crate) charts: Vec<Chart>,
    pub(crate) plots: Vec<Plot>,
    pub(crate) tables: Vec<Table>,
    pub(crate) layers: Vec<LayerFigures>,
    pub(crate) lineage: Vec<Fact>,
    version: &'static str,
}

/// A label and its text.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) label: String,
    pub(crate) text: String,
}

/// A bar chart.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    title: String,
    note: String,
    bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    label: String,
    value: String,
    /// Length of the bar in percent of the longest one.
    percent: f64,
}

/// A plot.
#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) svg: String,
}

/// A table that can be sorted by any column.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    note: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// A cell, with its sort key.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    text: String,
    value: Option<f64>,
}

/// Plots of one layer.
#[derive(Debug, Serialize)]
pub(crate) struct LayerFigures {
    name: String,
    summary: String,
    histogram: String,
    values: String,
    scales: String,
    scale_note: String,
    input: String,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), value: None }
    }

    /// Creates a cell with a number, shown as `text`. Infinities are sorted after all other numbers of their sign.
    pub(crate) fn number(value: f64, text: impl Into<String>) -> Self {
        let value = if value.is_nan() { None } else { Some(value.clamp(-1e300, 1e300)) };
        Self { text: text.into(), value }
    }
}

impl Table {
    /// Creates a table. Columns with the same text in every row are moved to the note.
    pub(crate) fn new(
        title: &str,
        note: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Self {
        let mut columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        let mut rows: Vec<Vec<Cell>> = rows.into_iter().collect();
        let mut same = Vec::new();
        for index in (1..columns.len()).rev() {
            let text = |row: &Vec<Cell>| row.get(index).map(|cell| cell.text.clone());
            let first = rows.first().and_then(text);
            if rows.len() > 2 && rows.iter().all(|row| text(row) == first) {
                same.push(format!("{} {}", columns.remove(index), first.unwrap_or_default()));
                rows.iter_mut().for_each(|row| drop(row.remove(index)));
            }
        }
        same.reverse();
        let same = if same.is_empty() { String::new() } else { format!("All rows: {}.", same.join("; ")) };
        let note = [note, &same].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        Self { title: title.to_owned(), note, columns, rows }
    }
}

impl Chart {
    /// Creates a chart of sizes in bytes.
    pub(crate) fn of_sizes(bars: &[(&str, u64)]) -> Self {
        let bar = |(label, size): &(&str, u64)| ((*label).to_owned(), *size as f64, table::bytes(*size));
        Self::new("Size", "", bars.iter().map(bar).collect())
    }

    /// Creates a chart of perplexities on a text, each with its change from the first one.
    pub(crate) fn of_perplexities(measured_on: &str, bars: &[(&str, f64)]) -> Self {
        let first = bars.first().map_or(f64::NAN, |bar| bar.1);
        let bar = |(index, (label, value)): (usize, &(&str, f64))| {
            let change = match index {
                0 => String::new(),
                _ => format!(" ({:+.2} %)", (value / first - 1.0) * 100.0),
            };
            ((*label).to_owned(), *value, format!("{value:.4}{change}"))
        };
        let note = format!("Perplexity on {measured_on}; lower is better.");
        Self::new("Quality", &note, bars.iter().enumerate().map(bar).collect())
    }

    pub(crate) fn new(title: &str, note: &str, bars: Vec<(String, f64, String)>) -> Self {
        let largest =
            bars.iter().map(|(_, size, _)| *size).filter(|size| size.is_finite()).fold(0.0, f64::max);
        let percent = |size: f64| match size.is_finite() && largest > 0.0 {
            true => (size.max(0.0) / largest * 1000.0).round() / 10.0,
            false => 0.0,
        };
        let bars = bars.into_iter().map(|(label, size, value)| Bar { label, value, percent: percent(size) });
        Self { title: title.to_owned(), note: note.to_owned(), bars: bars.collect() }
    }
}

/// Creates a fact without a label of its own.
pub(crate) fn remark(text: &str) -> Fact {
    Fact { label: "note".to_owned(), text: text.to_owned() }
}

/// Creates the fact of a warning.
pub(crate) fn warning(text: &str) -> Fact {
    Fact { label: "warning".to_owned(), text: text.to_owned() }
}

/// Parses the facts of a text report: lines with a label, at least two spaces, and a text.
pub(crate) fn facts(report: &str) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    for line in report.lines().filter(|line| !line.trim().is_empty()) {
        match (line.starts_with(' '), line.split_once("  ")) {
            (true, _) => {
                if let Some(last) = facts.last_mut() {
                    last.text = format!("{}; {}", last.text, line.trim());
                }
            }
            (false, Some((label, text))) => {
                facts.push(Fact { label: label.to_owned(), text: text.trim().to_owned() });
            }
            (false, None) => facts.push(Fact { label: String::new(), text: line.to_owned() }),
        }
    }
    facts
}

impl Page {
    pub(crate) fn new(title: impl Into<String>, verdict: impl Into<String>) -> Self {
        let (title, verdict) = (title.into(), verdict.into());
        let grade = ["good", "worse", "broken"]
            .into_iter()
            .find(|grade| verdict.split_once(':').is_some_and(|(word, _)| word.eq_ignore_ascii_case(grade)));
        let version = env!("CARGO_PKG_VERSION");
        Self { title, verdict, grade: grade.unwrap_or_default().to_owned(), version, ..Self::default() }
    }

    fn render(&self) -> Result<String> {
        let fail = |error: minijinja::Error| Error::file("the page", format!("cannot be made: {error:#}"));
        let mut environment = Environment::new();
        // The name ending in `.html` enables escaping of all text that is not marked as safe.
        environment.add_template("report.html", TEMPLATE).map_err(fail)?;
        let template = environment.get_template("report.html").map_err(fail)?;
        template.render(context! { page => self }).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_say_one_thing_are_told_once() {
        let row = |layer: &str, kernel: &str| vec![Cell::text(layer), Cell::text("8"), Cell::text(kernel)];
        let table = Table::new(
            "",
            "Note.",
            &["layer", "bits", "kernel"],
            [row("a", "x"), row("b", "x"), row("c", "x")],
        );
        assert_eq!(table.note, "Note. All rows: bits 8; kernel x.");
        assert_eq!((table.columns, table.rows[2].len()), (vec!["layer".to_owned()], 1));
        let table = Table::new("", "", &["layer", "bits", "kernel"], [row("a", "x"), row("b", "y")]);
        assert_eq!((table.columns.len(), &*table.note), (3, ""));
    }

    #[test]
    fn texts_are_escaped_and_nothing_comes_from_elsewhere() {
        let mut page = Page::new("slm ptq: <script>alert(1)</script>", "GOOD: within 0.02 % & more");
        page.facts = facts(
            "\nweights           int8 \"tensor\"\n                  and others\nperplexity        1 -> 2\n",
        );
        assert_eq!(page.facts.len(), 2);
        assert_eq!(page.facts[0].text, "int8 \"tensor\"; and others");
        page.charts.push(Chart::new(
            "Size",
            "",
            vec![("float".into(), 4.0, "4 B".into()), ("int8".into(), 1.0, "1 B".into())],
        ));
        page.tables.push(Table::new(
            "Layers",
            "",
            &["layer", "SQNR"],
            [vec![Cell::text("a<b"), Cell::number(f64::INFINITY, "inf")]],
        ));
        let html = page.render().unwrap();
        assert!(html.contains("verdict good") && html.contains("width: 25.0%"), "{html}");
        assert!(html.contains("a&lt;b") && !html.contains("<script>alert"), "{html}");
        assert_eq!(html.matches("<script").count(), 1);
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
