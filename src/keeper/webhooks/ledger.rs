//! How far a hook is, as it is written down: with a compare-and-set, so that a keeper that lost its lease writes nothing any more.
//!
//! Limits: the record is written at most every [`WRITE_PAUSE_MIN`], and at once where something is left out; while nothing that the hook
//! wants happens, every [`MOVED_PAUSE`] or [`MOVED_MAX`] events.

use std::time::{Duration, Instant};

use nats::{Bus, BusError, Outbox, VersionedRecord};
use schemas::{
    hook::{HookProgress, HookRecord, hook_progress_key},
    hook_event::{HookSkipReason, HookSkipped},
    ids::MediaId,
};

/// Shortest time between two writes of the record.
const WRITE_PAUSE_MIN: Duration = Duration::from_millis(200);
/// How long passing what is not wanted may go unwritten.
const MOVED_PAUSE: Duration = Duration::from_secs(60);
/// How many events may be passed unwritten.
const MOVED_MAX: u64 = 1_000;

/// What of the record is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritten {
    Nothing,
    /// It passed what it does not want.
    Moved,
    /// It has something to deliver, or had.
    Changed,
}

/// The record of one hook.
#[derive(Debug)]
pub(super) struct HookLedger {
    bus: Bus,
    held: VersionedRecord<HookProgress>,
    unwritten: Unwritten,
    written_at: Instant,
}

impl HookLedger {
    /// Reads how far a hook is.
    pub(super) async fn load(bus: &Bus, hook: &HookRecord) -> Result<Self, BusError> {
        let key = hook_progress_key(&hook.hook_id.to_string());
        let held = bus.load_record::<HookProgress>(&key).await?.unwrap_or_else(|| {
            let mut fresh = HookProgress::new(hook.hook_id, hook.begins);
            fresh.resumed_at_ms = hook.resumed_at_ms;
            VersionedRecord::new(fresh)
        });
        Ok(Self { bus: bus.clone(), held, unwritten: Unwritten::Nothing, written_at: Instant::now() })
    }

    /// As it was written or read last.
    pub(super) const fn written(&self) -> &HookProgress {
        &self.held.record
    }

    /// Takes note of what is to be written.
    pub(super) const fn note(&mut self, unwritten: Unwritten) {
        if matches!(unwritten, Unwritten::Changed) || matches!(self.unwritten, Unwritten::Nothing) {
            self.unwritten = unwritten;
        }
    }

    /// How long from now until the record is to be written, now at this sequence; `None` while nothing is new.
    pub(super) fn write_pause(&self, sequence: u64) -> Option<Duration> {
        let passed = sequence.saturating_sub(self.held.record.position.sequence);
        let pause = match self.unwritten {
            Unwritten::Nothing => return None,
            Unwritten::Moved if passed < MOVED_MAX => MOVED_PAUSE,
            Unwritten::Moved | Unwritten::Changed => WRITE_PAUSE_MIN,
        };
        Some(pause.saturating_sub(self.written_at.elapsed()))
    }

    /// Writes it, with events.
    pub(super) async fn write(&mut self, progress: &HookProgress, outbox: Outbox) -> Result<(), BusError> {
        self.held.record = progress.clone();
        self.bus.commit_record(&mut self.held, outbox).await?;
        (self.unwritten, self.written_at) = (Unwritten::Nothing, Instant::now());
        Ok(())
    }
}

/// What is left out of a hook, for its event; of one event that was tried, also the medium, the tries, and what came of the last.
pub(super) fn describe_skip(
    hook: &HookRecord,
    reason: HookSkipReason,
    (first_sequence, last_sequence): (u64, u64),
    given_up: Option<(Option<MediaId>, u32, String)>,
) -> HookSkipped {
    let (media_id, tries, code) =
        given_up.map_or((None, 0, None), |(lane, tries, code)| (lane, tries, Some(code)));
    HookSkipped {
        hook_id: hook.hook_id,
        owner: hook.owner.clone(),
        reason,
        first_sequence,
        last_sequence,
        media_id,
        tries,
        code,
    }
}
