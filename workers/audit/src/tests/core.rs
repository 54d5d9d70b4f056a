//! Lines and chains, without a broker.

use proptest::prelude::*;
use schemas::{audit::Record, headers};
use serde_json::{Value, json};

use super::{Stored, entry, log};
use crate::{Error, Fault, Filter, Head, record};

/// Walks a log from its first line; answers its head, or the number of the first bad record.
fn walk(log: &[Stored]) -> Result<Head, (u64, Fault)> {
    (1..).zip(log).try_fold(Head::empty(), |head, (n, stored)| {
        head.check(n, &stored.subject, &stored.line).map_err(|fault| (n, fault))
    })
}

fn record_of(payload: Vec<u8>) -> (Record, Vec<u8>) {
    let line = Head::empty().follow(&entry(1, "evt.media.stored.m1", payload), 10_000).unwrap();
    (serde_json::from_slice(&line.bytes).unwrap(), line.bytes)
}

fn data_of(payload: &[u8]) -> Value {
    record_of(payload.to_vec()).0.data
}

#[test]
fn a_line_says_all_about_its_event() {
    let mut event = entry(41, "evt.media.stored.m1", nats::encode("payload", &json!({ "a": 1 })).unwrap());
    for (name, value) in [
        (headers::ID, "i1"),
        (headers::TIME, "2026-01-02T03:04:05.678Z"),
        (headers::OWNER, "ann"),
        (headers::MEDIA_ID, "m1"),
        (headers::JOB_ID, "j1"),
    ] {
        event.headers.insert(name, value);
    }
    let before = Head { n: 6, hash: "ab".repeat(32), source_sequence: 40 };
    let line = before.follow(&event, 10_000).unwrap();
    let found: Value = serde_json::from_slice(&line.bytes).unwrap();
    let wanted = json!({
        "n": 7,
        "source": { "stream": "EVENTS", "sequence": 41, "id": "i1" },
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
    assert_eq!(line.head, Head { n: 7, hash: record::digest(&line.bytes), source_sequence: 41 });
    assert_eq!(Head::at(7, &line.bytes).unwrap(), line.head, "a crash loses nothing the next line needs");
}

#[test]
fn a_line_is_one_line() {
    let payload = nats::encode("payload", &json!({ "filename": "a\nb\r\u{2028}\"c" })).unwrap();
    let (record, bytes) = record_of(payload);
    assert_eq!(record.data["filename"], "a\nb\r\u{2028}\"c");
    assert!(!bytes.contains(&b'\n') && !bytes.contains(&b'\r'));
}

#[test]
fn an_event_without_headers_is_recorded_by_what_the_broker_knows() {
    let (record, _) = record_of(vec![0xC0]);
    assert_eq!(record.time, record.stored_at);
    assert_eq!((record.source.id.as_str(), record.owner, record.data), ("", None, Value::Null));
    let odd = Head::empty().follow(&entry(1, "evt.a.b.c.d", vec![0xC0]), 10_000).unwrap();
    assert_eq!(odd.subject, "audit.unknown.unknown");
    assert!(Head::empty().check(1, &odd.subject, &odd.bytes).is_ok());
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
    let line = Head::empty().follow(&entry(1, "evt.a.b.c", deep), 1_000_000).unwrap();
    let record: Record = serde_json::from_slice(&line.bytes).unwrap();
    assert!(record.data["undecodable_base64"].is_string());
}

#[test]
fn a_payload_that_is_too_large_is_named_by_its_digest() {
    let payload = nats::encode("payload", &"x".repeat(20_000)).unwrap();
    let line = Head::empty().follow(&entry(1, "evt.a.b.c", payload.clone()), 10_000).unwrap();
    assert!(line.bytes.len() < 1_000);
    let record: Record = serde_json::from_slice(&line.bytes).unwrap();
    assert_eq!(record.data, json!({ "sha256": record::digest(&payload), "size_bytes": payload.len() }));
}

#[test]
fn what_does_not_follow_is_told_apart() {
    let log = log(4);
    let head = walk(&log[..2]).unwrap();
    let check = |n, stored: &Stored| head.check(n, &stored.subject, &stored.line).unwrap_err();
    assert_eq!(check(4, &log[3]), Fault::Missing { from: 3, to: 3 });
    assert_eq!(check(3, &log[3]), Fault::Number { found: 4 });
    assert_eq!(check(3, &log[1]), Fault::Number { found: 2 });
    let moved = Stored { subject: "audit.media.removed".into(), ..log[2].clone() };
    assert_eq!(check(3, &moved), Fault::Subject { found: "audit.media.removed".into() });
    let noise = Stored { line: b"{}".to_vec(), ..log[2].clone() };
    assert!(matches!(check(3, &noise), Fault::NoRecord { .. }));
    let other = Head { hash: "00".repeat(32), ..head.clone() };
    let found = other.check(3, &log[2].subject, &log[2].line).unwrap_err();
    assert_eq!(found, Fault::Chain { expected: "00".repeat(32), found: head.hash.clone() });
    let later = Head { source_sequence: 3, ..head.clone() };
    let found = later.check(3, &log[2].subject, &log[2].line).unwrap_err();
    assert_eq!(found, Fault::Order { before: 3, found: 3 });
}

#[test]
fn nothing_follows_a_line_that_is_no_record() {
    assert!(matches!(Head::at(9, b"{\"n\":9"), Err(Error::Malformed { n: 9, .. })));
}

#[test]
fn filters_name_entities_and_verbs() {
    let read = |text: &str| text.parse::<Filter>();
    for (text, same_as) in [
        (">", "*"),
        ("audit.>", ">"),
        ("media", "media.*"),
        ("media.>", "media.*"),
        ("audit.media.stored", "media.stored"),
        ("*.failed", "audit.*.failed"),
    ] {
        assert_eq!(read(text).unwrap(), read(same_as).unwrap(), "{text}");
    }
    assert_ne!(read("media.stored").unwrap(), read("media.ready").unwrap());
    let long = "x".repeat(33);
    for text in
        ["", ".", "media.", ".stored", "media.stored.m1", "me dia", "MEDIA", "media.st*red", "$KV.x", &long]
    {
        assert!(matches!(read(text), Err(Error::Filter { .. })), "{text:?}");
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
            // A chain can't prove its own end: there it is the head, noted elsewhere, that tells.
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
        let line = Head::empty().follow(&entry(1, "evt.media.stored.m1", payload), 10_000).unwrap();
        prop_assert_eq!(Head::empty().check(1, &line.subject, &line.bytes).unwrap(), line.head);
    }
}
