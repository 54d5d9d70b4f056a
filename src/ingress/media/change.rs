//! `PATCH /v1/media/{media_id}`: what of a document its owner may change.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    http::Method,
    response::Response,
};
use gate::rule::compile_rule;
use nats::Outbox;
use nats::metrics::{labels::MetadataWrite, table::METADATA_WRITES};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    chapters::CHAPTERS_MAX,
    document::{self, DownloadPolicy, MediaVisibility, SegmentEncryption},
    gate::GateRule,
    media_details::{self, MediaDetails},
    value::{EmailAddress, TransactionHash},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    chapters::{ChapterDocument, clean_chapters},
    commit::{CHANGE_ATTEMPTS_MAX, commit_change, load_changeable},
    details::{self, MediaLinkRequest},
    parse_media_id,
};
use crate::{
    AppState, gates,
    uploads::metadata::{
        DESCRIPTION_LENGTH_MAX, TITLE_LENGTH_MAX, TITLE_PATTERN, clean_description, clean_title,
    },
};
use auth::Principal;
use web::{
    body::{self, deserialize_present},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// What of a document its owner may change; what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MediaChange", example = json!({ "title": "A day at the sea" }))]
pub(crate) struct MediaChangeRequest {
    /// Title for people: one line, of which something has to be seen.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "String", regex(pattern = TITLE_PATTERN), length(max = TITLE_LENGTH_MAX))]
    pub(crate) title: Option<String>,
    /// What it is about, in lines of text; null or an empty text for none.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(max = DESCRIPTION_LENGTH_MAX))]
    pub(crate) description: FieldUpdate<String>,
    /// Words under which it is found; null for none. Each is kept once, whatever its case.
    #[serde(default)]
    #[schemars(
        with = "Option<Vec<String>>",
        length(max = media_details::TAGS_MAX),
        inner(regex(pattern = TITLE_PATTERN), length(max = media_details::TAG_LENGTH_MAX)),
    )]
    pub(crate) tags: FieldUpdate<Vec<String>>,
    /// The language that it is about or spoken in, as RFC 5646 names it (`de`, `pt-BR`); null for none.
    #[serde(default)]
    #[schemars(
        with = "Option<String>",
        length(max = media_details::LANGUAGE_BYTES_MAX),
        extend("format" = "language-tag"),
    )]
    pub(crate) language: FieldUpdate<String>,
    /// Addresses that belong to it; null for none.
    #[serde(default)]
    #[schemars(with = "Option<Vec<MediaLinkRequest>>", length(max = media_details::LINKS_MAX))]
    pub(crate) links: FieldUpdate<Vec<MediaLinkRequest>>,
    /// Whom to ask about it: shown to those who may read this document, and in no event; null for nobody.
    #[serde(default)]
    #[schemars(with = "Option<EmailAddress>")]
    pub(crate) contact_email: FieldUpdate<EmailAddress>,
    /// Whatever one's own programs keep of it, merged with what is there (RFC 7396): null removes a member, or all of them. At most
    /// 4,096 bytes of JSON with four levels.
    #[serde(default)]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(crate) attributes: FieldUpdate<Map<String, Value>>,
    /// The transaction that minted its token; null for none.
    #[serde(default)]
    #[schemars(with = "Option<TransactionHash>")]
    pub(crate) mint_tx: FieldUpdate<TransactionHash>,
    /// Who plays it: everybody (`public`, or `unlisted`: no list for visitors shows it), or its owner alone (`private`); each of these takes
    /// the place of a rule. `gated` keeps the rule that there is: `PUT /v1/media/{media_id}/gate` sets one. Needs the scope `gate`.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "MediaVisibility")]
    pub(crate) visibility: Option<MediaVisibility>,
    /// How segments are served: as they are stored, or for HLS with AES-128 (and without MPEG-DASH).
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "SegmentEncryption")]
    pub(crate) encryption: Option<SegmentEncryption>,
    /// Who may have it as an MP4 file: its owner alone, or all who may play it. A medium with encrypted segments only its owner may.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "DownloadPolicy")]
    pub(crate) downloads: Option<DownloadPolicy>,
    /// Its chapters in order of time, the first at 0. An empty list for none; null for those that the file names.
    #[serde(default)]
    #[schemars(with = "Option<Vec<ChapterDocument>>", length(max = CHAPTERS_MAX))]
    pub(crate) chapters: FieldUpdate<Vec<ChapterDocument>>,
}

/// What is to become of something that a document may be without.
#[derive(Debug, Clone, Default)]
pub(crate) enum FieldUpdate<T> {
    /// It stays as it is.
    #[default]
    Kept,
    /// This takes its place; `None` takes it away.
    Given(Option<T>),
}

impl<T> FieldUpdate<T> {
    /// What becomes of what a document has: what is given is made into its form by `clean`.
    ///
    /// # Errors
    /// What `clean` refuses.
    fn apply_to<R: Clone>(
        &self,
        held: Option<&R>,
        clean: impl FnOnce(&T) -> Result<R, Problem>,
    ) -> Result<Option<R>, Problem> {
        match self {
            Self::Kept => Ok(held.cloned()),
            Self::Given(value) => value.as_ref().map(clean).transpose(),
        }
    }

    /// The same of what is empty where nothing is said.
    ///
    /// # Errors
    /// What `clean` refuses.
    fn apply_or_empty<R: Clone + Default>(
        &self,
        held: &R,
        clean: impl FnOnce(&T) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        Ok(self.apply_to(Some(held), clean)?.unwrap_or_default())
    }
}

impl MediaChangeRequest {
    /// The document with what is to be changed, of a medium that lasts so many milliseconds; 0 before that is known.
    ///
    /// # Errors
    /// What of it can't be used, with a pointer to it.
    pub(crate) fn apply_to(
        &self,
        held: &document::MediaDocumentRecord,
        duration_ms: u64,
    ) -> Result<document::MediaDocumentRecord, Problem> {
        let title = self.title.as_deref().map(|title| clean_title(title).ok_or_else(invalid_title));
        let description = self.description.apply_to(held.description.as_ref(), |text| {
            clean_description(text).ok_or_else(invalid_description)
        })?;
        let said = &held.details;
        let details = MediaDetails {
            tags: self.tags.apply_or_empty(&said.tags, |tags| details::clean_tags(tags))?,
            language: self.language.apply_to(said.language.as_ref(), |text| details::clean_language(text))?,
            links: self.links.apply_or_empty(&said.links, |links| details::clean_links(links))?,
            contact_email: self
                .contact_email
                .apply_to(said.contact_email.as_ref(), |email| Ok(email.clone()))?,
            attributes: self.attributes.apply_or_empty(&said.attributes, |patch| {
                details::merge_attributes(&said.attributes, patch)
            })?,
        };
        Ok(document::MediaDocumentRecord {
            title: title.transpose()?.unwrap_or_else(|| held.title.clone()),
            description: description.filter(|text| !text.is_empty()),
            details,
            mint_tx: self.mint_tx.apply_to(held.mint_tx.as_ref(), |hash| Ok(*hash))?,
            encryption: self.encryption.unwrap_or(held.encryption),
            downloads: self.downloads.unwrap_or(held.downloads),
            chapters: self
                .chapters
                .apply_to(held.chapters.as_ref(), |chapters| clean_chapters(chapters, duration_ms))?,
            ..held.clone()
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FieldUpdate<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(Self::Given)
    }
}

pub(super) static CHANGE_MEDIA: Operation = Operation::change(
    Method::PATCH,
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed", "gate.changed"],
);

/// Change what is said about one medium: title, description, tags, language, links, contact, attributes, token, chapters, who plays it, how it is served, and who may download it
#[utoipa::path(
    patch,
    path = CHANGE_MEDIA.path,
    tag = "metadata",
    operation_id = "change_media",
    params(("media_id", Path), ("If-Match", Header)),
    request_body(content = ref("#/components/schemas/MediaChange"), content_type = "application/json"),
    responses(
        (status = 200, description = "The document as it is now", body = ref("#/components/schemas/MediaDocument"), headers(("ETag"))),
        (status = 410, description = "It was removed, and can be restored for a time"),
        (status = 422, description = "It has no rule that could be kept: `gated` is said by setting one; or its chapters are none of it"),
    ),
)]
pub(super) async fn change_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
    body::JsonBody(wanted): body::JsonBody<MediaChangeRequest>,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let mut attempt = 0;
    loop {
        let mut medium = load_changeable(&app.bus, media_id, &who, &headers).await?;
        attempt += 1;
        let held = medium.to_document(media_id, nats::now_ms());
        let next = wanted.apply_to(&held.record, medium.duration_ms())?;
        let (next, outbox) = apply_visibility(next, wanted.visibility, &who)?;
        match commit_change(&app.bus, &mut medium, held, (next, outbox), &who).await {
            Ok(()) => {
                METADATA_WRITES.increment(MetadataWrite::Change);
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

/// The document with the gate that a visibility stands for, and the event of its change.
///
/// # Errors
/// 403 without the right to change gates; 422 for `gated` where there is no rule.
fn apply_visibility(
    document: document::MediaDocumentRecord,
    wanted: Option<MediaVisibility>,
    who: &Principal,
) -> Result<(document::MediaDocumentRecord, Outbox), Problem> {
    let Some(wanted) = wanted.filter(|wanted| *wanted != document.visibility()) else {
        return Ok((document, Outbox::new()));
    };
    if who.scopes.as_ref().is_some_and(|scopes| !scopes.contains(&ApiKeyScope::Gate)) {
        return Err(
            Problem::new(ProblemCode::ScopeMissing).with_detail("`visibility` needs the scope `gate`")
        );
    }
    let rule = match wanted {
        MediaVisibility::Public | MediaVisibility::Unlisted => {
            Some(compile_rule(&GateRule::Public {}).map_err(|error| Problem::internal(&error))?)
        }
        MediaVisibility::Private => None,
        MediaVisibility::Gated => {
            let detail = "there is no rule yet: PUT /v1/media/{media_id}/gate sets one";
            return Err(Problem::new(ProblemCode::RuleInvalid).with_pointer("/visibility", detail));
        }
    };
    let document =
        document::MediaDocumentRecord { is_unlisted: wanted == MediaVisibility::Unlisted, ..document };
    Ok(gates::next_document(&document, rule.as_ref(), &who.owner).unwrap_or((document, Outbox::new())))
}

fn invalid_title() -> Problem {
    let detail = format!("it needs something to be shown, and at most {TITLE_LENGTH_MAX} characters");
    Problem::new(ProblemCode::TitleInvalid).with_pointer("/title", detail)
}

fn invalid_description() -> Problem {
    let detail = format!("at most {DESCRIPTION_LENGTH_MAX} characters are kept");
    Problem::new(ProblemCode::DescriptionInvalid).with_pointer("/description", detail)
}
