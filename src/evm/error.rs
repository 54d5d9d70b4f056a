//! What can go wrong with a chain and with one of its providers.

/// Why nothing is known, or why a contract did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is not configured.
    #[error("chain {chain_id} is not configured")]
    Unknown {
        /// Which chain.
        chain_id: u64,
    },
    /// Fewer providers than the quorum answered in time.
    #[error("too few providers of chain {chain_id} answered")]
    Unavailable {
        /// Which chain.
        chain_id: u64,
    },
    /// Enough providers answered, and no value reached the quorum.
    #[error("the providers of chain {chain_id} contradict each other")]
    Disagreement {
        /// Which chain.
        chain_id: u64,
    },
    /// The newest block that a quorum knows is too old, or older than one known before.
    #[error("the providers of chain {chain_id} are behind")]
    Stale {
        /// Which chain.
        chain_id: u64,
    },
    /// The block is not, or no longer, part of the chain.
    #[error("the block is not part of chain {chain_id} any more")]
    Reorganised {
        /// Which chain.
        chain_id: u64,
    },
    /// The contract refused the call or burnt its gas.
    #[error("the contract on chain {chain_id} refused the call")]
    Reverted {
        /// Which chain.
        chain_id: u64,
    },
    /// More was asked at once than a provider may be sent.
    #[error("{count} questions at once, at most {count_max} are allowed")]
    TooMany {
        /// How many.
        count: usize,
        /// How many are allowed.
        count_max: usize,
    },
}

/// Why one provider's answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderFault {
    /// No answer in time.
    #[error("no answer in time")]
    Late,
    /// No connection, or it broke.
    #[error("no connection")]
    Unreachable,
    /// An HTTP status that is no answer.
    #[error("status {0}")]
    Status(u16),
    /// It asks to be left alone for so many milliseconds.
    #[error("throttled for {retry_after_ms} ms")]
    Throttled {
        /// How long.
        retry_after_ms: u64,
    },
    /// The answer is longer than allowed.
    #[error("answer too large")]
    TooLarge,
    /// The answer is no JSON-RPC answer to the question.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// It refused the question; its error code.
    #[error("refused with code {0}")]
    Refused(i64),
    /// It does not know the block, or not as part of the chain.
    #[error("unknown block")]
    NoBlock,
    /// It serves another chain.
    #[error("wrong chain")]
    WrongChain,
    /// It is left alone at present.
    #[error("left alone after faults")]
    Resting,
    /// Its requests a second or in flight are used up.
    #[error("over budget")]
    OverBudget,
}
