//! The log of deliveries: one message of HOOKLOG for each try, with what was sent and answered.
//!
//! Bodies lie in the log, and are not read from EVENTS again: an answer stands nowhere else, and EVENTS keeps what is said of a medium
//! beyond its removal. So what is about a removed medium is taken out of the log message by message, when the medium is purged
//! ([`find_deliveries`] and [`remove_deliveries`]), and what is sent of it from its removal on is logged without bodies.
//!
//! Limits: the stream keeps the newest 1,000 of a hook for 7 days (`nats/topology.toml`).

use std::collections::HashMap;

use nats::{Bus, BusError, HeaderMap, ReaderStart, reader};
use schemas::{
    KvRecord as _,
    document::MediaDocumentRecord,
    headers,
    hook_delivery::{DELIVERY_ID_HEADER, HookDelivery},
    ids::{HookId, MediaId},
    subjects,
};

/// How long after its time an event may be about a medium of which nothing is there, in milliseconds: for so long a purged medium leaves a
/// mark, so one that left none was never there.
const MARK_MS_MIN: u64 = 12 * 3_600_000;

/// Whether what is sent about a medium may be logged with its bodies.
pub(super) async fn may_keep_bodies(
    bus: &Bus,
    media_id: Option<MediaId>,
    stored_at_ms: u64,
) -> Result<bool, BusError> {
    let Some(media_id) = media_id else { return Ok(true) };
    let key = media_id.to_string();
    let Some(found) = bus.read_value(MediaDocumentRecord::BUCKET, &key).await? else {
        // An upload has none before its end.
        return Ok(nats::estimated_broker_now_ms() < stored_at_ms.saturating_add(MARK_MS_MIN));
    };
    let document = found.value.map(|value| nats::decode_record::<MediaDocumentRecord>(&key, &value));
    Ok(document.is_some_and(|read| read.is_ok_and(|(_, document)| !document.is_removed())))
}

/// Logs a delivery.
pub(super) async fn log_delivery(bus: &Bus, delivery: &HookDelivery) -> Result<(), BusError> {
    let subject = subjects::hook_log_subject(delivery.hook_id);
    let id = delivery.delivery_id.to_string();
    let mut all = HeaderMap::new();
    all.insert(DELIVERY_ID_HEADER, id.as_str());
    if let Some(media_id) = delivery.media_id {
        all.insert(headers::MEDIA_ID, media_id.to_string().as_str());
    }
    let payload = nats::encode_message(&subject, delivery)?;
    bus.publish_raw(subjects::HOOKLOG, &subject, &id, all, payload).await.map(drop)
}

/// Removes all that is logged of a hook.
pub(super) async fn remove_hook_log(bus: &Bus, hook_id: HookId) -> Result<(), BusError> {
    let mut entries = bus.open_reader(log_reader(subjects::hook_log_subject(hook_id))).await?;
    let mut sequences = Vec::new();
    while let Some(entry) = entries.next_pending().await? {
        sequences.push(entry.sequence);
    }
    remove_deliveries(bus, &sequences).await
}

/// Sequences in the log of what was sent about `media_ids`.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn find_deliveries(
    bus: &Bus,
    media_ids: &[MediaId],
) -> Result<HashMap<MediaId, Vec<u64>>, BusError> {
    let mut found: HashMap<MediaId, Vec<u64>> = HashMap::new();
    let mut entries = bus.open_reader(log_reader(subjects::HOOK_LOG_ALL.to_owned())).await?;
    while let Some(entry) = entries.next_pending().await? {
        let text = entry.headers.get_last(headers::MEDIA_ID).map(AsRef::<str>::as_ref);
        let media_id: Option<MediaId> = text.and_then(|id| id.parse().ok());
        if let Some(media_id) = media_id.filter(|id| media_ids.contains(id)) {
            found.entry(media_id).or_default().push(entry.sequence);
        }
    }
    Ok(found)
}

/// Takes messages out of the log.
///
/// # Errors
/// [`BusError::Unavailable`] when the broker does not answer.
pub async fn remove_deliveries(bus: &Bus, sequences: &[u64]) -> Result<(), BusError> {
    for sequence in sequences {
        bus.delete_stream_message(subjects::HOOKLOG, *sequence).await?;
    }
    Ok(())
}

fn log_reader(filter: String) -> reader::ReaderConfig {
    let settings = reader::ReaderConfig::new(subjects::HOOKLOG, vec![filter], ReaderStart::All);
    reader::ReaderConfig { is_headers_only: true, ..settings }
}
