//! What commands print: data to stdout, talk to stderr, and nothing that could steer a terminal.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

/// Prints a line of data.
///
/// # Errors
/// When nobody reads stdout any more, or it can't be written.
pub fn print_line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// As [`print_line()`].
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(serde_json::to_string(value).map_err(io::Error::other)?)
}

/// Prints a message on stderr, for the person who watches; it is lost when stderr is gone.
pub fn print_message(text: impl Display) {
    writeln!(io::stderr(), "{text}").ok();
}

/// True when a person watches stderr.
pub fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Text of somebody else, fit for a terminal: control and direction characters become `?`.
pub fn sanitize_text(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_steers_no_terminal() {
        assert_eq!(sanitize_text("a\u{1b}[31mb\nc\u{202e}d é"), "a?[31mb?c?d é");
    }
}
