//! An address that a user gave: read, bounded and checked before anything is done with it.

use std::{fmt, net::IpAddr};

use reqwest::Url;
use url::Host;

use crate::{error::OutboundError, networks::Networks};

/// Longest address, in bytes: those that stores sign have up to about 2 000.
pub const URL_BYTES_MAX: usize = 4_096;

/// An address of HTTP that may be asked, as far as it says itself: one that is written out is checked here, a name where it is looked
/// up. Its query may hold a secret and is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct OutboundUrl(Url);

impl OutboundUrl {
    /// Reads what somebody wrote. Its fragment is left out, for it is not sent.
    ///
    /// # Errors
    /// [`OutboundError::UrlInvalid`], and [`OutboundError::AddressRefused`] for an address that is neither public nor let through.
    pub fn parse(text: &str, networks: &Networks) -> Result<Self, OutboundError> {
        if text.len() > URL_BYTES_MAX {
            return Err(OutboundError::UrlInvalid("is longer than 4096 bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(OutboundError::UrlInvalid("has a space, or a character that is not shown"));
        }
        let url = Url::parse(text).map_err(|_| OutboundError::UrlInvalid("is no URL"))?;
        Self::check(url, networks)
    }

    /// Where a redirect from here leads.
    pub(crate) fn join(&self, location: &str, networks: &Networks) -> Result<Self, OutboundError> {
        if location.len() > URL_BYTES_MAX {
            return Err(OutboundError::UrlInvalid("is longer than 4096 bytes"));
        }
        let url = self.0.join(location).map_err(|_| OutboundError::UrlInvalid("is no URL"))?;
        Self::check(url, networks)
    }

    fn check(mut url: Url, networks: &Networks) -> Result<Self, OutboundError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OutboundError::UrlInvalid("begins with neither http:// nor https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(OutboundError::UrlInvalid("names a user, which is not sent"));
        }
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(OutboundError::UrlInvalid("is longer than 4096 bytes"));
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(name)) if !name.is_empty() => None,
            Some(Host::Domain(_)) | None => return Err(OutboundError::UrlInvalid("names no host")),
        };
        if let Some(address) = address {
            networks
                .check(address)
                .map_err(|rule| OutboundError::AddressRefused { host: address.to_string(), rule })?;
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// All of it, for a request or a record that nobody else reads.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) const fn url(&self) -> &Url {
        &self.0
    }

    pub(crate) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// True where scheme aside, both are of one host and the port that goes with the scheme.
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        let is_upgrade = self.0.port().is_none() && other.0.port().is_none();
        self.0.host() == other.0.host()
            && (is_upgrade || self.0.port_or_known_default() == other.0.port_or_known_default())
    }

    /// Scheme, host and path: what may be shown to whom it belongs.
    pub fn shown(&self) -> String {
        let mut shown = self.0.clone();
        shown.set_query(None);
        shown.into()
    }

    /// Scheme, host and port: what may be shown to everybody.
    pub fn shown_origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The last part of the path, decoded where that is text.
    pub fn file_name(&self) -> Option<String> {
        let last = self.0.path_segments()?.next_back()?;
        let decoded = percent_encoding::percent_decode_str(last).decode_utf8().ok()?;
        (!decoded.is_empty()).then(|| decoded.into_owned())
    }
}

/// Without the query.
impl fmt::Debug for OutboundUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutboundUrl").field(&self.shown()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_checked() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[0:0:0:0:0:ffff:7f00:0001]/",
            "http://[64:ff9b::7f00:1]/",
            "https://169.254.169.254/latest/meta-data/",
            "http://0/",
            "http://\u{ff11}27.0.0.1/",
            "http://127\u{3002}0\u{3002}0\u{3002}1/",
            "http://127.0.0.1./",
            "http://10.0.0.1:8080/a?b#c",
        ] {
            let refused = OutboundUrl::parse(text, &Networks::default());
            assert!(matches!(refused, Err(OutboundError::AddressRefused { .. })), "{text}: {refused:?}");
        }
        let allowed = Networks::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(OutboundUrl::parse("http://2130706433/", &allowed).unwrap().expose(), "http://127.0.0.1/");
    }

    #[test]
    fn what_is_no_address_of_http_is_refused() {
        let long = format!("http://example.org/{}", "a".repeat(URL_BYTES_MAX));
        for text in [
            "",
            "example.org",
            "file:///etc/passwd",
            "ftp://example.org/",
            "gopher://example.org/",
            "http://",
            "data:text/plain,a",
            "http://user@example.org/",
            "http://user:secret@example.org/",
            "http://:secret@example.org/",
            "http://exa mple.org/",
            "http://example.org/a\nb",
            "http:///",
            &long,
        ] {
            let refused = OutboundUrl::parse(text, &Networks::default());
            assert!(matches!(refused, Err(OutboundError::UrlInvalid(_))), "{text}: {refused:?}");
        }
    }

    #[test]
    fn a_query_is_shown_to_nobody() {
        let text = "https://store.example.org/films/sea%20%C3%A4.mp4?X-Amz-Signature=secret#t=3";
        let url = OutboundUrl::parse(text, &Networks::default()).unwrap();
        assert_eq!(url.shown(), "https://store.example.org/films/sea%20%C3%A4.mp4");
        assert!(!format!("{url:?}").contains("secret"));
        assert_eq!(url.expose(), text.split('#').next().unwrap());
        assert_eq!(url.file_name().as_deref(), Some("sea ä.mp4"));
        let none = OutboundUrl::parse("https://store.example.org/films/", &Networks::default()).unwrap();
        assert_eq!(none.file_name(), None);
        let plus = OutboundUrl::parse("https://store.example.org/a+b&c=d.mp4", &Networks::default()).unwrap();
        assert_eq!(plus.file_name().as_deref(), Some("a+b&c=d.mp4"));
    }

    #[test]
    fn hosts_are_compared_with_their_ports() {
        let parse = |text: &str| OutboundUrl::parse(text, &Networks::default()).unwrap();
        let from = parse("http://a.example/x");
        for (to, is_same) in [
            ("http://a.example/y", true),
            ("https://a.example/y", true),
            ("http://a.example:81/", false),
            ("https://a.example:444/", false),
            ("http://b.a.example/", false),
        ] {
            assert_eq!(from.is_same_host(&parse(to)), is_same, "{to}");
        }
    }
}
