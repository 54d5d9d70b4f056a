//! `audit`: the log as it was written, and whether its chain holds.
//!
//! Limits: a replay that follows is taken up again after at most [`FAILURES_MAX`] failures in a row.

use anyhow::Context;
use audit::{AuditLogStatus, AuditLogVerifier};
use reqwest::Method;
use schemas::{
    audit::{AuditNote, AuditRecord},
    subjects,
};
use serde_json::json;

use super::{
    ClientArgs, CommandOutcome, ReplayArgs,
    client::{self, ApiClient, ClientError},
    follow::{FAILURES_MAX, retry_delay},
    lines::BodyLines,
    output,
};

/// Prints the lines of the log verbatim.
///
/// # Errors
/// When the server refuses, or the connection breaks and what came does not say where to go on.
pub async fn replay_log(args: ReplayArgs) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let mut wanted = args;
    let mut failures = 0;
    loop {
        let before = wanted.from;
        let ended = replay_once(&client, &mut wanted).await;
        if wanted.from != before {
            failures = 0;
        }
        match ended {
            Ok(()) if !wanted.follow || has_all(&wanted) => return Ok(()),
            // A replay that follows is ended by the server from time to time.
            Ok(()) => failures += 1,
            Err(ReplayFailure::Stdout(error)) => return Err(error.into()),
            Err(ReplayFailure::Server(error)) => {
                failures += 1;
                // What was cut behind the last wanted record lacks nothing.
                if has_all(&wanted) {
                    return Ok(());
                }
                if !wanted.follow || !error.is_transient() || failures >= FAILURES_MAX {
                    return Err(with_resume_hint(error, &wanted));
                }
            }
        }
        if failures >= FAILURES_MAX {
            anyhow::bail!("the server ends every replay at once; look at its log");
        }
        tokio::time::sleep(retry_delay(failures.max(1), None)).await;
    }
}

/// True once nothing more is wanted: what bounds a replay was reached.
fn has_all(wanted: &ReplayArgs) -> bool {
    wanted.limit == Some(0) || wanted.to.zip(wanted.from).is_some_and(|(to, from)| from > to)
}

fn with_resume_hint(error: ClientError, wanted: &ReplayArgs) -> anyhow::Error {
    match wanted.from {
        Some(from) if error.is_transient() => {
            let limit = wanted.limit.map(|left| format!(" --limit {left}")).unwrap_or_default();
            anyhow::Error::from(error).context(format!("the replay was cut; go on with --from {from}{limit}"))
        }
        _ => error.into(),
    }
}

enum ReplayFailure {
    Server(ClientError),
    Stdout(std::io::Error),
}

/// Prints until the server ends; `wanted.from` is where to go on then, and `wanted.limit` how many records are left.
async fn replay_once(client: &ApiClient, wanted: &mut ReplayArgs) -> Result<(), ReplayFailure> {
    let mut lines = open_replay(client, wanted).await.map_err(ReplayFailure::Server)?;
    while let Some(line) = lines.next_line().await.map_err(ReplayFailure::Server)? {
        output::print_line(String::from_utf8_lossy(&line)).map_err(ReplayFailure::Stdout)?;
        wanted.limit = wanted.limit.map(|left| left.saturating_sub(1));
        if let Ok(record) = serde_json::from_slice::<AuditRecord>(&line) {
            wanted.from = Some(record.n + 1);
            wanted.since = None;
        }
    }
    Ok(())
}

async fn open_replay(client: &ApiClient, wanted: &ReplayArgs) -> Result<BodyLines, ClientError> {
    let text = |number: Option<u64>| number.map(|number| number.to_string());
    let (from, to, limit) = (text(wanted.from), text(wanted.to), text(wanted.limit));
    let query = [
        ("from", from.as_deref()),
        ("to", to.as_deref()),
        ("since", wanted.since.as_deref()),
        ("until", wanted.until.as_deref()),
        ("filter", wanted.filter.as_deref()),
        ("owner", wanted.owner.as_deref()),
        ("media_id", wanted.media.as_deref()),
        ("limit", limit.as_deref()),
        ("follow", wanted.follow.then_some("true")),
    ];
    let request = client.build_request(Method::GET, client.build_url("v1/audit", &query));
    let response = client::with_time_limit(client.send(request)).await?;
    Ok(BodyLines::new(response.bytes_stream()))
}

/// Fetches the whole log and walks its chain.
///
/// # Errors
/// When the server refuses or the log can't be fetched to its end.
pub async fn verify_log(args: ClientArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args)?;
    let whole = ReplayArgs {
        from: Some(1),
        to: None,
        since: None,
        until: None,
        filter: None,
        owner: None,
        media: None,
        limit: None,
        follow: false,
        client: args,
    };
    let mut lines = open_replay(&client, &whole).await?;
    let mut walk = AuditLogVerifier::default();
    let mut verdict = None;
    while let Some(line) = lines.next_line().await.context("the log was not read to its end")? {
        if let Some(broken) = check_line(&mut walk, &line) {
            verdict = Some(broken);
            break;
        }
    }
    print_verdict(&verdict.unwrap_or_else(|| walk.finish()), as_json)
}

/// Checks one line; answers the verdict when it is bad.
fn check_line(walk: &mut AuditLogVerifier, line: &[u8]) -> Option<AuditLogStatus> {
    // Over HTTP a line has no number and subject beside it: its own have to fit.
    let named = serde_json::from_slice::<AuditRecord>(line).ok();
    let n = named.as_ref().map_or(walk.next_n(), |record| record.n);
    let kind = named.map(|record| record.kind).unwrap_or_default();
    let (entity, verb) = kind.split_once('.').unwrap_or_default();
    walk.push_message(n, &subjects::audit_subject(entity, verb), line).err()
}

/// What a note says, in one line.
fn format_note(note: &AuditNote) -> String {
    let numbers = note.skipped.iter().chain(&note.repeated);
    let numbers: Vec<String> = numbers.map(|range| format!("{} to {}", range.from, range.to)).collect();
    format!("{} ({})", note.reason, numbers.join(", "))
}

fn print_verdict(verdict: &AuditLogStatus, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let (document, sentence, ended) = match verdict {
        AuditLogStatus::Sound { head, events_missing, notes } => {
            let mut sentence = format!("{} records, each continues the one before", head.n);
            if *events_missing > 0 {
                sentence = format!("{sentence}; {events_missing} events were never audited");
            }
            for (n, note) in notes {
                sentence = format!("{sentence}\nnote {n}: {}", format_note(note));
            }
            let notes: Vec<_> = notes.iter().map(|(n, note)| json!({ "n": n, "note": note })).collect();
            let document = json!({
                "sound": true, "n": head.n, "hash": head.hash, "events_missing": events_missing, "notes": notes,
            });
            (document, sentence, CommandOutcome::Well)
        }
        AuditLogStatus::Broken { n, fault } => {
            let document = json!({ "sound": false, "n": n, "fault": fault.to_string() });
            (document, format!("record {n} breaks the chain: {fault}"), CommandOutcome::Badly)
        }
    };
    output::print_message(sentence);
    if as_json {
        output::print_json(&document)?;
    } else if let AuditLogStatus::Sound { head, .. } = verdict {
        output::print_line(format!("{} {}", head.n, head.hash))?;
    }
    Ok(ended)
}
