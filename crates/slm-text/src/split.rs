//! Splitting of a text into training and validation parts.

use crate::END_OF_TEXT;

/// Splits off the end of a text for validation, at the first suitable boundary at or after `1 - fraction` of it: the
/// end of a document, else of a line, else of a character.
pub fn split(text: &str, fraction: f64) -> (&str, &str) {
    let wanted = text.floor_char_boundary((text.len() as f64 * (1.0 - fraction)) as usize);
    let (before, rest) = text.split_at(wanted);
    let document = format!("{END_OF_TEXT}\n");
    let ahead = [document.as_str(), "\n"]
        .iter()
        .filter_map(
            |&end| {
                if before.ends_with(end) { Some(0) } else { rest.find(end).map(|at| at + end.len()) }
            },
        )
        // A boundary that leaves too little for validation is not suitable.
        .find(|&at| at <= rest.len() / 2)
        .unwrap_or(0);
    text.split_at(wanted + ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Corpus;

    #[test]
    fn the_split_falls_on_a_boundary() {
        let text = Corpus::new(1).text(40);
        let (train, validation) = split(&text, 0.1);
        assert!(train.ends_with("<|endoftext|>\n") && validation.ends_with("<|endoftext|>\n"));
        assert_eq!(format!("{train}{validation}"), text);
        let share = validation.len() as f64 / text.len() as f64;
        assert!((0.04..=0.1).contains(&share), "{share}");
        assert_eq!(split("ab\ncd\nef\ngh\n", 0.5), ("ab\ncd\n", "ef\ngh\n"));
        assert_eq!(split("ééééé", 0.3), ("ééé", "éé"));
    }
}
