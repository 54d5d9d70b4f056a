//! The path token: the id of a playback session, the encode that it plays, and the HMAC-SHA256 of both. It carries no other right.
//!
//! A session plays one encode to its end, also after another one took its place: what a player has of the one does not go with
//! segments of the other.
//!
//! Limits: a token has at most [`LENGTH_MAX`] characters, all of them safe in a path.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use schemas::ids::{self, PlaybackId};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Hex digits of the HMAC.
const TAG_LENGTH: usize = 64;
/// Characters of a token that names no encode.
const LENGTH: usize = ids::TEXT_LENGTH + TAG_LENGTH;
/// Most digits of the number of an encode.
const ENCODE_DIGITS_MAX: usize = 10;
/// Most characters of a token.
pub const LENGTH_MAX: usize = LENGTH + 1 + ENCODE_DIGITS_MAX;
/// Stands before the number of an encode.
const ENCODE_MARK: char = '-';
/// Keeps the tag apart from whatever else the key signs.
const PURPOSE: &[u8] = b"streamgate playback session 1\0";

/// What a token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaybackToken {
    /// The session.
    pub playback_id: PlaybackId,
    /// Number of the folder of the encode that it plays ([`schemas::keys::encode_folder`]); none in tokens of before there was a
    /// choice, which play the newest.
    pub encode: Option<u32>,
}

impl PlaybackToken {
    /// As it stands in a path.
    pub fn seal(self, key: &[u8]) -> String {
        let (playback_id, tag) = (self.playback_id, self.compute_tag(key));
        let encode = self.encode.map(|number| format!("{ENCODE_MARK}{number}")).unwrap_or_default();
        format!("{playback_id}{tag}{encode}")
    }

    /// What a token names; `None` when it is not one of ours.
    pub fn open(key: &[u8], token: &str) -> Option<Self> {
        let (id, rest) = token.split_at_checked(ids::TEXT_LENGTH)?;
        let (tag, encode) = rest.split_at_checked(TAG_LENGTH)?;
        let encode = match encode.strip_prefix(ENCODE_MARK) {
            Some(digits) => Some(parse_encode(digits)?),
            None => encode.is_empty().then_some(None)?,
        };
        let named = Self { playback_id: id.parse().ok()?, encode };
        bool::from(named.compute_tag(key).as_bytes().ct_eq(tag.as_bytes())).then_some(named)
    }

    fn compute_tag(self, key: &[u8]) -> String {
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
        mac.update(PURPOSE);
        mac.update(self.playback_id.as_bytes());
        // The id has a fixed length, so that one text can't stand for two tokens.
        self.encode.iter().for_each(|number| mac.update(&number.to_be_bytes()));
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }
}

/// A number in its only spelling: each token has one.
fn parse_encode(digits: &str) -> Option<u32> {
    let is_plain = !digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_makes_a_token() {
        for encode in [None, Some(1), Some(u32::MAX)] {
            let named = PlaybackToken { playback_id: PlaybackId::from_bytes([3; 16]), encode };
            let token = named.seal(b"key");
            assert!(token.len() <= LENGTH_MAX, "{token}");
            assert_eq!(PlaybackToken::open(b"key", &token), Some(named));
            assert_eq!(PlaybackToken::open(b"other", &token), None);
            let other = PlaybackToken { playback_id: PlaybackId::from_bytes([4; 16]), encode }.seal(b"key");
            let mixed =
                format!("{}{}", other.split_at(ids::TEXT_LENGTH).0, token.split_at(ids::TEXT_LENGTH).1);
            for wrong in [
                "",
                "x",
                token.split_at(1).1,
                &token.to_uppercase(),
                &format!("{token}0"),
                &format!("{token}-"),
                &format!("{token}-2"),
                &mixed,
                &"é".repeat(45),
            ] {
                assert_eq!(PlaybackToken::open(b"key", wrong), None, "{wrong}");
            }
        }
    }

    #[test]
    fn the_encode_of_a_token_can_not_be_changed() {
        let seal =
            |encode| PlaybackToken { playback_id: PlaybackId::from_bytes([3; 16]), encode }.seal(b"key");
        let token = seal(Some(2));
        let bare = token.split_at(LENGTH).0;
        assert!(token.ends_with("-2"), "{token}");
        for wrong in [
            bare.to_owned(),
            format!("{bare}-1"),
            format!("{bare}-02"),
            format!("{bare}-+2"),
            format!("{}-2", seal(None)),
        ] {
            assert_eq!(PlaybackToken::open(b"key", &wrong), None, "{wrong}");
        }
    }
}
