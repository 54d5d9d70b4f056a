//! Following events over cut connections: each event once, in order.
//!
//! A connection that breaks is made again and goes on behind the last event. When it stays quiet, the document is looked at
//! once, so that following something that ended long ago ends, too.
//!
//! Limits: [`FAILURES_MAX`] failures in a row; pauses of at most [`PAUSE_MS_MAX`]; a connection that is silent for
//! [`SILENCE_SECONDS_MAX`] is given up.

use std::time::Duration;

use reqwest::{Method, header::ACCEPT};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    client::{self, ApiClient, ClientError},
    lines::BodyLines,
    output,
    refusal::RETRY_AFTER_SECONDS_MAX,
    sse::SseParser,
};

/// Failures in a row before following is given up.
pub const FAILURES_MAX: u32 = 10;
/// Longest pause between two tries in milliseconds.
pub const PAUSE_MS_MAX: u64 = 15_000;
/// First pause in milliseconds.
const PAUSE_MS_MIN: u64 = 500;
/// Longest silence of a connection in seconds; the server says something every 15.
pub const SILENCE_SECONDS_MAX: u64 = 60;
/// Silence in seconds after which the document is looked at.
const QUIET_SECONDS: u64 = 3;

/// What to follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowTarget {
    /// Only this medium.
    pub media: Option<String>,
    /// Only this job.
    pub job: Option<String>,
    /// Only what came behind this event; without it all that happened to the medium or job, or what happens from now on.
    pub since: Option<String>,
    /// Only events of these types, with commas between them.
    pub types: Option<String>,
    /// Only events whose types begin like this.
    pub prefix: Option<String>,
    /// True where also the events of a medium or job begin now.
    pub is_from_now: bool,
}

/// Something that happened, or, without an id, how things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedEvent {
    /// Its id, to go on behind it later.
    pub id: Option<String>,
    /// `<entity>.<verb>`, such as `media.ready`.
    pub kind: String,
    /// The event as the server sent it; its payload is the member `data`.
    pub data: Value,
}

impl FollowedEvent {
    /// How far the job is, when this is about progress.
    pub fn progress_percent(&self) -> Option<u64> {
        (self.kind == "job.progress").then(|| self.data["percent"].as_u64().unwrap_or_default())
    }
}

/// How what was followed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowOutcome {
    /// Ready or succeeded.
    Well,
    /// Failed, rejected, cancelled, removed or expired.
    Badly,
}

impl FollowTarget {
    /// Whether following it comes to an end.
    const fn has_end(&self) -> bool {
        !self.is_from_now && (self.media.is_some() || self.job.is_some())
    }

    /// Whether an event ends what is followed. Of the jobs of a medium those do that encode it.
    pub fn outcome_of(&self, event: &FollowedEvent) -> Option<FollowOutcome> {
        let job = self.job.is_some();
        let is_other = event.kind.starts_with("job.")
            && event.data["data"]["kind"].as_str().is_some_and(|kind| kind != "transcode");
        let media = self.media.is_some() && (job || !is_other);
        match event.kind.as_str() {
            "media.ready" if media => Some(FollowOutcome::Well),
            "job.succeeded" if media || job => Some(FollowOutcome::Well),
            "media.rejected" | "media.failed" | "media.removed" | "upload.expired" | "upload.terminated"
                if media =>
            {
                Some(FollowOutcome::Badly)
            }
            "job.failed" | "job.cancelled" if media || job => Some(FollowOutcome::Badly),
            _ => None,
        }
    }
}

/// One open connection.
struct SseConnection {
    lines: BodyLines,
    parser: SseParser,
    /// When the document is to be looked at; `None` once it was.
    quiet_at: Option<Instant>,
}

/// Follows events.
pub struct SseFollower {
    client: ApiClient,
    wanted: FollowTarget,
    last_id: Option<String>,
    connection: Option<SseConnection>,
    was_connected: bool,
    failures: u32,
}

impl std::fmt::Debug for SseFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl SseFollower {
    /// Follows `wanted`; connects at the first [`SseFollower::next_event`].
    pub const fn new(client: ApiClient, wanted: FollowTarget) -> Self {
        Self { client, wanted, last_id: None, connection: None, was_connected: false, failures: 0 }
    }

    /// The next event.
    ///
    /// # Errors
    /// When the server refuses, was never there, or stays away.
    pub async fn next_event(&mut self) -> Result<FollowedEvent, ClientError> {
        loop {
            let error = match self.read_event().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => ClientError::Cut { reason: "the server ended it".into() },
                Err(error) => error,
            };
            self.connection = None;
            self.failures += 1;
            let is_new = matches!(error, ClientError::Unreachable { .. }) && !self.was_connected;
            if is_new || !error.is_transient() || self.failures >= FAILURES_MAX {
                return Err(error);
            }
            // A server that is only restarted is back before anybody wonders.
            if self.failures == 2 {
                output::print_message("streamgate: the server is away; trying again for a while");
            }
            tokio::time::sleep(retry_delay(self.failures, error.as_refusal().and_then(|r| r.retry_after_s)))
                .await;
        }
    }

    /// One line further; `None` when the server ended the connection.
    async fn read_event(&mut self) -> Result<Option<FollowedEvent>, ClientError> {
        loop {
            if self.connection.is_none() {
                self.connection = Some(self.connect().await?);
                self.was_connected = true;
            }
            let Some(connection) = &mut self.connection else { continue };
            let silent_at = Instant::now() + Duration::from_secs(SILENCE_SECONDS_MAX);
            let wake_at = connection.quiet_at.map_or(silent_at, |at| at.min(silent_at));
            let line = match tokio::time::timeout_at(wake_at, connection.lines.next_line()).await {
                Ok(line) => line?,
                Err(_) if connection.quiet_at.take().is_some() => match self.read_ended_state().await? {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                },
                Err(_) => return Err(ClientError::Silent { seconds: SILENCE_SECONDS_MAX }),
            };
            let Some(line) = line else { return Ok(None) };
            let line = String::from_utf8_lossy(&line);
            // A comment says that the connection is alive.
            if line.starts_with(':') {
                self.failures = 0;
            }
            let Some(event) = connection.parser.push_line(&line) else { continue };
            self.failures = 0;
            self.last_id = event.id.clone().or_else(|| self.last_id.take());
            match event.name.as_str() {
                // What the stream says of itself is no event.
                "snapshot" => continue,
                "resync" => {
                    output::print_message(
                        "streamgate: the server does not have all events any more; some are left out",
                    );
                    // Its end may be among these.
                    connection.quiet_at = self.wanted.has_end().then(Instant::now);
                    continue;
                }
                // It goes on behind the last one by a new connection.
                "lagged" => return Ok(None),
                _ => {}
            }
            let data = serde_json::from_str(&event.data).unwrap_or_default();
            return Ok(Some(FollowedEvent { id: event.id, kind: event.name, data }));
        }
    }

    async fn connect(&self) -> Result<SseConnection, ClientError> {
        let FollowTarget { media, job, since, types, prefix, is_from_now } = &self.wanted;
        let story = (!is_from_now && (media.is_some() || job.is_some())).then_some("0-0");
        // Once an event was seen its id is the place; `since` would repeat what came before.
        let since = since.as_deref().or(story).filter(|_| self.last_id.is_none());
        let query = [
            ("media", media.as_deref()),
            ("job", job.as_deref()),
            ("since", since),
            ("type", types.as_deref()),
            ("prefix", prefix.as_deref()),
        ];
        let mut request = self
            .client
            .build_request(Method::GET, self.client.build_url("v1/events", &query))
            .header(ACCEPT, "text/event-stream");
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        let response = client::with_time_limit(self.client.send(request)).await?;
        let lines = BodyLines::new(response.bytes_stream());
        let quiet_at = self.wanted.has_end().then(|| Instant::now() + Duration::from_secs(QUIET_SECONDS));
        Ok(SseConnection { lines, parser: SseParser::default(), quiet_at })
    }

    /// How what is followed stands, when it has ended.
    async fn read_ended_state(&self) -> Result<Option<FollowedEvent>, ClientError> {
        let (entity, path) = match (&self.wanted.job, &self.wanted.media) {
            (Some(job), _) => ("job", format!("v1/jobs/{job}")),
            (None, Some(media)) => ("media", format!("v1/media/{media}")),
            (None, None) => return Ok(None),
        };
        match self.client.get_json(&path, &[]).await {
            Ok(document) => {
                let event = build_state_event(entity, &document);
                Ok(Some(event).filter(|event| self.wanted.outcome_of(event).is_some()))
            }
            // An upload whose first byte is on its way has no document yet.
            Err(ClientError::Refused(refusal)) if refusal.status == 404 && entity == "media" => {
                output::print_message("streamgate: there is no such medium yet; waiting for it");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn build_state_event(entity: &str, document: &Value) -> FollowedEvent {
    let status = document["status"].as_str().unwrap_or_default();
    let data = json!({
        "media_id": document["media_id"],
        "job_id": document["job_id"],
        "data": document,
    });
    FollowedEvent { id: None, kind: format!("{entity}.{status}"), data }
}

/// Doubles with each failure, a quarter of it by chance, so that many clients don't come back at once.
pub fn retry_delay(failures: u32, retry_after_s: Option<u64>) -> Duration {
    let doubled = PAUSE_MS_MIN << failures.saturating_sub(1).min(6);
    let base = doubled.min(PAUSE_MS_MAX);
    let chosen = base - rand::random_range(0..=base / 4);
    let asked = Duration::from_secs(retry_after_s.unwrap_or(0).min(RETRY_AFTER_SECONDS_MAX));
    Duration::from_millis(chosen).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_ends_it() {
        let of = |media: bool, job: bool| FollowTarget {
            media: media.then(|| "m".into()),
            job: job.then(|| "j".into()),
            ..FollowTarget::default()
        };
        for (kind, media, job, wanted) in [
            ("media.ready", true, false, Some(FollowOutcome::Well)),
            ("media.ready", false, true, None),
            ("media.ready", false, false, None),
            ("job.succeeded", false, true, Some(FollowOutcome::Well)),
            ("media.rejected", true, false, Some(FollowOutcome::Badly)),
            ("media.failed", true, false, Some(FollowOutcome::Badly)),
            ("job.failed", true, false, Some(FollowOutcome::Badly)),
            ("job.cancelled", false, true, Some(FollowOutcome::Badly)),
            ("job.failed", false, false, None),
            ("upload.expired", true, false, Some(FollowOutcome::Badly)),
            ("media.playable", true, true, None),
            ("job.progress", true, true, None),
        ] {
            let event = FollowedEvent { id: None, kind: kind.into(), data: json!({ "data": {} }) };
            assert_eq!(of(media, job).outcome_of(&event), wanted, "{kind} {media} {job}");
        }
    }

    #[test]
    fn a_medium_is_followed_past_jobs_that_encode_nothing() {
        let end = |target: FollowTarget, kind: &str| {
            let data = json!({ "data": { "kind": kind } });
            target.outcome_of(&FollowedEvent { id: None, kind: "job.failed".into(), data })
        };
        let medium = || FollowTarget { media: Some("m".into()), ..FollowTarget::default() };
        let job = || FollowTarget { job: Some("j".into()), ..FollowTarget::default() };
        assert_eq!(end(medium(), "verify"), None);
        assert_eq!(end(medium(), "transcode"), Some(FollowOutcome::Badly));
        assert_eq!(end(job(), "verify"), Some(FollowOutcome::Badly));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for failures in 0..100 {
            let pause = retry_delay(failures, None);
            assert!(pause <= Duration::from_millis(PAUSE_MS_MAX), "{failures}: {pause:?}");
            assert!(pause >= Duration::from_millis(PAUSE_MS_MIN * 3 / 4), "{failures}: {pause:?}");
        }
        assert_eq!(retry_delay(1, Some(5)), Duration::from_secs(5));
        assert_eq!(retry_delay(1, Some(1 << 40)), Duration::from_secs(RETRY_AFTER_SECONDS_MAX));
    }

    #[test]
    fn a_document_becomes_an_event_of_its_state() {
        let event = build_state_event("media", &json!({"media_id": "m", "status": "rejected", "code": "x"}));
        assert_eq!((event.kind.as_str(), &event.data["data"]["code"]), ("media.rejected", &json!("x")));
    }
}
