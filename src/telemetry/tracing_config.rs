//! Settings of traces.
//!
//! Limits: ranges of the fields.

use std::path::PathBuf;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What others learn about this process beside its metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Traces.
    pub tracing: TracingConfig,
}

/// Where spans are sent, and of which requests. Requests and messages have trace ids also where nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// Address that takes OTLP over HTTP, such as `http://127.0.0.1:4318`; without a path, `/v1/traces` is asked. Absent: nothing is
    /// sent, and no span is kept.
    pub endpoint: Option<String>,
    /// How many of a million requests are sampled that change neither uploads nor jobs nor media. Those that do are always sampled,
    /// unless they are answered with 401, 403 or 429.
    #[schemars(range(max = 1_000_000))]
    pub reads_per_million: u32,
    /// Whether a request goes on with the trace that a proxy of `ingress.client.trusted_proxies` names in `traceparent`. Only for
    /// proxies that begin traces themselves: one that hands on the header of a client lets that client choose the trace. Otherwise the
    /// request has a trace of its own with a link to that one.
    pub continue_proxy_traces: bool,
    /// Spans that wait to be sent, of about 1 KiB each. More are dropped, and counted.
    #[schemars(range(min = 512, max = 1_000_000))]
    pub queue_spans: usize,
    /// Longest time of one try of sending, and of sending what is left when the process stops, in milliseconds.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u64,
    /// File with headers of those requests, a line `name: value` for each; mode 0600. For credentials of the receiver.
    pub headers_file: Option<PathBuf>,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            reads_per_million: 10_000,
            continue_proxy_traces: false,
            queue_spans: 8_192,
            timeout_ms: 5_000,
            headers_file: None,
        }
    }
}

impl TracingConfig {
    /// Where spans are sent; `None` where they are not.
    ///
    /// # Errors
    /// Why the address can't be used, as a sentence that goes on after it.
    pub fn parse_endpoint(&self) -> Result<Option<Url>, String> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        let mut url = Url::parse(text).map_err(|error| format!("is no address ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("does not begin with http:// or https://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds credentials, which belong into `headers_file`".into());
        }
        if url.path() == "/" {
            url.set_path("/v1/traces");
        }
        Ok(Some(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_of_http_without_credentials() {
        let parse = |text: &str| {
            TracingConfig { endpoint: Some(text.into()), ..TracingConfig::default() }.parse_endpoint()
        };
        for text in
            ["", "collector", "collector:4317", "grpc://collector:4317", "http://me:secret@collector:4318"]
        {
            parse(text).unwrap_err();
        }
        for (text, wanted) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
        ] {
            assert_eq!(parse(text).unwrap().unwrap().as_str(), wanted);
        }
        assert_eq!(TracingConfig::default().parse_endpoint(), Ok(None));
    }
}
