//! One delivery: reads the event, signs it, sends it, and judges the answer.
//!
//! Limits: the time and the places of [`WebhookConfig`]; [`ANSWER_KEPT_BYTES_MAX`] of an answer are read, for [`ANSWER_TIME_MAX`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nats::{Bus, BusError, reader::StreamEntry};
use outbound::{OutboundClient, OutboundError, OutboundRequest, OutboundResponse, OutboundUrl};
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use schemas::{
    headers,
    hook::{AskedContent, HookRecord},
    hook_delivery::{
        ANSWER_KEPT_BYTES_MAX, BODY_KEPT_BYTES_MAX, DeliveryOutcome, DeliveryTrigger, HookDelivery,
    },
    ids::{DeliveryId, MediaId},
    subjects,
};
use tokio::sync::{AcquireError, Semaphore};
use webhooks::{filter::wants_event, signature};

use super::{WebhookConfig, clock::HookClock, feed, hook_log, metrics::WebhookMetrics};

/// How long an answer is read that the status came of.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What all hooks share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Courier {
    pub(super) bus: Bus,
    pub(super) client: OutboundClient,
    pub(super) metrics: WebhookMetrics,
    pub(super) clock: HookClock,
    /// For deliveries under way.
    pub(super) places: Arc<Semaphore>,
    /// For those of one owner.
    pub(super) owner_places: Arc<Semaphore>,
    /// For hooks that read what they missed.
    pub(super) turns: Arc<Semaphore>,
    pub(super) config: Arc<WebhookConfig>,
}

/// What is to be sent.
#[derive(Debug, Clone)]
pub(super) struct DeliveryOrder {
    pub(super) hook: Arc<HookRecord>,
    pub(super) delivery_id: DeliveryId,
    pub(super) trigger: DeliveryTrigger,
    pub(super) content: AskedContent,
    /// Which try it is, from 1.
    pub(super) attempt: u32,
}

/// How a delivery ended.
#[derive(Debug)]
pub(super) enum DeliveryEnd {
    /// The receiver was asked.
    Asked {
        /// What came of it.
        delivery: Box<HookDelivery>,
        /// For how long it wants to be left alone, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// The event is not there any more.
    Lost,
    /// The event is there, and the hook does not send it: it is of somebody else, or of a kind that the hook does not name any more.
    Unwanted,
    /// The broker is away: nothing is known of the receiver.
    Outage(BusError),
}

/// What an answer says.
struct Verdict {
    outcome: DeliveryOutcome,
    status: Option<u16>,
    failure: Option<(&'static str, String)>,
    retry_after_ms: Option<u64>,
    answer: Option<String>,
}

impl Courier {
    /// Sends it once.
    pub(super) async fn deliver(&self, order: DeliveryOrder) -> DeliveryEnd {
        // Those of an owner wait for each other before they keep others waiting.
        let places = async {
            Ok::<_, AcquireError>((self.owner_places.acquire().await?, self.places.acquire().await?))
        };
        let places = match places.await {
            Ok(places) => places,
            Err(error) => return DeliveryEnd::Outage(BusError::unavailable(error)),
        };
        let event = match self.read_event(&order).await {
            Ok(Some(event)) => event,
            Ok(None) => return DeliveryEnd::Lost,
            Err(error) => return DeliveryEnd::Outage(error),
        };
        if !may_send(&order, &event) {
            return DeliveryEnd::Unwanted;
        }
        let body = ingress::events::render_event_json(&event);
        let text = |name: &str| event.headers.get_last(name).map(|value| value.as_str().to_owned());
        let event_id = text(headers::ID).unwrap_or_default();
        let media_id: Option<MediaId> = text(headers::MEDIA_ID).and_then(|id| id.parse().ok());
        let (sent_at_ms, began) = (self.clock.now_ms(), Instant::now());
        let verdict = self.ask_receiver(&order.hook, &event_id, sent_at_ms, &body).await;
        // What follows asks the receiver nothing.
        drop(places);
        self.metrics.count_delivery(verdict.outcome);
        let may_keep = match hook_log::may_keep_bodies(&self.bus, media_id, event.stored_at_ms).await {
            Ok(may_keep) => may_keep,
            Err(error) => {
                tracing::debug!(%error, "whether a medium is there is not known: its body is not logged");
                false
            }
        };
        let (code, detail) = verdict.failure.map(|(code, detail)| (code.to_owned(), detail)).unzip();
        let delivery = HookDelivery {
            delivery_id: order.delivery_id,
            hook_id: order.hook.hook_id,
            trigger: order.trigger,
            event_id,
            event_type: event.subject.split('.').skip(1).take(2).collect::<Vec<_>>().join("."),
            sequence: Some(event.sequence).filter(|sequence| *sequence > 0),
            media_id,
            attempt: order.attempt,
            sent_at_ms,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            url: shown_origin(&order.hook.url, &self.client),
            outcome: verdict.outcome,
            code,
            detail,
            status: verdict.status,
            body: Some(body).filter(|body| may_keep && body.len() <= BODY_KEPT_BYTES_MAX),
            answer: verdict.answer.filter(|_| may_keep),
            next_try_at_ms: None,
        };
        DeliveryEnd::Asked { delivery: Box::new(delivery), retry_after_ms: verdict.retry_after_ms }
    }

    async fn read_event(&self, order: &DeliveryOrder) -> Result<Option<StreamEntry>, BusError> {
        match order.content {
            AskedContent::Event { sequence, .. } => {
                self.bus.read_stream_message(subjects::EVENTS, sequence).await
            }
            AskedContent::Test | AskedContent::Unknown => {
                Ok(Some(make_test_event(order, self.clock.now_ms())))
            }
        }
    }

    async fn ask_receiver(&self, hook: &HookRecord, event_id: &str, now_ms: u64, body: &str) -> Verdict {
        let asking = async {
            let url = OutboundUrl::parse(&hook.url, self.client.networks())?;
            let timestamp_s = now_ms / 1_000;
            let secrets = hook.signing_secrets(now_ms).map(|secret| secret.bytes.as_slice());
            let signed = signature::sign(event_id, timestamp_s, body.as_bytes(), secrets);
            let request = OutboundRequest::post(url, Bytes::copy_from_slice(body.as_bytes()))
                .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .with_header(HeaderName::from_static(signature::ID), header_value(event_id))
                .with_header(HeaderName::from_static(signature::TIMESTAMP), timestamp_s.into())
                .with_header(HeaderName::from_static(signature::SIGNATURE), header_value(&signed));
            self.client.send(request).await
        };
        match asking.await {
            Ok(response) => judge_answer(response, now_ms).await,
            Err(error) => Verdict {
                outcome: DeliveryOutcome::Failed,
                status: None,
                failure: Some((error.code(), error.to_string())),
                retry_after_ms: None,
                answer: None,
            },
        }
    }
}

/// Whether the event is the one that was meant, and one that the hook sends now: the same sequence may be another event of another
/// stream, and the hook may have changed since it took it.
fn may_send(order: &DeliveryOrder, event: &StreamEntry) -> bool {
    let AskedContent::Event { media_id, event_id, .. } = &order.content else { return true };
    let head = feed::read_head(event);
    let lane: Option<MediaId> = head.media_id.as_ref().and_then(|id| id.parse().ok());
    let found_id = event.headers.get_last(headers::ID).map(AsRef::<str>::as_ref);
    lane == *media_id
        && wants_event(&order.hook, &head)
        && event_id.as_ref().is_none_or(|id| found_id == Some(id.as_str()))
}

/// Ids and signatures are of characters that a field may have.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

async fn judge_answer(response: OutboundResponse, now_ms: u64) -> Verdict {
    let (status, host) = (response.status, response.url.shown_origin());
    let retry_after_ms = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        .then(|| read_retry_after(&response.headers, now_ms))
        .flatten();
    let outcome = match status {
        status if status.is_success() => DeliveryOutcome::Delivered,
        StatusCode::GONE => DeliveryOutcome::Gone,
        _ => DeliveryOutcome::Failed,
    };
    let number = status.as_u16();
    let failure = match outcome {
        DeliveryOutcome::Delivered => None,
        DeliveryOutcome::Gone => Some(("gone", format!("{host} answered that it is gone (410)"))),
        _ if status.is_redirection() => Some((
            "redirect_refused",
            format!("{host} redirects ({number}): give the address that it leads to"),
        )),
        _ => Some(("status_refused", format!("{host} answered with the status {number}"))),
    };
    let answer = read_answer(response).await;
    Verdict { outcome, status: Some(number), failure, retry_after_ms, answer }
}

/// The beginning of the answer, where it is text.
async fn read_answer(mut response: OutboundResponse) -> Option<String> {
    let mut read = Vec::new();
    let reading = async {
        while read.len() < ANSWER_KEPT_BYTES_MAX {
            // What does not come whole was answered all the same: the status stands.
            let Ok(Some(chunk)) = response.body.next_chunk().await else { break };
            read.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(ANSWER_TIME_MAX, reading).await.ok();
    read.truncate(ANSWER_KEPT_BYTES_MAX);
    let mut text = String::from_utf8_lossy(&read).replace('\0', "\u{fffd}");
    // What is no text takes more room in its place.
    while text.len() > ANSWER_KEPT_BYTES_MAX {
        text.pop();
    }
    (!text.is_empty()).then_some(text)
}

/// `Retry-After` (RFC 9110, 10.2.3), seconds or a date, in milliseconds from now.
fn read_retry_after(headers: &HeaderMap, now_ms: u64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
    Some(u64::try_from(date).ok()?.saturating_sub(now_ms))
}

/// Scheme and host of an address: its path may hold a secret, too.
fn shown_origin(url: &str, client: &OutboundClient) -> String {
    match OutboundUrl::parse(url, client.networks()) {
        Ok(url) => url.shown_origin(),
        Err(OutboundError::AddressRefused { host, .. }) => host,
        Err(_) => String::new(),
    }
}

/// A made-up event, in the form of all others.
fn make_test_event(order: &DeliveryOrder, now_ms: u64) -> StreamEntry {
    let hook_id = order.hook.hook_id;
    let mut all = nats::HeaderMap::new();
    all.insert(headers::ID, format!("test-{}", order.delivery_id).as_str());
    let time = i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    if let Some(time) = time {
        all.insert(headers::TIME, time.to_string().as_str());
    }
    let data = serde_json::json!({ "hook_id": hook_id, "delivery_id": order.delivery_id });
    StreamEntry {
        sequence: 0,
        subject: format!("evt.hook.test.{hook_id}"),
        headers: all,
        payload: nats::encode_message("test", &data).unwrap_or_default().into(),
        stored_at_ms: now_ms,
        pending: 0,
    }
}
