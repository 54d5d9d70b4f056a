//! Media as documents: one by id from KV, or from memory while its changes are received, so that one's own writes are always seen; lists
//! from the index.
//!
//! Limits: a page has at most [`index_query::ITEMS_MAX`] items; the index has [`INDEX_WAIT`](crate::index_client::INDEX_WAIT) to answer.

mod captions;
mod change;
mod chapters;
mod commit;
mod config;
mod details;
mod experience;
mod known_documents;
pub(crate) use change::{FieldUpdate, MediaChangeRequest};
pub(crate) use commit::load_owned;
pub use config::MediaConfig;
pub(crate) use details::MediaLinkRequest;
pub use known_documents::KnownDocuments;
mod poster;
mod remove;
mod restore;
mod search;

use std::collections::BTreeSet;

use axum::{
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, header},
    response::Response,
};
use bytes::Bytes;
use nats::Bus;
use nats::metrics::{labels::MetadataRead, table::METADATA_READS};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    chapters::Chapter,
    document::{self, DownloadPolicy, MediaVisibility, SegmentEncryption},
    ids::{JobId, MediaId, UploadId},
    index_query::{self, MediaIndexItem, MediaIndexPage, MediaIndexQuery},
    media::{self, EncodedRendition, EncodedSubtitles, MediaSummary, MediaWarning, TechnicalMetadata},
    media_details::MediaLink,
    value::{EmailAddress, TransactionHash},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value, json};

use self::{captions::CaptionDocument, chapters::ChapterDocument, poster::PosterDocument};
use super::{AppState, index_client::query_index, openapi, own_writes::is_index_behind};
use auth::Principal;
use web::{
    cursor::CursorSealer,
    error::Problem,
    json_document,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    page::ListPage,
    problem_code::ProblemCode,
    public_address::PublicAddress,
    query::QueryParameters,
};

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&LIST_MEDIA, list_media)
        .with(&search::SEARCH_MEDIA, search::search_media)
        .with(&READ_MEDIA, read_media)
        .with(&change::CHANGE_MEDIA, change::change_media)
        .with(&remove::REMOVE_MEDIA, remove::remove_media)
        .with(&restore::RESTORE_MEDIA, restore::restore_media)
        .with(&experience::READ_EXPERIENCE, experience::read_experience)
        .with(&captions::LIST_CAPTIONS, captions::list_captions)
        .with(&captions::READ_CAPTIONS, captions::read_captions)
        .with(&captions::PUT_CAPTIONS, captions::put_captions)
        .with(&captions::REMOVE_CAPTIONS, captions::remove_captions)
        .with(&poster::SET_POSTER, poster::set_poster)
        .with(&poster::REMOVE_POSTER, poster::remove_poster)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_media,
    search::search_media,
    read_media,
    change::change_media,
    remove::remove_media,
    restore::restore_media,
    experience::read_experience,
    captions::list_captions,
    captions::read_captions,
    captions::put_captions,
    captions::remove_captions,
    poster::set_poster,
    poster::remove_poster
))]
pub(super) struct MediaApiDoc;

impl openapi::OperationGroup for MediaApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<ListPage<MediaIndexItem>>();
        schemas.add_response::<search::MediaSearchDocument>();
        schemas.add_response::<MediaDocument<'_>>();
        schemas.add_request::<change::MediaChangeRequest>();
        schemas.add_response::<captions::CaptionListDocument>();
        schemas.add_response::<experience::ExperienceDocument>();
        schemas.add_request::<poster::PosterChoiceRequest>();
    }
}

/// Which media to list.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
struct MediaListQuery {
    /// Only media that stand there.
    status: Option<media::MediaStatus>,
    /// Media that were removed and can be restored, those removed last first.
    #[serde(default)]
    removed: bool,
    /// Only these media: at most 100 ids, with commas between them. Those that there are not, or that are not yours, are left out.
    #[serde(default, deserialize_with = "deserialize_ids")]
    #[schemars(with = "Option<String>", regex(pattern = MEDIA_IDS))]
    ids: Option<BTreeSet<MediaId>>,
    /// `next_cursor` of the page before, with the same filters.
    cursor: Option<String>,
    /// Most items; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
    /// Answer only once the index has seen this revision, which an earlier answer told.
    min_revision: Option<u64>,
}

openapi::query_parameters!(MediaListQuery);

/// How a list of ids is written, each as [`schemas::ids::PATTERN`] says.
const MEDIA_IDS: &str = "^[0-9a-v]{25}[048cgkos](,[0-9a-v]{25}[048cgkos]){0,99}$";

fn deserialize_ids<'de, D: Deserializer<'de>>(text: D) -> Result<Option<BTreeSet<MediaId>>, D::Error> {
    let text = String::deserialize(text)?;
    if text.split(',').count() > index_query::IDS_MAX {
        return Err(D::Error::custom(format!("more than {} ids", index_query::IDS_MAX)));
    }
    text.split(',').map(|id| id.parse().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Some)
}

static LIST_MEDIA: Operation = Operation::read(
    "/v1/media",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// List media, newest first
///
/// An owner sees its own; operators and admins see everybody's.
#[utoipa::path(
    get,
    path = LIST_MEDIA.path,
    tag = "metadata",
    operation_id = "list_media",
    params(MediaListQuery),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/MediaItemPage"), headers(("Link"))),
        (status = 409, description = "There is no such revision yet"),
    ),
)]
async fn list_media(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<MediaListQuery>,
) -> Result<Response, Problem> {
    METADATA_READS.increment(MetadataRead::List);
    let owner = who.list_owner_filter();
    let cursors = CursorSealer::new(
        &app.signing_key,
        index_query::MEDIA,
        &(&owner, wanted.status, wanted.removed, &wanted.ids),
    )?;
    let mut question = MediaIndexQuery {
        owner,
        status: wanted.status,
        removed: wanted.removed,
        ids: wanted.ids.into_iter().flatten().collect(),
        cursor: wanted.cursor.map(|cursor| cursors.open(&cursor)).transpose()?,
        limit: parse_page_limit(wanted.limit)?,
        min_revision: app.own_writes.find_revision(&app.bus, &who.owner, wanted.min_revision).await,
    };
    let mut page = query_index::<_, MediaIndexPage>(&app.bus, index_query::MEDIA, &question).await;
    if is_index_behind(&page) && wanted.min_revision.is_none() {
        question.min_revision = None;
        page = query_index(&app.bus, index_query::MEDIA, &question).await;
    }
    let mut page = page?;
    if !question.ids.is_empty() {
        // An index of before `ids` lists all.
        page.items.retain(|item| question.ids.contains(&item.media_id));
    }
    let next_cursor = page.next.map(|position| cursors.seal(&position));
    Ok(ListPage { items: page.items, next_cursor, revision: page.revision }
        .into_list_response(&address, &uri))
}

/// Items of a page; 50 unless said otherwise.
pub(super) fn parse_page_limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted {
        None => Ok(50),
        Some(limit) if (1..=index_query::ITEMS_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::new(ProblemCode::QueryMalformed)
            .with_detail(format!("limit={limit} is not between 1 and {}", index_query::ITEMS_MAX))),
    }
}

/// What is known of one medium, from its owner's document and from the stages.
#[derive(Debug, Clone)]
pub(super) struct MediumRecords {
    pub(super) document: Option<nats::VersionedRecord<document::MediaDocumentRecord>>,
    pub(super) asset: Option<nats::VersionedRecord<media::MediaRecord>>,
}

impl MediumRecords {
    /// Loads both records; 404 when there is neither, or the medium was removed.
    pub(super) async fn load(bus: &Bus, media_id: MediaId) -> Result<Self, Problem> {
        let medium = Self::load_with_removed(bus, media_id).await?;
        if medium.removed_document().is_some() {
            return Err(no_such_medium());
        }
        Ok(medium)
    }

    /// Loads both records for a principal; 404 when it may not see them, or the medium is gone for good, 410 while it can be restored.
    async fn load_for(bus: &Bus, media_id: MediaId, who: &Principal) -> Result<Self, Problem> {
        let medium = Self::load_with_removed(bus, media_id).await?;
        if !who.may_see(medium.owner()) {
            return Err(no_such_medium());
        }
        match medium.removed_document() {
            None => Ok(medium),
            Some(removed) if removed.is_restorable => {
                let detail = format!("it can be restored for a time: POST /v1/media/{media_id}/restore");
                Err(Problem::new(ProblemCode::MediaRemoved).with_detail(detail))
            }
            Some(_) => Err(no_such_medium()),
        }
    }

    /// Loads both records, also of a removed medium; 404 when there is neither.
    async fn load_with_removed(bus: &Bus, media_id: MediaId) -> Result<Self, Problem> {
        let key = media_id.to_string();
        let (document, asset) = tokio::try_join!(
            bus.load_with_tombstone::<document::MediaDocumentRecord>(&key),
            bus.load_record(&key)
        )?;
        if document.is_none() && asset.is_none() {
            return Err(no_such_medium());
        }
        Ok(Self { document, asset })
    }

    /// Whether `who` may change the medium; 404 where it may not see it.
    fn require_changeable(&self, who: &Principal) -> Result<(), Problem> {
        if !who.may_see(self.owner()) {
            return Err(no_such_medium());
        }
        if !who.may_change(self.owner()) {
            return Err(Problem::new(ProblemCode::NotOwner));
        }
        Ok(())
    }

    /// The document, if the medium is removed.
    fn removed_document(&self) -> Option<&document::MediaDocumentRecord> {
        self.document.as_ref().map(|held| &held.record).filter(|document| document.is_removed())
    }

    /// The owner's document; the first one where until now only the stages know of the medium.
    fn to_document(
        &self,
        media_id: MediaId,
        now_ms: u64,
    ) -> nats::VersionedRecord<document::MediaDocumentRecord> {
        self.document.clone().unwrap_or_else(|| {
            nats::VersionedRecord::new(document::MediaDocumentRecord {
                changed_at_ms: now_ms,
                ..document::MediaDocumentRecord::new(
                    media_id,
                    self.owner().to_owned(),
                    self.asset.as_ref().map_or(now_ms, |held| held.record.created_at_ms),
                )
            })
        })
    }

    pub(super) fn owner(&self) -> &str {
        let document = self.document.as_ref().map(|held| held.record.owner.as_str());
        document.or_else(|| self.asset.as_ref().map(|held| held.record.owner.as_str())).unwrap_or_default()
    }

    /// Duration of the source in milliseconds; 0 before it is known.
    pub(super) fn duration_ms(&self) -> u64 {
        let technical = self.asset.as_ref().and_then(|held| held.record.technical.as_ref());
        technical.map_or(0, |technical| technical.duration_ms)
    }

    pub(super) fn status(&self) -> media::MediaStatus {
        self.asset.as_ref().map_or(media::MediaStatus::Uploading, |held| held.record.status)
    }

    /// Its title; `None` until somebody gave it one.
    pub(super) fn title(&self) -> Option<&str> {
        let title = self.document.as_ref().map(|held| held.record.title.as_str());
        title.filter(|title| !title.is_empty())
    }

    pub(super) fn description(&self) -> Option<&str> {
        self.document.as_ref().and_then(|held| held.record.description.as_deref())
    }

    pub(super) fn encryption(&self) -> SegmentEncryption {
        self.document.as_ref().map(|held| held.record.encryption).unwrap_or_default()
    }

    pub(super) fn downloads(&self) -> DownloadPolicy {
        self.document.as_ref().map(|held| held.record.downloads).unwrap_or_default()
    }

    /// Its chapters: as its owner set them, else as the file names them.
    pub(super) fn chapters(&self) -> Option<&[Chapter]> {
        let document = self.document.as_ref().map(|held| &held.record);
        document::choose_chapters(document, self.asset.as_ref().map(|held| &held.record))
    }

    fn render_document(&self, media_id: MediaId) -> Result<json_document::JsonDocument, Problem> {
        let document = self.document.as_ref().map(|held| &held.record);
        let details = document.map(|d| &d.details);
        let asset = self.asset.as_ref().map(|held| &held.record);
        let created = document.map(|d| d.created_at_ms).or_else(|| asset.map(|a| a.created_at_ms));
        let changed = document.map(|d| d.changed_at_ms).max(asset.map(|a| a.changed_at_ms));
        json_document::JsonDocument::new(&MediaDocument {
            media_id,
            owner: self.owner(),
            upload_id: document.and_then(|d| d.upload_id),
            title: document.map(|d| d.title.as_str()),
            description: self.description(),
            tags: details.map_or(&[] as &[String], |said| &said.tags),
            language: details.and_then(|said| said.language.as_deref()),
            links: details.map_or(&[] as &[MediaLink], |said| &said.links),
            contact_email: details.and_then(|said| said.contact_email.as_ref()),
            attributes: details.map(|said| &said.attributes).filter(|attributes| !attributes.is_empty()),
            mint_tx: document.and_then(|d| d.mint_tx),
            visibility: document.map_or(MediaVisibility::Private, document::MediaDocumentRecord::visibility),
            encryption: self.encryption(),
            downloads: self.downloads(),
            captions: document.into_iter().flat_map(|d| &d.captions).map(CaptionDocument::of_track).collect(),
            chapters: self.chapters().map(|chapters| chapters.iter().map(ChapterDocument::new).collect()),
            poster: document.and_then(|d| d.poster.as_ref()).map(PosterDocument::new),
            status: self.status(),
            code: asset.and_then(|a| a.code.as_deref()),
            detail: asset.and_then(|a| a.detail.as_deref()),
            waiting: asset.and_then(|a| a.waiting.as_ref()),
            source: asset
                .and_then(|a| a.source.as_ref())
                .map(|s| MediaSourceDocument { size_bytes: s.size_bytes, sha256: &s.sha256 }),
            technical: asset.and_then(|a| a.technical.as_ref()),
            summary: asset.and_then(|a| a.summary.as_ref()),
            encode: asset.and_then(|a| a.encode.as_ref()).map(|e| MediaEncodeDocument {
                number: e.number,
                job_id: e.job_id,
                duration_ms: e.duration_ms,
                renditions: &e.renditions,
                subtitles: &e.subtitles,
                has_poster: e.has_poster,
                has_storyboard: e.has_storyboard,
                warnings: &e.warnings,
            }),
            created_at_ms: created.unwrap_or_default(),
            changed_at_ms: changed.unwrap_or_default(),
        })
    }
}

/// One medium as its owner sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaDocument", example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "owner": "admin", "title": "A day at the sea", "mint_tx": null, "visibility": "private", "encryption": "none", "downloads": "none", "status": "stored",
    "code": null, "detail": null, "source": { "size_bytes": 1_048_576, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" },
    "technical": null, "summary": null, "encode": null, "created_at_ms": 1_763_900_814_467_u64, "changed_at_ms": 1_763_900_814_467_u64,
}))]
struct MediaDocument<'a> {
    /// The medium.
    media_id: MediaId,
    /// Its owner.
    owner: &'a str,
    /// The upload that brings its bytes, or brought them: its status says how many are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_id: Option<UploadId>,
    /// Title for people.
    title: Option<&'a str>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// Words under which it is found.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    /// The language that it is about or spoken in: a tag of RFC 5646.
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
    /// Addresses that belong to it.
    #[serde(skip_serializing_if = "<[MediaLink]>::is_empty")]
    links: &'a [MediaLink],
    /// Whom to ask about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    contact_email: Option<&'a EmailAddress>,
    /// What the owner's own programs keep of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a Map<String, Value>>,
    /// The transaction that minted its token, if somebody named one.
    mint_tx: Option<TransactionHash>,
    /// Who may play it; by which rule is said by its gate.
    visibility: MediaVisibility,
    /// How its segments are served.
    encryption: SegmentEncryption,
    /// Who may have it as a file.
    downloads: DownloadPolicy,
    /// Texts that its owner brought; those of the file are `subtitles` of its encode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    captions: Vec<CaptionDocument>,
    /// Its chapters, in order of time: as its owner set them, else as the file names them. Absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    chapters: Option<Vec<ChapterDocument>>,
    /// The poster that its owner chose; absent where it is that of the encode.
    #[serde(skip_serializing_if = "Option::is_none")]
    poster: Option<PosterDocument>,
    /// Where it stands.
    status: media::MediaStatus,
    /// Why it was rejected or failed: a stable code.
    code: Option<&'a str>,
    /// The same for people.
    detail: Option<&'a str>,
    /// What its work waits for while something is away; absent while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<&'a media::MediaWaitReason>,
    /// The verified source.
    source: Option<MediaSourceDocument<'a>>,
    /// What the probe found in it.
    technical: Option<&'a TechnicalMetadata>,
    /// The same as lists show it.
    summary: Option<&'a MediaSummary>,
    /// The encode that plays or is being made.
    encode: Option<MediaEncodeDocument<'a>>,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Unix time in milliseconds.
    changed_at_ms: u64,
}

/// The verified source.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaSource")]
struct MediaSourceDocument<'a> {
    /// Size in bytes.
    size_bytes: u64,
    /// SHA-256 in lower-case hex.
    sha256: &'a str,
}

/// The encode that plays or is being made.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaEncode")]
struct MediaEncodeDocument<'a> {
    /// Number of the encode, from 1.
    number: u32,
    /// The job that makes it.
    job_id: JobId,
    /// Duration in milliseconds.
    duration_ms: u64,
    /// Renditions, once final.
    renditions: &'a [EncodedRendition],
    /// Subtitles, once final.
    subtitles: &'a [EncodedSubtitles],
    /// True when a poster was made.
    has_poster: bool,
    /// True when a storyboard was made.
    has_storyboard: bool,
    /// What of the source it leaves out or changes.
    warnings: &'a [MediaWarning],
}

pub(super) fn no_such_medium() -> Problem {
    Problem::not_found("there is no such medium, or it is not yours")
}

/// One of our ids in a path.
pub(super) fn parse_media_id(text: &str) -> Result<MediaId, Problem> {
    text.parse().map_err(|_| no_such_medium())
}

static READ_MEDIA: Operation = Operation::read(
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// Read one medium
///
/// What was changed through another replica a moment ago may not be seen yet, for two seconds at most; `Cache-Control: no-cache` asks for
/// what is stored now.
#[utoipa::path(
    get,
    path = READ_MEDIA.path,
    tag = "metadata",
    operation_id = "read_media",
    params(("media_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The document", body = ref("#/components/schemas/MediaDocument"), headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 410, description = "It was removed, and can be restored for a time"),
    ),
)]
async fn read_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    METADATA_READS.increment(MetadataRead::Document);
    let media_id = parse_media_id(&id)?;
    let known = app.known_documents.get(media_id).filter(|_| !wants_no_memory(&headers));
    let document = match known {
        Some(known) if !who.may_see(known.owner()) => return Err(no_such_medium()),
        Some(known) => known.document(),
        None => load_document(&app, media_id, &who).await?,
    };
    Ok(document.to_response(&headers))
}

/// True when a client will not have what is remembered (RFC 9111, section 5.2.1.4).
fn wants_no_memory(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|field| field.to_str().ok());
    fields.any(|field| field.split(',').any(|said| said.trim().eq_ignore_ascii_case("no-cache")))
}

/// The document of a medium by its records, which is kept in memory.
async fn load_document(
    app: &AppState,
    media_id: MediaId,
    who: &Principal,
) -> Result<json_document::JsonDocument, Problem> {
    let generation = app.known_documents.generation(media_id);
    let medium = MediumRecords::load_for(&app.bus, media_id, who).await?;
    let document = medium.render_document(media_id)?;
    app.known_documents.keep(media_id, generation, medium.owner(), &document);
    Ok(document)
}

/// Who owns a medium, also a removed one; `None` where no record of it is left.
pub(crate) async fn find_owner(app: &AppState, media_id: MediaId) -> Result<Option<String>, Problem> {
    let key = media_id.to_string();
    let (document, asset) = tokio::try_join!(
        app.bus.load_with_tombstone::<document::MediaDocumentRecord>(&key),
        app.bus.load_with_tombstone::<media::MediaRecord>(&key)
    )?;
    Ok(document.map(|held| held.record.owner).or_else(|| asset.map(|held| held.record.owner)))
}

/// The document of a medium as JSON; `None` while it is removed and can be restored; 404 where `who` may not see it.
pub(crate) async fn load_current(
    app: &AppState,
    who: &Principal,
    media_id: MediaId,
) -> Result<Option<Bytes>, Problem> {
    match load_document(app, media_id, who).await {
        Err(problem) if problem.code() == ProblemCode::MediaRemoved.code() => Ok(None),
        loaded => Ok(Some(loaded?.body().clone())),
    }
}

/// Makes the document of a medium before somebody asks for it; false when `who` may not see one.
pub(crate) async fn warm_document(
    app: &AppState,
    who: &Principal,
    media_id: MediaId,
) -> Result<bool, Problem> {
    let absent = [ProblemCode::NotFound.code(), ProblemCode::MediaRemoved.code()];
    match load_document(app, media_id, who).await {
        Err(problem) if absent.contains(&problem.code()) => Ok(false),
        loaded => loaded.map(|_| true),
    }
}

#[cfg(test)]
mod tests;
