//! Paths in commands that messages suggest.

use std::path::Path;

/// Returns `path` as one word of a shell's command line: in quotes if it contains a space or another special character.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "_-./\\:@%+=,~".contains(c);
    // A leading hyphen would begin an option, and a leading tilde would be replaced.
    let text = if text.starts_with(['-', '~']) { format!("./{text}") } else { text };
    if !text.is_empty() && text.chars().all(|c| plain(c) && (c != '\\' || cfg!(windows))) {
        return text;
    }
    match cfg!(windows) {
        true => format!("\"{text}\""),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_by_a_shell_as_the_path() {
        for path in
            ["a", "models/smollm2", "my model", "it's", "a b/c'd", "$HOME", "-x", "~", "a\\b", "", "ü", "a;b"]
        {
            let script = format!("printf %s {}", shell_word(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let read = String::from_utf8(output.stdout).unwrap();
            assert_eq!(read.strip_prefix("./").unwrap_or(&read), path, "{script}");
        }
        assert_eq!(shell_word(Path::new("models/smollm2-int8")), "models/smollm2-int8");
    }
}
