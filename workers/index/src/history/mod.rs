//! Where the events of each medium and job lie in EVENTS: a projection of that stream by the ids in the headers of its messages.
//!
//! It holds no events: who asks reads them from the stream by their sequences. Events that the stream drops by age are dropped here,
//! too, at most [`follow::TRIM_PAUSE`] later. A stream made anew, another version and damage begin it anew. What goes wrong with it stops
//! no list.
//!
//! Limits: as many events as EVENTS has, two ids for each; [`crate::IndexConfig`] has the memory and the entries of one transaction.

mod answer;
mod follow;
mod store;

pub(crate) use answer::{HistoryAccess, HistoryResponder};
pub(crate) use follow::keep_history;
pub use store::{HistoryEntry, HistoryStore, HistoryThing};
