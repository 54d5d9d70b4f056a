mod broker;
mod cluster;
mod core;
mod replay;

use std::{future::Future, time::Duration};

use nats::{Bus, Outbox, Role, VersionedRecord, reader::StreamEntry, testing::TestBroker};
use schemas::{
    document,
    ids::{MediaId, UploadId},
    upload::{UploadCreated, UploadTerminated},
};
use tokio::time::timeout;

use crate::AuditHead;

/// Longest wait for anything; many times what it takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for `future`, which must not take for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// One line of a log as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) line: Vec<u8>,
}

/// An event as a reader gives it.
pub(crate) fn entry(sequence: u64, subject: &str, payload: Vec<u8>) -> StreamEntry {
    StreamEntry {
        sequence,
        subject: subject.into(),
        headers: async_nats::HeaderMap::new(),
        payload: payload.into(),
        stored_at_ms: 1_700_000_000_000 + sequence,
        pending: 0,
    }
}

/// The lines that record events 1 to `count`.
pub(crate) fn log(count: u64) -> Vec<Stored> {
    let mut head = AuditHead::empty();
    (1..=count)
        .map(|sequence| {
            let payload = nats::encode_message("payload", &sequence).unwrap();
            let verb = if sequence % 2 == 0 { "ready" } else { "stored" };
            let event = entry(sequence, &format!("evt.media.{verb}.m{sequence}"), payload);
            let line = head.event_line(&event, 10_000).unwrap();
            head = line.head;
            Stored { subject: line.subject, line: line.bytes }
        })
        .collect()
}

/// Publishes events as the ingress does: with the records that cause them.
pub(crate) struct Publisher {
    bus: Bus,
    count: u8,
}

impl Publisher {
    pub(crate) async fn new(broker: &TestBroker) -> Self {
        Self { bus: broker.bus(Role::Ingress).await, count: 0 }
    }

    /// Publishes `media` times two events: `upload.created`, then `upload.terminated`.
    pub(crate) async fn publish(&mut self, media: u8) {
        for _ in 0..media {
            self.count += 1;
            let media_id = MediaId::from_bytes([self.count; 16]);
            let upload_id = UploadId::from_bytes([self.count; 16]);
            let record = document::MediaDocumentRecord {
                title: "clip".into(),
                ..document::MediaDocumentRecord::new(media_id, "ann".into(), 1)
            };
            let created = UploadCreated {
                upload_id,
                media_id,
                owner: "ann".into(),
                length_bytes: Some(7),
                filename: Some("film \u{1f39e}\n\".mp4".into()),
                expires_at_ms: 2,
                is_partial: false,
            };
            let terminated =
                UploadTerminated { upload_id, media_id, owner: "ann".into(), offset_bytes: 3, code: None };
            let outbox = Outbox::new().with_event(&created).with_event(&terminated);
            self.bus.commit_record(&mut VersionedRecord::new(record), outbox).await.unwrap();
        }
    }

    /// Events published so far.
    pub(crate) fn events(&self) -> u64 {
        u64::from(self.count) * 2
    }
}
