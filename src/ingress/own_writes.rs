//! Who changed something through this replica a moment ago: their lists and searches of media wait until the index has what is stored by
//! then, so that nobody misses what they just did.
//!
//! Limits: [`OWNERS_MAX`] principals, each for [`KEPT_MAX`]; where there are more, the newest are not known. An index that does not come so
//! far in the time that it waits is asked again for what it has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use nats::Bus;
use parking_lot::Mutex;
use schemas::{KvRecord as _, document::MediaDocumentRecord};

use crate::AppState;
use web::{error::Problem, problem_code::ProblemCode, request::RequestOwner};

/// Most principals that are known.
const OWNERS_MAX: usize = 10_000;

/// How long a change is known: far longer than the index needs.
const KEPT_MAX: Duration = Duration::from_secs(10);

/// When each principal changed something last.
#[derive(Debug, Default)]
pub(crate) struct OwnWrites(Mutex<HashMap<String, Instant>>);

impl OwnWrites {
    fn note(&self, owner: String, now: Instant) {
        let mut changed = self.0.lock();
        if changed.len() >= OWNERS_MAX && !changed.contains_key(&owner) {
            changed.retain(|_, at| now.duration_since(*at) < KEPT_MAX);
            if changed.len() >= OWNERS_MAX {
                return;
            }
        }
        changed.insert(owner, now);
    }

    fn is_known(&self, owner: &str, now: Instant) -> bool {
        self.0.lock().get(owner).is_some_and(|at| now.duration_since(*at) < KEPT_MAX)
    }

    /// What the index has to have seen before it answers `owner`: what was `asked` for, else what is stored now where `owner` changed
    /// something a moment ago; `None` for whatever it has.
    pub(crate) async fn find_revision(&self, bus: &Bus, owner: &str, asked: Option<u64>) -> Option<u64> {
        if asked.is_some() || !self.is_known(owner, Instant::now()) {
            return asked;
        }
        match bus.last_revision(MediaDocumentRecord::BUCKET).await {
            Ok(revision) => Some(revision),
            Err(error) => {
                tracing::debug!(%error, "a list does not wait for the newest change");
                None
            }
        }
    }
}

/// True when an index does not come so far in time, or knows of no such revision: it is asked again for what it has, unless a revision
/// was asked for.
pub(crate) fn is_index_behind<T>(answered: &Result<T, Problem>) -> bool {
    let codes = [ProblemCode::IndexBehind, ProblemCode::RevisionUnknown].map(ProblemCode::code);
    answered.as_ref().err().is_some_and(|problem| codes.contains(&problem.code()))
}

/// Notes whose request changed something. Stands behind authentication.
pub(crate) async fn note_change(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let is_change = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let owner = request.extensions().get::<RequestOwner>().filter(|_| is_change);
    let owner = owner.map(|owner| owner.0.clone());
    let response = next.run(request).await;
    if let Some(owner) = owner.filter(|_| response.status().is_success()) {
        app.own_writes.note(owner, Instant::now());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changed_something_is_known_for_a_while() {
        let (own, now) = (OwnWrites::default(), Instant::now());
        own.note("ann".into(), now);
        assert!(own.is_known("ann", now) && !own.is_known("bo", now));
        assert!(!own.is_known("ann", now + KEPT_MAX));
        for number in 0..OWNERS_MAX * 2 {
            own.note(number.to_string(), now);
        }
        assert_eq!(own.0.lock().len(), OWNERS_MAX);
        own.note("cy".into(), now + KEPT_MAX);
        assert!(own.is_known("cy", now + KEPT_MAX), "those of before make room");
    }
}
