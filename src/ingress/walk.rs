//! A walk over the public router: what is served is what is described, and nothing changes without a right, a limit and an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use nats::{Bus, Outbox, ReaderStart, Role, VersionedRecord, reader};
use schemas::{
    access::PrincipalRole,
    ids::{HookId, MediaId, RequestId},
    job::{JobRecord, JobStatus},
    media::{MediaRecord, MediaSource, MediaStatus},
    subjects,
    upload::{UploadRecord, UploadStatus},
};
use serde_json::{Value, json};

use super::{
    dead_letters::tests::store_part_letter,
    hooks::tests::log_delivery,
    openapi,
    tests::{Answer, Site, asset, job_record, technical_metadata},
    workers::tests::answer_as_worker,
};
use auth::{link::create_sign_in_link, testing::TestWallet};
use web::operation::{Operation, OperationAccess};

/// Files of pages, none of the API.
const FILES: [&str; 8] = [
    "/docs/docs.css",
    "/docs/guides",
    "/docs/guides/{name}",
    "/docs/programs",
    "/docs/runbooks",
    "/docs/runbooks/{name}",
    "/library/assets/{file}",
    "/watch/assets/{file}",
];
/// Sources whose routes are those of another listener, or of all operations.
const ELSEWHERE: [&str; 2] = ["src/telemetry/mod.rs", "src/web/operation.rs"];
/// What may be sent without a credential, though its method changes things.
const OPEN: [&str; 7] = [
    // Here one comes by a credential.
    "post /v1/auth/challenge",
    "post /v1/auth/login",
    // The body is the credential.
    "post /v1/auth/links",
    "post /v1/auth/refresh",
    "post /v1/forms",
    // Answers only about a credential that the client has already.
    "post /v1/auth/verify",
    // The path holds the right.
    "post /play/{token}/{media_id}/cmcd",
];
/// What does not count: the bytes of an upload that exists are limited instead, and its creation was counted.
const UNCOUNTED: [&str; 2] = ["patch /v1/uploads/{upload_id}", "post /v1/uploads/{upload_id}"];
/// Questions, whose method is POST because they have a body, and changes of entries and sums that end by themselves: no history is kept of
/// them.
const QUESTIONS: [&str; 7] = [
    "delete /v1/cache/entries/{key}",
    "post /play/{token}/{media_id}/cmcd",
    "post /v1/auth/nft",
    "post /v1/auth/verify",
    "post /v1/cache/batch",
    "post /v1/cache/warm",
    "put /v1/cache/entries/{key}",
];
/// Methods that change things.
const MUTATING: [&str; 4] = ["post", "put", "patch", "delete"];

/// Every described operation by `<method> <path>`.
pub(super) fn described() -> BTreeMap<String, Value> {
    let document = openapi::build_document();
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.insert(format!("{method} {path}"), operation.clone());
        }
    }
    operations
}

/// The operation of a `<method> <path>`.
fn find_operation(place: &str) -> &'static Operation {
    let (method, path) = place.split_once(' ').unwrap();
    let mut all = openapi::all_operations().into_iter();
    all.find(|found| found.path.replace("{*", "{") == path && found.method.as_str().to_lowercase() == method)
        .unwrap_or_else(|| panic!("{place} is declared"))
}

fn mutating() -> impl Iterator<Item = (String, Value)> {
    described().into_iter().filter(|(place, _)| MUTATING.iter().any(|method| place.starts_with(method)))
}

/// Source files without those that are tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" && name != "node_modules" {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs")
            && !["tests.rs", "testing.rs", "walk.rs"].contains(&name)
        {
            found.push(path);
        }
    }
}

/// Non-test sources of all HTTP crates, by name.
fn source_texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 100, "{}", files.len());
    let texts = files.into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
        (file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text)
    });
    texts.filter(|(name, _)| !ELSEWHERE.contains(&name.as_str())).collect()
}

#[test]
fn a_handler_is_served_only_with_its_operation() {
    let mut declared_count = 0;
    for (name, text) in source_texts() {
        for other in
            [".route(", "route_service(", "::route(", ".nest(", ".nest_service(", ".fallback_service("]
        {
            assert!(!text.contains(other), "{name}: {other} serves what declares nothing");
        }
        declared_count += text.matches(": Operation =").count();
    }
    let operations = openapi::all_operations();
    assert_eq!(operations.len(), declared_count, "an operation is declared, and belongs to no group");
    for operation in operations {
        let place = (operation.method.as_str(), operation.path);
        assert!(operation.method != "OPTIONS" || operation.rate_group.is_none(), "{place:?}");
        let is_change = MUTATING.contains(&operation.method.as_str().to_lowercase().as_str());
        assert!(is_change || operation.events.is_empty(), "{place:?} reads, and causes events");
        assert!(is_change || operation.room.limits.is_empty(), "{place:?} reads, and needs room");
    }
}

/// Whose requests each operation takes, and what they count as: what people's keys and quotas rely on.
const ACCESS: &str = "
DELETE /v1/auth/keys/{key_id} Own Auth
DELETE /v1/cache Principal(Cache) Cache
DELETE /v1/cache/entries/{key} Principal(Cache) Cache
DELETE /v1/hooks/{hook_id} Principal(Events) Api
DELETE /v1/jobs/pauses/{scope}/{name} Principal(Worker) Worker
DELETE /v1/media/{media_id} Principal(Metadata) Metadata
DELETE /v1/media/{media_id}/captions/{language} Principal(Metadata) Metadata
DELETE /v1/media/{media_id}/gate Principal(Gate) Metadata
DELETE /v1/media/{media_id}/poster Principal(Metadata) Metadata
DELETE /v1/schedules/{schedule_id} Principal(Worker) Worker
DELETE /v1/uploads/grants/{grant_id} Principal(Upload) Upload
DELETE /v1/uploads/{upload_id} Principal(Upload) Upload
GET / Open Api
GET /docs Open Api
GET /docs/docs.css Open Api
GET /docs/guides Open Api
GET /docs/guides/{name} Open Api
GET /docs/programs Open Api
GET /docs/runbooks Open Api
GET /docs/runbooks/{name} Open Api
GET /embed/{media_id} Open Api
GET /library/assets/{file} Open Api
GET /livez Open Monitor
GET /metrics Principal(Monitor) Monitor
GET /openapi.json Open Api
GET /play/{token}/{media_id}/download.mp4 Path Streaming
GET /play/{token}/{media_id}/{*path} Path Streaming
GET /readyz Open Monitor
GET /v1/audit Principal(Audit) Monitor
GET /v1/auth/keys Own Auth
GET /v1/auth/me Own Auth
GET /v1/cache/entries/{key} Principal(Cache) Cache
GET /v1/cache/stats Principal(Cache) Cache
GET /v1/dead-letters Principal(Worker) Worker
GET /v1/dead-letters/{sequence} Principal(Worker) Worker
GET /v1/events Principal(Events) Api
GET /v1/events/ws Optional(Events) Api
GET /v1/hooks Principal(Events) Api
GET /v1/hooks/{hook_id} Principal(Events) Api
GET /v1/hooks/{hook_id}/deliveries Principal(Events) Api
GET /v1/jobs Principal(Worker) Worker
GET /v1/jobs/counts Principal(Worker) Worker
GET /v1/jobs/pauses Principal(Worker) Worker
GET /v1/jobs/{job_id} Principal(Worker) Worker
GET /v1/jobs/{job_id}/history Principal(Events) Api
GET /v1/jobs/{job_id}/why Principal(Worker) Worker
GET /v1/library Open Metadata
GET /v1/media Principal(Metadata) Metadata
GET /v1/media/search Principal(Metadata) Metadata
GET /v1/media/{media_id} Principal(Metadata) Metadata
GET /v1/media/{media_id}/captions Principal(Metadata) Metadata
GET /v1/media/{media_id}/captions/{language} Principal(Metadata) Metadata
GET /v1/media/{media_id}/experience Principal(Metadata) Metadata
GET /v1/media/{media_id}/gate Principal(Gate) Metadata
GET /v1/media/{media_id}/history Principal(Events) Api
GET /v1/media/{media_id}/poster Optional(Metadata) Streaming
GET /v1/media/{media_id}/thumbnail Optional(Metadata) Streaming
GET /v1/monitor/alerts Principal(Monitor) Monitor
GET /v1/monitor/health Principal(Monitor) Monitor
GET /v1/monitor/logs Principal(Monitor) Monitor
GET /v1/monitor/logs/level Principal(Monitor) Monitor
GET /v1/monitor/metrics Principal(Monitor) Monitor
GET /v1/oembed Open Streaming
GET /v1/profiles Principal(Worker) Transcoder
GET /v1/schedules Principal(Worker) Worker
GET /v1/schedules/{schedule_id} Principal(Worker) Worker
GET /v1/transcode/metrics Principal(Worker) Transcoder
GET /v1/uploads/grants Principal(Upload) Upload
GET /v1/uploads/{upload_id} Principal(Upload) none
GET /v1/uploads/{upload_id}/status Principal(Upload) Upload
GET /v1/usage Principal(Metadata) Metadata
GET /v1/workers Principal(Worker) Worker
GET /version Open Api
GET /watch/assets/{file} Open Api
GET /watch/{media_id} Open Api
HEAD /v1/uploads/{upload_id} Principal(Upload) none
OPTIONS /v1/uploads Open none
OPTIONS /v1/uploads/{upload_id} Open none
PATCH /v1/hooks/{hook_id} Principal(Events) Api
PATCH /v1/jobs/{job_id} Principal(Worker) Worker
PATCH /v1/media/{media_id} Principal(Metadata) Metadata
PATCH /v1/schedules/{schedule_id} Principal(Worker) Worker
PATCH /v1/uploads/{upload_id} Principal(Upload) none
POST /play/{token}/{media_id}/cmcd Path Streaming
POST /v1/auth/challenge Open Auth
POST /v1/auth/keys Own Auth
POST /v1/auth/links Open Auth
POST /v1/auth/login Body Auth
POST /v1/auth/logout Own Auth
POST /v1/auth/me/links Own Auth
POST /v1/auth/nft UnlimitedPrincipal Auth
POST /v1/auth/refresh Body Auth
POST /v1/auth/verify Open Auth
POST /v1/cache/batch Principal(Cache) Cache
POST /v1/cache/warm Principal(Cache) Cache
POST /v1/dead-letters/{sequence}/discard Principal(Worker) Worker
POST /v1/dead-letters/{sequence}/redrive Principal(Worker) Worker
POST /v1/forms Body Upload
POST /v1/forms/tokens Principal(Upload) Upload
POST /v1/hooks Principal(Events) Api
POST /v1/hooks/{hook_id}/deliveries/{delivery_id}/redeliver Principal(Events) Api
POST /v1/hooks/{hook_id}/pause Principal(Events) Api
POST /v1/hooks/{hook_id}/replay Principal(Events) Api
POST /v1/hooks/{hook_id}/resume Principal(Events) Api
POST /v1/hooks/{hook_id}/rotate Principal(Events) Api
POST /v1/hooks/{hook_id}/test Principal(Events) Api
POST /v1/jobs Principal(Worker) Worker
POST /v1/jobs/actions Principal(Worker) Worker
POST /v1/jobs/bulk Principal(Worker) Worker
POST /v1/jobs/{job_id}/cancel Principal(Worker) Worker
POST /v1/jobs/{job_id}/pause Principal(Worker) Worker
POST /v1/jobs/{job_id}/resume Principal(Worker) Worker
POST /v1/jobs/{job_id}/retry Principal(Worker) Worker
POST /v1/media Principal(Upload) Upload
POST /v1/media/{media_id}/playback Optional(Streaming) Streaming
POST /v1/media/{media_id}/restore Principal(Metadata) Metadata
POST /v1/media/{media_id}/transcode Principal(Worker) Transcoder
POST /v1/monitor/alerts/{alert}/acknowledge Principal(Monitor) Monitor
POST /v1/monitor/alerts/{alert}/silence Principal(Monitor) Monitor
POST /v1/schedules Principal(Worker) Worker
POST /v1/schedules/{schedule_id}/pause Principal(Worker) Worker
POST /v1/schedules/{schedule_id}/resume Principal(Worker) Worker
POST /v1/schedules/{schedule_id}/run-now Principal(Worker) Transcoder
POST /v1/uploads Principal(Upload) Upload
POST /v1/uploads/grants Principal(Upload) Upload
POST /v1/uploads/{upload_id} Principal(Upload) none
POST /v1/workers/{worker}/drain Principal(Worker) Worker
POST /v1/workers/{worker}/pause Principal(Worker) Worker
POST /v1/workers/{worker}/resume Principal(Worker) Worker
PUT /v1/cache/entries/{key} Principal(Cache) Cache
PUT /v1/files/{filename} Principal(Upload) Upload
PUT /v1/jobs/pauses/{scope}/{name} Principal(Worker) Worker
PUT /v1/media/{media_id}/captions/{language} Principal(Metadata) Metadata
PUT /v1/media/{media_id}/gate Principal(Gate) Metadata
PUT /v1/media/{media_id}/poster Principal(Metadata) Metadata
PUT /v1/monitor/logs/level Principal(Monitor) Monitor
";

#[test]
fn every_operation_keeps_its_access_and_its_rate() {
    let mut found: Vec<String> = openapi::all_operations()
        .into_iter()
        .map(|operation| {
            let group = operation.rate_group.map_or_else(|| "none".to_owned(), |group| format!("{group:?}"));
            format!("{} {} {:?} {group}", operation.method, operation.path, operation.access)
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, ACCESS.trim().lines().collect::<Vec<_>>());
}

/// The paths of all operations.
fn routed() -> BTreeSet<String> {
    openapi::all_operations().into_iter().map(|operation| operation.path.replace("{*", "{")).collect()
}

/// A path with something in place of its parameters.
pub(super) fn filled(path: &str) -> String {
    let steps =
        path.split('/').map(|step| if step.starts_with('{') { "00000000000000000000000000" } else { step });
    steps.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_is_described_with_exactly_its_methods() {
    let site = Site::start(|_| {}).await;
    let mut served = BTreeSet::new();
    let routed = routed();
    for path in &routed {
        let answer = site.ask("PROPFIND", &filled(path), "", "").await;
        assert_eq!(answer.status, 405, "{path}: {answer:?}");
        for method in answer.header("allow").unwrap().split(',') {
            served.insert(format!("{} {path}", method.trim().to_lowercase()));
        }
    }
    assert!(FILES.iter().all(|path| routed.contains(*path)), "a file is gone from the router: {FILES:?}");
    let described: BTreeSet<String> = described().into_keys().collect();
    let missing: Vec<&String> = served
        .difference(&described)
        // HEAD is GET without its body.
        .filter(|place| place.strip_prefix("head").is_none_or(|path| !served.contains(&format!("get{path}"))))
        .filter(|place| !FILES.iter().any(|file| place.ends_with(file)))
        .collect();
    assert!(missing.is_empty(), "served, and not described: {missing:?}");
    let invented: Vec<&String> = described.difference(&served).collect();
    assert!(invented.is_empty(), "described, and not served: {invented:?}");
}

#[tokio::test]
async fn every_change_needs_a_right_counts_and_is_published() {
    let site = Site::start(|config| config.limit.rates.auth.capacity = 1_000).await;
    let mut seen = BTreeSet::new();
    for (place, operation) in mutating() {
        let (method, path) = place.split_once(' ').unwrap();
        let answer = site.ask(&method.to_uppercase(), &filled(path), "", "").await;
        let is_open = OPEN.contains(&place.as_str());
        assert_eq!(answer.status == 401, !is_open, "{place}: {answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), !is_open, "{place}: {answer:?}");
        // A key in the address is none.
        let tricked = format!("{}?access_token={1}&key={1}", filled(path), site.key);
        let refused = site.ask(&method.to_uppercase(), &tricked, "", "").await.status;
        // Nobody has to sign in to ask for what may be public: there it is the parameter that is refused.
        let is_asked = is_open || path.ends_with("/playback");
        assert!(if is_asked { refused >= 400 } else { refused == 401 }, "{place}: {refused}");
        let is_counted = !UNCOUNTED.contains(&place.as_str());
        assert_eq!(answer.header("ratelimit").is_some(), is_counted, "{place}: {answer:?}");
        let group = find_operation(&place).rate_group;
        assert_eq!(group.is_some(), is_counted, "{place}");
        let authorization = format!("Authorization: Bearer {}\r\n", site.key);
        let answer = site.ask(&method.to_uppercase(), &filled(path), &authorization, "").await;
        let policies = answer.header("ratelimit-policy").unwrap_or_default();
        assert_eq!(policies.contains("-principal"), is_counted && !is_open, "{place}: {answer:?}");
        let has_events = operation["x-events"].as_array().is_some_and(|kinds| !kinds.is_empty());
        assert_eq!(has_events, !QUESTIONS.contains(&place.as_str()), "{place} names its events");
        seen.insert(place);
    }
    let listed = OPEN.iter().chain(&UNCOUNTED).chain(&QUESTIONS);
    assert!(listed.into_iter().all(|place| seen.contains(*place)), "a list names what is not there");
}

#[tokio::test]
async fn a_limited_key_gets_only_where_its_scope_is() {
    let site = Site::start(|config| {
        config.limit.rates.auth = config.limit.rates.api;
        config.limit.rates.credential = config.limit.rates.api;
    })
    .await;
    let admin = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", site.key);
    let mut key_of = BTreeMap::new();
    for scope in ["audit", "upload"] {
        let made = site.ask("POST", "/v1/auth/keys", &admin, &json!({ "scopes": [scope] }).to_string()).await;
        let key: Value = serde_json::from_str(&made.body).unwrap_or_else(|_| panic!("{made:?}"));
        key_of.insert(scope, format!("Authorization: Bearer {}\r\n", key["key"].as_str().unwrap()));
    }
    for operation in openapi::all_operations() {
        let place = (operation.method.as_str(), operation.path);
        if operation.method == "OPTIONS" {
            continue;
        }
        for (scope, key) in &key_of {
            let path = filled(operation.path);
            let answer = site.ask(operation.method.as_str(), &path, key, "").await;
            let is_refused = answer.status == 403 && answer.body.contains("scope_missing");
            let needed = operation.access.scope().map(|wanted| serde_json::to_value(wanted).unwrap());
            let wanted = match operation.access {
                OperationAccess::Principal(_) | OperationAccess::Optional(_) => needed != Some(json!(scope)),
                OperationAccess::UnlimitedPrincipal => true,
                _ => false,
            };
            if operation.method == "HEAD" {
                assert_eq!(answer.status == 403, wanted, "{place:?} with {scope}: {answer:?}");
            } else {
                assert_eq!(is_refused, wanted, "{place:?} with {scope}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_parameter_that_no_operation_takes_is_refused_where_nobody_else_adds_any() {
    // One client walks over all that has to do with sign-in.
    let site = Site::start(|config| config.limit.rates.auth = config.limit.rates.api).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    // Nobody answers lists here.
    for (path, status) in
        [("/v1/media?", 503), ("/v1/media?limit=1&min_revision=0", 503), ("/v1/auth/keys?own%65r=admin", 200)]
    {
        assert_eq!(site.ask("GET", path, &key, "").await.status, status, "{path}");
    }
    let mut free = BTreeSet::new();
    for (place, operation) in described() {
        let (method, path) = place.split_once(' ').unwrap();
        let method = method.to_uppercase();
        let answer = site.ask(&method, &format!("{}?x-unheard%2Dof=1", filled(path)), &key, "").await;
        let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        if problem["code"] != "query_malformed" {
            free.insert(path.to_owned());
            continue;
        }
        assert_eq!(problem["errors"][0]["parameter"], "x-unheard-of", "{place}: {problem}");
        assert!(operation["responses"]["400"].is_object(), "{place} says that it may refuse");
        if method == "GET" {
            let bare = site.ask("HEAD", &format!("{}?x-unheard-of=1", filled(path)), &key, "").await;
            assert_eq!(bare.status, 400, "{place}: {bare:?}");
        }
    }
    let wanted = [
        "/",
        "/docs",
        "/embed/{media_id}",
        "/livez",
        "/metrics",
        "/openapi.json",
        "/play/{token}/{media_id}/cmcd",
        "/play/{token}/{media_id}/{path}",
        "/readyz",
        "/v1/oembed",
        "/v1/uploads",
        "/v1/uploads/{upload_id}",
        "/v1/uploads/{upload_id}/status",
        "/version",
        "/watch/{media_id}",
    ];
    assert_eq!(free.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    let long = site.ask("GET", &format!("/v1/media?{}", "x".repeat(1_000)), &key, "").await;
    assert!(long.status == 400 && long.body.len() < 800, "{long:?}");
}

const FORM_TYPE: &str = "Content-Type: multipart/form-data; boundary=xx\r\n";

/// A picture of 17 by 17 pixels, of its head alone (RFC 9649, 2.7).
const WEBP: &str = "RIFF\u{16}\0\0\0WEBPVP8X\u{a}\0\0\0\0\0\0\0\u{10}\0\0\u{10}\0\0";

/// A form with a token and a file.
fn form_with(token: &str) -> String {
    let part = |head: &str, value: &str| {
        format!("--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    };
    let file = part("name=\"file\"; filename=\"clip.mp4\"", "hello");
    format!("{}{file}--xx--\r\n", part("name=\"upload_token\"", token))
}

/// Does one thing after the other and compares what is published with what the description says.
struct Story {
    site: Site,
    admin: Bus,
    described: BTreeMap<String, Value>,
    last_sequence: u64,
    done: BTreeSet<String>,
}

impl Story {
    async fn start() -> Self {
        let site = Site::start(|config| config.restorable_ms = 3_600_000).await;
        let admin = site.broker.bus(Role::Admin).await;
        let mut story = Self { site, admin, described: described(), last_sequence: 0, done: BTreeSet::new() };
        story.news().await;
        story
    }

    /// Kinds of the events since the last look.
    async fn news(&mut self) -> BTreeSet<String> {
        let start = ReaderStart::Sequence(self.last_sequence + 1);
        let config = reader::ReaderConfig::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], start);
        let mut reader = self.admin.open_reader(config).await.unwrap();
        let mut kinds = BTreeSet::new();
        for _ in 0..reader.pending_at_start() {
            let entry = reader.next().await.unwrap();
            self.last_sequence = entry.sequence;
            // What was refused meanwhile is summed beside it.
            if entry.subject.starts_with("evt.access.summed.") {
                continue;
            }
            kinds.insert(entry.subject.split('.').skip(1).take(2).collect::<Vec<_>>().join("."));
        }
        kinds
    }

    /// Sends a request that leads to `status`; it publishes something, and nothing that its description does not name.
    async fn does(&mut self, place: &str, path: &str, headers: &str, body: &str, status: u16) -> Answer {
        let method = place.split_once(' ').unwrap().0.to_uppercase();
        let answer = self.site.ask(&method, path, headers, body).await;
        assert_eq!(answer.status, status, "{place}: {answer:?}");
        let named: BTreeSet<String> =
            serde_json::from_value(self.described[place]["x-events"].clone()).unwrap();
        let published = self.news().await;
        assert!(
            !published.is_empty() && published.is_subset(&named),
            "{place} published {published:?} and names {named:?}"
        );
        self.done.insert(place.to_owned());
        answer
    }

    async fn upload(&mut self, key: &str) -> String {
        let headers = format!("{key}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n");
        let made = self.does("post /v1/uploads", "/v1/uploads", &headers, "", 201).await;
        let location = made.header("location").unwrap();
        format!("/v1/uploads/{}", location.rsplit('/').next().unwrap())
    }

    async fn uploads(&mut self, key: &str) {
        let tus = format!("{key}Tus-Resumable: 1.0.0\r\n");
        let bytes = format!("{tus}Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n");
        let upload = self.upload(key).await;
        self.does("patch /v1/uploads/{upload_id}", &upload, &bytes, "hello", 204).await;
        let upload = self.upload(key).await;
        self.does("delete /v1/uploads/{upload_id}", &upload, &tus, "", 204).await;
        let upload = self.upload(key).await;
        let other = format!("{tus}X-HTTP-Method-Override: DELETE\r\n");
        self.does("post /v1/uploads/{upload_id}", &upload, &other, "", 204).await;
    }

    async fn media(&mut self, key: &str) {
        let json = format!("{key}Content-Type: application/json\r\nIf-Match: *\r\n");
        let video = format!("{key}Content-Type: video/mp4\r\n");
        let made = self.does("post /v1/media", "/v1/media", &video, "hello", 201).await;
        self.does("put /v1/files/{filename}", "/v1/files/clip.mp4", &video, "hello", 201).await;
        let body = "{}";
        let json_body = format!("{key}Content-Type: application/json\r\n");
        let token = self.does("post /v1/forms/tokens", "/v1/forms/tokens", &json_body, body, 201).await;
        let token: Value = serde_json::from_str(&token.body).unwrap();
        let wanted = json!({ "size_bytes_max": 5 }).to_string();
        let place = "/v1/uploads/grants";
        let grant = self.does(&format!("post {place}"), place, &json_body, &wanted, 201).await;
        let grant: Value = serde_json::from_str(&grant.body).unwrap();
        let path = format!("{place}/{}", grant["grant_id"].as_str().unwrap());
        let place = "/v1/uploads/grants/{grant_id}";
        self.does(&format!("delete {place}"), &path, key, "", 204).await;
        let form = form_with(token["token"].as_str().unwrap());
        self.does("post /v1/forms", "/v1/forms", FORM_TYPE, &form, 201).await;
        let medium = format!("/v1/media/{}", made.header("streamgate-media-id").unwrap());
        self.does("patch /v1/media/{media_id}", &medium, &json, "{\"title\":\"new\"}", 200).await;
        let any = format!("{key}If-Match: *\r\n");
        let (captions, poster) = (format!("{medium}/captions/de"), format!("{medium}/poster"));
        let vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\nHallo\n";
        let typed = format!("{any}Content-Type: text/vtt\r\n");
        let place = "/v1/media/{media_id}/captions/{language}";
        self.does(&format!("put {place}"), &captions, &typed, vtt, 201).await;
        self.does(&format!("delete {place}"), &captions, &any, "", 200).await;
        let typed = format!("{any}Content-Type: image/webp\r\n");
        self.does("put /v1/media/{media_id}/poster", &poster, &typed, WEBP, 200).await;
        self.does("delete /v1/media/{media_id}/poster", &poster, &any, "", 200).await;
        let gate = format!("{medium}/gate");
        self.does("put /v1/media/{media_id}/gate", &gate, &json, "{\"kind\":\"public\"}", 200).await;
        self.fetches(key, &json_body).await;
        let playback = format!("{medium}/playback");
        let media_id = made.header("streamgate-media-id").unwrap().parse().unwrap();
        let asset = asset(media_id, "admin", MediaStatus::Playable);
        self.admin.commit_record(&mut VersionedRecord::new(asset), Outbox::new()).await.unwrap();
        self.does("post /v1/media/{media_id}/playback", &playback, key, "", 200).await;
        self.jobs(key, media_id).await;
        self.does("delete /v1/media/{media_id}/gate", &gate, &json, "", 200).await;
        self.does("delete /v1/media/{media_id}", &medium, &json, "", 204).await;
        let restore = format!("{medium}/restore");
        self.does("post /v1/media/{media_id}/restore", &restore, key, "", 200).await;
    }

    /// Has media fetched, and ends each in another way.
    async fn fetches(&mut self, key: &str, json: &str) {
        let body = json!({ "source_url": "https://films.example/a.mp4", "visibility": "public" }).to_string();
        for end in ["job", "upload", "medium"] {
            let begun = self.does("post /v1/media", "/v1/media", json, &body, 202).await;
            let ids: Value = serde_json::from_str(&begun.body).unwrap();
            let id = |name: &str| ids[name].as_str().unwrap().to_owned();
            match end {
                "job" => {
                    let path = format!("/v1/jobs/{}/cancel", id("job_id"));
                    self.does("post /v1/jobs/{job_id}/cancel", &path, key, "", 200).await;
                }
                "upload" => {
                    let path = format!("/v1/uploads/{}", id("upload_id"));
                    let tus = format!("{key}Tus-Resumable: 1.0.0\r\n");
                    self.does("delete /v1/uploads/{upload_id}", &path, &tus, "", 204).await;
                }
                _ => {
                    let path = format!("/v1/media/{}", id("media_id"));
                    let any = format!("{key}If-Match: *\r\n");
                    self.does("delete /v1/media/{media_id}", &path, &any, "", 204).await;
                }
            }
            let job = self.admin.load_record::<JobRecord>(&id("job_id")).await.unwrap().unwrap().record;
            assert_eq!((job.status, job.fetch.unwrap().url), (JobStatus::Cancelled, None), "{end}");
            let upload =
                self.admin.load_record::<UploadRecord>(&id("upload_id")).await.unwrap().unwrap().record;
            assert_eq!(upload.status, UploadStatus::Terminated, "{end}");
        }
    }

    /// Ends a job of the medium and begins the next one.
    async fn jobs(&mut self, key: &str, media_id: MediaId) {
        let job = job_record(media_id, "admin", 1, JobStatus::Active);
        self.admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
        let path = format!("/v1/jobs/{}", job.job_id);
        let json = format!("{key}Content-Type: application/json\r\n");
        self.does("patch /v1/jobs/{job_id}", &path, &json, "{\"priority\":\"p0\"}", 200).await;
        for action in ["pause", "resume", "cancel"] {
            let operation = format!("post /v1/jobs/{{job_id}}/{action}");
            self.does(&operation, &format!("{path}/{action}"), key, "", 200).await;
        }
        let source =
            MediaSource { key: schemas::keys::source_key(media_id), size_bytes: 5, sha256: "0".repeat(64) };
        let verified = |found: Option<&MediaRecord>| {
            let (source, technical) = (Some(source.clone()), Some(technical_metadata()));
            Some((MediaRecord { source, technical, ..found?.clone() }, Outbox::new()))
        };
        self.admin.change_record(&media_id.to_string(), verified).await.unwrap();
        self.does("post /v1/jobs/{job_id}/retry", &format!("{path}/retry"), key, "", 202).await;
        let ready = |found: Option<&MediaRecord>| {
            let medium = MediaRecord { status: MediaStatus::Ready, changed_at_ms: 1, ..found?.clone() };
            Some((medium, Outbox::new()))
        };
        self.admin.change_record(&media_id.to_string(), ready).await.unwrap();
        let path = format!("/v1/media/{media_id}/transcode");
        self.does("post /v1/media/{media_id}/transcode", &path, &json, "{}", 202).await;
        let again = |found: Option<&MediaRecord>| {
            Some((MediaRecord { changed_at_ms: 1, ..found?.clone() }, Outbox::new()))
        };
        self.admin.change_record(&media_id.to_string(), again).await.unwrap();
        let job = json!({ "kind": "transcode", "media_id": media_id });
        let body = json!({ "job": job }).to_string();
        self.does("post /v1/jobs", "/v1/jobs", &json, &body, 202).await;
        let body = json!({ "jobs": [{ "job": job, "run_at_ms": nats::now_ms() + 60_000 }] }).to_string();
        self.does("post /v1/jobs/bulk", "/v1/jobs/bulk", &json, &body, 200).await;
        self.queue_pauses(&json).await;
        let body = json!({ "action": { "type": "pause" }, "filter": { "kind": "verify" } }).to_string();
        self.does("post /v1/jobs/actions", "/v1/jobs/actions", &json, &body, 202).await;
        self.schedules(&json, &job).await;
    }

    async fn queue_pauses(&mut self, json: &str) {
        let (place, path) = ("/v1/jobs/pauses/{scope}/{name}", "/v1/jobs/pauses/owner/olga");
        self.does(&format!("put {place}"), path, json, "{}", 200).await;
        self.does(&format!("delete {place}"), path, json, "", 204).await;
    }

    async fn alerts(&mut self, key: &str) {
        let json = format!("{key}Content-Type: application/json\r\n");
        for action in ["silence", "acknowledge"] {
            let place = format!("post /v1/monitor/alerts/{{alert}}/{action}");
            let path = format!("/v1/monitor/alerts/StreamGateDeadLetters/{action}");
            self.does(&place, &path, &json, "{\"for_ms\":60000}", 200).await;
        }
        let path = "/v1/monitor/logs/level";
        self.does(&format!("put {path}"), path, &json, "{\"filter\":\"debug\"}", 200).await;
    }

    async fn schedules(&mut self, json: &str, job: &Value) {
        let body = json!({ "timing": { "type": "every", "interval_ms": 60_000 }, "job": job }).to_string();
        let made = self.does("post /v1/schedules", "/v1/schedules", json, &body, 201).await;
        let made: Value = serde_json::from_str(&made.body).unwrap();
        let path = format!("/v1/schedules/{}", made["schedule_id"].as_str().unwrap());
        let place = "patch /v1/schedules/{schedule_id}";
        self.does(place, &path, json, "{\"missed\":\"skip\"}", 200).await;
        for action in ["pause", "resume", "run-now"] {
            let place = format!("post /v1/schedules/{{schedule_id}}/{action}");
            self.does(&place, &format!("{path}/{action}"), json, "", 200).await;
        }
        self.does("delete /v1/schedules/{schedule_id}", &path, json, "", 204).await;
    }

    async fn hooks(&mut self, key: &str) {
        let json = format!("{key}Content-Type: application/json\r\nIf-Match: *\r\n");
        let body = json!({ "url": "https://films.example/hooks", "types": ["media"] }).to_string();
        let made = self.does("post /v1/hooks", "/v1/hooks", &json, &body, 201).await;
        let made: Value = serde_json::from_str(&made.body).unwrap();
        let hook_id: HookId = made["hook"]["hook_id"].as_str().unwrap().parse().unwrap();
        let path = format!("/v1/hooks/{hook_id}");
        let place = "patch /v1/hooks/{hook_id}";
        self.does(place, &path, &json, "{\"types\":[\"media.changed\"]}", 200).await;
        for (action, body, status) in [
            ("pause", "", 200),
            ("resume", "", 200),
            ("rotate", "{}", 201),
            ("test", "", 202),
            ("replay", "{\"behind\":\"0-0\"}", 202),
        ] {
            let place = format!("post /v1/hooks/{{hook_id}}/{action}");
            self.does(&place, &format!("{path}/{action}"), &json, body, status).await;
        }
        // An event that the hook sends: what the medium of the story was.
        let filters = vec![subjects::event_filter::<schemas::document::MediaChanged>()];
        let settings = reader::ReaderConfig::new(subjects::EVENTS, filters, ReaderStart::All);
        let event = self.admin.open_reader(settings).await.unwrap().next().await.unwrap();
        let text = |name: &str| event.headers.get_last(name).unwrap().to_string();
        let delivery = schemas::hook_delivery::HookDelivery {
            hook_id,
            sequence: Some(event.sequence),
            event_id: text(schemas::headers::ID),
            media_id: Some(text(schemas::headers::MEDIA_ID).parse().unwrap()),
            ..schemas::examples::hook_delivery()
        };
        log_delivery(&self.site.broker.bus(Role::Keeper).await, &delivery).await;
        let place = "post /v1/hooks/{hook_id}/deliveries/{delivery_id}/redeliver";
        let again = format!("{path}/deliveries/{}/redeliver", delivery.delivery_id);
        self.does(place, &again, &json, "", 202).await;
        self.does("delete /v1/hooks/{hook_id}", &path, &json, "", 204).await;
    }

    async fn workers(&mut self, key: &str) {
        let bus = self.site.broker.bus(Role::Transcode).await;
        answer_as_worker(bus, "a1", 3, None).await;
        for action in ["pause", "resume", "drain"] {
            let place = format!("post /v1/workers/{{worker}}/{action}");
            self.does(&place, &format!("/v1/workers/a1/{action}"), key, "", 200).await;
        }
    }

    async fn dead_letters(&mut self, key: &str) {
        let job = job_record(MediaId::from_bytes([5; 16]), "admin", 1, JobStatus::Succeeded);
        self.admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
        let sequence = store_part_letter(&self.admin, &job, "v0000").await;
        for (action, status) in [("redrive", 200), ("discard", 204)] {
            let place = format!("post /v1/dead-letters/{{sequence}}/{action}");
            self.does(&place, &format!("/v1/dead-letters/{sequence}/{action}"), key, "", status).await;
        }
    }

    async fn sign_in(&mut self) {
        let json = "Content-Type: application/json\r\n";
        let read = |answer: &Answer| serde_json::from_str::<Value>(&answer.body).unwrap();
        let bearer = |token: &Value| format!("{json}Authorization: Bearer {}\r\n", token.as_str().unwrap());
        let wallet = TestWallet::new(7);
        let ask = json!({ "address": wallet.address }).to_string();
        let given = self.does("post /v1/auth/challenge", "/v1/auth/challenge", json, &ask, 201).await;
        let cookie = given.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let message = read(&given)["message"].as_str().unwrap().to_owned();
        let signature = format!("0x{}", data_encoding::HEXLOWER.encode(&wallet.sign_personal(&message)));
        let attempt = json!({ "message": message, "signature": signature }).to_string();
        let headers = format!("{json}Cookie: {cookie}\r\n");
        let session =
            read(&self.does("post /v1/auth/login", "/v1/auth/login", &headers, &attempt, 201).await);
        let token = bearer(&session["access_token"]);
        let once = format!("{token}Idempotency-Key: \"a key\"\r\n");
        let key = read(&self.does("post /v1/auth/keys", "/v1/auth/keys", &once, "{}", 201).await);
        for is_kept in [true, false] {
            let again = self.site.ask("POST", "/v1/auth/keys", &once, "{}").await;
            let code = read(&again)["code"].as_str().unwrap().to_owned();
            assert_eq!((again.status, code.as_str()), (409, "answer_shown_once"), "{again:?}");
            assert_eq!(again.header("idempotency-replayed").is_some(), is_kept);
            self.site.unanswer().await;
        }
        assert!(self.news().await.is_empty(), "a key is made once");
        let by = ("up", RequestId::from_bytes([7; 16]));
        let code = create_sign_in_link(&self.admin, "admin", PrincipalRole::Owner, by).await.unwrap();
        self.news().await;
        let code = json!({ "code": code }).to_string();
        self.does("post /v1/auth/links", "/v1/auth/links", json, &code, 201).await;
        self.does("post /v1/auth/me/links", "/v1/auth/me/links", &token, "", 201).await;
        let path = format!("/v1/auth/keys/{}", key["key_id"].as_str().unwrap());
        self.does("delete /v1/auth/keys/{key_id}", &path, &token, "", 204).await;
        let body = json!({ "refresh_token": session["refresh_token"] }).to_string();
        let next = read(&self.does("post /v1/auth/refresh", "/v1/auth/refresh", json, &body, 200).await);
        let token = bearer(&next["access_token"]);
        self.does("post /v1/auth/logout", "/v1/auth/logout", &token, "", 204).await;
    }
}

#[tokio::test]
async fn every_change_publishes_the_events_it_names_and_no_other() {
    let mut story = Story::start().await;
    let key = format!("Authorization: Bearer {}\r\n", story.site.key);
    story.uploads(&key).await;
    story.media(&key).await;
    story.hooks(&key).await;
    story.workers(&key).await;
    story.dead_letters(&key).await;
    story.alerts(&key).await;
    story.does("delete /v1/cache", "/v1/cache", &key, "", 204).await;
    story.sign_in().await;
    let all: BTreeSet<String> =
        mutating().map(|(place, _)| place).filter(|place| !QUESTIONS.contains(&place.as_str())).collect();
    assert_eq!(story.done, all);
}
