//! JSON-RPC over HTTP.
//!
//! Limits: time, size of the answer; redirects are not followed, so that an answer can't choose where the next request goes, and with
//! it a key in the path; no proxy of the environment is asked.

use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{StatusCode, header};
use serde_json::Value;

use super::{ChainConfig, RpcUrl, circuit::REST_MAX, error::ProviderFault, rpc::RpcTransport};

/// One provider's address behind a bounded client.
#[derive(Debug)]
pub struct HttpTransport {
    client: reqwest::Client,
    url: RpcUrl,
    answer_bytes_max: usize,
}

impl HttpTransport {
    /// A client for `url` with the limits of `config`.
    ///
    /// # Errors
    /// When the system's certificates can't be used.
    pub fn new(url: RpcUrl, config: &ChainConfig) -> Result<Self, reqwest::Error> {
        let client = outbound::configured_client()
            .timeout(Duration::from_millis(config.call_timeout_ms))
            .pool_max_idle_per_host(config.in_flight_max)
            .build()
            // The address may hold a key, and errors are logged.
            .map_err(reqwest::Error::without_url)?;
        Ok(Self { client, url, answer_bytes_max: config.answer_bytes_max })
    }

    async fn post_request(&self, request: Value) -> Result<Value, ProviderFault> {
        let sending = self
            .client
            .post(self.url.expose_url().clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(request.to_string());
        let mut response = sending.send().await.map_err(to_provider_fault)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(parse_retry_after(response.headers())),
            status => return Err(ProviderFault::Status(status.as_u16())),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(to_provider_fault)? {
            // Counted while reading: Content-Length is what the provider says, and may be absent.
            if body.len() + chunk.len() > self.answer_bytes_max {
                return Err(ProviderFault::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| ProviderFault::Malformed("no JSON"))
    }
}

impl RpcTransport for HttpTransport {
    fn send(&self, request: Value) -> BoxFuture<'_, Result<Value, ProviderFault>> {
        Box::pin(self.post_request(request))
    }
}

/// The error itself holds the address with its key, and goes no further.
#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn to_provider_fault(error: reqwest::Error) -> ProviderFault {
    if error.is_timeout() { ProviderFault::Late } else { ProviderFault::Unreachable }
}

/// A date instead of seconds means the longest rest.
fn parse_retry_after(headers: &header::HeaderMap) -> ProviderFault {
    let seconds = match headers.get(header::RETRY_AFTER) {
        None => 1,
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(REST_MAX.as_secs()),
    };
    ProviderFault::Throttled { retry_after_ms: seconds.saturating_mul(1_000) }
}
