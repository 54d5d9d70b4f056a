//! What people do about messages that were given up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext};

/// What was done about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LetterAction {
    /// It had a second chance.
    Redriven,
    /// Nothing is to be done about it.
    Discarded,
    /// Something that only newer versions know.
    #[serde(other)]
    Unknown,
}

/// `evt.admin.letter_changed`: somebody did something about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminLetterChanged {
    /// Its sequence in the stream DEAD, by which people name it.
    pub sequence: u64,
    /// The stage that gave the message up.
    pub stage: String,
    /// What was done.
    pub action: LetterAction,
    /// The account of the person.
    pub changed_by: String,
}

impl BusEvent for AdminLetterChanged {
    const ENTITY: &'static str = "admin";
    const VERB: &'static str = "letter_changed";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.sequence.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}
