//! The queue against a receiver that the tests play, by a clock that they turn; signatures against the vector of the standard's libraries.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use proptest::prelude::*;
use schemas::{
    hook::{HookPosition, HookProgress, LANES_MAX, WAITING_MAX},
    ids::{HookId, MediaId},
};

use crate::{
    DueDelivery, FailedDelivery, HookQueue, Lane, RetryPolicy, TakeResult,
    filter::{EventHead, EventTypeError, check_types, wants_event},
    signature,
};

const HOUR_MS: u64 = 3_600_000;
const BEGIN_MS: u64 = 1_800_000_000_000;

fn position(sequence: u64) -> HookPosition {
    HookPosition { created_at_ms: 1, sequence }
}

fn queue() -> HookQueue {
    HookQueue::new(HookProgress::new(HookId::from_bytes([1; 16]), position(0)), RetryPolicy::default())
}

fn medium(number: u8) -> Lane {
    (number > 0).then(|| MediaId::from_bytes([number; 16]))
}

/// Sends all that is due at `now_ms`, and answers it; `takes` says what the receiver takes.
fn send_due(
    queue: &mut HookQueue,
    now_ms: u64,
    takes: impl FnMut(DueDelivery) -> bool,
) -> (Vec<u64>, Vec<u64>) {
    send_due_with("connect_failed", queue, now_ms, takes)
}

/// The same, where what the receiver does not take fails with a code.
fn send_due_with(
    code: &str,
    queue: &mut HookQueue,
    now_ms: u64,
    mut takes: impl FnMut(DueDelivery) -> bool,
) -> (Vec<u64>, Vec<u64>) {
    let (mut sent, mut skipped) = (Vec::new(), Vec::new());
    while let Some(due) = queue.next_due(now_ms) {
        if takes(due) {
            queue.record_success(due, now_ms, 0);
            sent.push(due.sequence);
        } else if let FailedDelivery::GivenUp(event) = queue.record_failure(due, now_ms, code, (None, 500)) {
            skipped.push(event.sequence);
        }
    }
    (sent, skipped)
}

#[test]
fn a_medium_that_fails_keeps_no_other_one_waiting() {
    let mut queue = queue();
    for (sequence, lane) in [(1, medium(1)), (2, medium(2)), (3, medium(1)), (4, None), (5, medium(2))] {
        assert_eq!(queue.take(sequence, lane, BEGIN_MS), TakeResult::Taken);
    }
    let (sent, _) = send_due(&mut queue, BEGIN_MS, |due| due.lane != medium(1));
    assert_eq!(sent, [2, 4, 5], "the third waits behind the first");
    assert_eq!(queue.next_due(BEGIN_MS), None);
    let later_ms = queue.next_look_at_ms().unwrap();
    assert!((BEGIN_MS + 4_000..=BEGIN_MS + 5_000).contains(&later_ms), "{}", later_ms - BEGIN_MS);
    assert_eq!(send_due(&mut queue, later_ms, |_| true).0, [1, 3]);
    assert_eq!(queue.progress().lanes, []);
    assert_eq!(queue.sequence(), 5);
}

#[test]
fn one_event_of_a_medium_is_under_way_at_a_time() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    queue.take(2, medium(1), BEGIN_MS);
    let first = queue.next_due(BEGIN_MS).unwrap();
    assert_eq!((first.sequence, first.attempt), (1, 1));
    assert_eq!(queue.next_due(BEGIN_MS), None);
    assert!(!queue.hold_lane(medium(1)), "nor is one that somebody asked for");
    queue.record_success(first, BEGIN_MS, 0);
    assert_eq!(queue.next_due(BEGIN_MS).unwrap().sequence, 2);
}

#[test]
fn a_receiver_that_was_away_for_an_hour_gets_everything_at_its_first_success() {
    let mut queue = queue();
    let mut sequence = 0;
    let mut now_ms = BEGIN_MS;
    while now_ms < BEGIN_MS + HOUR_MS {
        sequence += 1;
        queue.take(sequence, medium(u8::try_from(sequence % 7).unwrap()), now_ms);
        assert_eq!(send_due(&mut queue, now_ms, |_| false).0, Vec::<u64>::new());
        now_ms += 30_000;
    }
    // Not longer than the longest delay behind its return.
    let back_ms = queue.next_look_at_ms().unwrap();
    assert!(back_ms < BEGIN_MS + 2 * HOUR_MS);
    let (mut sent, mut skipped) = send_due(&mut queue, back_ms, |_| true);
    assert!(queue.next_look_at_ms().is_none_or(|at_ms| at_ms < back_ms + 5_000), "each comes soon");
    let (rest, late) = send_due(&mut queue, back_ms + 5_000, |_| true);
    sent.extend(rest);
    skipped.extend(late);
    assert_eq!((sent.len(), skipped), (usize::try_from(sequence).unwrap(), vec![]));
    for lane in 0..7 {
        let of_lane: Vec<u64> = sent.iter().copied().filter(|sequence| sequence % 7 == lane).collect();
        assert!(of_lane.is_sorted(), "{of_lane:?}");
    }
}

#[test]
fn what_a_receiver_refuses_is_not_brought_forward_and_what_it_could_not_be_reached_for_once() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    queue.take(2, medium(2), BEGIN_MS);
    let mut now_ms = BEGIN_MS;
    let mut tries = [0; 2];
    // One medium is refused, one is timed out, and every two minutes something else is taken.
    for round in 0..120 {
        queue.take(10 + round, medium(3), now_ms);
        while let Some(due) = queue.next_due(now_ms) {
            match due.lane {
                lane if lane == medium(3) => queue.record_success(due, now_ms, round),
                lane => {
                    let place = usize::from(lane == medium(2));
                    tries[place] += 1;
                    let code = ["status_refused", "timed_out"][place];
                    queue.record_failure(due, now_ms, code, (None, 0));
                }
            }
        }
        now_ms += 120_000;
    }
    assert!(tries.iter().all(|tries| (7..20).contains(tries)), "{tries:?}");
}

#[test]
fn a_receiver_that_asks_for_time_gets_it_for_all_media() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    queue.take(2, medium(2), BEGIN_MS);
    let due = queue.next_due(BEGIN_MS).unwrap();
    queue.record_failure(due, BEGIN_MS, "status_refused", (Some(600_000), 0));
    assert_eq!(queue.next_due(BEGIN_MS + 599_999), None);
    assert_eq!(queue.next_look_at_ms(), Some(BEGIN_MS + 600_000));
    queue.take(3, medium(3), BEGIN_MS + 1);
    assert_eq!(queue.next_due(BEGIN_MS + 599_999), None, "nor what came then");
    assert!(queue.next_due(BEGIN_MS + 600_000).is_some());
    queue.resume(BEGIN_MS + 1);
    assert!(queue.next_due(BEGIN_MS + 1).is_some(), "a person may say otherwise");
}

#[test]
fn a_hook_that_has_nothing_to_send_does_not_fail() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    send_due(&mut queue, BEGIN_MS, |_| false);
    assert_eq!(queue.failing_ms(BEGIN_MS + 72 * HOUR_MS), 72 * HOUR_MS);
    assert_eq!(send_due(&mut queue, BEGIN_MS + 72 * HOUR_MS, |_| false).1, [1]);
    assert_eq!(queue.failing_ms(BEGIN_MS + 200 * HOUR_MS), 0, "it was given up");
    queue.take(2, medium(1), BEGIN_MS);
    let due = queue.next_due(BEGIN_MS).unwrap();
    queue.record_failure(due, BEGIN_MS, "timed_out", (None, 0));
    let due = queue.next_due(BEGIN_MS + HOUR_MS).unwrap();
    queue.record_loss(due);
    assert_eq!(queue.failing_ms(BEGIN_MS + 200 * HOUR_MS), 0, "it was lost");
}

#[test]
fn an_event_is_tried_for_three_days_and_then_left_out() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    queue.take(2, medium(1), BEGIN_MS + HOUR_MS);
    let (mut tries, mut skipped) = (0, Vec::new());
    let mut now_ms = BEGIN_MS;
    while skipped.is_empty() {
        now_ms = now_ms.max(queue.next_look_at_ms().unwrap());
        skipped = send_due(&mut queue, now_ms, |_| {
            tries += 1;
            false
        })
        .1;
    }
    assert_eq!((skipped, now_ms), (vec![1], BEGIN_MS + 72 * HOUR_MS));
    assert!((70..100).contains(&tries), "{tries}");
    // The next one of the medium has its own time.
    now_ms = queue.next_look_at_ms().unwrap();
    assert_eq!(send_due(&mut queue, now_ms, |_| true).0, [2]);
}

#[test]
fn a_delay_is_what_the_receiver_asks_for_within_limits() {
    let policy = RetryPolicy::default();
    assert_eq!(policy.next_delay_ms(1, None, 0), 5_000);
    assert_eq!(policy.next_delay_ms(1, None, 999), 4_001);
    assert_eq!(policy.next_delay_ms(2, None, 0), 10_000);
    assert_eq!(policy.next_delay_ms(1, Some(60_000), 0), 60_000);
    assert_eq!(policy.next_delay_ms(8, Some(60_000), 0), 640_000, "not sooner than its own");
    assert_eq!(policy.next_delay_ms(1, Some(48 * HOUR_MS), 0), HOUR_MS);
    for tries in [11, 64, 65, 1_000, u32::MAX] {
        assert_eq!(policy.next_delay_ms(tries, None, 0), HOUR_MS, "{tries}");
    }
}

#[test]
fn a_full_queue_takes_nothing_until_a_quarter_is_free() {
    let mut queue = queue();
    let lanes = u64::try_from(LANES_MAX).unwrap();
    for sequence in 1..=lanes {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&sequence.to_be_bytes());
        assert_eq!(queue.take(sequence, Some(MediaId::from_bytes(id)), BEGIN_MS), TakeResult::Taken);
    }
    assert_eq!(queue.take(lanes + 1, medium(1), BEGIN_MS), TakeResult::NoRoom);
    assert!(queue.progress().is_full && !queue.has_room());
    assert_eq!(queue.sequence(), lanes, "what had no room is offered again");
    for _ in 0..LANES_MAX / 4 - 1 {
        let due = queue.next_due(BEGIN_MS).unwrap();
        queue.record_success(due, BEGIN_MS, 0);
        assert!(!queue.has_room());
    }
    let due = queue.next_due(BEGIN_MS).unwrap();
    queue.record_success(due, BEGIN_MS, 0);
    assert!(queue.has_room());
    assert_eq!(queue.take(lanes + 1, medium(1), BEGIN_MS), TakeResult::Taken);

    let mut queue = self::queue();
    for sequence in 1..=u64::try_from(WAITING_MAX).unwrap() {
        assert_eq!(queue.take(sequence, None, BEGIN_MS), TakeResult::Taken);
    }
    assert_eq!(queue.take(u64::MAX, None, BEGIN_MS), TakeResult::NoRoom);
    let record = serde_json::to_vec(queue.progress()).unwrap();
    assert!(record.len() < 64 * 1024, "{}", record.len());
}

#[test]
fn a_replay_sends_what_was_sent_and_what_waits_once() {
    let mut queue = queue();
    for sequence in 1..=6 {
        queue.take(sequence, medium(u8::try_from(sequence % 2).unwrap()), BEGIN_MS);
    }
    send_due(&mut queue, BEGIN_MS, |due| due.sequence < 3);
    queue.go_back_to(3, BEGIN_MS);
    assert_eq!(queue.sequence(), 3);
    assert_eq!(queue.progress().waiting_count(), 1, "the third waits still");
    for sequence in 4..=6 {
        queue.take(sequence, medium(u8::try_from(sequence % 2).unwrap()), BEGIN_MS);
    }
    assert_eq!(send_due(&mut queue, BEGIN_MS, |_| true).0, [3, 4, 5, 6]);
    queue.go_back_to(100, BEGIN_MS);
    assert_eq!(queue.sequence(), 6, "nothing is left out");
}

#[test]
fn what_is_under_way_at_a_replay_ends_without_effect() {
    let mut queue = queue();
    queue.take(5, medium(1), BEGIN_MS);
    let due = queue.next_due(BEGIN_MS).unwrap();
    queue.go_back_to(2, BEGIN_MS);
    queue.take(4, medium(1), BEGIN_MS);
    assert_eq!(queue.next_due(BEGIN_MS), None, "its lane is held");
    assert_eq!(queue.record_failure(due, BEGIN_MS, "x", (None, 0)), FailedDelivery::Moved);
    queue.take(5, medium(1), BEGIN_MS);
    assert_eq!(send_due(&mut queue, BEGIN_MS, |_| true).0, [4, 5]);
}

#[test]
fn a_resumption_counts_once() {
    let mut queue = queue();
    queue.take(1, medium(1), BEGIN_MS);
    send_due(&mut queue, BEGIN_MS, |_| false);
    let resumed_ms = BEGIN_MS + 100 * HOUR_MS;
    assert!(queue.note_resumption(Some(resumed_ms), resumed_ms));
    assert!(!queue.note_resumption(Some(resumed_ms), resumed_ms));
    assert_eq!(queue.failing_ms(resumed_ms), 0);
    let (_, skipped) = send_due(&mut queue, resumed_ms, |_| false);
    assert!(skipped.is_empty(), "it has all its time again");
}

#[test]
fn another_stream_begins_anew_and_says_what_is_lost() {
    let mut queue = queue();
    queue.take(4, medium(1), BEGIN_MS);
    queue.take(9, None, BEGIN_MS);
    assert_eq!(queue.begin_anew(position(0)), Some((4, 9)));
    assert_eq!((queue.sequence(), queue.next_due(BEGIN_MS)), (0, None));
}

#[test]
fn a_hook_sends_what_its_owner_sees_and_names_and_nothing_of_hooks() {
    let mut hook = schemas::examples::hook_record();
    let event = |entity: &str, verb: &str, owner: Option<&str>| EventHead {
        entity: entity.into(),
        verb: verb.into(),
        owner: owner.map(ToOwned::to_owned),
        ..EventHead::default()
    };
    assert!(wants_event(&hook, &event("media", "ready", Some("admin"))));
    assert!(wants_event(&hook, &event("job", "failed", Some("admin"))));
    assert!(!wants_event(&hook, &event("job", "queued", Some("admin"))), "it names one kind");
    assert!(!wants_event(&hook, &event("mediated", "ready", Some("admin"))));
    assert!(!wants_event(&hook, &event("media", "ready", Some("olga"))));
    assert!(!wants_event(&hook, &event("media", "ready", None)), "it is of the installation");
    hook.is_for_all = true;
    assert!(wants_event(&hook, &event("media", "ready", Some("olga"))));
    assert!(wants_event(&hook, &event("media", "ready", None)));
    hook.types.clear();
    assert!(wants_event(&hook, &event("auth", "denied", None)));
    assert!(!wants_event(&hook, &event("hook", "skipped", Some("admin"))));
    let media_id = MediaId::from_bytes([3; 16]);
    hook.media_id = Some(media_id);
    let about = |media_id: Option<MediaId>| EventHead {
        media_id: media_id.map(|id| id.to_string()),
        ..event("job", "queued", Some("admin"))
    };
    assert!(wants_event(&hook, &about(Some(media_id))));
    assert!(!wants_event(&hook, &about(None)));
}

#[test]
fn kinds_that_no_event_has_are_refused() {
    let check = |kinds: &[&str]| check_types(&kinds.iter().map(|&kind| kind.to_owned()).collect::<Vec<_>>());
    assert_eq!(check(&["media", "job.failed"]), Ok(()));
    for wrong in ["medi", "media.", "media.read", "", "media.ready.x", "*"] {
        assert_eq!(check(&["job", wrong]), Err(EventTypeError::Unknown { index: 1 }), "{wrong:?}");
    }
    assert_eq!(check(&["hook.skipped"]), Err(EventTypeError::AboutHooks { index: 0 }));
    assert_eq!(check(&["media"; 33]), Err(EventTypeError::TooMany));
}

#[test]
fn what_was_asked_for_has_an_end_and_a_secret_is_not_printed() {
    use schemas::KvRecord as _;
    let mut requests = schemas::hook::HookRequests::new(HookId::from_bytes([1; 16]));
    requests.done_at_ms = Some(BEGIN_MS);
    assert_eq!(requests.expires_at_ms(), Some(BEGIN_MS + 24 * HOUR_MS));
    requests.replay = Some(schemas::hook::AskedReplay { position: position(1), asked_at_ms: BEGIN_MS });
    assert!(requests.expires_at_ms() > Some(BEGIN_MS + 100 * 24 * HOUR_MS), "its hook may be paused");
    let hook = schemas::examples::hook_record();
    let bytes = format!("{:?}", hook.secrets[0].bytes);
    assert!(!format!("{hook:?}").contains(&bytes), "{hook:?}");
}

#[test]
fn a_signature_is_that_of_the_standard() {
    let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let sign = |secrets: &[&[u8]]| {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        signature::sign(id, 1_614_265_330, b"{\"test\": 2432232314}", secrets.iter().copied())
    };
    let wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(sign(&[&secret]), wanted);
    let both = sign(&[b"another", &secret]);
    assert_eq!(both.split(' ').count(), 2);
    assert!(both.ends_with(&format!(" {wanted}")), "{both}");
    assert_eq!(signature::show_secret(&secret), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
}

#[test]
fn an_old_secret_signs_beside_the_new_one_for_its_time() {
    let mut hook = schemas::examples::hook_record();
    let made = |bytes: u8, signs_until_ms: Option<u64>| schemas::hook::HookSecret {
        bytes: serde_bytes::ByteBuf::from(vec![bytes]),
        made_at_ms: 0,
        signs_until_ms,
    };
    hook.secrets = vec![made(1, Some(100)), made(2, Some(200)), made(3, None)];
    let signing =
        |now_ms: u64| hook.signing_secrets(now_ms).map(|secret| secret.bytes[0]).collect::<Vec<_>>();
    assert_eq!(signing(99), [3, 2, 1]);
    assert_eq!(signing(100), [3, 2]);
    assert_eq!(signing(200), [3]);
}

/// What a test does to a queue.
#[derive(Debug, Clone)]
enum Step {
    /// An event of a medium comes.
    Event(u8),
    /// So many deliveries begin.
    Send(u8),
    /// One that is under way ends so.
    End(usize, bool),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The keeper ends, and another one goes on from the record.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..5).prop_map(Step::Event),
        4 => (1_u8..5).prop_map(Step::Send),
        6 => (0_usize..8, prop::bool::weighted(0.6)).prop_map(|(which, is_taken)| Step::End(which, is_taken)),
        2 => (1_u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    /// Whatever happens: each event is delivered, none before an earlier one of its medium was, and no medium has two under way.
    #[test]
    fn nothing_is_lost_and_each_medium_keeps_its_order(steps in prop::collection::vec(step(), 1..300)) {
        let mut queue = queue();
        let mut now_ms = BEGIN_MS;
        let mut events: BTreeMap<u64, Lane> = BTreeMap::new();
        let mut delivered: BTreeSet<u64> = BTreeSet::new();
        let mut under_way: Vec<DueDelivery> = Vec::new();
        let mut check = |due: DueDelivery, events: &BTreeMap<u64, Lane>| {
            let earlier = events.range(..due.sequence).filter(|(_, lane)| **lane == due.lane);
            for (sequence, _) in earlier {
                prop_assert!(delivered.contains(sequence), "{due:?} before {sequence}");
            }
            delivered.insert(due.sequence);
            Ok(())
        };
        for step in steps {
            match step {
                Step::Event(number) => {
                    let sequence = u64::try_from(events.len()).unwrap() + 1;
                    let lane = medium(number);
                    prop_assert_eq!(queue.take(sequence, lane, now_ms), TakeResult::Taken);
                    events.insert(sequence, lane);
                }
                Step::Send(count) => {
                    for _ in 0..count {
                        let Some(due) = queue.next_due(now_ms) else { break };
                        prop_assert!(under_way.iter().all(|other| other.lane != due.lane));
                        under_way.push(due);
                    }
                }
                Step::End(which, is_taken) if !under_way.is_empty() => {
                    let due = under_way.remove(which % under_way.len());
                    if is_taken {
                        check(due, &events)?;
                        queue.record_success(due, now_ms, 0);
                    } else {
                        queue.record_failure(due, now_ms, "status_refused", (None, now_ms));
                    }
                }
                Step::End(..) => {}
                Step::Wait(ms) => now_ms += ms,
                Step::Crash => {
                    under_way.clear();
                    let written = serde_json::to_string(queue.progress()).unwrap();
                    queue = HookQueue::new(serde_json::from_str(&written).unwrap(), RetryPolicy::default());
                }
            }
        }
        for due in under_way {
            check(due, &events)?;
            queue.record_success(due, now_ms, 0);
        }
        while let Some(at_ms) = queue.next_look_at_ms() {
            now_ms = now_ms.max(at_ms);
            while let Some(due) = queue.next_due(now_ms) {
                check(due, &events)?;
                queue.record_success(due, now_ms, 0);
            }
        }
        prop_assert_eq!(delivered.len(), events.len());
    }
}
