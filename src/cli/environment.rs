//! Variables of the environment that look like settings of this program and are none: warned of by name, never refused.
//!
//! Orchestrators set such variables for a service that is called like the program (`STREAMGATE_SERVICE_HOST`), which looks like a
//! name that was misspelt.
//!
//! Limits: at most [`NAMES_SHOWN_MAX`] names are shown, each with at most [`NAME_CHARS_MAX`] characters; never a value, which may be a secret.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Command, CommandFactory};

use super::{Cli, output};

/// What names of variables that are read here begin with.
pub const PREFIX: &str = "STREAMGATE_";
/// Most names that a warning shows.
pub const NAMES_SHOWN_MAX: usize = 20;
/// Longest part of a name that a warning shows, in characters.
pub const NAME_CHARS_MAX: usize = 64;

/// Logs a warning when variables were set that nothing reads.
pub(super) fn log_unknown_variables() {
    if let Some(warning) = describe_unknown_variables(variable_names()) {
        tracing::warn!("{warning}");
    }
}

/// The same for commands about the settings themselves: said whatever is logged.
pub(super) fn print_unknown_variables() {
    if let Some(warning) = describe_unknown_variables(variable_names()) {
        output::print_message(warning);
    }
}

fn variable_names() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name)
}

/// Which of `names` are no settings, and what to do; nothing when all are, or belong to others.
fn describe_unknown_variables(names: impl Iterator<Item = OsString>) -> Option<String> {
    let mut known = BTreeSet::new();
    collect_variables(&Cli::command(), &mut known);
    let given = names.map(|name| name.to_string_lossy().into_owned());
    let unknown: BTreeSet<String> =
        given.filter(|name| name.starts_with(PREFIX) && !known.contains(&OsString::from(name))).collect();
    if unknown.is_empty() {
        return None;
    }
    let shown: Vec<String> = unknown.iter().take(NAMES_SHOWN_MAX).map(|name| shorten_name(name)).collect();
    let more = unknown.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "environment variables that no setting is read from: {}{more}; `streamgate up --help` names those that are, all else is set \
         in the file (--config). Kubernetes sets some for a service called streamgate, unless the pod has enableServiceLinks: false",
        shown.join(", ")
    ))
}

/// A name as it may stand in a log: without what could end its line.
fn shorten_name(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The variables that a command and those below it read.
fn collect_variables(command: &Command, known: &mut BTreeSet<OsString>) {
    known.extend(command.get_arguments().filter_map(|argument| argument.get_env()).map(OsString::from));
    for below in command.get_subcommands() {
        collect_variables(below, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(names: &[&str]) -> Option<String> {
        describe_unknown_variables(names.iter().map(OsString::from))
    }

    #[test]
    fn what_is_read_and_what_is_not_ours_is_no_matter() {
        let known = [
            "STREAMGATE_CONFIG",
            "STREAMGATE_LOG",
            "STREAMGATE_LISTEN",
            "STREAMGATE_NATS_URL",
            "STREAMGATE_API_KEY",
            "STREAMGATE_URL",
            "PATH",
            "streamgate_port",
            "STREAMGATE",
        ];
        assert_eq!(described(&known), None);
    }

    #[test]
    fn what_nothing_reads_is_named() {
        let warning = described(&[
            "STREAMGATE_PRESET",
            "STREAMGATE_SERVICE_HOST",
            "STREAMGATE_LISTEN",
            "STREAMGATE_A\nB",
        ])
        .unwrap();
        assert!(
            warning.contains(": STREAMGATE_A?B, STREAMGATE_PRESET, STREAMGATE_SERVICE_HOST;"),
            "{warning}"
        );
        assert!(!warning.contains("STREAMGATE_LISTEN") && warning.contains("--config"), "{warning}");
    }

    #[test]
    fn a_warning_has_an_end() {
        let names: Vec<String> = (10..40).map(|n| format!("STREAMGATE_{n}{}", "X".repeat(200))).collect();
        let warning = described(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert!(warning.contains("and 10 more") && warning.len() < 2_000, "{warning}");
    }
}
