//! Webhooks in the form of Alertmanager, version 4: one body for the alerts of each rule.
//!
//! Addresses are the operator's, so every network is reached; the limits of time are those of all outbound requests.

use std::time::Duration;

use ::alerts::{PayloadContext, build_payload};
use bytes::Bytes;
use data_encoding::BASE64;
use outbound::{OutboundClient, OutboundConfig, OutboundError, OutboundRequest, OutboundUrl};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use schemas::alert::AlertState;
use webhooks::signature;

use super::{
    config::WebhookReceiverConfig,
    send_error::{SendError, SendingOutcome},
};

/// Most alerts in one body.
const GROUP_ALERTS_MAX: usize = 64;
/// After how many bodies without an answer in time the others wait for the next sending.
const TIMEOUTS_MAX: usize = 3;

/// Why a receiver can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WebhookSetupError(String);

/// One receiver.
#[derive(Debug)]
pub(super) struct WebhookReceiver {
    client: OutboundClient,
    url: OutboundUrl,
    secret: Option<Vec<u8>>,
}

/// The client for all of them.
pub(super) fn make_client(timeout_ms: u64) -> Result<OutboundClient, OutboundError> {
    let every = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
    OutboundClient::new(OutboundConfig {
        allow: every,
        head_timeout_ms: timeout_ms,
        total_time_ms_max: timeout_ms,
        ..OutboundConfig::default()
    })
}

impl WebhookReceiver {
    pub(super) fn new(
        client: OutboundClient,
        config: &WebhookReceiverConfig,
    ) -> Result<Self, WebhookSetupError> {
        let url = OutboundUrl::parse(&config.url, client.networks())
            .map_err(|error| WebhookSetupError(error.to_string()))?;
        let secret = config.secret.as_deref().map(read_secret).transpose()?;
        Ok(Self { client, url, secret })
    }

    /// Sends the alerts, those of one rule together, each group within `timeout`; one that fails keeps none of the others.
    pub(super) async fn send_groups(
        &self,
        due: &[AlertState],
        context: PayloadContext<'_>,
        now_ms: u64,
        timeout: Duration,
    ) -> SendingOutcome {
        let mut outcome = SendingOutcome::default();
        for group in due.chunk_by(|a, b| a.name == b.name).flat_map(|group| group.chunks(GROUP_ALERTS_MAX)) {
            let sent = tokio::time::timeout(timeout, self.send_group(group, context, now_ms)).await;
            outcome.note(group, sent.unwrap_or(Err(SendError::TimedOut)));
            let timeouts = outcome.failed.iter().filter(|(_, error)| error.is_timeout());
            if timeouts.count() >= TIMEOUTS_MAX {
                break;
            }
        }
        outcome
    }

    async fn send_group(
        &self,
        group: &[AlertState],
        context: PayloadContext<'_>,
        now_ms: u64,
    ) -> Result<(), SendError> {
        let body = build_payload(group, context, format_time).to_string();
        let mut request = OutboundRequest::post(self.url.clone(), Bytes::from(body.clone()))
            .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.secret {
            let timestamp_s = now_ms / 1_000;
            let id = format!("{}-{now_ms}", group.first().map_or("", |alert| &alert.alert_id));
            let signed =
                signature::sign(&id, timestamp_s, body.as_bytes(), std::iter::once(secret.as_slice()));
            for (name, value) in [
                (signature::ID, id),
                (signature::TIMESTAMP, timestamp_s.to_string()),
                (signature::SIGNATURE, signed),
            ] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    request = request.with_header(HeaderName::from_static(name), value);
                }
            }
        }
        self.client.send(request).await?.check_success()?;
        Ok(())
    }
}

/// The bytes of a secret as Standard Webhooks write it.
fn read_secret(text: &str) -> Result<Vec<u8>, WebhookSetupError> {
    let bytes = text.strip_prefix("whsec_").and_then(|rest| BASE64.decode(rest.as_bytes()).ok());
    let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len()));
    bytes.ok_or_else(|| {
        WebhookSetupError("its secret is not whsec_ and 24 to 64 bytes in base64 (Standard Webhooks)".into())
    })
}

/// RFC 3339, of a Unix time in milliseconds.
pub(super) fn format_time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
