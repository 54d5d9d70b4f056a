//! Lines and chains, without a broker.

use proptest::prelude::*;
use schemas::{
    audit::{AuditNote, AuditRange, AuditRecord},
    headers,
};
use serde_json::{Value, json};

use super::{Stored, entry, log};
use crate::{
    AuditError, AuditFault, AuditHead, AuditLogStatus, AuditLogVerifier, ReplayFilter,
    hash_chain::{self, ForeignMessages},
};

/// Walks a log from its first line; answers its head, or the number of the first bad record.
fn walk(log: &[Stored]) -> Result<AuditHead, (u64, AuditFault)> {
    (1..).zip(log).try_fold(AuditHead::empty(), |head, (n, stored)| {
        head.check_line(n, &stored.subject, &stored.line).map(|(head, _)| head).map_err(|fault| (n, fault))
    })
}

fn record_of(payload: Vec<u8>) -> (AuditRecord, Vec<u8>) {
    let line = AuditHead::empty().event_line(&entry(1, "evt.media.stored.m1", payload), 10_000).unwrap();
    (serde_json::from_slice(&line.bytes).unwrap(), line.bytes)
}

fn data_of(payload: &[u8]) -> Value {
    record_of(payload.to_vec()).0.data
}

#[test]
fn a_line_says_all_about_its_event() {
    let mut event =
        entry(41, "evt.media.stored.m1", nats::encode_message("payload", &json!({ "a": 1 })).unwrap());
    for (name, value) in [
        (headers::ID, "i1"),
        (headers::TIME, "2026-01-02T03:04:05.678Z"),
        (headers::OWNER, "ann"),
        (headers::MEDIA_ID, "m1"),
        (headers::JOB_ID, "j1"),
    ] {
        event.headers.insert(name, value);
    }
    let before = AuditHead { n: 6, hash: "ab".repeat(32), source_sequence: 40, epoch: Some("19c".into()) };
    let line = before.event_line(&event, 10_000).unwrap();
    let found: Value = serde_json::from_slice(&line.bytes).unwrap();
    let wanted = json!({
        "n": 7,
        "source": { "stream": "EVENTS", "sequence": 41, "id": "i1", "epoch": "19c" },
        "time": "2026-01-02T03:04:05.678Z",
        "stored_at": "2023-11-14T22:13:20.041Z",
        "type": "media.stored",
        "subject": "evt.media.stored.m1",
        "entity_id": "m1",
        "owner": "ann",
        "media_id": "m1",
        "job_id": "j1",
        "data": { "a": 1 },
        "prev_hash": "ab".repeat(32),
    });
    assert_eq!(found, wanted);
    assert_eq!(line.subject, "audit.media.stored");
    let wanted = AuditHead {
        n: 7,
        hash: hash_chain::sha256_hex(&line.bytes),
        source_sequence: 41,
        epoch: Some("19c".into()),
    };
    assert_eq!(line.head, wanted);
    assert_eq!(
        AuditHead::from_line(7, &line.bytes).unwrap(),
        line.head,
        "a crash loses nothing the next line needs"
    );
}

#[test]
fn a_line_is_one_line() {
    let payload = nats::encode_message("payload", &json!({ "filename": "a\nb\r\u{2028}\"c" })).unwrap();
    let (record, bytes) = record_of(payload);
    assert_eq!(record.data["filename"], "a\nb\r\u{2028}\"c");
    assert!(!bytes.contains(&b'\n') && !bytes.contains(&b'\r'));
}

#[test]
fn an_event_without_headers_is_recorded_by_what_the_broker_knows() {
    let (record, _) = record_of(vec![0xC0]);
    assert_eq!(record.time, record.stored_at);
    assert_eq!((record.source.id.as_str(), record.owner, record.data), ("", None, Value::Null));
    let odd = AuditHead::empty().event_line(&entry(1, "evt.a.b.c.d", vec![0xC0]), 10_000).unwrap();
    assert_eq!(odd.subject, "audit.unknown.unknown");
    assert!(AuditHead::empty().check_line(1, &odd.subject, &odd.bytes).is_ok());
}

#[test]
fn every_payload_is_kept_whatever_it_is() {
    for (name, payload, wanted) in [
        ("nothing", vec![], json!({ "undecodable_base64": "" })),
        ("half a string", vec![0xA5, b'x'], json!({ "undecodable_base64": "pXg=" })),
        ("bytes behind the end", vec![0x01, 0x02], json!({ "undecodable_base64": "AQI=" })),
        ("a reserved marker", vec![0xC1], json!({ "undecodable_base64": "wQ==" })),
        ("bytes", vec![0xC4, 2, 0xFF, 0x00], json!("/wA=")),
        ("a map with numbers as keys", vec![0x81, 0x05, 0xC3], json!({ "5": true })),
        ("the largest number", [vec![0xCF], vec![0xFF; 8]].concat(), json!(u64::MAX)),
        ("the smallest number", [vec![0xD3, 0x80], vec![0; 7]].concat(), json!(i64::MIN)),
        ("an array", vec![0x92, 0xC0, 0xA1, b'x'], json!([null, "x"])),
    ] {
        assert_eq!(data_of(&payload), wanted, "{name}");
    }
}

#[test]
fn a_deep_payload_does_not_end_the_process() {
    let deep = [vec![0x91; 100_000], vec![0xC0]].concat();
    assert!(data_of(&deep[99_990..]).is_array());
    let line = AuditHead::empty().event_line(&entry(1, "evt.a.b.c", deep), 1_000_000).unwrap();
    let record: AuditRecord = serde_json::from_slice(&line.bytes).unwrap();
    assert!(record.data["undecodable_base64"].is_string());
}

#[test]
fn a_payload_that_is_too_large_is_named_by_its_digest() {
    let payload = nats::encode_message("payload", &"x".repeat(20_000)).unwrap();
    let line = AuditHead::empty().event_line(&entry(1, "evt.a.b.c", payload.clone()), 10_000).unwrap();
    assert!(line.bytes.len() < 1_000);
    let record: AuditRecord = serde_json::from_slice(&line.bytes).unwrap();
    assert_eq!(
        record.data,
        json!({ "sha256": hash_chain::sha256_hex(&payload), "size_bytes": payload.len() })
    );
}

#[test]
fn faults_of_a_record_that_does_not_follow_are_distinguished() {
    let log = log(4);
    let head = walk(&log[..2]).unwrap();
    let check = |n, stored: &Stored| head.check_line(n, &stored.subject, &stored.line).unwrap_err();
    assert_eq!(check(4, &log[3]), AuditFault::Missing { from: 3, to: 3 });
    assert_eq!(check(3, &log[3]), AuditFault::Number { found: 4 });
    assert_eq!(check(3, &log[1]), AuditFault::Number { found: 2 });
    let moved = Stored { subject: "audit.media.removed".into(), ..log[2].clone() };
    assert_eq!(check(3, &moved), AuditFault::Subject { found: "audit.media.removed".into() });
    let noise = Stored { line: b"{}".to_vec(), ..log[2].clone() };
    assert!(matches!(check(3, &noise), AuditFault::NoRecord { .. }));
    let other = AuditHead { hash: "00".repeat(32), ..head.clone() };
    let found = other.check_line(3, &log[2].subject, &log[2].line).unwrap_err();
    assert_eq!(found, AuditFault::Chain { expected: "00".repeat(32), found: head.hash.clone() });
    let later = AuditHead { source_sequence: 3, ..head.clone() };
    let found = later.check_line(3, &log[2].subject, &log[2].line).unwrap_err();
    assert_eq!(found, AuditFault::Order { before: 3, found: 3 });
}

fn verdict(log: &[Stored]) -> AuditLogStatus {
    let mut walk = AuditLogVerifier::default();
    for (n, stored) in (1..).zip(log) {
        if let Err(broken) = walk.push_message(n, &stored.subject, &stored.line) {
            return broken;
        }
    }
    walk.finish()
}

fn head_of(log: &[Stored]) -> AuditHead {
    let last = log.last().unwrap();
    AuditHead::from_line(log.len().try_into().unwrap(), &last.line).unwrap()
}

/// The log goes on with `line`.
fn push(log: &mut Vec<Stored>, line: hash_chain::AuditLine) -> AuditHead {
    log.push(Stored { subject: line.subject, line: line.bytes });
    line.head
}

/// A log in which the first events stand twice, as a reader that began anew wrote it.
fn doubled(count: u64, again: u64) -> Vec<Stored> {
    let mut all = log(count);
    let mut head = head_of(&all);
    for stored in log(count).iter().take(usize::try_from(again).unwrap()) {
        let mut record: AuditRecord = serde_json::from_slice(&stored.line).unwrap();
        (record.n, record.prev_hash) = (head.n + 1, head.hash.clone());
        let line = serde_json::to_vec(&record).unwrap();
        all.push(Stored { subject: stored.subject.clone(), line });
        head = head_of(&all);
    }
    all
}

fn note(repeated: Vec<AuditRange>) -> AuditNote {
    AuditNote { reason: "seen twice".into(), skipped: None, repeated }
}

#[test]
fn a_log_that_was_doubled_is_sound_once_a_note_names_the_repeats() {
    let mut log = doubled(4, 3);
    let range = AuditRange { from: 5, to: 7 };
    let unnamed = AuditLogStatus::Broken { n: 5, fault: AuditFault::Repeated { range } };
    assert_eq!(verdict(&log), unnamed);
    let newest = AuditHead { source_sequence: 4, ..head_of(&log) };
    let mut wrong = log.clone();
    push(&mut wrong, newest.note_line(&note(vec![AuditRange { from: 5, to: 6 }]), None, 7).unwrap());
    assert_eq!(verdict(&wrong), unnamed, "a note names exactly the repeats");
    let head = push(&mut log, newest.note_line(&note(vec![range]), None, 7).unwrap());
    assert_eq!(head.source_sequence, 4);
    let head = push(&mut log, head.event_line(&entry(5, "evt.media.ready.m5", vec![0xC0]), 10_000).unwrap());
    let wanted = AuditLogStatus::Sound { head, events_missing: 0, notes: vec![(8, note(vec![range]))] };
    assert_eq!(verdict(&log), wanted);
}

#[test]
fn a_repeat_in_other_words_is_none() {
    let mut log = doubled(4, 2);
    let text = String::from_utf8(log[5].line.clone()).unwrap();
    log[5].line = text.replace("\"entity_id\":\"m2\"", "\"entity_id\":\"m9\"").into_bytes();
    let newest = AuditHead { source_sequence: 4, ..head_of(&log) };
    push(&mut log, newest.note_line(&note(vec![AuditRange { from: 5, to: 6 }]), None, 7).unwrap());
    assert_eq!(
        verdict(&log),
        AuditLogStatus::Broken { n: 6, fault: AuditFault::Order { before: 4, found: 2 } }
    );
}

#[test]
fn messages_that_are_no_records_are_sound_once_a_note_steps_over_them() {
    let mut log = log(2);
    let head = head_of(&log);
    let noise: [&[u8]; 3] = [b"noise", b"two\r\nlines\n", b"{}"];
    let fault = head.check_line(3, "audit.a.b", noise[0]).unwrap_err();
    let mut foreign = ForeignMessages::after_head(&head, 3, fault.clone());
    for (n, bytes) in (3..).zip(noise) {
        foreign.add_message(n, bytes);
        log.push(Stored { subject: "audit.a.b".into(), line: bytes.to_vec() });
    }
    let broken = AuditLogStatus::Broken { n: 3, fault };
    assert_eq!(verdict(&log), broken, "nobody accounts for them");
    let stepped = push(&mut log, head.note_line(&foreign.skip_note(), Some(&foreign), 7).unwrap());
    let event = entry(3, "evt.media.stored.m3", vec![0xC0]);
    let end = push(&mut log, stepped.event_line(&event, 10_000).unwrap());
    let notes = vec![(6, foreign.skip_note())];
    assert_eq!(verdict(&log), AuditLogStatus::Sound { head: end, events_missing: 0, notes: notes.clone() });

    // As it comes over HTTP: in lines, with no numbers beside them.
    let mut walk = AuditLogVerifier::default();
    for stored in &log {
        for line in stored.line.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let record = serde_json::from_slice::<AuditRecord>(line).ok();
            let n = record.map_or(walk.next_n(), |record| record.n);
            walk.push_message(n, &stored.subject, line).unwrap();
        }
    }
    assert!(matches!(walk.finish(), AuditLogStatus::Sound { notes: found, .. } if found == notes));

    let mut changed = log.clone();
    changed[3].line[0] ^= 1;
    assert_eq!(verdict(&changed), broken, "the note covers their bytes");
    let mut fewer = log;
    fewer.remove(3);
    assert_eq!(verdict(&fewer), broken);
}

#[test]
fn nothing_follows_a_line_that_is_no_record() {
    assert!(matches!(AuditHead::from_line(9, b"{\"n\":9"), Err(AuditError::Malformed { n: 9, .. })));
}

#[test]
fn filters_name_entities_and_verbs() {
    let read = |text: &str| text.parse::<ReplayFilter>();
    for (text, same_as) in [
        (">", "*"),
        ("audit.>", ">"),
        ("media", "media.*"),
        ("media.>", "media.*"),
        ("audit.media.stored", "media.stored"),
        ("*.failed", "audit.*.failed"),
        ("audit.note", "audit.audit.note"),
        ("audit", "audit.audit.*"),
        ("*.>", ">"),
    ] {
        assert_eq!(read(text).unwrap(), read(same_as).unwrap(), "{text}");
    }
    assert_ne!(read("media.stored").unwrap(), read("media.ready").unwrap());
    let long = "x".repeat(33);
    for text in [
        "",
        ".",
        "media.",
        ".stored",
        "media.stored.m1",
        "me dia",
        "MEDIA",
        "media.st*red",
        "$KV.x",
        ">.*",
        ">.failed",
        &long,
    ] {
        assert!(matches!(read(text), Err(AuditError::Filter { .. })), "{text:?}");
    }
}

#[test]
fn a_filter_that_no_record_can_match_is_refused_with_what_there_is() {
    for (text, wanted) in [
        ("nonsense", "classes are access, admin, alert, audit, auth, cache, gate, hook, job, limit, media,"),
        ("audit.nonsense", "actions of audit are note"),
        ("*.nonsense", "classes are access,"),
        ("nonsense.ready", "classes are access,"),
        ("media.nonsense", "actions of media are changed, delayed, playable, purged, ready, rejected,"),
        ("job.ready", "actions of job are cancelled,"),
        ("media.ready.x", "a type such as media.ready"),
    ] {
        let said = text.parse::<ReplayFilter>().unwrap_err().to_string();
        assert!(said.contains(wanted) && said.contains(&format!("{text:?}")), "{text}: {said}");
    }
    for kind in schemas::catalog::event_entries() {
        assert!(kind.name.parse::<ReplayFilter>().is_ok(), "{}", kind.name);
    }
}

proptest! {
    #[test]
    fn an_untouched_log_is_sound(count in 0_u64..20) {
        let head = walk(&log(count)).unwrap();
        prop_assert_eq!((head.n, head.source_sequence), (count, count));
    }

    #[test]
    fn a_changed_byte_is_found_at_its_line_or_the_next(at in 0_usize..8, byte in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let sound = log(8);
        let mut changed = sound.clone();
        let line = &mut changed[at].line;
        let byte = byte.index(line.len());
        line[byte] ^= 1 << bit;
        let bad = u64::try_from(at).unwrap() + 1;
        match walk(&changed) {
            Err((n, _)) => prop_assert!(n == bad || n == bad + 1, "{} instead of {}", n, bad),
            // A chain can't prove its own end: there it is the head, noted elsewhere, that shows it.
            Ok(head) => prop_assert!(at == 7 && head != walk(&sound).unwrap()),
        }
    }

    #[test]
    fn a_removed_a_doubled_and_a_swapped_line_are_found(at in 0_usize..7) {
        let bad = u64::try_from(at).unwrap() + 1;
        let mut removed = log(8);
        removed.remove(at);
        prop_assert_eq!(walk(&removed).unwrap_err().0, bad);
        let mut doubled = log(8);
        doubled.insert(at, doubled[at].clone());
        prop_assert_eq!(walk(&doubled).unwrap_err().0, bad + 1);
        let mut swapped = log(8);
        swapped.swap(at, at + 1);
        prop_assert_eq!(walk(&swapped).unwrap_err().0, bad);
    }

    #[test]
    fn any_payload_gives_a_line_that_verifies(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let line = AuditHead::empty().event_line(&entry(1, "evt.media.stored.m1", payload), 10_000).unwrap();
        prop_assert_eq!(AuditHead::empty().check_line(1, &line.subject, &line.bytes).unwrap().0, line.head);
    }
}
