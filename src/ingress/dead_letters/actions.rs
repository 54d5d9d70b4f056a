//! What admins do about dead letters: give them a second chance, or discard them.

use axum::{
    Json,
    extract::{Path, State},
    http::{Method, StatusCode},
};
use schemas::access::ApiKeyScope;

use super::{
    RedrivenDocument, no_such_letter, parse_sequence,
    redrive::{self, RedriveError},
    require_operator,
};
use crate::{AppState, capacity, jobs};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

pub(super) static REDRIVE_DEAD_LETTER: Operation = Operation::change(
    Method::POST,
    "/v1/dead-letters/{sequence}/redrive",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["admin.letter_changed", "media.reopened"],
)
.with_room(capacity::ENCODE);

/// Give a dead letter a second chance
///
/// Nothing is published a second time: a medium that was rejected or failed begins a new attempt, a failed encode becomes a new job,
/// and a part that was put aside is let in again. What was done since is left as it is, and what is to be asked for anew is refused with
/// `job_not_repeatable`. For admins: an operator reads only.
#[utoipa::path(
    post,
    path = REDRIVE_DEAD_LETTER.path,
    tag = "worker",
    operation_id = "redrive_dead_letter",
    params(("sequence", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 200, description = "What came of it", body = ref("#/components/schemas/DeadLetterRedriven")),
        (status = 409, description = "It can't be tried again: `code` says why"),
    ),
)]
pub(super) async fn redrive_dead_letter(
    State(app): State<AppState>,
    Path(sequence): Path<String>,
    who: Principal,
) -> Result<Json<RedrivenDocument>, Problem> {
    require_operator(&who)?;
    let sequence = parse_sequence(&sequence)?;
    match redrive::redrive_letter(&app.bus, &app.store, sequence, &who.owner).await {
        Ok(outcome) => Ok(Json(RedrivenDocument::new(sequence, outcome))),
        Err(error) => Err(explain_failure(error)),
    }
}

pub(super) static DISCARD_DEAD_LETTER: Operation = Operation::change(
    Method::POST,
    "/v1/dead-letters/{sequence}/discard",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
    &["admin.letter_changed"],
);

/// Discard a dead letter
///
/// It is kept and can be read, but waits for nobody any more: no alert counts it. Discarding it twice is no error, and it can still be
/// given a second chance. For admins: an operator reads only.
#[utoipa::path(
    post,
    path = DISCARD_DEAD_LETTER.path,
    tag = "worker",
    operation_id = "discard_dead_letter",
    params(("sequence", Path), ("Idempotency-Key", Header)),
    responses((status = 204, description = "It is discarded")),
)]
pub(super) async fn discard_dead_letter(
    State(app): State<AppState>,
    Path(sequence): Path<String>,
    who: Principal,
) -> Result<StatusCode, Problem> {
    require_operator(&who)?;
    let sequence = parse_sequence(&sequence)?;
    // Without a time limit of its own: its event must follow the mark.
    if redrive::discard_letter(&app.bus, sequence, &who.owner).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_letter())
    }
}

fn explain_failure(error: RedriveError) -> Problem {
    match error {
        RedriveError::Bus(error) => error.into(),
        RedriveError::NextEncode(error) => jobs::explain_encode_failure(error),
        RedriveError::Unreadable => Problem::new(ProblemCode::LetterUnreadable),
        RedriveError::UnknownLetter(_) => no_such_letter(),
        RedriveError::UnknownJob(_) => Problem::not_found("its job is not there any more"),
        RedriveError::Cancelled(_) => Problem::new(ProblemCode::JobEnded).with_detail("it was cancelled"),
        RedriveError::NotRepeatable(instead) => jobs::not_repeatable(instead),
    }
}
