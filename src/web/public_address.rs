//! The address that clients reach this by, for the addresses in our answers.
//!
//! The one of the settings, else what the nearest proxy says, if it is trusted, in `X-Forwarded-Proto`, `X-Forwarded-Host` and
//! `X-Forwarded-Prefix`, or in `Forwarded` (RFC 7239), else the host that the client asked. What a peer says that is no trusted proxy is never read.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Uri, header, request::Parts, uri::Authority},
};

use super::{
    client::{ClientIdentification, ForwardingHeader},
    error::Problem,
};

/// Longest host and longest path in front, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// Where clients reach this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicAddress {
    /// Scheme, host and the path in front of ours, without a slash at the end; empty where nobody said it.
    known: String,
    /// Host that the client asked.
    host: Option<String>,
}

impl PublicAddress {
    /// The address of the settings.
    pub fn configured(url: &str) -> Self {
        Self { known: url.trim_end_matches('/').to_owned(), host: None }
    }

    /// The field `Location` of what lies at `path`, which begins with a slash.
    ///
    /// # Errors
    /// 500 where the address is no text for a header.
    pub fn location(&self, path: &str) -> Result<HeaderValue, Problem> {
        HeaderValue::try_from(format!("{}{path}", self.prefix())).map_err(|error| Problem::internal(&error))
    }

    /// What the head of a request says; `trusted` is the header of the proxy that it came through, if that is trusted.
    pub fn from_head(headers: &HeaderMap, uri: &Uri, trusted: Option<ForwardingHeader>) -> Self {
        // HTTP/2 has no Host field.
        let authority = uri.authority().map(Authority::as_str);
        let host =
            authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).filter(|host| is_host(host));
        let mut address = Self { known: String::new(), host: host.map(str::to_owned) };
        let last = |name: &str| {
            let text = headers.get_all(name).iter().next_back()?.to_str().ok()?;
            Some(text.rsplit(',').next().unwrap_or_default().trim())
        };
        let (scheme, said_host, prefix) = match trusted {
            None => return address,
            Some(ForwardingHeader::XForwardedFor) => {
                (last("x-forwarded-proto"), last("x-forwarded-host"), last("x-forwarded-prefix"))
            }
            Some(ForwardingHeader::Forwarded) => {
                let pairs = last("forwarded").unwrap_or_default();
                (forwarded_pair(pairs, "proto"), forwarded_pair(pairs, "host"), None)
            }
        };
        let prefix = prefix.filter(|prefix| is_prefix(prefix)).unwrap_or_default();
        let host = said_host.filter(|host| is_host(host)).or(host);
        if let (Some(scheme @ ("http" | "https")), Some(host)) = (scheme, host) {
            address.known = format!("{scheme}://{host}{}", prefix.trim_end_matches('/'));
        } else if !prefix.is_empty() {
            prefix.trim_end_matches('/').clone_into(&mut address.known);
        }
        address
    }

    /// What stands in front of a path of ours: empty when only the host is known, which the client knows as well.
    pub fn prefix(&self) -> &str {
        &self.known
    }

    /// The same as an absolute address where that is possible, for clients that can't resolve another one.
    pub fn absolute_prefix(&self) -> String {
        match &self.host {
            Some(host) if !self.known.contains("://") => format!("http://{host}{}", self.known),
            _ => self.known.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PublicAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let by = parts.extensions.get::<Arc<ClientIdentification>>();
        if let Some(url) = by.and_then(|by| by.public_url.as_deref()) {
            return Ok(Self::configured(url));
        }
        let trusted = by.and_then(|by| by.trusted_header(&parts.extensions));
        Ok(Self::from_head(&parts.headers, &parts.uri, trusted))
    }
}

/// A value of the last element of `Forwarded`, with or without quotes.
fn forwarded_pair<'a>(pairs: &'a str, wanted: &str) -> Option<&'a str> {
    pairs.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"'))
    })
}

fn is_host(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.bytes().all(is_fit)
}

fn is_prefix(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_~".contains(&byte);
    text.starts_with('/')
        && !text.starts_with("//")
        && text.len() <= TEXT_BYTES_MAX
        && text.bytes().all(is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&'static str, &str)], uri: &str, trusted: Option<ForwardingHeader>) -> PublicAddress {
        let headers =
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        PublicAddress::from_head(&headers, &uri.parse().unwrap(), trusted)
    }

    #[test]
    fn a_trusted_proxy_says_scheme_host_and_prefix() {
        let x = Some(ForwardingHeader::XForwardedFor);
        let rfc = Some(ForwardingHeader::Forwarded);
        let host = ("host", "inner:8080");
        let proto = ("x-forwarded-proto", "https");
        for (pairs, trusted, wanted, absolute) in [
            (&[host][..], None, "", "http://inner:8080"),
            (&[host, proto], None, "", "http://inner:8080"),
            (&[host, proto], x, "https://inner:8080", "https://inner:8080"),
            (
                &[host, proto, ("x-forwarded-host", "m.example.org")],
                x,
                "https://m.example.org",
                "https://m.example.org",
            ),
            // What the client made up stands in front.
            (&[host, ("x-forwarded-proto", "http, https")], x, "https://inner:8080", "https://inner:8080"),
            (
                &[host, proto, ("x-forwarded-prefix", "/video/")],
                x,
                "https://inner:8080/video",
                "https://inner:8080/video",
            ),
            (&[host, ("x-forwarded-prefix", "/video")], x, "/video", "http://inner:8080/video"),
            (&[host, ("x-forwarded-prefix", "//evil")], x, "", "http://inner:8080"),
            (&[host, ("x-forwarded-proto", "gopher")], x, "", "http://inner:8080"),
            (&[host, proto, ("x-forwarded-host", "a/b")], x, "https://inner:8080", "https://inner:8080"),
            (&[host, proto], rfc, "", "http://inner:8080"),
            (
                &[
                    host,
                    ("forwarded", "for=1.2.3.4;proto=http, for=9.9.9.9; Proto=https; host=\"m.example.org\""),
                ],
                rfc,
                "https://m.example.org",
                "https://m.example.org",
            ),
            (&[], None, "", ""),
        ] {
            let address = found(pairs, "/v1/media", trusted);
            assert_eq!(
                (address.prefix(), address.absolute_prefix().as_str()),
                (wanted, absolute),
                "{pairs:?}"
            );
        }
        assert_eq!(
            found(&[], "http://h2.example.org/v1/media", None).absolute_prefix(),
            "http://h2.example.org"
        );
        let configured = PublicAddress::configured("https://m.example.org/video/");
        assert_eq!(
            (configured.prefix(), configured.absolute_prefix().as_str()),
            ("https://m.example.org/video", "https://m.example.org/video")
        );
    }
}
