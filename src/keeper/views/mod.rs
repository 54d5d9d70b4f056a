//! Summing views: the openings of an hour in VIEWS become one event a medium.
//!
//! Each part of the stream has a position, and the write that moves it carries the sums, so each opening is counted in exactly one
//! sum. An hour is summed once it is over by the broker's clock, as the time at which the views were stored shows; the ids of the
//! events follow from the position, so a repeat publishes nothing twice. An opening that was stored twice counts once in its hour.
//!
//! Limits: [`super::KeeperConfig::views_period_ms`]; the openings of one hour of one part are in memory, by the ids of their
//! sessions; one write carries at most [`SUMS_MAX`] sums. What VIEWS dropped before it was summed is lost.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use nats::{Bus, BusError, Outbox, ReaderStart, VersionedRecord, reader};
use schemas::{
    ids::{MediaId, PlaybackId},
    subjects,
    view::{self, ViewOpened, ViewPosition, ViewSummed},
};
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

#[cfg(test)]
mod tests;

/// Sums that one write carries.
pub const SUMS_MAX: usize = 200;
/// How long an hour must be over before it is summed, in milliseconds: clocks differ.
pub const GRACE_MS: u64 = 60_000;

const HOUR_MS: u64 = 3_600_000;

/// Sums until `held` fires.
pub async fn run_view_sums(bus: Bus, config: KeeperConfig, held: CancellationToken) {
    let period = Duration::from_millis(config.views_period_ms);
    loop {
        let turn = async { sum_views(&bus, bus.broker_now_ms(subjects::VIEWS).await?, SUMS_MAX).await };
        match turn.await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "views are summed"),
            Err(error) => tracing::warn!(%error, "views could not be summed"),
        }
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

/// Sums every hour that is over at `now_ms`, at most `sums_max` sums a write; answers how many sums there were.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer; [`BusError::Conflict`] when another keeper is at it.
pub async fn sum_views(bus: &Bus, now_ms: u64, sums_max: usize) -> Result<u64, BusError> {
    let stream = bus.context().get_stream(subjects::VIEWS).await.map_err(BusError::unavailable)?;
    let created = stream.cached_info().created.unix_timestamp_nanos() / 1_000;
    let stream_created_us = u64::try_from(created).unwrap_or(0);
    let mut count = 0;
    for partition in 0..view::PARTITIONS {
        // A stream that was made anew counts from 1 again, and a position of the one before would skip its
        // beginning.
        let begin = ViewPosition { partition, stream_created_us, sequence: 0, media_id: None };
        let mut position =
            match bus.load_record::<ViewPosition>(&ViewPosition::key_for_partition(partition)).await? {
                Some(held) if held.record.stream_created_us == stream_created_us => held,
                Some(mut held) => {
                    held.record = begin;
                    held
                }
                None => VersionedRecord::new(begin),
            };
        while let Some(hour) = read_next_hour(bus, &position.record, now_ms).await? {
            count += write_hour_sums(bus, &mut position, hour, sums_max).await?;
        }
    }
    Ok(count)
}

/// The views of one hour of one part.
#[derive(Debug, Default)]
struct ViewHour {
    start_ms: u64,
    /// Sequence of the last of them.
    last: u64,
    by_medium: BTreeMap<MediaId, (String, HashSet<PlaybackId>)>,
}

/// The first hour behind the position, if there is one that is over.
async fn read_next_hour(
    bus: &Bus,
    position: &ViewPosition,
    now_ms: u64,
) -> Result<Option<ViewHour>, BusError> {
    let filter = subjects::view_filter(position.partition);
    let start = ReaderStart::Sequence(position.sequence + 1);
    let mut views = bus.open_reader(reader::ReaderConfig::new(subjects::VIEWS, vec![filter], start)).await?;
    let mut hour: Option<ViewHour> = None;
    while let Some(entry) = views.next_pending().await? {
        let hour_ms = entry.stored_at_ms - entry.stored_at_ms % HOUR_MS;
        // Openings reach the stream late, by the outbox of their session: an hour is summed once it is over for a
        // while.
        if hour_ms + HOUR_MS + GRACE_MS > now_ms || hour.as_ref().is_some_and(|hour| hour.start_ms != hour_ms)
        {
            break;
        }
        let hour = hour.get_or_insert_with(|| ViewHour { start_ms: hour_ms, ..ViewHour::default() });
        hour.last = entry.sequence;
        // A foreign message must not stop the count of all others.
        let Ok(opened) = nats::decode_message::<ViewOpened>(&entry.subject, &entry.payload) else { continue };
        let (_, sessions) =
            hour.by_medium.entry(opened.media_id).or_insert_with(|| (opened.owner, HashSet::new()));
        sessions.insert(opened.playback_id);
    }
    Ok(hour)
}

/// Writes the sums of one hour; the last write moves the position behind it.
async fn write_hour_sums(
    bus: &Bus,
    position: &mut VersionedRecord<ViewPosition>,
    hour: ViewHour,
    sums_max: usize,
) -> Result<u64, BusError> {
    let done = position.record.media_id;
    let mut rest: Vec<(MediaId, (String, HashSet<PlaybackId>))> =
        hour.by_medium.into_iter().filter(|(media_id, _)| done.is_none_or(|done| *media_id > done)).collect();
    let count = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    loop {
        let behind = rest.split_off(rest.len().min(sums_max.max(1)));
        let mut outbox = Outbox::new();
        let last = rest.last().map(|(media_id, _)| *media_id);
        for (media_id, (owner, sessions)) in rest {
            let opened_count = u64::try_from(sessions.len()).unwrap_or(u64::MAX);
            outbox = outbox.with_event(&ViewSummed { media_id, owner, hour_ms: hour.start_ms, opened_count });
        }
        let is_last = behind.is_empty();
        position.record.media_id = if is_last { None } else { last };
        if is_last {
            position.record.sequence = hour.last;
        }
        // Position and sums in one write: after a crash a sum is neither missing nor there twice.
        bus.commit_record(position, outbox).await?;
        if is_last {
            return Ok(count);
        }
        rest = behind;
    }
}
