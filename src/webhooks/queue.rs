//! What of a hook is sent next: one event of a medium after the other, media beside each other.
//!
//! [`HookProgress`] is all of its state, so that another keeper goes on from the record; which lanes are held by deliveries under way is
//! known here alone, and after a crash those are sent again. An event that is wanted is put into the lane of its medium and the position
//! moves past it; it leaves the lane when it was delivered or given up. So the position and the lanes together name all that was not
//! delivered.
//!
//! An event is given up at a failure once it was tried for [`RetryPolicy::tried_ms_max`], counted from when it came, or from when the hook
//! was resumed or replayed: what waited that long behind another one of its medium is still tried once. When a receiver that was away for
//! [`AWAY_MS_MIN`] takes something, what it could not be reached for is tried soon, each event once; what it refused keeps its delay. A
//! receiver that asks for time gets it for all media.
//!
//! Limits: [`LANES_MAX`] media and [`WAITING_MAX`] events wait; then nothing more is taken, until a quarter of both is free.

use std::collections::HashSet;

use schemas::{
    hook::{HookLane, HookPosition, HookProgress, LANES_MAX, WAITING_MAX, WaitingEvent},
    ids::MediaId,
};

use crate::RetryPolicy;

/// How long nothing but failures came, in milliseconds, so that one success brings everything back.
pub(crate) const AWAY_MS_MIN: u64 = 60_000;

/// Codes of failures that say of the receiver that it was away, and nothing of what was sent.
const AWAY_CODES: [&str; 4] = ["connect_failed", "name_not_found", "timed_out", "tls_failed"];

/// The medium whose events keep their order; `None` for events that are about none.
pub type Lane = Option<MediaId>;

/// What became of an event that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeResult {
    /// It waits for its delivery.
    Taken,
    /// It was looked at before.
    Known,
    /// There is no room: it has to be offered again.
    NoRoom,
}

/// What is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueDelivery {
    /// Its lane, which is held until the delivery ends.
    pub lane: Lane,
    /// Its sequence in EVENTS.
    pub sequence: u64,
    /// Which try it is, from 1.
    pub attempt: u32,
}

/// An event that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedEvent {
    /// Its sequence in EVENTS.
    pub sequence: u64,
    /// How often it was tried.
    pub tries: u32,
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailedDelivery {
    /// It is tried again then, in Unix milliseconds.
    Later(u64),
    /// It was tried for long enough.
    GivenUp(SkippedEvent),
    /// Meanwhile it is to be sent from elsewhere on: nothing follows.
    Moved,
}

/// The queue of one hook.
#[derive(Debug, Clone)]
pub struct HookQueue {
    progress: HookProgress,
    policy: RetryPolicy,
    held: HashSet<Lane>,
}

impl HookQueue {
    /// Goes on from a record.
    pub fn new(progress: HookProgress, policy: RetryPolicy) -> Self {
        Self { progress, policy, held: HashSet::new() }
    }

    /// What is to be recorded.
    pub const fn progress(&self) -> &HookProgress {
        &self.progress
    }

    /// The newest sequence of EVENTS that was looked at.
    pub const fn sequence(&self) -> u64 {
        self.progress.position.sequence
    }

    /// Whether more events are taken.
    pub fn has_room(&mut self) -> bool {
        if self.progress.is_full {
            let is_low = |count: usize, max: usize| count <= max / 4 * 3;
            let has_room = is_low(self.progress.lanes.len(), LANES_MAX)
                && is_low(self.progress.waiting_count(), WAITING_MAX);
            self.progress.is_full = !has_room;
        }
        !self.progress.is_full
    }

    /// Takes an event that is wanted, in the order of EVENTS.
    pub fn take(&mut self, sequence: u64, lane: Lane, now_ms: u64) -> TakeResult {
        if sequence <= self.sequence() {
            return TakeResult::Known;
        }
        let has_lane = self.find_lane(lane).is_some();
        let has_room = self.has_room()
            && self.progress.waiting_count() < WAITING_MAX
            && (has_lane || self.progress.lanes.len() < LANES_MAX);
        if !has_room {
            self.progress.is_full = true;
            return TakeResult::NoRoom;
        }
        let event = WaitingEvent { sequence, since_ms: now_ms };
        if let Some(found) = self.find_lane(lane) {
            found.waiting.push(event);
        } else {
            self.progress.lanes.push(HookLane {
                media_id: lane,
                waiting: vec![event],
                tries: 0,
                next_try_at_ms: 0,
                code: None,
                is_expedited: false,
            });
        }
        self.progress.position.sequence = sequence;
        TakeResult::Taken
    }

    /// Moves past an event that is not wanted.
    pub fn pass(&mut self, sequence: u64) {
        self.progress.position.sequence = self.sequence().max(sequence);
    }

    /// What is to be sent at `now_ms`, that which waits longest first; its lane is held from now on.
    pub fn next_due(&mut self, now_ms: u64) -> Option<DueDelivery> {
        if self.progress.not_before_ms.is_some_and(|not_before_ms| now_ms < not_before_ms) {
            return None;
        }
        let free = self.progress.lanes.iter().filter(|lane| !self.held.contains(&lane.media_id));
        let due = free.filter(|lane| lane.next_try_at_ms <= now_ms);
        let place =
            |lane: &&HookLane| (lane.next_try_at_ms, lane.waiting.first().map(|event| event.sequence));
        let lane = due.min_by_key(place)?;
        let sequence = lane.waiting.first()?.sequence;
        let due = DueDelivery { lane: lane.media_id, sequence, attempt: lane.tries.saturating_add(1) };
        self.held.insert(due.lane);
        Some(due)
    }

    /// Holds a lane for something that is sent out of turn; false while a delivery holds it.
    pub fn hold_lane(&mut self, lane: Lane) -> bool {
        self.held.insert(lane)
    }

    /// Lets go of a lane of which nothing is known: an outage says nothing of the receiver.
    pub fn release_lane(&mut self, lane: Lane) {
        self.held.remove(&lane);
    }

    /// The receiver took it; `chance` is any number.
    pub fn record_success(&mut self, due: DueDelivery, now_ms: u64, chance: u64) {
        self.held.remove(&due.lane);
        let was_away = self.progress.failing_since_ms.take();
        self.remove_front(due, 0);
        if was_away.is_none_or(|since_ms| now_ms < since_ms.saturating_add(AWAY_MS_MIN)) {
            return;
        }
        let (mut chance, spread_ms) = (chance, self.policy.delay_ms.max(1));
        let is_away = |code: &Option<String>| code.as_deref().is_some_and(|code| AWAY_CODES.contains(&code));
        for lane in self.progress.lanes.iter_mut().filter(|lane| is_away(&lane.code) && !lane.is_expedited) {
            lane.next_try_at_ms = lane.next_try_at_ms.min(now_ms.saturating_add(chance % spread_ms));
            lane.is_expedited = true;
            // The multiplier of Knuth's MMIX (The Art of Computer Programming, volume 2, 3.3.4).
            chance = chance.rotate_left(32).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }

    /// The receiver did not take it; `code` says why, and `chance` is any number.
    pub fn record_failure(
        &mut self,
        due: DueDelivery,
        now_ms: u64,
        code: &str,
        (retry_after_ms, chance): (Option<u64>, u64),
    ) -> FailedDelivery {
        self.held.remove(&due.lane);
        self.progress.failing_since_ms.get_or_insert(now_ms);
        let policy = self.policy;
        if let Some(asked_ms) = retry_after_ms {
            let until_ms = now_ms.saturating_add(asked_ms.min(policy.delay_ms_max));
            self.progress.not_before_ms = self.progress.not_before_ms.max(Some(until_ms));
        }
        let Some(lane) = self.find_lane(due.lane) else { return FailedDelivery::Moved };
        let Some(event) = lane.waiting.first().copied().filter(|event| event.sequence == due.sequence) else {
            return FailedDelivery::Moved;
        };
        lane.tries = lane.tries.saturating_add(1);
        lane.code = Some(code.to_owned());
        let ends_at_ms = event.since_ms.saturating_add(policy.tried_ms_max);
        if now_ms >= ends_at_ms {
            let skipped = SkippedEvent { sequence: event.sequence, tries: lane.tries };
            self.remove_front(due, now_ms.saturating_add(policy.delay_ms));
            return FailedDelivery::GivenUp(skipped);
        }
        let delay_ms = policy.next_delay_ms(lane.tries, retry_after_ms, chance);
        // The last try is made when its time is over, not before.
        lane.next_try_at_ms = now_ms.saturating_add(delay_ms).min(ends_at_ms);
        FailedDelivery::Later(lane.next_try_at_ms)
    }

    /// It is not there any more.
    pub fn record_loss(&mut self, due: DueDelivery) -> Option<SkippedEvent> {
        self.held.remove(&due.lane);
        self.remove_front(due, 0).then_some(SkippedEvent { sequence: due.sequence, tries: due.attempt - 1 })
    }

    /// Goes back to a place that was passed: what lies behind it is taken again, whether it was delivered or waits.
    pub fn go_back_to(&mut self, sequence: u64, now_ms: u64) {
        if sequence >= self.sequence() {
            return;
        }
        self.progress.position.sequence = sequence;
        for lane in &mut self.progress.lanes {
            lane.waiting.retain(|event| event.sequence <= sequence);
        }
        self.progress.lanes.retain(|lane| !lane.waiting.is_empty());
        self.resume(now_ms);
    }

    /// Everything is tried anew, from now on.
    pub fn resume(&mut self, now_ms: u64) {
        (self.progress.failing_since_ms, self.progress.not_before_ms) = (None, None);
        for lane in &mut self.progress.lanes {
            (lane.tries, lane.next_try_at_ms, lane.is_expedited) = (0, 0, false);
            for event in &mut lane.waiting {
                event.since_ms = now_ms;
            }
        }
    }

    /// Notes which resumption its tries belong to; true when it is another one than before.
    pub fn note_resumption(&mut self, resumed_at_ms: Option<u64>, now_ms: u64) -> bool {
        let is_new = self.progress.resumed_at_ms != resumed_at_ms;
        if is_new {
            self.progress.resumed_at_ms = resumed_at_ms;
            self.resume(now_ms);
        }
        is_new
    }

    /// Begins with another stream; answers the first and the last sequence of what waited and is lost.
    pub fn begin_anew(&mut self, position: HookPosition) -> Option<(u64, u64)> {
        let waiting = self.progress.lanes.iter().flat_map(|lane| &lane.waiting);
        let sequences = || waiting.clone().map(|event| event.sequence);
        let lost = sequences().min().zip(sequences().max());
        self.progress.position = position;
        self.progress.lanes.clear();
        (self.progress.is_full, self.progress.failing_since_ms) = (false, None);
        lost
    }

    /// How long nothing but failures came, in milliseconds.
    pub fn failing_ms(&self, now_ms: u64) -> u64 {
        self.progress.failing_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// Unix time in milliseconds at which a lane that nobody holds is to be looked at; `None` while there is none.
    pub fn next_look_at_ms(&self) -> Option<u64> {
        let free = self.progress.lanes.iter().filter(|lane| !self.held.contains(&lane.media_id));
        let next_ms = free.map(|lane| lane.next_try_at_ms).min()?;
        Some(next_ms.max(self.progress.not_before_ms.unwrap_or(0)))
    }

    fn find_lane(&mut self, lane: Lane) -> Option<&mut HookLane> {
        self.progress.lanes.iter_mut().find(|found| found.media_id == lane)
    }

    /// Takes what was sent off its lane; false where the lane begins with something else meanwhile.
    fn remove_front(&mut self, due: DueDelivery, next_try_at_ms: u64) -> bool {
        let Some(lane) = self.find_lane(due.lane) else { return false };
        if lane.waiting.first().map(|event| event.sequence) != Some(due.sequence) {
            return false;
        }
        lane.waiting.remove(0);
        (lane.tries, lane.next_try_at_ms, lane.code) = (0, next_try_at_ms, None);
        lane.is_expedited = false;
        self.progress.lanes.retain(|lane| !lane.waiting.is_empty());
        if self.progress.lanes.is_empty() {
            // Nothing is tried any more: what fails some day begins to fail then.
            self.progress.failing_since_ms = None;
        }
        true
    }
}
