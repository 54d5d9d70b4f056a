//! `dead`: messages that were given up, and a second chance for them.
//!
//! Limits: `--all` takes at most [`REDRIVE_COUNT_MAX`] at once; the command can be repeated.

use anyhow::Context;
use data_encoding::BASE64;
use ingress::dead_letters::redrive::{self, RedriveError, RedriveOutcome};
use nats::{Bus, dead_letter::DeadLetter};
use serde_json::{Value, json};
use store::Store;

use super::{CommandOutcome, output, render};

/// Most letters that one command gives a second chance.
pub const REDRIVE_COUNT_MAX: usize = 10_000;

/// Lists letters, oldest first.
///
/// # Errors
/// When the broker does not answer.
pub async fn list_letters(bus: &Bus, count_max: usize, as_json: bool) -> anyhow::Result<()> {
    let letters = bus.dead_letters(count_max).await?;
    if as_json {
        letters.iter().try_for_each(|letter| output::print_json(&letter_summary(letter)))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = letters.iter().map(letter_row).collect();
    output::print_line(render::format_table(
        &["SEQUENCE", "STAGE", "GIVEN UP", "REDRIVEN", "CODE", "REASON"],
        &rows,
    ))?;
    if letters.len() == count_max {
        output::print_message("There may be more: --limit");
    }
    Ok(())
}

fn letter_row(letter: &DeadLetter) -> Vec<String> {
    vec![
        letter.sequence.to_string(),
        letter.stage.clone(),
        render::format_time(letter.buried_at_ms),
        letter.redriven_at_ms.map_or_else(|| "no".into(), render::format_time),
        letter.code.clone(),
        letter.reason.clone(),
    ]
}

fn letter_summary(letter: &DeadLetter) -> Value {
    json!({
        "sequence": letter.sequence,
        "stage": letter.stage,
        "subject": letter.subject,
        "stream": letter.stream,
        "code": letter.code,
        "reason": letter.reason,
        "attempts": letter.attempts.parse::<u64>().ok(),
        "buried_at_ms": letter.buried_at_ms,
        "redriven_at_ms": letter.redriven_at_ms,
        "payload_bytes": letter.payload.len(),
    })
}

/// Shows one letter with its payload.
///
/// # Errors
/// When there is no such letter or the broker does not answer.
pub async fn show_letter(bus: &Bus, sequence: u64, as_json: bool) -> anyhow::Result<()> {
    let letter = bus.dead_letter(sequence).await.context("`streamgate dead ls` lists what there is")?;
    let mut document = letter_summary(&letter);
    // What can't be read may be the very reason why it lies here.
    match rmp_serde::from_slice::<Value>(&letter.payload) {
        Ok(payload) => document["payload"] = payload,
        Err(_) => document["payload_base64"] = json!(BASE64.encode(&letter.payload)),
    }
    Ok(if as_json {
        output::print_json(&document)
    } else {
        output::print_line(render::format_document(&document))
    }?)
}

/// Gives letters a second chance: those named, or all that never had one, of `stage` or of every one.
///
/// # Errors
/// When the broker does not answer. A letter that is refused is reported, and the others go on all the same.
pub async fn redrive_letters(
    bus: &Bus,
    store: &Store,
    named: Vec<u64>,
    stage: Option<&str>,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let sequences = if named.is_empty() { find_not_redriven(bus, stage).await? } else { named };
    let mut ended = CommandOutcome::Well;
    for sequence in &sequences {
        match redrive_one(bus, store, *sequence).await {
            Ok(done) => print_redrive(*sequence, &done, as_json)?,
            Err(RedriveError::Bus(error)) if error.is_transient() => return Err(error.into()),
            Err(refusal) => {
                ended = CommandOutcome::Badly;
                output::print_message(format!("streamgate: dead letter {sequence}: {refusal}"));
                if as_json {
                    output::print_json(&json!({
                        "sequence": sequence, "result": "refused", "code": refusal.code(), "error": refusal.to_string(),
                    }))?;
                }
            }
        }
    }
    match sequences.len() {
        0 => output::print_message("There is none that waits for a second chance"),
        REDRIVE_COUNT_MAX => output::print_message("There may be more: run it again"),
        _ => {}
    }
    Ok(ended)
}

async fn redrive_one(bus: &Bus, store: &Store, sequence: u64) -> Result<RedriveOutcome, RedriveError> {
    let letter = bus.dead_letter(sequence).await?;
    let done = redrive::redrive_letter(bus, store, &letter).await?;
    bus.record_redrive(sequence).await?;
    Ok(done)
}

/// Says what happened.
fn print_redrive(sequence: u64, done: &RedriveOutcome, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let document = match done {
            RedriveOutcome::Reopened { media_id, attempt } => {
                json!({ "sequence": sequence, "result": "reopened", "media_id": media_id, "attempt": attempt })
            }
            RedriveOutcome::Resumed { job_id, part } => {
                json!({ "sequence": sequence, "result": "resumed", "job_id": job_id, "part": part })
            }
            RedriveOutcome::Superseded(why) => {
                json!({ "sequence": sequence, "result": "superseded", "reason": why })
            }
        };
        return Ok(output::print_json(&document)?);
    }
    Ok(output::print_line(match done {
        RedriveOutcome::Reopened { media_id, attempt } => {
            format!("{sequence}: the medium {media_id} is taken up again, attempt {attempt}")
        }
        RedriveOutcome::Resumed { job_id, part } => {
            format!("{sequence}: part {part} of the job {job_id} is in its queue again")
        }
        RedriveOutcome::Superseded(why) => format!("{sequence}: nothing to do, {why}"),
    })?)
}

async fn find_not_redriven(bus: &Bus, stage: Option<&str>) -> Result<Vec<u64>, nats::BusError> {
    let wanted = |letter: &DeadLetter| {
        letter.redriven_at_ms.is_none() && stage.is_none_or(|stage| stage == letter.stage)
    };
    let letters = bus.dead_letters_matching(REDRIVE_COUNT_MAX, wanted).await?;
    Ok(letters.into_iter().map(|letter| letter.sequence).collect())
}
