//! Lines typed at the prompt.

/// The answer to `/help`.
pub(super) const HELP: &str = "\
/reset            forget the conversation
/system [TEXT]    start over with this instruction, or with the template's own
/temperature T    0 always takes the most likely token
/save FILE        write the conversation as JSON
/stats            show the speed of the last answer and the room that is left
/help             show this
/quit             end
//TEXT            a message that begins with a slash";

/// The meaning of a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request<'a> {
    /// An empty line.
    Nothing,
    Say(&'a str),
    Reset,
    System(&'a str),
    Temperature(f64),
    Save(&'a str),
    Stats,
    Help,
    Quit,
    /// An unknown or incomplete command, with the correct form.
    Unknown(String),
}

impl<'a> Request<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Nothing } else { Self::Say(line) };
        };
        if command.starts_with('/') {
            return Self::Say(command);
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("reset", "") => Self::Reset,
            ("system", text) => Self::System(text),
            ("temperature", text) => match text.parse::<f64>() {
                Ok(temperature) if temperature.is_finite() && temperature >= 0.0 => {
                    Self::Temperature(temperature)
                }
                _ => {
                    Self::Unknown(format!("/temperature takes a number such as 0.7, 0 or more, not {text:?}"))
                }
            },
            ("save", "") => Self::Unknown("/save takes the name of a file".to_owned()),
            ("save", path) => Self::Save(path),
            ("stats", "") => Self::Stats,
            ("help", "") => Self::Help,
            ("quit" | "exit", "") => Self::Quit,
            _ => Self::Unknown(format!(
                "unknown command /{command}; /help lists all, and // begins a message with a slash"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, expected) in [
            ("", Request::Nothing),
            ("  Hello, you! ", Request::Say("Hello, you!")),
            ("//etc is a folder", Request::Say("/etc is a folder")),
            ("/reset", Request::Reset),
            ("/system  Be brief. ", Request::System("Be brief.")),
            ("/system", Request::System("")),
            ("/temperature 0.5", Request::Temperature(0.5)),
            ("/save a b.json", Request::Save("a b.json")),
            ("/exit", Request::Quit),
        ] {
            assert_eq!(Request::parse(line), expected, "{line:?}");
        }
        for line in
            ["/temperature", "/temperature -1", "/temperature nan", "/save", "/rset", "/reset now", "/"]
        {
            assert!(matches!(Request::parse(line), Request::Unknown(_)), "{line:?}");
        }
    }
}
