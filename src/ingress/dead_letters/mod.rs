//! Messages that were given up: operators list and read them, admins give them a second chance or discard them.
//!
//! Limits: a page holds at most [`index_query::ITEMS_MAX`] letters, and looks at no more than
//! [`nats::dead_letter::SCANNED_LETTERS_MAX`]; reading takes at most [`READ_TIME_MAX`].

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use nats::dead_letter::DeadLetter;
use schemars::JsonSchema;
use schemas::{access::ApiKeyScope, index_query};
use serde::Deserialize;

use super::{AppState, media, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    query::QueryParameters,
};

mod actions;
mod document;
pub mod redrive;

pub use document::{DeadLetterDetail, DeadLetterDocument, DeadLetterState, RedrivenDocument};

/// How long reading letters may take.
pub const READ_TIME_MAX: Duration = Duration::from_secs(10);

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&LIST_DEAD_LETTERS, list_dead_letters)
        .with(&READ_DEAD_LETTER, read_dead_letter)
        .with(&actions::REDRIVE_DEAD_LETTER, actions::redrive_dead_letter)
        .with(&actions::DISCARD_DEAD_LETTER, actions::discard_dead_letter)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_dead_letters,
    read_dead_letter,
    actions::redrive_dead_letter,
    actions::discard_dead_letter
))]
pub(super) struct DeadLettersApiDoc;

impl openapi::OperationGroup for DeadLettersApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<document::DeadLetterList>();
        schemas.add_response::<DeadLetterDetail>();
        schemas.add_response::<RedrivenDocument>();
    }
}

/// Which letters to list.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
struct DeadLetterQuery {
    /// Only letters of this stage, such as `transcode`.
    stage: Option<String>,
    /// Only letters that stand there.
    state: Option<DeadLetterState>,
    /// `next_after` of the page before, with the same filters.
    after: Option<u64>,
    /// Most items; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
}

openapi::query_parameters!(DeadLetterQuery);

static LIST_DEAD_LETTERS: Operation = Operation::read(
    "/v1/dead-letters",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// List dead letters, oldest first
///
/// Messages that a stage gave up, with why; they are kept for as long as events. A page that ends early, also without items, says in
/// `next_after` where to go on. For operators and admins.
#[utoipa::path(
    get,
    path = LIST_DEAD_LETTERS.path,
    tag = "worker",
    operation_id = "list_dead_letters",
    params(DeadLetterQuery),
    responses((status = 200, description = "A page", body = ref("#/components/schemas/DeadLetterList"))),
)]
async fn list_dead_letters(
    State(app): State<AppState>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<DeadLetterQuery>,
) -> Result<Json<document::DeadLetterList>, Problem> {
    require_operator(&who)?;
    let limit = media::parse_page_limit(wanted.limit)?;
    let is_wanted = |letter: &DeadLetter| {
        wanted.stage.as_ref().is_none_or(|stage| *stage == letter.stage)
            && wanted.state.is_none_or(|state| state == DeadLetterState::of(letter))
    };
    let reading = app.bus.dead_letters(wanted.after.unwrap_or(0), limit as usize, is_wanted);
    let page = in_time(reading).await?;
    Ok(Json(document::DeadLetterList {
        items: page.letters.iter().map(DeadLetterDocument::new).collect(),
        next_after: page.next_after,
    }))
}

static READ_DEAD_LETTER: Operation = Operation::read(
    "/v1/dead-letters/{sequence}",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// Read a dead letter
///
/// With the message as it was: `payload`, or `payload_base64` when it can't be read, which may be why it lies here. For operators and
/// admins.
#[utoipa::path(
    get,
    path = READ_DEAD_LETTER.path,
    tag = "worker",
    operation_id = "read_dead_letter",
    params(("sequence", Path)),
    responses((status = 200, description = "The letter", body = ref("#/components/schemas/DeadLetterDetail"))),
)]
async fn read_dead_letter(
    State(app): State<AppState>,
    Path(sequence): Path<String>,
    who: Principal,
) -> Result<Json<DeadLetterDetail>, Problem> {
    require_operator(&who)?;
    let sequence = parse_sequence(&sequence)?;
    let letter = in_time(app.bus.dead_letter(sequence)).await?.ok_or_else(no_such_letter)?;
    Ok(Json(DeadLetterDetail::new(&letter)))
}

fn require_operator(who: &Principal) -> Result<(), Problem> {
    who.require_operator("dead letters are about everybody")
}

async fn in_time<T>(reading: impl Future<Output = Result<T, nats::BusError>>) -> Result<T, Problem> {
    let read = tokio::time::timeout(READ_TIME_MAX, reading).await;
    Ok(read.map_err(|error| Problem::unavailable(&error))??)
}

fn parse_sequence(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| no_such_letter())
}

fn no_such_letter() -> Problem {
    Problem::not_found("there is no such dead letter; `GET /v1/dead-letters` lists them")
}

#[cfg(test)]
pub(crate) mod tests;
