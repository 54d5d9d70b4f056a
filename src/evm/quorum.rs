//! Counting: which value a quorum of providers agrees on.

/// What one provider said; `None` when its answer does not count.
pub(super) type ProviderVote<T> = Option<T>;

/// Where a count stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VoteTally<T> {
    /// A quorum said this; these voters said otherwise.
    Agreed {
        /// The value.
        value: T,
        /// Indexes of those who said otherwise.
        dissenters: Vec<usize>,
    },
    /// A quorum can still be reached.
    Open,
    /// Enough voted, and no value can reach the quorum any more.
    Split,
    /// Too few voted.
    TooFew,
}

/// Counts `votes` as `(voter, vote)`, with `outstanding` voters that have not answered yet.
pub(super) fn count_votes<T: PartialEq + Clone>(
    votes: &[(usize, ProviderVote<T>)],
    outstanding: usize,
    quorum: usize,
) -> VoteTally<T> {
    let counted: Vec<(usize, &T)> =
        votes.iter().filter_map(|(voter, vote)| vote.as_ref().map(|value| (*voter, value))).collect();
    let support = |value: &T| counted.iter().filter(|(_, other)| *other == value).count();
    let best = counted.iter().map(|(_, value)| (support(value), *value)).max_by_key(|(count, _)| *count);
    match best {
        Some((count, value)) if count >= quorum => {
            let dissenters =
                counted.iter().filter(|(_, other)| *other != value).map(|(voter, _)| *voter).collect();
            VoteTally::Agreed { value: value.clone(), dissenters }
        }
        // Open as long as the missing answers could still make a quorum; then waiting has no use.
        Some((count, _)) if count + outstanding >= quorum => VoteTally::Open,
        None if outstanding >= quorum => VoteTally::Open,
        _ if counted.len() >= quorum => VoteTally::Split,
        _ => VoteTally::TooFew,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(votes: &[Option<&str>], outstanding: usize, quorum: usize, wanted: &VoteTally<&str>) {
        let votes: Vec<_> = votes.iter().copied().enumerate().collect();
        assert_eq!(count_votes(&votes, outstanding, quorum), *wanted, "{votes:?} +{outstanding} of {quorum}");
    }

    #[test]
    fn a_value_counts_once_a_quorum_gave_it() {
        let agreed = |dissenters: &[usize]| VoteTally::Agreed { value: "a", dissenters: dissenters.to_vec() };
        check(&[], 0, 1, &VoteTally::TooFew);
        check(&[], 2, 2, &VoteTally::Open);
        check(&[Some("a")], 0, 1, &agreed(&[]));
        check(&[Some("a")], 2, 2, &VoteTally::Open);
        check(&[Some("a"), Some("b")], 1, 2, &VoteTally::Open);
        check(&[Some("a"), Some("b"), Some("a")], 0, 2, &agreed(&[1]));
        check(&[Some("a"), None, Some("a")], 0, 2, &agreed(&[]));
        check(&[Some("a"), Some("b"), Some("c")], 0, 2, &VoteTally::Split);
        check(&[Some("a"), None, None], 0, 2, &VoteTally::TooFew);
        check(&[Some("a"), Some("b"), None], 0, 2, &VoteTally::Split);
        check(&[None, None], 1, 2, &VoteTally::TooFew);
    }
}
