//! Which events a hook wants: those that its owner may see, of the kinds, the medium and the job that it names.
//!
//! Limits: [`TYPES_MAX`] kinds; a kind is an entity (`media`) or an entity with a verb (`media.ready`), and one that there is.

use schemas::{
    catalog, headers,
    hook::{HookRecord, TYPES_MAX},
    hook_event, subjects,
};

/// What an event says of itself in its headers and its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventHead {
    /// Its sequence in EVENTS.
    pub sequence: u64,
    /// First word of its kind, such as `media`.
    pub entity: String,
    /// Second word of its kind, such as `ready`.
    pub verb: String,
    /// Whose it is; absent for what is about the installation.
    pub owner: Option<String>,
    /// The medium that it is about.
    pub media_id: Option<String>,
    /// The job that it is about.
    pub job_id: Option<String>,
}

impl EventHead {
    /// Reads a head; `text` answers the value of a header.
    pub fn read(sequence: u64, subject: &str, text: impl Fn(&str) -> Option<String>) -> Self {
        let (entity, verb, _) = subjects::parse_event_subject(subject).unwrap_or_default();
        Self {
            sequence,
            entity: entity.to_owned(),
            verb: verb.to_owned(),
            owner: text(headers::OWNER),
            media_id: text(headers::MEDIA_ID),
            job_id: text(headers::JOB_ID),
        }
    }
}

/// Whether `hook` sends the event. Never one about hooks: a hook that fails would feed itself.
pub fn wants_event(hook: &HookRecord, event: &EventHead) -> bool {
    let is = |wanted: Option<String>, found: &Option<String>| wanted.is_none() || wanted == *found;
    event.entity != hook_event::HOOK
        && (hook.is_for_all || event.owner.as_ref() == Some(&hook.owner))
        && is(hook.media_id.map(|id| id.to_string()), &event.media_id)
        && is(hook.job_id.map(|id| id.to_string()), &event.job_id)
        && (hook.types.is_empty() || hook.types.iter().any(|kind| names_kind(kind, event)))
}

fn names_kind(kind: &str, event: &EventHead) -> bool {
    match kind.split_once('.') {
        Some((entity, verb)) => entity == event.entity && verb == event.verb,
        None => kind == event.entity,
    }
}

/// Why kinds of events can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// There are too many.
    #[error("a hook names at most {TYPES_MAX} kinds")]
    TooMany,
    /// The one at `index` is none.
    #[error("there are no such events: give an entity such as media, or a kind such as media.ready")]
    Unknown {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// The one at `index` is about hooks.
    #[error("no hook sends events about hooks")]
    AboutHooks {
        /// Its place in the list, from 0.
        index: usize,
    },
}

/// Refuses kinds that no event has, which would never be sent.
///
/// # Errors
/// [`EventTypeError`].
pub fn check_types(types: &[String]) -> Result<(), EventTypeError> {
    if types.len() > TYPES_MAX {
        return Err(EventTypeError::TooMany);
    }
    let known = catalog::event_entries();
    for (index, wanted) in types.iter().enumerate() {
        let entity = wanted.split_once('.').map_or(wanted.as_str(), |(entity, _)| entity);
        if entity == hook_event::HOOK {
            return Err(EventTypeError::AboutHooks { index });
        }
        let is_known =
            |name: &str| name == wanted || name.split_once('.').is_some_and(|(it, _)| it == wanted);
        if !known.iter().any(|entry| is_known(&entry.name)) {
            return Err(EventTypeError::Unknown { index });
        }
    }
    Ok(())
}
