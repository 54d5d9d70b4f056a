//! `POST /v1/media` with JSON: a medium whose bytes are fetched from an address, by a job, or sent to an upload that is opened for them.
//!
//! The address is read and, where it is written out, checked here; a name is looked up when the job asks it. It may hold a secret: it
//! stands in the record of the job until that has ended, and in nothing else.
//!
//! What is said of the medium is checked as a change of its document is, and travels in the record of the upload.
//!
//! Limits: an address of [`outbound::URL_BYTES_MAX`]; what is said of the medium has those of [`super::metadata`] and
//! [`schemas::media_details`].

use std::{num::NonZeroU64, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest as _, Request},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use outbound::{Networks, OutboundUrl};
use schemars::JsonSchema;
use schemas::{
    document::MediaDocumentRecord,
    ids::{JobId, MediaId, UploadId},
    media_details,
    subjects::JobPriority,
    upload::{UploadFetch, UploadRecord, UploadStatus},
    value::{EmailAddress, TransactionHash},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    UploadContext,
    fenced_record::FencedUploadRecord,
    fields, lifecycle,
    metadata::{self, UploadMetadata},
    protocol,
    refusal::UploadRefusal,
    response::{self, MediaCreatedDocument},
};
use crate::{
    jobs::fetch::{begin_fetch_job, fetch_job_id},
    media::{FieldUpdate, MediaChangeRequest, MediaLinkRequest},
};
use auth::Principal;
use web::{
    body::{JsonBody, deserialize_present},
    error::Problem,
    idempotency::IdempotencyClaim,
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// A medium whose bytes are fetched or come later.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MediaRequest", example = json!({
    "source_url": "https://films.example/sea.mp4?signature=1f3a", "title": "A day at the sea", "tags": ["sea", "summer"], "language": "en",
    "links": [{ "url": "https://films.example/sea", "label": "How it was made" }], "contact_email": "ann@films.example",
    "visibility": "public",
}))]
pub(super) struct MediaRequest {
    /// Where its bytes are: `http` or `https`, without user and password, at a public address. Its query may hold a secret: it is shown
    /// to nobody, and forgotten with the end of the job. Absent for an entry whose bytes are sent to the `upload_url` of the answer.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "String", length(min = 1, max = outbound::URL_BYTES_MAX))]
    source_url: Option<String>,
    /// How many bytes will be sent, if that is known. Of what is fetched the source says it.
    size_bytes: Option<NonZeroU64>,
    /// Name of the file; the last part of the address when absent.
    #[schemars(length(max = 1_000))]
    filename: Option<String>,
    /// Title of the medium; the name of the file when absent.
    #[schemars(length(min = 1, max = metadata::TITLE_LENGTH_MAX))]
    title: Option<String>,
    /// What the medium is about, in lines of text.
    #[schemars(length(max = metadata::DESCRIPTION_LENGTH_MAX))]
    description: Option<String>,
    /// Words under which it is found. Each is kept once, whatever its case.
    #[schemars(
        length(max = media_details::TAGS_MAX),
        inner(regex(pattern = metadata::TITLE_PATTERN), length(max = media_details::TAG_LENGTH_MAX)),
    )]
    tags: Option<Vec<String>>,
    /// The language that it is about or spoken in, as RFC 5646 names it (`de`, `pt-BR`).
    #[schemars(length(max = media_details::LANGUAGE_BYTES_MAX), extend("format" = "language-tag"))]
    language: Option<String>,
    /// Addresses that belong to it.
    #[schemars(length(max = media_details::LINKS_MAX))]
    links: Option<Vec<MediaLinkRequest>>,
    /// Whom to ask about it: shown to those who may read its document, and in no event.
    contact_email: Option<EmailAddress>,
    /// Whatever one's own programs keep of it; members that are null are left out. At most 4,096 bytes of JSON with four levels.
    attributes: Option<Map<String, Value>>,
    /// The transaction that minted its token.
    mint_tx: Option<TransactionHash>,
    /// Who plays it; its owner alone when absent. `PUT /v1/media/{media_id}/gate` sets a rule.
    visibility: Option<NewMediumVisibility>,
    /// Name of a profile, from `GET /v1/profiles`; the one by which uploads are encoded when absent.
    #[schemars(length(max = 64))]
    profile: Option<String>,
    /// Priority of the job, and of that of the encode; `p1` when absent. `p0` is for admins.
    #[serde(default)]
    priority: JobPriority,
    /// True when the encode waits until somebody resumes its job, or has the medium encoded otherwise.
    #[serde(default)]
    encode_paused: bool,
}

impl MediaRequest {
    /// What is said of the medium, as a change of a document of which nothing was said before.
    fn take_change(&mut self) -> MediaChangeRequest {
        MediaChangeRequest {
            title: self.title.take(),
            description: FieldUpdate::Given(self.description.take()),
            tags: FieldUpdate::Given(self.tags.take()),
            language: FieldUpdate::Given(self.language.take()),
            links: FieldUpdate::Given(self.links.take()),
            contact_email: FieldUpdate::Given(self.contact_email.take()),
            attributes: FieldUpdate::Given(self.attributes.take()),
            mint_tx: FieldUpdate::Given(self.mint_tx.take()),
            ..MediaChangeRequest::default()
        }
    }
}

/// Who plays a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum NewMediumVisibility {
    /// Everybody plays it, and it stands in lists for visitors.
    Public,
    /// Everybody plays it who knows its address.
    Unlisted,
    /// Its owner alone.
    Private,
}

/// What was begun.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaFetchStarted", example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "job_id": "06db00820dt0303jc5mn0r356g", "upload_id": "06db008209t0303jc5mn0r355k",
}))]
#[expect(clippy::struct_field_names, reason = "members are called as in all documents")]
pub(super) struct MediaFetchDocument {
    /// The medium, once its bytes are there.
    media_id: MediaId,
    /// The job that fetches them.
    job_id: JobId,
    /// The upload that takes them.
    upload_id: UploadId,
}

/// Opens the upload, and begins the job where the bytes are fetched.
pub(super) async fn create_by_request(
    shared: &Arc<UploadContext>,
    who: Principal,
    address: PublicAddress,
    parts: Parts,
    body: Body,
) -> Response {
    let work = {
        let shared = Arc::clone(shared);
        async move {
            if who.upload_grant.is_some() {
                return Err(other(
                    Problem::new(ProblemCode::ScopeMissing).with_detail("a grant is for the bytes of a file"),
                ));
            }
            protocol::check_whole_file_fields(&parts.headers)?;
            // What is said of the medium stands in the body; fields have to be right all the same.
            protocol::parse_upload_metadata(&parts.headers, shared.config.metadata_bytes_max)?;
            protocol::parse_body_digests(&parts.headers)?;
            let claim = parts.extensions.get::<IdempotencyClaim>().copied();
            let wanted = JsonBody::<MediaRequest>::from_request(Request::from_parts(parts, body), &());
            let JsonBody(mut wanted) = wanted.await.map_err(other)?;
            let Some(source_url) = wanted.source_url.take() else {
                return open_entry(&shared, &who, &address, wanted, claim).await;
            };
            let document = begin_checked(&shared, &who, &source_url, wanted, claim).await?;
            answer(&address, document)
        }
    };
    response::outcome_response(Box::pin(shared.run_detached(work)).await)
}

fn other(problem: Problem) -> UploadRefusal {
    UploadRefusal::Other(Box::new(problem))
}

fn answer(address: &PublicAddress, document: MediaFetchDocument) -> Result<Response, UploadRefusal> {
    let location = address.location(&format!("/v1/jobs/{}", document.job_id)).map_err(other)?;
    let media_id = response::media_id_header(document.media_id)?;
    let mut response = (StatusCode::ACCEPTED, Json(document)).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(fields::MEDIA_ID, media_id);
    Ok(response)
}

/// Opens an upload for bytes that come later.
async fn open_entry(
    shared: &Arc<UploadContext>,
    who: &Principal,
    address: &PublicAddress,
    wanted: MediaRequest,
    claim: Option<IdempotencyClaim>,
) -> Result<Response, UploadRefusal> {
    let size_bytes = wanted.size_bytes.map(NonZeroU64::get);
    if size_bytes.is_some_and(|size_bytes| size_bytes > shared.config.size_bytes_max) {
        return Err(UploadRefusal::TooLarge);
    }
    let earlier = match &claim {
        Some(claim) => lifecycle::find_earlier_upload(shared, who, claim).await?,
        None => None,
    };
    let ledger = if let Some(ledger) = earlier {
        ledger
    } else {
        let mut record = lifecycle::new_record(shared, who, size_bytes);
        if let Some(claim) = claim {
            record.upload_id = UploadId::from_bytes(claim.derive_id(0));
        }
        describe(shared, who, None, wanted, &mut record)?;
        lifecycle::begin_upload(shared, record).await?
    };
    let (media_id, upload_id) = (ledger.media_id(), ledger.upload_id());
    let location = address.location(&format!("/v1/media/{media_id}")).map_err(other)?;
    let upload_url = Some(format!("{}/v1/uploads/{upload_id}", address.absolute_prefix()));
    let document = MediaCreatedDocument { media_id, upload_id, upload_url };
    let mut response = (StatusCode::CREATED, Json(document)).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(fields::MEDIA_ID, response::media_id_header(media_id)?);
    Ok(response)
}

async fn begin_checked(
    shared: &Arc<UploadContext>,
    who: &Principal,
    source_url: &str,
    wanted: MediaRequest,
    claim: Option<IdempotencyClaim>,
) -> Result<MediaFetchDocument, UploadRefusal> {
    let networks = Networks::new(shared.config.fetch_networks.clone());
    let url = OutboundUrl::parse(source_url, &networks).map_err(|error| {
        other(Problem::new(ProblemCode::SourceRefused).with_pointer("/source_url", error.to_string()))
    })?;
    let mut record = lifecycle::new_record(shared, who, None);
    describe(shared, who, Some(&url), wanted, &mut record)?;
    if let Some(claim) = claim {
        record.upload_id = UploadId::from_bytes(claim.derive_id(0));
        if let Some(earlier) = find_earlier(shared, who, record.upload_id).await? {
            record = earlier;
        }
    }
    let job_id = fetch_job_id(record.media_id, record.upload_id);
    let document = MediaFetchDocument { media_id: record.media_id, job_id, upload_id: record.upload_id };
    if record.fetch.is_none() {
        record.fetch = Some(UploadFetch { job_id, validator: None });
        record = lifecycle::begin_upload(shared, record).await?.record().clone();
    }
    // What has ended says so itself: its job is over, too.
    if record.status == UploadStatus::Open {
        begin_fetch_job(&shared.bus, &record, &url).await?;
        tracing::info!(job.id = %job_id, media.id = %record.media_id, by = who.owner, "a medium is to be fetched");
    }
    Ok(document)
}

/// What an earlier request made under the same key, whose answer was lost.
async fn find_earlier(
    shared: &UploadContext,
    who: &Principal,
    upload_id: UploadId,
) -> Result<Option<UploadRecord>, UploadRefusal> {
    match FencedUploadRecord::load(shared, upload_id, who).await {
        Ok(ledger) if ledger.record().fetch.is_none() => Ok(None),
        Ok(ledger) => {
            if ledger.record().status == UploadStatus::Open {
                lifecycle::create_medium(&ledger).await?;
            }
            Ok(Some(ledger.record().clone()))
        }
        Err(UploadRefusal::NotFound) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Writes what is said of the medium into the record of its upload.
fn describe(
    shared: &UploadContext,
    who: &Principal,
    url: Option<&OutboundUrl>,
    mut wanted: MediaRequest,
    record: &mut UploadRecord,
) -> Result<(), UploadRefusal> {
    let document = MediaDocumentRecord::new(record.media_id, record.owner.clone(), record.created_at_ms);
    // Its length is not known yet.
    let said = wanted.take_change().apply_to(&document, 0).map_err(other)?;
    let mut metadata = UploadMetadata {
        filename: wanted.filename.or_else(|| url?.file_name()).as_deref().and_then(metadata::clean_filename),
        mint_tx: said.mint_tx,
        title: Some(said.title).filter(|title| !title.is_empty()),
        description: said.description,
        details: said.details,
        is_public: matches!(
            wanted.visibility,
            Some(NewMediumVisibility::Public | NewMediumVisibility::Unlisted)
        ),
        is_unlisted: wanted.visibility == Some(NewMediumVisibility::Unlisted),
        ..UploadMetadata::default()
    };
    metadata.settings.profile = wanted.profile.filter(|name| !name.is_empty());
    metadata.settings.priority = wanted.priority;
    metadata.settings.paused = wanted.encode_paused;
    metadata.describe(who, &shared.profiles, record).map_err(|refusal| match refusal {
        UploadRefusal::ProfileUnknown(names) => other(
            Problem::new(ProblemCode::ProfileUnknown)
                .with_pointer("/profile", format!("there are {}", names.join(", ")))
                .with_member("profiles", json!(names)),
        ),
        UploadRefusal::PriorityReserved => other(
            Problem::new(ProblemCode::OperatorsOnly)
                .with_pointer("/priority", "p0 goes before the jobs of everybody"),
        ),
        refusal => refusal,
    })
}
