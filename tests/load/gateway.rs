//! Requests to the installation, each counted with its time or its error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;

use crate::tally::Tally;

/// Longest wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Where clients ask, and who they are unless they sign in.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) http: Client,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) tally: Arc<Tally>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was done.
    Done(HeaderMap, Bytes),
    /// It was refused.
    Refused,
    /// No answer came, or not all of it: whether it was done is unknown.
    Unknown,
}

impl Outcome {
    /// What came when it was done.
    pub(crate) fn done(self) -> Option<(HeaderMap, Bytes)> {
        if let Self::Done(headers, body) = self { Some((headers, body)) } else { None }
    }

    /// The same as JSON.
    pub(crate) fn json(self) -> Option<Value> {
        serde_json::from_slice(&self.done()?.1).ok()
    }
}

impl Gateway {
    /// A request of the owner.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(&self.key, method, path)
    }

    /// A request with this credential.
    pub(crate) fn request_as(&self, credential: &str, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(credential).timeout(ANSWER_WAIT)
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&self, operation: &'static str, request: RequestBuilder) -> Outcome {
        let started = Instant::now();
        let outcome = match request.send().await {
            Ok(answer) => self.read(operation, answer).await,
            Err(error) => self.count_lost(operation, &error),
        };
        if matches!(outcome, Outcome::Done(..)) {
            self.tally.count(operation, started.elapsed());
        }
        outcome
    }

    /// Reads an answer; counts it unless it is a good one.
    pub(crate) async fn read(&self, operation: &'static str, answer: Response) -> Outcome {
        let (status, headers) = (answer.status(), answer.headers().clone());
        match answer.bytes().await {
            Ok(body) if status.is_success() => Outcome::Done(headers, body),
            Ok(body) => {
                let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
                let code = problem["code"].as_str().unwrap_or("without a code");
                let after = headers.get(RETRY_AFTER).map_or("", |_| ", try later");
                self.tally.count_error(operation, format!("{} {code}{after}", status.as_u16()));
                Outcome::Refused
            }
            Err(error) => self.count_lost(operation, &error),
        }
    }

    /// Counts a request without a whole answer.
    pub(crate) fn count_lost(&self, operation: &'static str, error: &reqwest::Error) -> Outcome {
        let what = match () {
            () if error.is_timeout() => "no answer in time",
            () if error.is_connect() => "no connection",
            () => "the connection broke",
        };
        self.tally.count_error(operation, what.into());
        Outcome::Unknown
    }

    /// Reads JSON that is none of the load.
    pub(crate) async fn read_json(&self, path: &str) -> Result<Value, String> {
        let failed = |error: reqwest::Error| format!("GET {path}: {error}");
        let answer = self.request(Method::GET, path).send().await.map_err(failed)?;
        let (status, text) = (answer.status(), answer.text().await.map_err(failed)?);
        if !status.is_success() {
            return Err(format!("GET {path}: {status} {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("GET {path}: {error}"))
    }
}
