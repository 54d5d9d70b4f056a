//! `dead`: messages that were given up, and a second chance for them.
//!
//! Limits: `--all` sends at most [`REDRIVE_COUNT_MAX`] at once; the command can be repeated.

use anyhow::Context;
use data_encoding::BASE64;
use nats::{Bus, Published, dead::Letter};
use serde_json::{Value, json};

use super::{Ended, out, render};

/// Most letters that one command sends again.
pub const REDRIVE_COUNT_MAX: usize = 10_000;

/// Lists letters, oldest first.
///
/// # Errors
/// When the broker does not answer.
pub async fn list(bus: &Bus, count_max: usize, as_json: bool) -> anyhow::Result<()> {
    let letters = bus.dead_letters(count_max).await?;
    if as_json {
        letters.iter().try_for_each(|letter| out::json(&head(letter)))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = letters.iter().map(row).collect();
    out::line(render::table(&["SEQUENCE", "STAGE", "GIVEN UP", "SENT AGAIN", "CODE", "REASON"], &rows))?;
    if letters.len() == count_max {
        out::say("There may be more: --limit");
    }
    Ok(())
}

fn row(letter: &Letter) -> Vec<String> {
    vec![
        letter.sequence.to_string(),
        letter.stage.clone(),
        render::moment(letter.buried_at_ms),
        letter.redriven_at_ms.map_or_else(|| "no".into(), render::moment),
        letter.code.clone(),
        letter.reason.clone(),
    ]
}

fn head(letter: &Letter) -> Value {
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
pub async fn show(bus: &Bus, sequence: u64, as_json: bool) -> anyhow::Result<()> {
    let letter = bus.dead_letter(sequence).await.context("`streamgate dead ls` lists what there is")?;
    let mut document = head(&letter);
    // What can't be read may be the very reason why it lies here.
    match rmp_serde::from_slice::<Value>(&letter.payload) {
        Ok(payload) => document["payload"] = payload,
        Err(_) => document["payload_base64"] = json!(BASE64.encode(&letter.payload)),
    }
    Ok(if as_json { out::json(&document) } else { out::line(render::document(&document)) }?)
}

/// Sends letters again: those named, or all that never were, of `stage` or of every one.
///
/// # Errors
/// When the broker does not answer. A letter that is refused is told, and the others are sent all the same.
pub async fn redrive(
    bus: &Bus,
    named: Vec<u64>,
    stage: Option<&str>,
    as_json: bool,
) -> anyhow::Result<Ended> {
    let sequences = if named.is_empty() { waiting(bus, stage).await? } else { named };
    let mut ended = Ended::Well;
    for sequence in &sequences {
        let (done, error) = match bus.redrive(*sequence).await {
            Ok(Published::Stored(_) | Published::Known) => (true, None),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => (false, Some(error.to_string())),
        };
        if let Some(error) = &error {
            ended = Ended::Badly;
            out::say(format!("streamgate: {error}"));
        }
        if as_json {
            out::json(&json!({ "sequence": sequence, "redriven": done, "error": error }))?;
        } else if done {
            out::line(sequence)?;
        }
    }
    match sequences.len() {
        0 => out::say("There is none to send again"),
        REDRIVE_COUNT_MAX => out::say("There may be more: run it again"),
        _ => {}
    }
    Ok(ended)
}

async fn waiting(bus: &Bus, stage: Option<&str>) -> Result<Vec<u64>, nats::Error> {
    let wanted =
        |letter: &Letter| letter.redriven_at_ms.is_none() && stage.is_none_or(|stage| stage == letter.stage);
    let letters = bus.dead_letters_where(REDRIVE_COUNT_MAX, wanted).await?;
    Ok(letters.into_iter().map(|letter| letter.sequence).collect())
}
