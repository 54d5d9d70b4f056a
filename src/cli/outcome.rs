//! How a command ended.

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    /// As hoped.
    Well,
    /// The answer is bad news, said already: a failed job, a difference, something missing.
    Badly,
}
