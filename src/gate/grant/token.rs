//! The path token: the id of a playback session and its HMAC-SHA256. It names a session and carries no other right.
//!
//! Limits: a token has exactly [`LENGTH`] characters, all of them safe in a path.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use schemas::ids::{self, PlaybackId};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Hex digits of the HMAC.
const TAG_LENGTH: usize = 64;
/// Characters of a token.
pub const LENGTH: usize = ids::TEXT_LENGTH + TAG_LENGTH;
/// Keeps the tag apart from whatever else the key signs.
const PURPOSE: &[u8] = b"streamgate playback session 1\0";

/// The token of a session.
pub fn seal_token(key: &[u8], playback_id: PlaybackId) -> String {
    format!("{playback_id}{}", compute_tag(key, playback_id))
}

/// The session a token names; `None` when the token is not one of ours.
pub fn open_token(key: &[u8], token: &str) -> Option<PlaybackId> {
    let (id, tag) = token.split_at_checked(ids::TEXT_LENGTH).filter(|_| token.len() == LENGTH)?;
    let playback_id = id.parse().ok()?;
    bool::from(compute_tag(key, playback_id).as_bytes().ct_eq(tag.as_bytes())).then_some(playback_id)
}

fn compute_tag(key: &[u8], playback_id: PlaybackId) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(PURPOSE);
    mac.update(playback_id.as_bytes());
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_makes_a_token() {
        let id = PlaybackId::from_bytes([3; 16]);
        let token = seal_token(b"key", id);
        assert_eq!(token.len(), LENGTH);
        assert_eq!(open_token(b"key", &token), Some(id));
        assert_eq!(open_token(b"other", &token), None);
        let other = seal_token(b"key", PlaybackId::from_bytes([4; 16]));
        let mixed = format!("{}{}", other.split_at(ids::TEXT_LENGTH).0, token.split_at(ids::TEXT_LENGTH).1);
        for wrong in [
            "",
            "x",
            token.split_at(1).1,
            &token.to_uppercase(),
            &format!("{token}0"),
            &mixed,
            &"é".repeat(45),
        ] {
            assert_eq!(open_token(b"key", wrong), None, "{wrong}");
        }
    }
}
