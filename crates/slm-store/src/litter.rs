//! Files that file managers leave in every directory that they show.

/// Returns `true` for the name of a file that a file manager creates by itself and that can be lost, such as `.DS_Store`.
pub fn is_litter(name: &str) -> bool {
    let named = [".DS_Store", ".directory", ".localized", "Thumbs.db", "desktop.ini"];
    // macOS stores attributes of a file in `._NAME` where the file system cannot.
    named.iter().any(|litter| name.eq_ignore_ascii_case(litter)) || name.starts_with("._")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_file_managers_are_litter() {
        for name in [".DS_Store", "thumbs.db", "Desktop.ini", "._model.safetensors"] {
            assert!(is_litter(name), "{name}");
        }
        for name in ["", ".", ".git", "notes.txt", "model.safetensors", ".writing-lm_head"] {
            assert!(!is_litter(name), "{name}");
        }
    }
}
