//! What viewers experience: players report it by CMCD (CTA-5004-B, event mode), hls.js, dash.js and Shaka among them.
//!
//! `POST /play/{token}/{media_id}/cmcd` takes reports. Players send no credential: the token in the path is the right, as with what is
//! played. A report is no use of the playback session, which lives no longer by it. It becomes metrics by the height of the picture, and a
//! sum of its medium, which its owner reads (`src/ingress/media/experience.rs`). Neither says who watched ([`table`]).
//!
//! What players say can't be checked. So it is bounded ([`view`], [`ExperienceConfig`]), and nothing is decided by it.
//!
//! A view is followed by the replica to which its reports come: a balancer that spreads the requests of one player over replicas has to
//! choose by address or path, or views count on each of them. What a replica was sent and has not written, at most [`ExperienceConfig::write_ms`]
//! of it, is lost when it is killed; one that stops writes it first.
//!
//! Limits: [`BODY_BYTES_MAX`], [`LINES_MAX`], those of [`report`], and [`ExperienceConfig`].

mod report;
mod table;
mod view;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
};
use nats::{
    Bus, BusError, Outbox,
    metrics::{labels::PlayerReport, table::VIEWER_REPORTS},
};
use schemars::JsonSchema;
use schemas::{
    experience::{ExperienceSum, MediaExperience},
    gate::GateReasonCode,
    ids::MediaId,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::{
    report::ReportLine,
    table::{Reporter, ViewTable},
    view::{Arrival, HeightLadder},
};
use super::{playback_refused, session_problem};
use crate::AppState;
use gate::grant::token::PlaybackToken;
use web::{
    body::{self, BodyLimits},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Largest body in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most lines of a body.
const LINES_MAX: usize = 200;

/// Settings of what players report of views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExperienceConfig {
    /// How many of a million views are followed. A view is followed as a whole or not at all.
    #[schemars(range(max = 1_000_000))]
    pub sampled_per_million: u32,
    /// Most views that are followed at the same time.
    pub views_max: usize,
    /// Most of them that one medium has: what many watch leaves room for what few do.
    pub views_per_media_max: usize,
    /// Most of them that one playback session has.
    pub views_per_session_max: usize,
    /// How long nothing is reported of a view that is over, in milliseconds.
    pub idle_ms: u64,
    /// Most media of an hour of which this replica keeps for their owners how they played.
    pub media_per_hour_max: usize,
    /// How often what was reported is written down for owners, in milliseconds.
    pub write_ms: u64,
}

impl Default for ExperienceConfig {
    fn default() -> Self {
        Self {
            sampled_per_million: 1_000_000,
            views_max: 20_000,
            views_per_media_max: 5_000,
            views_per_session_max: 4,
            idle_ms: 180_000,
            // Of each hour of a day: about 16 MiB of the bucket.
            media_per_hour_max: 1_000,
            write_ms: 60_000,
        }
    }
}

/// What players report to this replica.
#[derive(Debug)]
pub struct ViewerExperience {
    config: ExperienceConfig,
    table: ViewTable,
}

impl ViewerExperience {
    /// Nothing reported yet. Replicas that share `secret` sample the same views.
    pub fn new(config: ExperienceConfig, secret: &[u8]) -> Self {
        Self { config, table: ViewTable::new(config, secret) }
    }

    /// Ends silent views, and writes what was reported, until `shutdown`. The last is left to [`ViewerExperience::write_rest`].
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) {
        let pause = Duration::from_millis(self.config.write_ms);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.table.expire(Instant::now());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.write_sums(bus) => {}
            }
        }
    }

    /// Writes all that was reported, once nothing is answered any more, in `time_max`.
    pub async fn write_rest(&self, bus: &Bus, time_max: Duration) {
        if tokio::time::timeout(time_max, self.write_sums(bus)).await.is_err() {
            tracing::warn!("what players reported last could not be written before the end");
        }
    }

    async fn write_sums(&self, bus: &Bus) {
        let (hour_ms, sums) = self.table.take_sums(nats::estimated_broker_now_ms());
        let mut sums = UnwrittenSums { table: &self.table, sums };
        // One that is being written may be stored by the time that this is dropped: it counts once or not at all.
        while let Some((media_id, sum)) = sums.take_next() {
            match Box::pin(add_sum(bus, media_id, hour_ms, &sum)).await {
                Ok(()) => {}
                // It was removed, and its record with it.
                Err(BusError::Conflict { .. }) => {
                    tracing::debug!(media.id = %media_id, "what was reported of a medium is dropped");
                }
                Err(error) => {
                    tracing::warn!(%error, media.id = %media_id, "what was reported of a medium is written later");
                    self.table.give_back(media_id, &sum);
                    // Nor is it there for the others, which wait for the next time.
                    if error.is_outage() {
                        return;
                    }
                }
            }
        }
    }
}

/// Sums that are still to be written; what is left of them is given back.
struct UnwrittenSums<'a> {
    table: &'a ViewTable,
    sums: HashMap<MediaId, ExperienceSum>,
}

impl UnwrittenSums<'_> {
    fn take_next(&mut self) -> Option<(MediaId, ExperienceSum)> {
        let media_id = *self.sums.keys().next()?;
        self.sums.remove_entry(&media_id)
    }
}

impl Drop for UnwrittenSums<'_> {
    fn drop(&mut self) {
        for (media_id, sum) in self.sums.drain() {
            self.table.give_back(media_id, &sum);
        }
    }
}

async fn add_sum(bus: &Bus, media_id: MediaId, hour_ms: u64, sum: &ExperienceSum) -> Result<(), BusError> {
    let added = |found: Option<&MediaExperience>| {
        Some((MediaExperience::with_added(found, media_id, hour_ms, sum), Outbox::new()))
    };
    bus.change_record(&media_id.to_string(), added).await.map(drop)
}

pub(super) static REPORT_VIEW: Operation = Operation::change(
    Method::POST,
    "/play/{token}/{media_id}/cmcd",
    OperationAccess::Path,
    Some(RateLimitGroup::Streaming),
    &[],
)
.with_any_query();

/// Report how a medium plays
///
/// For players: CMCD in event mode (CTA-5004-B), a line for each event. The address is that of the playlist with `cmcd` in place of its
/// name. Of what is said, the session, time, state, start, bitrate and waits for data count; keys of the first version are taken, too.
/// Needs no credential: the token in the path is the right.
#[utoipa::path(
    post,
    path = REPORT_VIEW.path,
    tag = "streaming",
    operation_id = "report_view",
    params(("token", Path), ("media_id", Path)),
    request_body(description = "The report", content((String = "application/cmcd"), (String = "text/plain"))),
    responses(
        (status = 204, description = "Taken, or not among the views that are followed"),
        (status = 400, description = "No line of it can be read"),
        (status = 403, description = "The session has ended, was revoked, or never was"),
        (status = 408, description = "The report came too slowly"),
        (status = 413, description = "It has more bytes or lines than one may"),
        (status = 415, description = "Another media type"),
    ),
)]
pub(super) async fn report_view(
    State(app): State<AppState>,
    Path((token, id)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let unknown = || playback_refused(GateReasonCode::SessionUnknown);
    let media_id = id.parse().map_err(|_| unknown())?;
    let PlaybackToken { playback_id, encode } =
        PlaybackToken::open(&app.signing_key, &token).ok_or_else(unknown)?;
    let reporter = Reporter { playback_id, media_id };
    let (parts, body) = request.into_parts();
    require_cmcd(&parts.headers)?;
    let limits = BodyLimits::from_extensions(&parts.extensions);
    let limits = BodyLimits { bytes_max: limits.bytes_max.min(BODY_BYTES_MAX), ..limits };
    let table = &app.experience.table;
    let mut lines = parse_lines(&body::read_body(body, &limits).await?)?;
    let count = lines.len();
    lines.retain(|line| table.is_sampled(&line.session_id));
    VIEWER_REPORTS.add(PlayerReport::Unsampled, u64::try_from(count - lines.len()).unwrap_or(u64::MAX));
    if lines.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    if !table.knows(reporter, Instant::now()) {
        app.grants.find_session(playback_id, media_id).await.map_err(session_problem)?;
        table.confirm(reporter, Instant::now());
    }
    let medium = app.known.load_medium(&app.bus, media_id, encode).await?.ok_or_else(unknown)?;
    let ladder = HeightLadder::new(&medium.encode.renditions);
    let arrival = Arrival { at: Instant::now(), unix_ms: nats::estimated_broker_now_ms() };
    table.take(reporter, &ladder, &lines, arrival);
    Ok(StatusCode::NO_CONTENT)
}

/// `navigator.sendBeacon` sends text as such.
fn require_cmcd(headers: &HeaderMap) -> Result<(), Problem> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = said.split(';').next().unwrap_or_default().trim();
    if ["application/cmcd", "text/plain"].iter().any(|taken| kind.eq_ignore_ascii_case(taken)) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::MediaType).with_detail("send application/cmcd"))
}

fn parse_lines(body: &[u8]) -> Result<Vec<ReportLine>, Problem> {
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let lines: Vec<&[u8]> = lines.take(LINES_MAX + 1).collect();
    if lines.len() > LINES_MAX {
        let detail = format!("it may have {LINES_MAX} lines");
        return Err(Problem::new(ProblemCode::BodyTooLarge).with_detail(detail));
    }
    let read: Vec<ReportLine> = lines.iter().filter_map(|line| ReportLine::parse(line)).collect();
    let unreadable = lines.len() - read.len();
    VIEWER_REPORTS.add(PlayerReport::Unreadable, u64::try_from(unreadable).unwrap_or(u64::MAX));
    if read.is_empty() {
        return Err(Problem::new(ProblemCode::ReportMalformed));
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
