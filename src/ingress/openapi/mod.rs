//! The description of the HTTP API: OpenAPI 3.1 from the handlers, at `/openapi.json` for machines and at `/docs` for people;
//! `/docs/programs` is for programs that follow events on the broker itself, `/docs/guides` for those who run or extend an installation.
//!
//! Operations stand beside their handlers: what is said to readers as an annotation (utoipa), what holds as an [`Operation`];
//! bodies and queries are the types that handlers read and write, by their JSON Schemas (2020-12, which OpenAPI 3.1 is). What is
//! true of more than one operation stands in `common` and `parameters`. `schemas/openapi.json` is the published form; it is
//! compared by `streamgate schemas check`, and a change that breaks clients is refused (see [`breaking`]).
//!
//! Limits: the document is made once per process; nothing of a request goes into it.

pub mod breaking;
mod common;
mod group;
mod guides;
mod markdown;
mod page;
mod parameters;
mod portable;
mod programs;
mod runbooks;
mod schema;

use std::{collections::HashMap, sync::LazyLock};

use ::bytes::Bytes;
use axum::{
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use schemas::rejection::RejectionCode;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::{
    audit, cached, dead_letters, events, jobs, library, media, metrics, monitor, play, probes, quotas,
    sharing, transcode, uploads, watch, workers,
};
pub(crate) use group::{OperationGroup, query_parameters};
pub(crate) use schema::{SchemaCollector, id_schema, schema_parameters};
use web::{
    bytes::{self, RepresentationMetadata},
    conditional,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code,
    query::AcceptedParameters,
};

/// Methods of a path that describe an operation.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "StreamGate",
        version = "1.0.0",
        description = "A self-hosted media gateway: uploads in, gated adaptive streams out. Every error is \
                       `application/problem+json` with a stable `code`; its `type` leads to what `/docs` says of that code. \
                       A parameter in a query that an operation does not take is refused, except below `/play` and \
                       `/v1/uploads` and at pages: players and proxies add their own there. Lists are paged by cursor. Requests are limited per client address and per principal; `RateLimit` \
                       says how much is left. What an operation changes is told as events: those it may cause stand in \
                       `x-events`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(load_description, read_docs),
    tags(
        (name = "upload", description = "Bring media in: tus 1.0, or a whole file in one request."),
        (name = "metadata", description = "What is there."),
        (name = "gate", description = "Who may play it."),
        (name = "streaming", description = "Play it."),
        (name = "auth", description = "Sign in with a wallet; make keys for machines."),
        (name = "worker", description = "What is being done with it."),
        (name = "cache", description = "What programs keep for a while, the same on every replica."),
        (name = "events", description = "Everything that happens, live."),
        (name = "audit", description = "Everything that happened, chained and replayable."),
        (name = "monitor", description = "What goes wrong, for operators."),
        (name = "api", description = "The service itself."),
    ),
)]
struct DocsApiDoc;

impl OperationGroup for DocsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router::<()>().operations().to_vec()
    }

    fn add_schemas(_: &mut SchemaCollector) {}
}

/// The document.
pub fn build_document() -> Value {
    let mut schemas = SchemaCollector::new();
    let (operations, described) = describe_groups(&mut schemas);
    let mut document = serde_json::to_value(described).unwrap_or_default();
    let mut schemas = schemas.into_definitions();
    schemas.insert("Problem".into(), schema::problem_schema());
    common::complete_operations(&mut document["paths"], &operations, &schemas);
    document["components"] = common::build_components(&schemas);
    document["servers"] = json!([{ "url": "/", "description": "Where this document comes from." }]);
    document["x-problems"] = problem_code::describe_codes().into();
    document["x-rejections"] = describe_rejections().into();
    schema::bound_numbers(&mut document);
    portable::make_portable(&mut document);
    document
}

/// Why files are rejected, by the codes that events and documents of media carry.
fn describe_rejections() -> Map<String, Value> {
    let described = RejectionCode::ALL
        .iter()
        .map(|code| (code.to_string(), json!({ "title": code.title(), "advice": code.published_advice() })));
    described.collect()
}

/// All operations, and what their annotations say.
fn describe_groups(
    schemas: &mut SchemaCollector,
) -> (Vec<&'static Operation>, Option<utoipa::openapi::OpenApi>) {
    let mut operations = Vec::new();
    // On the heap: together they are larger than a stack frame should be.
    let described = vec![
        describe_group::<DocsApiDoc>(&mut operations, schemas),
        describe_group::<uploads::UploadsApiDoc>(&mut operations, schemas),
        describe_group::<media::MediaApiDoc>(&mut operations, schemas),
        describe_group::<crate::gates::GatesApiDoc>(&mut operations, schemas),
        describe_group::<play::PlaybackApiDoc>(&mut operations, schemas),
        describe_group::<watch::WatchApiDoc>(&mut operations, schemas),
        describe_group::<sharing::SharingApiDoc>(&mut operations, schemas),
        describe_group::<library::LibraryApiDoc>(&mut operations, schemas),
        describe_group::<crate::sign_in::SignInApiDoc>(&mut operations, schemas),
        describe_group::<jobs::JobsApiDoc>(&mut operations, schemas),
        describe_group::<crate::schedules::SchedulesApiDoc>(&mut operations, schemas),
        describe_group::<transcode::TranscodeApiDoc>(&mut operations, schemas),
        describe_group::<dead_letters::DeadLettersApiDoc>(&mut operations, schemas),
        describe_group::<workers::WorkersApiDoc>(&mut operations, schemas),
        describe_group::<cached::CacheApiDoc>(&mut operations, schemas),
        describe_group::<quotas::QuotaApiDoc>(&mut operations, schemas),
        describe_group::<events::EventsApiDoc>(&mut operations, schemas),
        describe_group::<crate::hooks::HooksApiDoc>(&mut operations, schemas),
        describe_group::<audit::AuditApiDoc>(&mut operations, schemas),
        describe_group::<probes::ProbesApiDoc>(&mut operations, schemas),
        describe_group::<metrics::MetricsApiDoc>(&mut operations, schemas),
        describe_group::<monitor::MonitorApiDoc>(&mut operations, schemas),
    ];
    (operations, described.into_iter().reduce(utoipa::openapi::OpenApi::merge_from))
}

fn describe_group<D: OperationGroup>(
    operations: &mut Vec<&'static Operation>,
    schemas: &mut SchemaCollector,
) -> utoipa::openapi::OpenApi {
    operations.extend(D::operations());
    D::add_schemas(schemas);
    D::openapi()
}

/// Serves the document and its page. Both are open: they hold nothing but what is published.
pub fn router<S: Clone + Send + Sync + 'static>() -> OperationRouter<S> {
    OperationRouter::default()
        .with(&LOAD_DESCRIPTION, load_description)
        .with(&READ_DOCS, read_docs)
        .with(&READ_STYLESHEET, read_stylesheet)
        .with(&READ_PROGRAMS, read_programs)
        .with(&LIST_RUNBOOKS, list_runbooks)
        .with(&READ_RUNBOOK, read_runbook)
        .with(&LIST_GUIDES, list_guides)
        .with(&READ_GUIDE, read_guide)
}

struct StaticResource {
    content_type: &'static str,
    body: Bytes,
    tag: conditional::EntityTag,
}

impl StaticResource {
    fn new(content_type: &'static str, body: String) -> Self {
        let tag = conditional::EntityTag::from_bytes(body.as_bytes());
        Self { content_type, body: body.into(), tag }
    }

    fn to_response(&self, request: &HeaderMap) -> Response {
        let facts = RepresentationMetadata {
            size_bytes: u64::try_from(self.body.len()).unwrap_or(u64::MAX),
            etag: self.tag.to_quoted(),
            content_type: self.content_type,
            cache_control: "no-cache",
        };
        let mut response = bytes::bytes_response(request, &facts, &self.body);
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, page::POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What operations take in their queries. Made once: the description takes a while.
static TAKEN: LazyLock<AcceptedParameters> =
    LazyLock::new(|| AcceptedParameters::from_openapi(&build_document()));

/// What operations take in their queries.
pub(crate) fn accepted_parameters() -> AcceptedParameters {
    TAKEN.clone()
}

static DOCUMENT: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("application/json", build_document().to_string()));
static PAGE: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("text/html; charset=utf-8", page::render_page(&build_document())));
static PROGRAMS: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("text/html; charset=utf-8", programs::render_programs_page()));
static STYLE: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("text/css; charset=utf-8", include_str!("docs.css").to_owned()));

static LOAD_DESCRIPTION: Operation =
    Operation::read("/openapi.json", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// This description, for machines
#[utoipa::path(
    get,
    path = LOAD_DESCRIPTION.path,
    tag = "api",
    operation_id = "describe",
    params(("If-None-Match", Header)),
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object, headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn load_description(headers: HeaderMap) -> Response {
    DOCUMENT.to_response(&headers)
}

static READ_DOCS: Operation =
    Operation::read("/docs", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// This description, for people
#[utoipa::path(
    get,
    path = READ_DOCS.path,
    tag = "api",
    operation_id = "read_docs",
    params(("If-None-Match", Header)),
    responses(
        (status = 200, description = "A page", content_type = "text/html", headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_docs(headers: HeaderMap) -> Response {
    PAGE.to_response(&headers)
}

static READ_STYLESHEET: Operation =
    Operation::read("/docs/docs.css", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

async fn read_stylesheet(headers: HeaderMap) -> Response {
    STYLE.to_response(&headers)
}

static READ_PROGRAMS: Operation =
    Operation::read("/docs/programs", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

async fn read_programs(headers: HeaderMap) -> Response {
    PROGRAMS.to_response(&headers)
}

static RUNBOOK_INDEX: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("text/html; charset=utf-8", runbooks::render_index_page()));

static LIST_RUNBOOKS: Operation =
    Operation::read("/docs/runbooks", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

async fn list_runbooks(headers: HeaderMap) -> Response {
    RUNBOOK_INDEX.to_response(&headers)
}

static READ_RUNBOOK: Operation =
    Operation::read("/docs/runbooks/{name}", OperationAccess::Open, Some(RateLimitGroup::Api))
        .with_any_query();

async fn read_runbook(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let page = runbooks::render_runbook_page(&name)
        .ok_or_else(|| Problem::not_found("there is no such runbook; `/docs/runbooks` lists them"))?;
    Ok(StaticResource::new("text/html; charset=utf-8", page).to_response(&headers))
}

static GUIDE_INDEX: LazyLock<StaticResource> =
    LazyLock::new(|| StaticResource::new("text/html; charset=utf-8", guides::render_index_page()));
/// By name; made once each, since some are large.
static GUIDE_PAGES: LazyLock<HashMap<&'static str, StaticResource>> = LazyLock::new(|| {
    let render = |guide: &guides::Guide| {
        let page = guides::render_guide_page(guide.name)?;
        Some((guide.name, StaticResource::new("text/html; charset=utf-8", page)))
    };
    guides::GUIDES.iter().filter_map(render).collect()
});

static LIST_GUIDES: Operation =
    Operation::read("/docs/guides", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

async fn list_guides(headers: HeaderMap) -> Response {
    GUIDE_INDEX.to_response(&headers)
}

static READ_GUIDE: Operation =
    Operation::read("/docs/guides/{name}", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

async fn read_guide(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let page = GUIDE_PAGES.get(name.as_str());
    let page = page.ok_or_else(|| Problem::not_found("there is no such guide; `/docs/guides` lists them"))?;
    Ok(page.to_response(&headers))
}

/// All operations, for tests that walk over them.
#[cfg(test)]
pub(crate) fn all_operations() -> Vec<&'static Operation> {
    describe_groups(&mut SchemaCollector::new()).0
}

#[cfg(test)]
mod tests;
