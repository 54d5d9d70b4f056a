//! What a failure says about the work: one classification for the bus, the store and every stage.

/// What a failure says about the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Something the work needs is away, full or taken for a while. It passes by itself and says nothing about the work:
    /// wait, and never count it as a try.
    Outage,
    /// The work itself went wrong and may go well another time: try again, a limited number of times.
    Fault,
    /// It will never go well.
    Reject,
}
