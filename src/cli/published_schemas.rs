//! `schemas`: the published form of every message against the types.

use serde_json::json;

use super::{CommandOutcome, SchemasCommand, output};
use crate::published;

/// Compares or writes the published files.
///
/// # Errors
/// When a file can't be read or written.
pub fn run_schemas(command: SchemasCommand, as_json: bool) -> anyhow::Result<CommandOutcome> {
    match command {
        SchemasCommand::Check { dir } => {
            let differences = published::check_published(&dir)?;
            for difference in &differences {
                if as_json {
                    output::print_json(&json!({ "file": difference.file, "detail": difference.detail }))?;
                } else {
                    output::print_line(format!("{}: {}", difference.file, difference.detail))?;
                }
            }
            if differences.is_empty() {
                output::print_message(format!("{} agrees with the types", dir.display()));
                return Ok(CommandOutcome::Well);
            }
            output::print_message("`streamgate schemas write` writes what is missing or different");
            Ok(CommandOutcome::Badly)
        }
        SchemasCommand::Write { dir } => {
            let written = published::write_published(&dir)?;
            for file in &written {
                if as_json {
                    output::print_json(&json!({ "file": file }))?;
                } else {
                    output::print_line(file)?;
                }
            }
            if written.is_empty() {
                output::print_message("Nothing to write");
            }
            Ok(CommandOutcome::Well)
        }
    }
}
