//! Addresses as they may be shown to somebody else, or opened. Pure.

/// Stands where a secret is.
pub const HIDDEN: &str = "<hidden>";

/// An address without its name and password, which stand between its scheme and the last `@` before its path.
pub fn hide_credentials(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let authority = rest.split('/').next().unwrap_or_default();
    let Some((_, host)) = authority.rsplit_once('@') else { return text.to_owned() };
    let path = rest.strip_prefix(authority).unwrap_or_default();
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{HIDDEN}@{host}{path}")
}

/// An address that can be opened: a server that listens on all of them is reached by loopback.
pub fn reachable_url(url: &str) -> String {
    url.replacen("://0.0.0.0:", "://127.0.0.1:", 1).replacen("://[::]:", "://[::1]:", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_all_but_its_user() {
        for (text, wanted) in [
            ("nats://ann:secret@h:4222", "nats://<hidden>@h:4222"),
            ("token@h:4222", "<hidden>@h:4222"),
            ("https://a:p@ss@h/path@x", "https://<hidden>@h/path@x"),
            ("nats://h:4222", "nats://h:4222"),
            ("file:///data/a@b", "file:///data/a@b"),
            ("", ""),
        ] {
            assert_eq!(hide_credentials(text), wanted);
        }
    }

    #[test]
    fn an_address_can_be_opened() {
        for (url, wanted) in [
            ("http://0.0.0.0:80", "http://127.0.0.1:80"),
            ("http://[::]:80", "http://[::1]:80"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(reachable_url(url), wanted);
        }
    }
}
