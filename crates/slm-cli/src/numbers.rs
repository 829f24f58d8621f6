//! Numbers on the command line, and messages about them.

use clap::builder::RangedU64ValueParser;

/// Messages of the standard library about text that is not a number, and the remedy that a user needs instead.
const REMEDIES: [(&str, &str); 6] = [
    ("invalid digit found in string", "use a whole number such as 16"),
    ("cannot parse integer from empty string", "use a whole number such as 16"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("invalid float literal", "use a number such as 0.5"),
    ("cannot parse float from empty string", "use a number such as 0.5"),
];

/// Parses a count of something that memory or time is taken for, from 1 to `most`.
pub(crate) fn count(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Lowest upper bound that comes from the type of an option, not from its meaning.
const UNBOUNDED: i128 = u32::MAX as i128;

/// Replaces messages of the standard library and of clap about numbers in an error message.
pub(crate) fn in_words(message: &str) -> String {
    let message = REMEDIES.iter().fold(message.to_owned(), |message, (from, to)| message.replace(from, to));
    range(&message).unwrap_or(message)
}

/// Replaces a range in Rust's notation, as in "-5 is not in -1..=8".
fn range(message: &str) -> Option<String> {
    let (before, after) = message.split_once(" is not in ")?;
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    let (low, high) = after[..end].split_once("..")?;
    let high = high.trim_start_matches('=');
    let bound = match high.parse::<i128>().ok()? {
        high if high >= UNBOUNDED => format!("use {low} or more"),
        high => format!("use {low} to {high}"),
    };
    let number = before.rfind(' ').map_or(0, |at| at + 1);
    Some(format!("{}{bound}{}", &before[..number], &after[end..]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Arguments;

    #[test]
    fn messages_about_numbers_are_not_in_rust() {
        for (line, expected) in [
            ("generate --checkpoint x --top-k abc", "use a whole number such as 16"),
            ("generate --checkpoint x --top-k=-5", "use -1 or more"),
            ("generate --checkpoint x --temperature hot", "use a number such as 0.5"),
            ("generate --checkpoint x --temperature=", "use a number such as 0.5"),
            ("generate --checkpoint x --max-new-tokens=", "use a whole number such as 16"),
            ("generate --checkpoint x --seed 99999999999999999999", "the number is too large"),
            ("ptq --tune-steps 0", "use 1 or more"),
            ("serve --checkpoint x --parallel 0", "use 1 to 256"),
            ("bench --prompt 0", "use 1 to 1048576"),
            ("bench --threads 18446744073709551615", "use 1 to 1024"),
            ("sample --checkpoint x --out y --sequences 18446744073709551615", "use 1 to 10000000"),
            ("serve --checkpoint x --port 65536", "use 0 to 65535"),
        ] {
            let words = ["slm"].into_iter().chain(line.split_whitespace());
            let error = Arguments::try_parse_from(words).unwrap_err().to_string();
            let (message, rest) =
                in_words(&error).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            assert!(message.ends_with(&format!(": {expected}")), "{line}: {message}");
            assert!(rest.contains("--help"), "{rest}");
        }
        assert_eq!(
            in_words("the tokenizer is not in the checkpoint"),
            "the tokenizer is not in the checkpoint"
        );
    }
}
