//! The trace of a change goes with its events, also those that another process publishes later; a record keeps the trace that it was made in.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use futures::StreamExt;
use nats::{
    Bus, FailureClass, MessageDelivery, Outbox, PipelineStage, ReaderStart, Role, StageFault, StageOutcome,
    VersionedRecord,
    consume::{self, ConsumeConfig, StageQueue},
    reader,
    spans::{self, FinishedSpan, Span, SpanKind, TraceContext},
    testing::TestBroker,
};
use parking_lot::Mutex;
use schemas::{
    KvRecord as _,
    document::{MediaChanged, MediaDocumentRecord},
    envelope::RecordEnvelope,
    headers,
    ids::{MediaId, UploadId},
    subjects,
    upload::{UploadRecord, UploadTerminated},
};
use tokio_util::sync::CancellationToken;

const MEDIA: MediaId = MediaId::from_bytes([7; 16]);
const UPLOAD: UploadId = UploadId::from_bytes([8; 16]);

fn request() -> Span {
    Span::root(SpanKind::Server, true, || "POST".into())
}

fn terminated(offset_bytes: u64) -> Outbox {
    Outbox::new().with_repeated_event(&UploadTerminated {
        upload_id: UPLOAD,
        media_id: MEDIA,
        owner: "ann".into(),
        offset_bytes,
        code: None,
    })
}

/// Ids and contexts of all events, in order.
async fn published(admin: &Bus) -> Vec<(String, TraceContext)> {
    let config =
        reader::ReaderConfig::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], ReaderStart::All);
    let mut events = admin.open_reader(config).await.unwrap();
    let (mut found, mut left) = (Vec::new(), events.pending_at_start());
    while left > 0 {
        let entry = events.next().await.unwrap();
        left = entry.pending;
        let text = |name: &str| entry.headers.get(name).unwrap().as_str().to_owned();
        let context = TraceContext::parse(&text(headers::TRACE_PARENT)).unwrap();
        assert!(entry.headers.get("tracestate").is_none() && entry.headers.get("baggage").is_none());
        found.push((text("Nats-Msg-Id"), context));
    }
    found
}

#[tokio::test]
async fn a_record_keeps_the_trace_it_was_made_in() {
    let broker = TestBroker::start().await;
    let (ingress, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);
    let made = request();
    let mut held = VersionedRecord::new(UploadRecord::new(UPLOAD, MEDIA, "ann".into()));
    made.scope(ingress.commit_record(&mut held, terminated(1))).await.unwrap();
    assert_eq!(held.trace(), Some(made.context()));
    // Another request, another process, and nobody's request.
    let other = request();
    let mut read = ingress.load_record::<UploadRecord>(&UPLOAD.to_string()).await.unwrap().unwrap();
    other.scope(ingress.commit_record(&mut read, terminated(2))).await.unwrap();
    let mut read = ingress.load_record::<UploadRecord>(&UPLOAD.to_string()).await.unwrap().unwrap();
    assert_eq!(read.trace(), Some(made.context()));
    ingress.commit_record(&mut read, terminated(3)).await.unwrap();
    // A record that keeps none.
    let mut document =
        VersionedRecord::new(MediaDocumentRecord { ..MediaDocumentRecord::new(MEDIA, "ann".into(), 1) });
    let changed = MediaChanged::new(&document.record, "ann", &[]);
    made.scope(ingress.commit_record(&mut document, Outbox::new())).await.unwrap();
    other.scope(ingress.commit_record(&mut document, Outbox::new().with_event(&changed))).await.unwrap();

    let events = published(&admin).await;
    assert_eq!(events.len(), 4);
    for (_, context) in &events[..3] {
        assert!(context.is_same_trace(&made.context()) && context.is_sampled(), "{events:?}");
    }
    assert!(events[3].1.is_same_trace(&other.context()), "{events:?}");
    for (id, context) in &events {
        assert!(!id.starts_with(&context.trace_id_text()), "the id of an event names no trace");
    }
}

#[tokio::test]
async fn an_event_that_a_crash_left_unsent_is_published_in_its_trace() {
    let broker = TestBroker::start().await;
    let (ingress, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);
    let subject = subjects::kv_subject(UploadRecord::BUCKET, &UPLOAD.to_string());
    let mut written = admin.subscribe_core(subject.clone()).await.unwrap();
    admin.client().flush().await.unwrap();
    let made = request();
    let mut held = VersionedRecord::new(UploadRecord::new(UPLOAD, MEDIA, "ann".into()));
    made.scope(ingress.commit_record(&mut held, terminated(1))).await.unwrap();
    let first = written.next().await.unwrap();
    let mut envelope: RecordEnvelope = nats::decode_message("envelope", &first.payload).unwrap();
    assert_eq!(envelope.trace, Some(made.context().to_string()));
    // The crash came before the event was sent.
    let unsent = envelope.unsent.first_mut().unwrap();
    unsent.id = "left".into();
    let payload: Bytes = nats::encode_message("envelope", &envelope).unwrap().into();
    admin.context().publish(subject, payload).await.unwrap().await.unwrap();
    let keeper = broker.bus(Role::Keeper).await;
    assert!(keeper.sweep_record(UploadRecord::BUCKET, &UPLOAD.to_string()).await.unwrap());
    let events = published(&admin).await;
    let (_, context) = events.iter().find(|(id, _)| id == "left").unwrap();
    assert!(context.is_same_trace(&made.context()));
    let read = keeper.load_record::<UploadRecord>(&UPLOAD.to_string()).await.unwrap().unwrap();
    assert_eq!(read.trace(), Some(made.context()), "the sweep leaves it in the record");
}

#[tokio::test]
async fn a_record_from_before_traces_does_not_take_that_of_a_later_request() {
    let broker = TestBroker::start().await;
    let (ingress, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);
    let envelope = RecordEnvelope {
        record: serde_bytes::ByteBuf::from(
            nats::encode_message("record", &UploadRecord::new(UPLOAD, MEDIA, "ann".into())).unwrap(),
        ),
        unsent: Vec::new(),
        changed_at_ms: 1,
        expires_at_ms: None,
        trace: None,
    };
    let payload: Bytes = nats::encode_message("envelope", &envelope).unwrap().into();
    let subject = subjects::kv_subject(UploadRecord::BUCKET, &UPLOAD.to_string());
    admin.context().publish(subject, payload).await.unwrap().await.unwrap();
    let requests = [request(), request()];
    for (number, request) in requests.iter().enumerate() {
        let mut held = ingress.load_record::<UploadRecord>(&UPLOAD.to_string()).await.unwrap().unwrap();
        let outbox = terminated(number.try_into().unwrap());
        request.scope(ingress.commit_record(&mut held, outbox)).await.unwrap();
        assert_eq!(held.trace(), None);
    }
    let events = published(&admin).await;
    for ((_, context), request) in events.iter().zip(&requests) {
        assert!(context.is_same_trace(&request.context()), "{events:?}");
    }
}

/// Fails the first time.
struct Retried {
    runs: AtomicU32,
    seen: Mutex<Vec<TraceContext>>,
    done: CancellationToken,
}

/// Whatever its bytes are.
struct Any;

impl nats::StageMessage for Any {
    fn decode(_: &MessageDelivery, _: &[u8]) -> Result<Self, nats::BusError> {
        Ok(Self)
    }
}

impl PipelineStage for Retried {
    const NAME: &'static str = "upload";
    type Message = Any;

    async fn handle(&self, _: &Any, _: &MessageDelivery) -> Result<StageOutcome, StageFault> {
        self.seen.lock().push(spans::current().unwrap());
        if self.runs.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(StageFault::new(FailureClass::Fault, "broken", "the first time"));
        }
        self.done.cancel();
        Ok(StageOutcome::Done)
    }
}

static FINISHED: Mutex<Vec<FinishedSpan>> = Mutex::new(Vec::new());

#[tokio::test]
async fn a_message_is_handled_in_its_trace_and_the_next_try_has_a_link_to_the_one_before() {
    spans::export_to(|span| FINISHED.lock().push(span));
    let broker = TestBroker::start().await;
    let (bus, admin) = (broker.bus(Role::Upload).await, broker.bus(Role::Admin).await);
    let sent = TraceContext::new_root(true);
    let mut message = nats::HeaderMap::new();
    message.insert(headers::TRACE_PARENT, sent.to_string().as_str());
    let publishing = admin.context().publish_with_headers("evt.upload.received.X", message, "x".into());
    publishing.await.unwrap().await.unwrap();
    let done = CancellationToken::new();
    let stage = Arc::new(Retried { runs: AtomicU32::new(0), seen: Mutex::default(), done: done.clone() });
    let queue = StageQueue {
        stream: subjects::EVENTS.into(),
        durables: vec!["upload".into()],
        wake: vec![subjects::event_filter::<schemas::upload::UploadReceived>()],
    };
    let config = ConsumeConfig {
        slots: 1,
        retry_delay_ms: 10,
        poll_ms: 50,
        grace_ms: 100,
        ..ConsumeConfig::default()
    };
    let run = consume::run_stage(bus, queue, Arc::clone(&stage), config, done);
    tokio::time::timeout(crate::WAIT_MAX, run).await.unwrap().unwrap();

    let seen = stage.seen.lock().clone();
    let finished = FINISHED.lock().clone();
    let processed: Vec<_> =
        finished.iter().filter(|span| span.name == "process evt.upload.received.{id}").collect();
    assert_eq!(processed.iter().map(|span| span.context).collect::<Vec<_>>(), seen);
    assert!(processed.iter().all(|span| span.parent == Some(sent)), "{processed:?}");
    assert_eq!((processed[0].links.len(), processed[0].error.as_deref()), (0, Some("broken")));
    assert_eq!((&processed[1].links[..], processed[1].error.as_deref()), (&seen[..1], None));
}
