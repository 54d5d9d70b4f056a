//! One request to an address of a user, with the redirects that follow from it.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    StatusCode, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use tokio::time::Instant;

use crate::{
    body::OutboundBody,
    config::OutboundConfig,
    error::OutboundError,
    networks::Networks,
    resolver::{FilteringResolver, LookUp, ResolveFailure, SystemLookUp},
    target::OutboundUrl,
};

/// How far redirects may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectScope {
    /// To the host that was asked, on the port that goes with the scheme: for requests that carry what no other host may see.
    SameHost,
    /// To any host whose address may be asked.
    AnyHost,
    /// Nowhere: an answer that redirects is the answer. For what is sent and not read.
    Nowhere,
}

/// What is asked.
#[derive(Debug)]
pub struct OutboundRequest {
    url: OutboundUrl,
    headers: HeaderMap,
    redirects: RedirectScope,
    bytes_max: u64,
    /// What is sent; `None` where something is read.
    sent: Option<Bytes>,
}

impl OutboundRequest {
    /// Reads `url`.
    pub fn get(url: OutboundUrl, redirects: RedirectScope) -> Self {
        Self { url, headers: HeaderMap::new(), redirects, bytes_max: u64::MAX, sent: None }
    }

    /// Sends `body` to `url` and nowhere else: a redirect is not followed.
    pub fn post(url: OutboundUrl, body: Bytes) -> Self {
        Self { sent: Some(body), ..Self::get(url, RedirectScope::Nowhere) }
    }

    /// With another field; it goes to each host to which a redirect leads.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Takes at most so many bytes of the body, where the settings do not say less.
    #[must_use]
    pub const fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }
}

/// What was answered.
#[derive(Debug)]
pub struct OutboundResponse {
    /// The status, which may be an error.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// Who answered, behind all redirects.
    pub url: OutboundUrl,
    /// Bytes of the body, where the answer says so.
    pub content_length: Option<u64>,
    /// True when the body has an end of its own, by a length or by its coding: where the end of the connection is that of the body (RFC
    /// 9112, 6.3), a body that was cut looks whole.
    pub names_end: bool,
    /// The body, as it arrives.
    pub body: OutboundBody,
}

impl OutboundResponse {
    /// Refuses an answer that says that there is nothing.
    ///
    /// # Errors
    /// [`OutboundError::Status`] for all that is not 2xx.
    pub fn check_success(&self) -> Result<(), OutboundError> {
        if self.status.is_success() {
            return Ok(());
        }
        Err(OutboundError::Status { host: self.url.host().to_owned(), status: self.status.as_u16() })
    }
}

/// What each client of this program for addresses of the settings is built from: any address is asked, but, as by [`OutboundClient`], no
/// redirect is followed, and no proxy of the environment sees what is sent. Time is not limited yet.
pub fn configured_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        // It would carry requests, and a key in them, to a host that nobody configured.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent(concat!("streamgate/", env!("CARGO_PKG_VERSION")))
}

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutboundClient {
    client: reqwest::Client,
    config: Arc<OutboundConfig>,
    networks: Arc<Networks>,
}

impl OutboundClient {
    /// A client with the limits of `config`.
    ///
    /// # Errors
    /// [`OutboundError::Setup`] when the system's certificates can't be used.
    pub fn new(config: OutboundConfig) -> Result<Self, OutboundError> {
        Self::with_look_up(config, Arc::new(SystemLookUp))
    }

    /// A client that asks `look_up` for names.
    ///
    /// # Errors
    /// As [`OutboundClient::new`].
    pub fn with_look_up(config: OutboundConfig, look_up: Arc<dyn LookUp>) -> Result<Self, OutboundError> {
        let networks = Arc::new(Networks::new(config.allow.clone()));
        let resolver = FilteringResolver { look_up, networks: Arc::clone(&networks) };
        // Redirects are followed by hand, for each address has to be checked; a proxy would look the name up again, and connect where it
        // likes.
        let client = configured_client()
            .dns_resolver(resolver)
            // Each request looks its name up: an answer of before says nothing of now.
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            // Whatever features another crate turns on: bytes are counted and kept as they arrive.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
            .map_err(|error| OutboundError::Setup(error.without_url().to_string()))?;
        Ok(Self { client, config: Arc::new(config), networks })
    }

    /// Which addresses it asks.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    pub(crate) fn config(&self) -> &OutboundConfig {
        &self.config
    }

    pub(crate) fn build_put(&self, url: &OutboundUrl) -> reqwest::RequestBuilder {
        self.client.put(url.url().clone())
    }

    /// Asks, and follows redirects until somebody answers otherwise.
    ///
    /// # Errors
    /// [`OutboundError`]; a status that is an error is none here.
    pub async fn send(&self, request: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let OutboundRequest { mut url, headers, redirects, bytes_max, sent } = request;
        let deadline = Instant::now() + Duration::from_millis(self.config.total_time_ms_max);
        let mut redirects_left = self.config.redirects_max;
        loop {
            let response = self.ask_once(&url, &headers, sent.as_ref(), deadline).await?;
            let Some(location) = find_location(&response).filter(|_| redirects != RedirectScope::Nowhere)
            else {
                return Ok(self.to_response(url, response, deadline, bytes_max));
            };
            let refuse = |why| OutboundError::RedirectRefused { host: url.host().to_owned(), why };
            redirects_left = redirects_left.checked_sub(1).ok_or_else(|| refuse("too often"))?;
            let location = location.to_str().map_err(|_| refuse("to no address"))?;
            let next = url.join(location, &self.networks).map_err(|error| match error {
                OutboundError::UrlInvalid(_) => refuse("to no address of HTTP"),
                // Where it leads the user did not say, and need not learn.
                OutboundError::AddressRefused { .. } => refuse("to an address that is not public"),
                other => other,
            })?;
            if url.is_https() && !next.is_https() {
                return Err(refuse("from https to http"));
            }
            if redirects == RedirectScope::SameHost && !url.is_same_host(&next) {
                return Err(refuse("to another host"));
            }
            url = next;
        }
    }

    async fn ask_once(
        &self,
        url: &OutboundUrl,
        headers: &HeaderMap,
        sent: Option<&Bytes>,
        deadline: Instant,
    ) -> Result<reqwest::Response, OutboundError> {
        let limit_ms = self.config.head_timeout_ms;
        let request = match sent {
            Some(body) => self.client.post(url.url().clone()).body(body.clone()),
            None => self.client.get(url.url().clone()),
        };
        let request = request
            .headers(headers.clone())
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let latest = deadline.min(Instant::now() + Duration::from_millis(limit_ms));
        match tokio::time::timeout_at(latest, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.explain_failure(url, &error)),
            Err(_) => Err(OutboundError::TimedOut {
                host: url.host().to_owned(),
                what: "no answer began",
                limit_ms,
            }),
        }
    }

    pub(crate) fn to_response(
        &self,
        url: OutboundUrl,
        response: reqwest::Response,
        deadline: Instant,
        bytes_max: u64,
    ) -> OutboundResponse {
        let (status, headers) = (response.status(), response.headers().clone());
        let content_length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        // HTTP/2 ends each body by itself.
        let names_end = content_length.is_some()
            || headers.contains_key(header::TRANSFER_ENCODING)
            || response.version() > Version::HTTP_11;
        let bytes_max = bytes_max.min(self.config.body_bytes_max);
        let body = OutboundBody::new(response, url.host(), &self.config, (deadline, bytes_max));
        OutboundResponse { status, headers, url, content_length, names_end, body }
    }

    /// What the client's error comes down to; its own text holds the address.
    pub(crate) fn explain_failure(&self, url: &OutboundUrl, error: &reqwest::Error) -> OutboundError {
        let host = url.host().to_owned();
        match find_cause::<ResolveFailure>(error) {
            Some(ResolveFailure::Refused(rule)) => {
                tracing::info!(
                    host,
                    network = rule.network,
                    "a name was refused: it leads to no public address"
                );
                return OutboundError::NameRefused { host, rule: *rule };
            }
            Some(ResolveFailure::NotFound) => return OutboundError::NameNotFound { host },
            None => {}
        }
        if error.is_timeout() {
            let limit_ms = self.config.connect_timeout_ms;
            return OutboundError::TimedOut { host, what: "no connection", limit_ms };
        }
        if !error.is_connect() {
            return OutboundError::Broken { host };
        }
        if is_tls_failure(error) {
            return OutboundError::TlsFailed { host };
        }
        OutboundError::ConnectFailed { host }
    }
}

/// Where an answer leads, if it does.
fn find_location(response: &reqwest::Response) -> Option<HeaderValue> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    response.headers().get(header::LOCATION).filter(|_| is_redirect).cloned()
}

/// The first of an error and its causes that is a `T`.
fn find_cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// TLS is the one layer of a connection whose errors are of data: those of TCP have kinds of their own.
fn is_tls_failure(error: &reqwest::Error) -> bool {
    let mut found = find_cause::<io::Error>(error);
    while let Some(error) = found {
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) {
            return true;
        }
        found = error.get_ref().and_then(|inner| inner.downcast_ref());
    }
    false
}
