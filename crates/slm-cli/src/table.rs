//! Tables and quantities as people read them.

use comfy_table::{CellAlignment, Table, presets};

/// A table with a header; the first column is aligned left, the others right. On a terminal that is too narrow for it,
/// columns with the same value in every row are told below it, and then the last ones are left out.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    fitted(header, rows.into_iter().collect(), width.unwrap_or(usize::MAX))
}

fn fitted(header: &[&str], mut rows: Vec<Vec<String>>, width: usize) -> String {
    let mut header: Vec<&str> = header.to_vec();
    let (mut same, mut left_out) = (Vec::new(), Vec::new());
    loop {
        let text = plain(&header, &rows);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        if widest <= width || header.len() < 2 {
            let mut text = text;
            if !same.is_empty() {
                text += &format!("\nall rows: {}", same.join("; "));
            }
            if !left_out.is_empty() {
                left_out.reverse();
                let names = left_out.join(", ");
                text += &format!("\nleft out for the width of {width} columns: {names} (--json has all)");
            }
            return text;
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
        assert_eq!(wide.lines().count(), 3);
        assert!(wide.contains("int8 tensor") && !wide.contains("all rows"), "{wide}");
        for width in 8..70 {
            let text = fitted(&header, rows.clone(), width);
            let table: Vec<&str> = text.lines().take(3).collect();
            assert!(table.iter().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            for name in header {
                assert!(text.contains(name), "{name} is not told of:\n{text}");
            }
        }
        let narrow = fitted(&header, rows, 24);
        assert!(narrow.contains("all rows: kernel avx2; scheme int8 tensor"), "{narrow}");
        assert!(!narrow.contains("left out"), "{narrow}");
    }
}
