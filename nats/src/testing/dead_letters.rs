//! Dead letters without a stage that gives something up.

use async_nats::HeaderMap;
use schemas::subjects;

use crate::{
    Bus, PublishOutcome,
    dead_letter::{ATTEMPTS, CODE, REASON, STREAM, SUBJECT},
};

/// Stores what `stage` leaves behind when it gives up a message of `(stream, subject)` since its child crashed five times; answers the
/// letter's sequence. The reason holds what would steer a terminal.
///
/// # Panics
/// When the broker does not store it.
pub async fn store_dead_letter(
    bus: &Bus,
    stage: &str,
    (stream, subject): (&str, &str),
    payload: Vec<u8>,
) -> u64 {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (SUBJECT, subject),
        (STREAM, stream),
        (CODE, "crashed"),
        (REASON, "the child \u{1b}[31mdied"),
        (ATTEMPTS, "5"),
    ] {
        headers.insert(name, value);
    }
    let id = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
    let address = format!("dead.{stage}.{id}");
    match bus.publish_raw(subjects::DEAD, &address, &id, headers, payload).await {
        Ok(PublishOutcome::Stored(sequence)) => sequence,
        other => panic!("the letter was not stored: {other:?}"),
    }
}
