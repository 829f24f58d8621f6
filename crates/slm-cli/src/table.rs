//! Tables and human-readable quantities.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::error::Result;
use crate::output::Output;

/// Number of rows of a ranking shown on a terminal.
const WORST: usize = 10;

/// Options of commands that print tables of layers.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TableArgs {
    /// Show every row of a table, not only the worst ten; a file or a pipe gets every row anyway
    #[arg(long)]
    all: bool,
    /// Show every column of a table, however wide; a file or a pipe gets every column anyway
    #[arg(long)]
    wide: bool,
}

/// A row of a ranking.
pub(crate) struct Row {
    /// Sort key of the row: the largest is shown first.
    pub(crate) badness: f64,
    pub(crate) cells: Vec<String>,
}

/// A table that is sorted by its worst rows.
pub(crate) struct Ranking<'a> {
    /// Name of the rows, such as `layers`.
    pub(crate) what: &'a str,
    /// The measure by which they are ranked.
    pub(crate) by: &'a str,
    /// Meaning of the columns; may be empty.
    pub(crate) note: &'a str,
    pub(crate) header: &'a [&'a str],
    pub(crate) rows: Vec<Row>,
    /// The cells of a row below the others that has no rank and is always shown.
    pub(crate) last: Option<Vec<String>>,
}

impl TableArgs {
    /// Prints the worst rows of a ranking on a terminal. Elsewhere or with `--all`, prints all rows in their original
    /// order.
    pub(crate) fn show(self, mut ranking: Ranking<'_>, output: &Output) -> Result<()> {
        let count = ranking.rows.len();
        let shown = self.shown(count, output);
        let ranked = ranking.rows.windows(2).any(|pair| pair[0].badness != pair[1].badness);
        if shown < count && !ranked {
            ranking.rows.truncate(shown);
            output.say(format!("\nThe first ten of {count} {}; --all shows every one:", ranking.what))?;
        } else if shown < count {
            ranking.rows.sort_by(|a, b| b.badness.total_cmp(&a.badness));
            ranking.rows.truncate(shown);
            let Ranking { what, by, note, .. } = ranking;
            output.say(format!("\nThe ten worst of {count} {what} by {by}; --all shows every one:"))?;
            if !note.is_empty() {
                output.say(note)?;
            }
        } else {
            output.say("")?;
        }
        let rows = ranking.rows.into_iter().map(|row| row.cells).chain(ranking.last);
        self.table(ranking.header, rows, output)
    }

    /// Returns `true` if lines may exceed the width of the terminal.
    pub(crate) fn wide(self) -> bool {
        self.wide
    }

    /// Returns how many of `count` rows to show.
    pub(crate) fn shown(self, count: usize, output: &Output) -> usize {
        if output.width().is_some() && !self.all { count.min(WORST) } else { count }
    }

    /// Prints a table that fits the terminal, unless it may be wider.
    pub(crate) fn table(
        self,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
        output: &Output,
    ) -> Result<()> {
        let width = output.width().filter(|_| !self.wide);
        let Fitted { table, notes } = fitted(header, rows.into_iter().collect(), width.unwrap_or(usize::MAX));
        output.lines(&table)?;
        notes.iter().try_for_each(|note| output.say(note))
    }
}

struct Fitted {
    table: String,
    /// Facts about columns that were removed from the table.
    notes: Vec<String>,
}

/// Formats a table with a header; the first column is left-aligned, the others right-aligned. If it is wider than
/// `width`, columns with the same value in every row are moved to a note below, and then the last columns are omitted.
fn fitted(header: &[&str], mut rows: Vec<Vec<String>>, width: usize) -> Fitted {
    let mut header: Vec<&str> = header.to_vec();
    let (mut same, mut left_out) = (Vec::new(), Vec::new());
    loop {
        let table = plain(&header, &rows);
        let widest = table.lines().map(textwrap::core::display_width).max().unwrap_or(0);
        if widest <= width || header.len() < 2 {
            let mut notes = Vec::new();
            if !same.is_empty() {
                notes.push(format!("all rows: {}", same.join("; ")));
            }
            // A column of bars has no name.
            left_out.retain(|name: &&str| !name.is_empty());
            if !left_out.is_empty() {
                left_out.reverse();
                notes.push(format!("left out: {} (--wide shows every column)", left_out.join(", ")));
            }
            return Fitted { table, notes };
        }
        let is_same = |column: &usize| {
            rows.len() > 1 && rows.windows(2).all(|pair| pair[0].get(*column) == pair[1].get(*column))
        };
        let column = (1..header.len()).rev().find(is_same);
        match column {
            Some(column) => same.push(format!("{} {}", header[column], rows[0][column])),
            None => left_out.extend(header.last().copied()),
        }
        let column = column.unwrap_or(header.len() - 1);
        header.remove(column);
        for row in &mut rows {
            if column < row.len() {
                row.remove(column);
            }
        }
    }
}

fn plain(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Formats a number of bytes with a decimal unit (powers of 1000).
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// Formats a small positive number with four significant digits.
pub(crate) fn scale(value: f32) -> String {
    if (1e-4..1e4).contains(&value.abs()) { format!("{value:.6}") } else { format!("{value:.3e}") }
}

/// Formats `low..high`, or a single value if both are the same.
pub(crate) fn range(low: String, high: String) -> String {
    if low == high { low } else { format!("{low}..{high}") }
}

/// Formats a share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_what_fits() {
        let header = ["layer", "scheme", "scale", "kernel", "input"];
        let row = |layer: &str, scale: &str, input: &str| {
            [layer, "int8 tensor", scale, "avx2", input].map(str::to_owned).to_vec()
        };
        let rows = vec![row("q_proj", "0.01", "0.5 / 3"), row("k_proj", "0.02", "0.6 / 3")];
        let wide = fitted(&header, rows.clone(), usize::MAX);
        assert_eq!(wide.table.lines().count(), 3);
        assert!(wide.table.contains("int8 tensor") && wide.notes.is_empty());
        for width in 8..70 {
            let Fitted { table, notes } = fitted(&header, rows.clone(), width);
            assert_eq!(table.lines().count(), 3, "{width}:\n{table}");
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
            let told = table + &notes.join("\n");
            for name in header {
                assert!(told.contains(name), "{name} is not told of:\n{told}");
            }
        }
        let narrow = fitted(&header, rows, 24);
        assert_eq!(narrow.notes, ["all rows: kernel avx2; scheme int8 tensor"]);
        let bars = ["up", "down"].map(|name| vec![name.to_owned(), "#".repeat(10 + name.len())]);
        let Fitted { table, notes } = fitted(&["layer", ""], bars.to_vec(), 8);
        assert!(!table.contains('#') && notes.is_empty(), "{table}\n{notes:?}");
    }
}
