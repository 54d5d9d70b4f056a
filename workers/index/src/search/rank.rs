//! Where a hit stands in the order that was asked for, as a cursor too.

use data_encoding::BASE32HEX_NOPAD;
use schemas::{ids::MediaId, search_query::MediaSearchSort};

use super::fields::TITLE_ORDER_BYTES_MAX;
use crate::IndexError;

/// Bytes of the numbers behind the first part of a position: time and id.
const TAIL_BYTES: usize = 8 + 16;

/// Where a hit stands: what is sorted by, then time, then id; the smallest is the first.
///
/// All three are kept so that the first hit is the smallest: numbers of which the largest comes first are turned round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HitPosition {
    /// A number as 8 bytes, or the title.
    pub(super) first: Vec<u8>,
    pub(super) time: u64,
    pub(super) id: u128,
}

impl HitPosition {
    /// The position that a cursor names in this order.
    pub(super) fn from_cursor(cursor: &str, sort: MediaSearchSort) -> Result<Self, IndexError> {
        let bytes =
            BASE32HEX_NOPAD.decode(cursor.to_ascii_uppercase().as_bytes()).map_err(|_| IndexError::Cursor)?;
        let split = bytes.len().checked_sub(TAIL_BYTES).ok_or(IndexError::Cursor)?;
        let (first, tail) = bytes.split_at(split);
        let is_fitting = match sort {
            MediaSearchSort::Title => (1..=TITLE_ORDER_BYTES_MAX).contains(&first.len()),
            _ => first.len() == 8,
        };
        let parts = tail.split_first_chunk::<8>().filter(|_| is_fitting);
        let (time, id) = parts.ok_or(IndexError::Cursor)?;
        let id: [u8; 16] = id.try_into().map_err(|_| IndexError::Cursor)?;
        Ok(Self { first: first.to_vec(), time: u64::from_be_bytes(*time), id: u128::from_be_bytes(id) })
    }

    /// The medium.
    pub(super) const fn media_id(&self, sort: MediaSearchSort) -> MediaId {
        let (_, id) = in_order(sort, self.time, self.id);
        MediaId::from_bytes(id.to_be_bytes())
    }

    /// The position as a cursor.
    pub(super) fn to_cursor(&self) -> String {
        let bytes = [&*self.first, &self.time.to_be_bytes(), &self.id.to_be_bytes()].concat();
        BASE32HEX_NOPAD.encode(&bytes).to_ascii_lowercase()
    }
}

/// A score as a number of which the smallest is the best. Scores are sums of whole numbers, and never negative.
pub(super) const fn score_rank(score: f32) -> u64 {
    // The bits of floats that are not negative sort like them.
    u64::MAX - score.to_bits() as u64
}

/// Time and id so that the first hit is the smallest, and back.
pub(super) const fn in_order(sort: MediaSearchSort, time: u64, id: u128) -> (u64, u128) {
    match sort {
        MediaSearchSort::Oldest => (time, id),
        _ => (u64::MAX - time, u128::MAX - id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_survive_their_cursors(number: u64, time: u64, id: u128, title in "\\PC{1,16}") {
            for (first, sort) in [
                (number.to_be_bytes().to_vec(), MediaSearchSort::Relevance),
                (title.into_bytes(), MediaSearchSort::Title),
            ] {
                let position = HitPosition { first, time, id };
                prop_assert_eq!(HitPosition::from_cursor(&position.to_cursor(), sort).unwrap(), position);
            }
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for cursor in ["", "x", "../../etc/passwd", &"0".repeat(38), &"v".repeat(400)] {
            for sort in [MediaSearchSort::Newest, MediaSearchSort::Title] {
                let found = HitPosition::from_cursor(cursor, sort);
                assert!(matches!(found, Err(IndexError::Cursor)), "{cursor}: {found:?}");
            }
        }
        assert!(score_rank(18.0) < score_rank(17.5) && score_rank(17.5) < score_rank(0.0));
    }
}
