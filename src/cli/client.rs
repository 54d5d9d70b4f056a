//! The HTTP client of all commands: where the server is, who asks, and what a refusal means for people.
//!
//! Limits: [`CONNECT_SECONDS_MAX`] for a connection, [`ANSWER_SECONDS_MAX`] and [`ANSWER_BYTES_MAX`] for a document.

use std::{fmt, path::Path, time::Duration};

use reqwest::{Method, RequestBuilder, Response, Url};
use schemas::fault::root_cause;
use serde_json::Value;

use super::{ClientArgs, output::sanitize_text, refusal::ServerRefusal};
use crate::{config, up};

/// Longest wait for a connection in seconds.
pub const CONNECT_SECONDS_MAX: u64 = 10;
/// Longest wait for an answer in seconds.
pub const ANSWER_SECONDS_MAX: u64 = 60;
/// Largest document that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long a server may be away before a command ends that waits for a job; the job goes on.
pub const AWAY_MAX: Duration = Duration::from_secs(120);

/// Why the server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection.
    #[error(
        "no server answers at {url} ({reason}); start one with `streamgate up`, or name yours with --url"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection was cut ({reason}); run the command again")]
    Cut {
        /// How.
        reason: String,
    },
    /// No answer in time.
    #[error("the server did not answer within {seconds} s; look at its log, and run the command again")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server refused.
    #[error("{0}")]
    Refused(Box<ServerRefusal>),
    /// What is to be sent can't be read on this machine.
    #[error("the file can't be read ({reason}); run the command again once it can")]
    Unreadable {
        /// Why.
        reason: String,
    },
    /// The answer is none that this server gives.
    #[error("{reason}; look whether --url leads to a StreamGate of this version")]
    Strange {
        /// What is strange about it.
        reason: String,
    },
}

impl ClientError {
    /// An answer that lacks something; `reason` says what.
    pub fn strange(reason: impl Into<String>) -> Self {
        Self::Strange { reason: reason.into() }
    }

    /// The stable code, such as `server_unreachable`; of a refusal that of the server.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "server_unreachable",
            Self::Cut { .. } => "connection_cut",
            Self::Silent { .. } => "server_silent",
            Self::Refused(refusal) => &refusal.code,
            Self::Unreadable { .. } => "file_unreadable",
            Self::Strange { .. } => "answer_unusable",
        }
    }

    /// True when the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } | Self::Silent { .. } => true,
            Self::Refused(refusal) => matches!(refusal.status, 408 | 423 | 429 | 502 | 503 | 504),
            Self::Unreadable { .. } | Self::Strange { .. } => false,
        }
    }

    /// The refusal, if it is one.
    pub fn as_refusal(&self) -> Option<&ServerRefusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A server and the right to ask it. Cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
    /// Where the key is from, or where it was looked for.
    key_from: String,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// The client that the command line describes; the key comes from the flag, the environment or the data folder.
    ///
    /// # Errors
    /// [`config::SettingsError::Invalid`] when the address or the key can't be used.
    pub fn new(args: &ClientArgs) -> anyhow::Result<Self> {
        let file = args.data_dir.join(up::KEY_FILE);
        let (key, key_from) = match &args.api_key {
            Some(key) => (Some(key.clone()), "--api-key or STREAMGATE_API_KEY".to_owned()),
            None => (read_key(&file), file.display().to_string()),
        };
        Self::with_url(&args.url, key, key_from)
    }

    /// A client of the server at `url` with a key from `key_from`.
    ///
    /// # Errors
    /// [`config::SettingsError::Invalid`] when the address or the key can't be used.
    pub fn with_url(url: &str, key: Option<String>, key_from: String) -> anyhow::Result<Self> {
        let invalid = |key: &str, reason: String| config::SettingsError::invalid(key, reason);
        let mut base =
            url.parse::<Url>().map_err(|e| invalid("--url", format!("{url:?} is no address: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(invalid("--url", format!("{url:?} does not begin with http:// or https://")).into());
        }
        if key.as_ref().is_some_and(|key| !key.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(invalid("--api-key", format!("the key from {key_from} is not plain text")).into());
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("streamgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .build()?;
        Ok(Self { http, base, key, key_from })
    }

    /// The same server with another right: a key or an access token from `key_from`.
    #[must_use]
    pub fn with_key(&self, key: String, key_from: String) -> Self {
        Self { key: Some(key), key_from, ..self.clone() }
    }

    /// The same server without any right.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { key: None, key_from: "an anonymous request".into(), ..self.clone() }
    }

    /// Address of the server, ending with `/`.
    pub const fn base_url(&self) -> &Url {
        &self.base
    }

    /// The address of a path such as `v1/media`, with a query.
    pub fn build_url(&self, path: &str, query: &[(&str, Option<&str>)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), path.trim_start_matches('/')));
        let given: Vec<(&str, &str)> = query.iter().filter_map(|(k, v)| v.map(|v| (*k, v))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        url
    }

    /// A request with the key.
    pub fn build_request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// A request without the key, for addresses that carry their own right.
    pub fn build_open_request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request and answers once its head has come; there is no limit of time.
    ///
    /// # Errors
    /// All but [`ClientError::Silent`]; [`ClientError::Refused`] for any status that is no success.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.to_connection_error(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // A refusal without its document is one all the same.
        let body = read_body(response).await.unwrap_or_default();
        let mut refusal = ServerRefusal::from_response(status, &headers, &body);
        // The document is read without the address that it was asked by.
        let kind = refusal.problem["type"].as_str().and_then(|kind| self.base.join(kind).ok());
        if let Some(kind) = kind {
            refusal.problem["type"] = kind.as_str().into();
        }
        if status == 401 {
            let (title, advice) = self.explain_key();
            refusal.explain_key(title, advice);
        }
        Err(ClientError::Refused(Box::new(refusal)))
    }

    /// Sends a request and reads a JSON document.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn send_json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let body = with_time_limit(async { read_body(self.send(request).await?).await }).await?;
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Strange { reason: format!("the answer is no JSON ({error})") })
    }

    /// Reads a JSON document.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn get_json(&self, path: &str, query: &[(&str, Option<&str>)]) -> Result<Value, ClientError> {
        self.send_json(self.build_request(Method::GET, self.build_url(path, query))).await
    }

    /// What is wrong with the key, and what to do about it.
    fn explain_key(&self) -> (String, String) {
        let (url, from) = (self.url_text(), &self.key_from);
        match &self.key {
            Some(_) => (
                format!("the server at {url} does not take the key from {from}: it is wrong, revoked, expired or another server's"),
                "give another with --api-key or STREAMGATE_API_KEY, or name the server's data folder with --data-dir".into(),
            ),
            None => (
                format!("the server at {url} needs an API key, and there is none in {from}"),
                "give one with --api-key or STREAMGATE_API_KEY, or name the server's data folder with --data-dir".into(),
            ),
        }
    }

    /// Address of the server as people write it.
    pub fn url_text(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn to_connection_error(&self, error: &reqwest::Error) -> ClientError {
        if error.is_connect() {
            ClientError::Unreachable { url: self.url_text().into(), reason: innermost_cause(error) }
        } else {
            ClientError::Cut { reason: innermost_cause(error) }
        }
    }
}

/// Waits for `work` at most [`ANSWER_SECONDS_MAX`].
///
/// # Errors
/// [`ClientError::Silent`], and those of `work`.
pub async fn with_time_limit<T>(
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), work).await {
        Ok(done) => done,
        Err(_) => Err(ClientError::Silent { seconds: ANSWER_SECONDS_MAX }),
    }
}

/// Reads a body up to [`ANSWER_BYTES_MAX`].
///
/// # Errors
/// [`ClientError::Cut`] and [`ClientError::Strange`].
pub async fn read_body(mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(piece) =
        response.chunk().await.map_err(|error| ClientError::Cut { reason: innermost_cause(&error) })?
    {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::Strange {
                reason: format!("the answer has more than {ANSWER_BYTES_MAX} bytes"),
            });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The cause at the bottom; what wraps it only repeats the address.
pub fn innermost_cause(error: &(dyn std::error::Error + 'static)) -> String {
    sanitize_text(&root_cause(error))
}

fn read_key(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let key = text.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> anyhow::Result<ApiClient> {
        ApiClient::with_url(url, None, "nowhere".into())
    }

    #[test]
    fn an_address_that_is_none_is_a_wrong_setting() {
        for url in ["", "media.example.org", "ftp://media.example.org", "127.0.0.1:8080"] {
            let error = at(url).unwrap_err();
            assert!(error.is::<config::SettingsError>(), "{url}: {error}");
            assert!(error.to_string().contains("--url"), "{error}");
        }
        assert!(ApiClient::with_url("http://h", Some("a b".into()), "f".into()).is_err());
    }

    #[test]
    fn a_path_goes_below_the_address() {
        for (base, wanted) in [
            ("http://h:1", "http://h:1/v1/media?status=ready"),
            ("http://h:1/", "http://h:1/v1/media?status=ready"),
            ("https://h/gate", "https://h/gate/v1/media?status=ready"),
        ] {
            let url = at(base).unwrap().build_url("v1/media", &[("status", Some("ready")), ("cursor", None)]);
            assert_eq!(url.as_str(), wanted);
        }
        // Text from the command line stays inside its place.
        let url = at("http://h").unwrap().build_url("v1/media/a?b#c", &[("q", Some("x&y"))]);
        assert_eq!(url.as_str(), "http://h/v1/media/a%3Fb%23c?q=x%26y");
    }
}
