//! `dead`: messages that were given up, and a second chance for them.
//!
//! Limits: `--all` takes at most [`REDRIVE_COUNT_MAX`] at once; the command can be repeated.

use anyhow::Context;
use ingress::dead_letters::{
    DeadLetterDetail, DeadLetterDocument, RedrivenDocument,
    redrive::{self, RedriveError, RedriveOutcome},
};
use nats::{
    Bus,
    dead_letter::{DeadLetter, LetterMark},
};
use serde_json::json;
use store::Store;

use super::{CommandOutcome, output, render};

/// Most letters that one command gives a second chance.
pub const REDRIVE_COUNT_MAX: usize = 10_000;

/// Who changes letters from the command line, where it has the rights of the broker and no account.
const CHANGED_BY: &str = "broker admin";

/// Lists letters, oldest first.
///
/// # Errors
/// When the broker does not answer.
pub async fn list_letters(bus: &Bus, count_max: usize, as_json: bool) -> anyhow::Result<()> {
    let page = bus.dead_letters(0, count_max, |_| true).await?;
    if as_json {
        return Ok(page
            .letters
            .iter()
            .try_for_each(|letter| output::print_json(&DeadLetterDocument::new(letter)))?);
    }
    let rows: Vec<Vec<String>> = page.letters.iter().map(letter_row).collect();
    output::print_line(render::format_table(
        &["SEQUENCE", "STAGE", "GIVEN UP", "STATE", "CODE", "REASON"],
        &rows,
    ))?;
    if page.next_after.is_some() {
        output::print_message("There are more: --limit");
    }
    Ok(())
}

fn letter_row(letter: &DeadLetter) -> Vec<String> {
    let state = match letter.mark {
        None => "waiting".to_owned(),
        Some((LetterMark::Redriven, at_ms)) => format!("redriven {}", render::format_time(at_ms)),
        Some((LetterMark::Discarded, at_ms)) => format!("discarded {}", render::format_time(at_ms)),
    };
    vec![
        letter.sequence.to_string(),
        letter.stage.clone(),
        render::format_time(letter.buried_at_ms),
        state,
        letter.code.clone(),
        letter.reason.clone(),
    ]
}

/// Shows one letter with its payload.
///
/// # Errors
/// When there is no such letter or the broker does not answer.
pub async fn show_letter(bus: &Bus, sequence: u64, as_json: bool) -> anyhow::Result<()> {
    let found = bus.dead_letter(sequence).await?;
    let letter = found.with_context(|| unknown_letter(sequence))?;
    let document = DeadLetterDetail::new(&letter);
    Ok(if as_json {
        output::print_json(&document)
    } else {
        output::print_line(render::format_document(&serde_json::to_value(document)?))
    }?)
}

fn unknown_letter(sequence: u64) -> String {
    format!("there is no dead letter {sequence}; `streamgate dead ls` lists what there is")
}

/// Discards letters: they are kept, and wait for nobody any more.
///
/// # Errors
/// When the broker does not answer. A letter that is not there is reported, and the others go on all the same.
pub async fn discard_letters(
    bus: &Bus,
    sequences: Vec<u64>,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let mut ended = CommandOutcome::Well;
    for sequence in sequences {
        if !redrive::discard_letter(bus, sequence, CHANGED_BY).await? {
            ended = CommandOutcome::Badly;
            output::print_message(format!("streamgate: {}", unknown_letter(sequence)));
        } else if as_json {
            output::print_json(&json!({ "sequence": sequence, "state": "discarded" }))?;
        } else {
            output::print_line(format!("{sequence}: discarded"))?;
        }
    }
    Ok(ended)
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
    let sequences = if named.is_empty() { find_waiting_letters(bus, stage).await? } else { named };
    let mut ended = CommandOutcome::Well;
    for sequence in &sequences {
        match redrive::redrive_letter(bus, store, *sequence, CHANGED_BY).await {
            Ok(done) => print_redrive(*sequence, done, as_json)?,
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

/// Says what happened.
fn print_redrive(sequence: u64, done: RedriveOutcome, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(output::print_json(&RedrivenDocument::new(sequence, done))?);
    }
    Ok(output::print_line(match done {
        RedriveOutcome::Reopened { media_id, attempt } => {
            format!("{sequence}: the medium {media_id} is taken up again, attempt {attempt}")
        }
        RedriveOutcome::Resumed { job_id, part } => {
            format!("{sequence}: part {part} of the job {job_id} is in its queue again")
        }
        RedriveOutcome::Retried { job_id } => format!("{sequence}: tried again by the job {job_id}"),
        RedriveOutcome::Superseded { reason } => format!("{sequence}: nothing to do, {reason}"),
    })?)
}

async fn find_waiting_letters(bus: &Bus, stage: Option<&str>) -> Result<Vec<u64>, nats::BusError> {
    let wanted =
        |letter: &DeadLetter| letter.mark.is_none() && stage.is_none_or(|stage| stage == letter.stage);
    let (mut sequences, mut after) = (Vec::new(), Some(0));
    while let Some(behind) = after.filter(|_| sequences.len() < REDRIVE_COUNT_MAX) {
        let page = bus.dead_letters(behind, REDRIVE_COUNT_MAX - sequences.len(), wanted).await?;
        sequences.extend(page.letters.iter().map(|letter| letter.sequence));
        after = page.next_after;
    }
    Ok(sequences)
}
