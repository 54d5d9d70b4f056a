//! Which block decides: the newest one that a quorum knows, and the one with enough confirmations below it. Pure.

use super::EvmBlock;

/// The blocks of one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// The newest block that a quorum knows.
    pub latest: EvmBlock,
    /// The newest block with enough confirmations; an ancestor of `latest` by the word of a quorum.
    pub confirmed: EvmBlock,
}

/// The greatest height that at least `quorum` providers have reached.
///
/// One provider that claims a height of its own does not move it, and one that is behind does not hold it back as long as a
/// quorum is ahead.
pub(super) fn shared_height(heights: &[u64], quorum: usize) -> Option<u64> {
    let mut sorted = heights.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    // The highest block that a quorum has reached: one node that runs ahead, or lies, does not move it.
    sorted.get(quorum.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_liar_nor_a_laggard_moves_the_height() {
        for (heights, quorum, wanted) in [
            (&[][..], 1, None),
            (&[7], 1, Some(7)),
            (&[7], 2, None),
            (&[7, 9_000_000, 7], 2, Some(7)),
            (&[7, 2, 8], 2, Some(7)),
            (&[7, 2, 8], 3, Some(2)),
            (&[7], 0, None),
        ] {
            assert_eq!(shared_height(heights, quorum), wanted, "{heights:?} of {quorum}");
        }
    }
}
