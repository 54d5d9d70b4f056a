//! `PATCH /v1/media/{media_id}`: what of a document its owner may change.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    http::Method,
    response::Response,
};
use nats::{Bus, Outbox};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    document::{self, SegmentEncryption},
    ids::MediaId,
    value::TransactionHash,
};
use serde::Deserialize;
use serde_json::json;

use super::{MediumRecords, no_such_medium, parse_media_id};
use crate::{
    AppState,
    play::encryption,
    uploads::metadata::{
        DESCRIPTION_LENGTH_MAX, TITLE_LENGTH_MAX, TITLE_PATTERN, clean_description, clean_title,
    },
};
use auth::Principal;
use web::{
    body, conditional,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Most rounds of reading and compare-and-set of one change.
pub(super) const CHANGE_ATTEMPTS_MAX: u32 = 4;

/// What of a document its owner may change; what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MediaChange", example = json!({ "title": "A day at the sea" }))]
pub(super) struct MediaChangeRequest {
    /// Title for people: one line, of which something has to be seen.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "String", regex(pattern = TITLE_PATTERN), length(max = TITLE_LENGTH_MAX))]
    title: Option<String>,
    /// What it is about, in lines of text; null or an empty text for none.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(max = DESCRIPTION_LENGTH_MAX))]
    description: FieldUpdate<String>,
    /// The transaction that minted its token; null for none.
    #[serde(default)]
    #[schemars(with = "Option<TransactionHash>")]
    mint_tx: FieldUpdate<TransactionHash>,
    /// How segments are served: as they are stored, or for HLS with AES-128 (and without MPEG-DASH).
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "SegmentEncryption")]
    encryption: Option<SegmentEncryption>,
}

/// What is to become of something that a document may be without.
#[derive(Debug, Clone, Copy, Default)]
enum FieldUpdate<T> {
    /// It stays as it is.
    #[default]
    Kept,
    /// This takes its place; `None` takes it away.
    Given(Option<T>),
}

impl<T> FieldUpdate<T> {
    fn apply_to(self, held: Option<T>) -> Option<T> {
        match self {
            Self::Kept => held,
            Self::Given(value) => value,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FieldUpdate<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(Self::Given)
    }
}

/// A value that may be absent, but not `null`: a medium always has one.
fn deserialize_present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

pub(super) static CHANGE_MEDIA: Operation = Operation::change(
    Method::PATCH,
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
);

/// Change what one medium is called and about, which token it has, and how it is served
#[utoipa::path(
    patch,
    path = CHANGE_MEDIA.path,
    tag = "metadata",
    operation_id = "change_media",
    params(("media_id", Path), ("If-Match", Header)),
    request_body(content = ref("#/components/schemas/MediaChange"), content_type = "application/json"),
    responses((
        status = 200, description = "The document as it is now", body = ref("#/components/schemas/MediaDocument"),
        headers(("ETag")),
    )),
)]
pub(super) async fn change_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
    body::JsonBody(mut wanted): body::JsonBody<MediaChangeRequest>,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    wanted.title =
        wanted.title.as_deref().map(|title| clean_title(title).ok_or_else(invalid_title)).transpose()?;
    if let FieldUpdate::Given(Some(text)) = &wanted.description {
        let cleaned = clean_description(text).ok_or_else(invalid_description)?;
        wanted.description = FieldUpdate::Given((!cleaned.is_empty()).then_some(cleaned));
    }
    let mut attempt = 0;
    loop {
        let mut medium = load_changeable(&app.bus, media_id, &who, &headers).await?;
        attempt += 1;
        match apply_change(&app.bus, &mut medium, media_id, &wanted, &who).await {
            Ok(()) => {
                app.known.forget(media_id);
                // What the change answers is what it made, whatever the client had before.
                return Ok(medium.render_document(media_id)?.to_response(&HeaderMap::new()));
            }
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(nats::BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The medium, if `who` may change it and has seen what is there.
pub(super) async fn load_changeable(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<MediumRecords, Problem> {
    let medium = load_owned(bus, media_id, who).await?;
    conditional::check_if_match(headers, Some(medium.render_document(media_id)?.tag()))?;
    Ok(medium)
}

/// The medium, if `who` may change it.
pub(crate) async fn load_owned(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
) -> Result<MediumRecords, Problem> {
    let medium = MediumRecords::load(bus, media_id).await?;
    if !who.may_see(medium.owner()) {
        return Err(no_such_medium());
    }
    if !who.may_change(medium.owner()) {
        return Err(Problem::new(ProblemCode::NotOwner));
    }
    Ok(medium)
}

fn invalid_title() -> Problem {
    let detail = format!("it needs something to be shown, and at most {TITLE_LENGTH_MAX} characters");
    Problem::new(ProblemCode::TitleInvalid).with_pointer("/title", detail)
}

fn invalid_description() -> Problem {
    let detail = format!("at most {DESCRIPTION_LENGTH_MAX} characters are kept");
    Problem::new(ProblemCode::DescriptionInvalid).with_pointer("/description", detail)
}

/// Writes what `wanted` changes, if it changes anything.
async fn apply_change(
    bus: &Bus,
    medium: &mut MediumRecords,
    media_id: MediaId,
    wanted: &MediaChangeRequest,
    who: &Principal,
) -> Result<(), nats::BusError> {
    let changed_at_ms = nats::now_ms();
    let mut held = medium.to_document(media_id, changed_at_ms);
    let title = wanted.title.clone().unwrap_or_else(|| held.record.title.clone());
    let description = wanted.description.clone().apply_to(held.record.description.clone());
    let mint_tx = wanted.mint_tx.apply_to(held.record.mint_tx);
    let encryption = wanted.encryption.unwrap_or(held.record.encryption);
    let next =
        document::MediaDocumentRecord { title, description, mint_tx, encryption, ..held.record.clone() };
    if next == held.record {
        return Ok(());
    }
    if !encryption.is_none() {
        // Before anybody can see that there should be one.
        encryption::make_key(bus, media_id).await?;
    }
    held.record = document::MediaDocumentRecord { changed_at_ms, ..next };
    let changed = document::MediaChanged {
        media_id,
        owner: held.record.owner.clone(),
        changed_by: who.owner.clone(),
        title: held.record.title.clone(),
        description: held.record.description.clone(),
        mint_tx,
        encryption,
    };
    bus.commit_record(&mut held, Outbox::new().with_event(&changed)).await?;
    medium.document = Some(held);
    Ok(())
}
