//! `schemas`: the published form of every message against the types.

use serde_json::json;

use super::{Ended, SchemasCommand, out};
use crate::published;

/// Compares or writes the published files.
///
/// # Errors
/// When a file can't be read or written.
pub fn run(command: SchemasCommand, as_json: bool) -> anyhow::Result<Ended> {
    match command {
        SchemasCommand::Check { dir } => {
            let differences = published::check(&dir)?;
            for difference in &differences {
                if as_json {
                    out::json(&json!({ "file": difference.file, "detail": difference.detail }))?;
                } else {
                    out::line(format!("{}: {}", difference.file, difference.detail))?;
                }
            }
            if differences.is_empty() {
                out::say(format!("{} agrees with the types", dir.display()));
                return Ok(Ended::Well);
            }
            out::say("`streamgate schemas write` writes what is missing or different");
            Ok(Ended::Badly)
        }
        SchemasCommand::Write { dir } => {
            let written = published::write(&dir)?;
            for file in &written {
                if as_json { out::json(&json!({ "file": file }))? } else { out::line(file)? }
            }
            if written.is_empty() {
                out::say("Nothing to write");
            }
            Ok(Ended::Well)
        }
    }
}
