//! Tables and quantities as people read them.

use comfy_table::{CellAlignment, Table, presets};

/// A table with a header; the first column is aligned left, the others right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
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

/// Bytes with a unit of 1000s.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A small positive number with four significant digits.
pub(crate) fn scale(value: f32) -> String {
    if (1e-4..1e4).contains(&value) { format!("{value:.6}") } else { format!("{value:.3e}") }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}
