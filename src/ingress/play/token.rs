//! The path token: an HMAC-SHA-256 over session, medium and end, so that any replica can check it without asking anybody.
//!
//! It names a playback session and carries no other right. 56 bytes: session id (16), end as Unix seconds (8), HMAC (32) over
//! both and the media id; base64url without padding, 75 characters.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use schemas::ids::MediaId;
use sha2::Sha256;

/// Length of the token as text.
pub const TEXT_LENGTH: usize = 75;

/// Keeps these tags apart from any other use of the key.
const PURPOSE: &[u8] = b"streamgate playback 1";

/// A playback session as its token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Random name of the session.
    pub session_id: [u8; 16],
    /// Unix time in seconds at which it ends.
    pub ends_at_s: u64,
}

fn mac(key: &[u8], session: &Session, media_id: MediaId) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(PURPOSE);
    mac.update(&session.session_id);
    mac.update(&session.ends_at_s.to_be_bytes());
    mac.update(media_id.as_bytes());
    Some(mac)
}

/// The token of a session on one medium. `None` when the key can't be used, which no key of ours is.
pub fn sign(key: &[u8], session: &Session, media_id: MediaId) -> Option<String> {
    let tag = mac(key, session, media_id)?.finalize().into_bytes();
    let mut bytes = Vec::with_capacity(56);
    bytes.extend_from_slice(&session.session_id);
    bytes.extend_from_slice(&session.ends_at_s.to_be_bytes());
    bytes.extend_from_slice(&tag);
    Some(BASE64URL_NOPAD.encode(&bytes))
}

/// The session that a token names, if we made it for this medium and it has not ended. The tag is compared in constant time.
pub fn check(key: &[u8], text: &str, media_id: MediaId, now_s: u64) -> Option<Session> {
    if text.len() != TEXT_LENGTH {
        return None;
    }
    let bytes: [u8; 56] = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()?;
    let (session_id, rest) = bytes.split_first_chunk::<16>()?;
    let (ends_at_s, tag) = rest.split_first_chunk::<8>()?;
    let session = Session { session_id: *session_id, ends_at_s: u64::from_be_bytes(*ends_at_s) };
    mac(key, &session, media_id)?.verify_slice(tag).ok()?;
    (now_s < session.ends_at_s).then_some(session)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const MEDIUM: MediaId = MediaId::from_bytes([1; 16]);

    fn session() -> Session {
        Session { session_id: [9; 16], ends_at_s: 1_000 }
    }

    #[test]
    fn a_token_is_good_for_its_medium_until_it_ends() {
        let text = sign(&KEY, &session(), MEDIUM).unwrap();
        assert_eq!(text.len(), TEXT_LENGTH);
        assert_eq!(check(&KEY, &text, MEDIUM, 999), Some(session()));
        assert_eq!(check(&KEY, &text, MEDIUM, 1_000), None, "ended");
        assert_eq!(check(&KEY, &text, MediaId::from_bytes([2; 16]), 999), None, "another medium");
        assert_eq!(check(&[8; 32], &text, MEDIUM, 999), None, "another key");
    }

    proptest! {
        #[test]
        fn any_change_is_refused(at in 0..TEXT_LENGTH, to in "[A-Za-z0-9_-]") {
            let text = sign(&KEY, &session(), MEDIUM).unwrap();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != text);
            prop_assert_eq!(check(&KEY, &changed, MEDIUM, 0), None);
        }

        #[test]
        fn any_text_is_only_refused(text in ".{0,100}") {
            prop_assert_eq!(check(&KEY, &text, MEDIUM, 0), None);
        }
    }
}
