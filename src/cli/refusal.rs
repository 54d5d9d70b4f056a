//! Why a server refused: its problem document, as a sentence with what to do.

use std::fmt;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use web::problem_code;

use super::output::sanitize_text;

/// Longest pause that a server may ask for, in seconds.
pub const RETRY_AFTER_SECONDS_MAX: u64 = 60;
/// Code of a request without a key that is good.
const UNAUTHORIZED: &str = "unauthorized";

/// A refusal: the server's problem document (RFC 9457), or what can be said without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerRefusal {
    /// HTTP status.
    pub status: u16,
    /// What went wrong, for people.
    pub title: String,
    /// The stable code; empty without a problem document.
    pub code: String,
    /// A sentence about this occurrence; may be empty.
    pub detail: String,
    /// Why a gate is closed, as its stable code (`schemas::gate::GateReasonCode`); empty where no gate has a say.
    pub reason: String,
    /// Names the request in the server's log; may be empty.
    pub request_id: String,
    /// How long the server wants to be left alone, in seconds.
    pub retry_after_s: Option<u64>,
    /// What to do about it; absent where the detail says that.
    pub advice: Option<String>,
    /// The problem document as the server sent it; null without one.
    pub problem: Value,
}

impl ServerRefusal {
    /// What an answer with this status says.
    pub(super) fn from_response(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let word = |name: &str| sanitize_text(problem[name].as_str().unwrap_or_default());
        let retry_after_s = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(|seconds: u64| seconds.min(RETRY_AFTER_SECONDS_MAX));
        let title = match word("title") {
            title if title.is_empty() => format!("the server answered {status}"),
            title => title,
        };
        let code = word("code");
        // Advice about members of the document is for programs: people are shown what stands in them.
        let advice = problem_code::advice_of(&code).filter(|advice| !advice.starts_with('`'));
        Self {
            status,
            title,
            advice: advice.map(|advice| advice.trim_end_matches('.').to_owned()),
            detail: word("detail"),
            reason: word("reason"),
            request_id: word("request_id"),
            retry_after_s,
            code,
            problem,
        }
    }

    /// Says in place of the server whose key it did not take: it only knows that the request had none that is good.
    pub(super) fn explain_key(&mut self, title: String, advice: String) {
        // The answer to HEAD has no body to say so.
        if self.code == UNAUTHORIZED || self.code.is_empty() {
            self.title = title;
            self.detail = String::new();
        }
        self.advice = Some(advice);
    }
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if !self.code.is_empty() {
            write!(f, " ({}", self.code)?;
            if !self.reason.is_empty() {
                write!(f, ", {}", self.reason)?;
            }
            if !self.request_id.is_empty() {
                write!(f, ", request {}", self.request_id)?;
            }
            write!(f, ")")?;
        }
        self.advice.iter().try_for_each(|advice| write!(f, ". What to do: {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_sentence() {
        let body =
            br#"{"title":"No such medium","code":"not_found","detail":"or not yours","request_id":"r1"}"#;
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "3600".parse().unwrap());
        let refusal = ServerRefusal::from_response(404, &headers, body);
        assert_eq!(
            refusal.to_string(),
            "No such medium: or not yours (not_found, request r1). What to do: Look at the address; what is not yours answers the \
             same as what is not there"
        );
        assert_eq!(refusal.retry_after_s, Some(RETRY_AFTER_SECONDS_MAX));
        let closed = br#"{"title":"Closed","code":"gate_closed","reason":"not_owner"}"#;
        let closed = ServerRefusal::from_response(403, &HeaderMap::new(), closed);
        assert_eq!(
            (closed.reason.as_str(), closed.to_string().as_str()),
            ("not_owner", "Closed (gate_closed, not_owner)")
        );
        let plain = ServerRefusal::from_response(502, &HeaderMap::new(), b"<html>bad gateway</html>");
        assert_eq!(plain.to_string(), "the server answered 502");
        assert!(crate::cli::client::ClientError::Refused(Box::new(plain)).is_transient());
    }
}
