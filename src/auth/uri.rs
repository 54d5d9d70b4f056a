//! The parts of RFC 3986 that a sign-in message is made of: authority, URI, `pchar`. Only checks; nothing is decoded or changed.

/// True for `authority` (section 3.2): user information, host and port.
pub(super) fn is_authority(text: &str) -> bool {
    let (user, rest) = match text.split_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    if user.is_some_and(|user| {
        !are_all_allowed(user, |byte| is_unreserved(byte) || is_sub_delimiter(byte) || byte == b':')
    }) {
        return false;
    }
    if let Some(literal) = rest.strip_prefix('[') {
        let Some((address, port)) = literal.split_once(']') else { return false };
        return is_ip_literal(address) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    match rest.split_once(':') {
        Some((host, port)) => is_registered_name(host) && is_port(port),
        None => is_registered_name(rest),
    }
}

/// The host of an authority: without user information and port, an IPv6 address in its brackets.
pub(super) fn parse_host(authority: &str) -> &str {
    let rest = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    if rest.starts_with('[') {
        return rest.rsplit_once(']').map_or(rest, |(literal, _)| literal.trim_start_matches('['));
    }
    rest.split_once(':').map_or(rest, |(host, _)| host)
}

/// True where `http` never leaves the machine: `localhost` and the loopback addresses.
pub fn is_loopback(authority: &str) -> bool {
    let host = parse_host(authority);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// True for `URI` (section 3): with a scheme.
pub(super) fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    if !is_scheme(scheme) {
        return false;
    }
    let (rest, fragment) = split_at_char(rest, '#');
    let (hierarchy, query) = split_at_char(rest, '?');
    let is_tail = |part: Option<&str>| {
        part.is_none_or(|part| are_all_allowed(part, |b| is_pchar_byte(b) || b == b'/' || b == b'?'))
    };
    if !is_tail(fragment) || !is_tail(query) {
        return false;
    }
    let (authority, path) = match hierarchy.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            (Some(authority), path)
        }
        None => (None, hierarchy),
    };
    // An empty authority is right where the scheme names no host: file:///
    authority.is_none_or(|text| text.is_empty() || is_authority(text))
        && are_all_allowed(path, |byte| is_pchar_byte(byte) || byte == b'/')
}

/// The scheme and the authority of a URI that has both.
pub fn split_origin(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    Some((scheme, rest.split(['/', '?', '#']).next()?))
}

/// True for `scheme` (section 3.1).
pub(super) fn is_scheme(text: &str) -> bool {
    text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// True for any number of `pchar` (section 3.3).
pub(super) fn is_pchars(text: &str) -> bool {
    are_all_allowed(text, is_pchar_byte)
}

/// True for the `reserved` and `unreserved` characters of section 2, without percent-encoding.
pub(super) const fn is_reserved_or_unreserved(byte: u8) -> bool {
    is_unreserved(byte)
        || is_sub_delimiter(byte)
        || matches!(byte, b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@')
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

const fn is_pchar_byte(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b':' | b'@')
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `reg-name`; an IPv4 address is one, too. An empty one names nobody, so here it is none.
fn is_registered_name(text: &str) -> bool {
    !text.is_empty() && are_all_allowed(text, |byte| is_unreserved(byte) || is_sub_delimiter(byte))
}

fn is_ip_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        let Some((version, address)) = future.split_once('.') else { return false };
        let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_part = |byte: u8| is_unreserved(byte) || is_sub_delimiter(byte) || byte == b':';
        return is_version && !address.is_empty() && address.bytes().all(is_part);
    }
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

fn split_at_char(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// True when every byte is `allowed` or belongs to a percent-encoded byte.
fn are_all_allowed(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_good = if byte == b'%' {
            let is_digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
            is_digit(bytes.next()) && is_digit(bytes.next())
        } else {
            allowed(byte)
        };
        if !is_good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for text in [
            "a.org",
            "a.org:8080",
            "a.org:",
            "u@a.org",
            "u:p@a.org:1",
            "127.0.0.1",
            "1.1.1.256",
            "[::1]",
            "[::1]:80",
            "[v7.a:b]",
            "a%20b",
            "a_b",
        ] {
            assert!(is_authority(text), "{text}");
        }
        for text in [
            "", ":80", "u@", "a b", "a.org:8o", "[::1", "[::g]", "[::1]80", "a/b", "a%2", "a%zz", "u@v@w",
            "ä.org",
        ] {
            assert!(!is_authority(text), "{text}");
        }
    }

    #[test]
    fn uris() {
        for text in [
            "https://a.org",
            "https://a.org/",
            "https://a.org/b?c=d#e",
            "ipfs://Qme7ss3ARVgxv6",
            "did:key:z6Mk",
            "x:",
            "x:/a//b",
            "http://[::1]:80/?#",
            "https://a?b",
            "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "file:///etc",
        ] {
            assert!(is_uri(text), "{text}");
        }
        for text in [
            "",
            "a",
            "://a",
            "1a://b",
            "https://a b",
            "https://a/<b>",
            "https://a#b#c",
            "https://a/%g0",
            "a\\b:c",
            "_a:b",
        ] {
            assert!(!is_uri(text), "{text}");
        }
        assert_eq!(split_origin("https://a.org:1/b?c"), Some(("https", "a.org:1")));
        assert_eq!(split_origin("did:key:z"), None);
    }

    #[test]
    fn loopback_is_what_never_leaves_the_machine() {
        for text in ["localhost", "localhost:1", "127.0.0.1:8080", "[::1]:80"] {
            assert!(is_loopback(text), "{text}");
        }
        for text in
            ["a.org", "localhost.a.org", "127.0.0.1.a.org", "localhost@a.org", "10.0.0.1", "a.localhost"]
        {
            assert!(!is_loopback(text), "{text}");
        }
    }
}
