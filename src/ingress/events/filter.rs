//! What a follower asked for, and what it may receive of it: judged for each event.
//!
//! Limits: [`TYPES_MAX`] types of [`TYPE_LENGTH_MAX`] characters.

use schemas::ids::{JobId, MediaId};

use super::{frame::EventFrame, routes::RouteKey};
use auth::Principal;
use web::{error::Problem, problem_code::ProblemCode};

/// Most types of one filter.
pub(super) const TYPES_MAX: usize = 32;
/// Longest type, or beginning of one, in characters.
pub(super) const TYPE_LENGTH_MAX: usize = 64;
/// Longest name of an owner in characters.
const OWNER_LENGTH_MAX: usize = 256;

/// What somebody asked for, as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct EventWishes {
    pub(super) media_id: Option<MediaId>,
    pub(super) job_id: Option<JobId>,
    pub(super) types: Vec<String>,
    pub(super) prefix: Option<String>,
    pub(super) owner: Option<String>,
}

/// What a follower asked for and may receive.
#[derive(Debug, Clone)]
pub(super) struct EventFilter {
    pub(super) who: Principal,
    pub(super) media_id: Option<MediaId>,
    pub(super) job_id: Option<JobId>,
    /// Exact types; empty for all.
    types: Vec<String>,
    prefix: Option<String>,
    owner: Option<String>,
}

impl EventFilter {
    /// The filter of `who`; a problem where there can be no such events, or they are not for `who`.
    pub(super) fn new(who: Principal, wishes: EventWishes) -> Result<Self, Problem> {
        let malformed = |detail: String| Problem::new(ProblemCode::QueryMalformed).with_detail(detail);
        let EventWishes { media_id, job_id, types, prefix, owner } = wishes;
        if types.len() > TYPES_MAX {
            return Err(malformed(format!("`type` has more than {TYPES_MAX} types")));
        }
        if let Some(other) = types.iter().find(|text| !is_type(text)) {
            return Err(malformed(format!("{other:?} is no type such as `media.ready`")));
        }
        if let Some(other) = prefix.as_ref().filter(|text| !is_prefix(text)) {
            return Err(malformed(format!("{other:?} is no beginning of a type such as `media.`")));
        }
        if owner.as_ref().is_some_and(|owner| owner.is_empty() || owner.chars().count() > OWNER_LENGTH_MAX) {
            return Err(malformed(format!("`owner` has 1 to {OWNER_LENGTH_MAX} characters")));
        }
        if owner.as_ref().is_some_and(|owner| !who.may_see(owner)) {
            return Err(
                Problem::new(ProblemCode::OperatorsOnly).with_detail("what other owners do is for operators")
            );
        }
        Ok(Self { who, media_id, job_id, types, prefix, owner })
    }

    /// Where the events of the filter are found: at one place, the narrowest.
    pub(super) fn route_key(&self) -> RouteKey {
        if let Some(job_id) = self.job_id {
            return RouteKey::Job(job_id);
        }
        if let Some(media_id) = self.media_id {
            return RouteKey::Medium(media_id);
        }
        match self.owner.clone().or_else(|| self.who.list_owner_filter()) {
            Some(owner) => RouteKey::Owner(owner),
            None => RouteKey::All,
        }
    }

    /// Whether the follower wanted the frame and may have it.
    pub(super) fn covers(&self, frame: &EventFrame) -> bool {
        let owner = frame.owner.as_deref();
        (self.media_id.is_none() || self.media_id == frame.media_id)
            && (self.job_id.is_none() || self.job_id == frame.job_id)
            && (self.types.is_empty() || self.types.contains(&frame.kind))
            && self.prefix.as_ref().is_none_or(|prefix| frame.kind.starts_with(prefix))
            && self.owner.as_deref().is_none_or(|wanted| owner == Some(wanted))
            // What has no owner is about the installation, not about anybody's media.
            && self.who.may_see(owner.unwrap_or_default())
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn is_type(text: &str) -> bool {
    text.len() <= TYPE_LENGTH_MAX
        && text.split_once('.').is_some_and(|(entity, verb)| is_word(entity) && is_word(verb))
}

fn is_prefix(text: &str) -> bool {
    let (entity, verb) = text.split_once('.').unwrap_or((text, ""));
    text.len() <= TYPE_LENGTH_MAX && is_word(entity) && (verb.is_empty() || is_word(verb))
}

#[cfg(test)]
mod tests {
    use schemas::access::PrincipalRole;

    use super::*;

    fn filter(role: PrincipalRole, wishes: EventWishes) -> Result<EventFilter, &'static str> {
        EventFilter::new(Principal::new("ann", role), wishes).map_err(|problem| problem.code())
    }

    fn types(text: &str) -> EventWishes {
        EventWishes { types: text.split(',').map(str::to_owned).collect(), ..EventWishes::default() }
    }

    fn prefix(text: &str) -> EventWishes {
        EventWishes { prefix: Some(text.into()), ..EventWishes::default() }
    }

    fn owner(text: &str) -> EventWishes {
        EventWishes { owner: Some(text.into()), ..EventWishes::default() }
    }

    #[test]
    fn what_can_be_no_event_is_refused() {
        let many = vec!["media.ready"; TYPES_MAX + 1].join(",");
        for wishes in [
            types(""),
            types("media"),
            types("media.ready,"),
            types("Media.ready"),
            types("media.*"),
            types(&many),
            prefix(""),
            prefix(".ready"),
            prefix("media.ready.x"),
            prefix(&"m".repeat(TYPE_LENGTH_MAX + 1)),
            owner(""),
        ] {
            assert_eq!(
                filter(PrincipalRole::Admin, wishes.clone()).err(),
                Some("query_malformed"),
                "{wishes:?}"
            );
        }
        assert_eq!(filter(PrincipalRole::Owner, owner("bob")).err(), Some("operators_only"));
        for wishes in [owner("ann"), types("media.ready,job.progress"), prefix("media."), prefix("auth.key_")]
        {
            assert!(filter(PrincipalRole::Owner, wishes).is_ok());
        }
    }

    #[test]
    fn the_narrowest_place_is_chosen_and_the_rest_judged() {
        let all = |role, wishes| filter(role, wishes).unwrap();
        let (media_id, job_id) = (MediaId::from_bytes([1; 16]), JobId::from_bytes([2; 16]));
        let of = EventWishes { media_id: Some(media_id), job_id: Some(job_id), ..EventWishes::default() };
        assert_eq!(all(PrincipalRole::Owner, of.clone()).route_key(), RouteKey::Job(job_id));
        let medium = EventWishes { job_id: None, ..of };
        assert_eq!(all(PrincipalRole::Owner, medium).route_key(), RouteKey::Medium(media_id));
        let anything = EventWishes::default;
        assert_eq!(all(PrincipalRole::Owner, anything()).route_key(), RouteKey::Owner("ann".into()));
        assert_eq!(all(PrincipalRole::Operator, anything()).route_key(), RouteKey::All);
        assert_eq!(all(PrincipalRole::Admin, owner("bob")).route_key(), RouteKey::Owner("bob".into()));
        let frame = |kind: &str, owner: Option<&str>| {
            EventFrame::new(kind, None, "{}".into()).about(owner.map(str::to_owned), Some(media_id), None)
        };
        let ready = all(PrincipalRole::Owner, types("media.ready"));
        assert!(ready.covers(&frame("media.ready", Some("ann"))));
        assert!(!ready.covers(&frame("media.ready", Some("bob"))), "of another owner");
        assert!(!ready.covers(&frame("media.ready", None)), "of the installation");
        assert!(!ready.covers(&frame("media.readyx", Some("ann"))));
        let begins = all(PrincipalRole::Operator, prefix("media."));
        assert!(
            begins.covers(&frame("media.ready", Some("bob"))) && !begins.covers(&frame("job.queued", None))
        );
    }
}
