//! What people say about a medium, over HTTP.

mod captions;
mod removed;

use base64::{Engine, engine::general_purpose::STANDARD};
use nats::{Outbox, Role, VersionedRecord};
use schemas::{document, encode::EncodeSettings, ids::MediaId, job, media, subjects, upload};
use serde_json::{Value, json};

use crate::{
    IngressConfig, jobs, removal,
    tests::{Answer, Site, asset, job_record, technical_metadata},
};

const MINTED: &str = "0x88DF016429689C079F3B2F6AD39FA052532C56795B733DA78A91EBE6A713944B";

/// Somebody who speaks to one ingress.
struct Owner {
    site: Site,
    authorization: String,
}

impl Owner {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set: impl FnOnce(&mut IngressConfig)) -> Self {
        let site = Site::start(set).await;
        let authorization = format!("Authorization: Bearer {}\r\n", site.key);
        Self { site, authorization }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.site.ask(method, path, &format!("{}{headers}", self.authorization), body).await
    }

    /// Sends a whole file; answers where its document is.
    async fn upload(&self, metadata: &str) -> String {
        let headers = format!("Content-Type: video/mp4\r\n{metadata}");
        let made = self.ask("POST", "/v1/media", &headers, "hello").await;
        assert_eq!(made.status, 201, "{made:?}");
        made.header("location").unwrap().to_owned()
    }

    async fn patch(&self, medium: &str, body: &Value) -> (u16, Value) {
        let headers = "Content-Type: application/json\r\nIf-Match: *\r\n";
        let answer = self.ask("PATCH", medium, headers, &body.to_string()).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    async fn document(&self, medium: &str) -> Value {
        let answer = self.ask("GET", medium, "", "").await;
        serde_json::from_str(&answer.body).unwrap()
    }
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name} {}", STANDARD.encode(value)));
    format!("Upload-Metadata: {}\r\n", pairs.collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn the_transaction_that_minted_the_token_is_set_shown_and_cleared() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    assert_eq!(owner.document(&medium).await["mint_tx"], Value::Null);
    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut events = admin.subscribe_core(subjects::event_filter::<document::MediaChanged>()).await.unwrap();
    let (status, document) = owner.patch(&medium, &json!({ "mint_tx": MINTED })).await;
    let minted = MINTED.to_lowercase();
    assert_eq!((status, &document["mint_tx"]), (200, &json!(minted)), "{document}");
    assert_eq!(owner.document(&medium).await, document);
    let message = futures::StreamExt::next(&mut events).await.unwrap();
    let changed: document::MediaChanged = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(changed.mint_tx.unwrap().to_string(), minted);
    // What is not named stays.
    let (_, document) = owner.patch(&medium, &json!({ "title": "minted" })).await;
    assert_eq!((&document["title"], &document["mint_tx"]), (&json!("minted"), &json!(minted)));
    let (status, document) = owner.patch(&medium, &json!({ "mint_tx": null })).await;
    assert_eq!((status, &document["mint_tx"], &document["title"]), (200, &Value::Null, &json!("minted")));
}

#[tokio::test]
async fn who_plays_a_medium_is_said_with_all_else_that_is_said_of_it() {
    let owner = Owner::new().await;
    let pairs = metadata(&[("filename", "sea.mp4"), ("visibility", "unlisted")]);
    let medium = owner.upload(&pairs).await;
    assert_eq!(owner.document(&medium).await["visibility"], "unlisted");
    let gate = format!("{medium}/gate");
    let rule = async || {
        serde_json::from_str::<Value>(&owner.ask("GET", &gate, "", "").await.body).unwrap()["rule"].take()
    };
    assert_eq!(rule().await, json!({ "kind": "public" }));

    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut events = admin.subscribe_core("evt.*.changed.*".into()).await.unwrap();
    for (visibility, kinds) in [
        // Its rule is the same, and no playback ends.
        ("public", &["media"][..]),
        ("unlisted", &["media"]),
        ("private", &["gate", "media"]),
        ("private", &[]),
        ("public", &["gate", "media"]),
    ] {
        let (status, document) =
            owner.patch(&medium, &json!({ "visibility": visibility, "title": "sea" })).await;
        assert_eq!((status, &document["visibility"]), (200, &json!(visibility)), "{document}");
        assert_eq!(owner.document(&medium).await, document);
        let expected = if visibility == "private" { Value::Null } else { json!({ "kind": "public" }) };
        assert_eq!(rule().await, expected, "{visibility}");
        for kind in kinds {
            let message = futures::StreamExt::next(&mut events).await.unwrap();
            assert!(
                message.subject.starts_with(&format!("evt.{kind}.changed.")),
                "{visibility}: {}",
                message.subject
            );
        }
    }
    // Who sets its gate says who plays it anew, also where the rule is the same.
    for change in ["PUT", "DELETE"] {
        owner.patch(&medium, &json!({ "visibility": "unlisted" })).await;
        let headers = "Content-Type: application/json\r\nIf-Match: *\r\n";
        let body = if change == "PUT" { "{\"kind\":\"public\"}" } else { "" };
        assert_eq!(owner.ask(change, &gate, headers, body).await.status, 200);
        owner.ask("PUT", &gate, headers, "{\"kind\":\"public\"}").await;
        assert_eq!(owner.document(&medium).await["visibility"], "public", "{change}");
    }
    let (status, problem) = owner.patch(&medium, &json!({ "visibility": "gated" })).await;
    assert_eq!((status, &problem["code"]), (422, &json!("rule_invalid")), "{problem}");
    assert_eq!(problem["errors"][0]["pointer"], "/visibility");

    let json = "Content-Type: application/json\r\n";
    let made = owner.ask("POST", "/v1/auth/keys", json, "{\"scopes\":[\"metadata\"]}").await;
    let made: Value = serde_json::from_str(&made.body).unwrap();
    let limited = made["key"].as_str().unwrap();
    let headers =
        format!("Authorization: Bearer {limited}\r\nContent-Type: application/json\r\nIf-Match: *\r\n");
    let refused = owner.site.ask("PATCH", &medium, &headers, "{\"visibility\":\"private\"}").await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(owner.document(&medium).await["visibility"], "public");
}

#[tokio::test]
async fn a_wrong_transaction_is_pointed_at_and_changes_nothing() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    for wrong in [
        json!(""),
        json!(7),
        json!(MINTED.get(..65)),
        json!(format!("{MINTED}0")),
        json!([MINTED]),
        json!({}),
    ] {
        let (status, problem) = owner.patch(&medium, &json!({ "title": "other", "mint_tx": wrong })).await;
        assert_eq!((status, &problem["code"]), (400, &json!("json_invalid")), "{wrong}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/mint_tx", "{problem}");
    }
    let document = owner.document(&medium).await;
    assert_eq!((&document["title"], &document["mint_tx"]), (&json!(""), &Value::Null));
}

#[tokio::test]
async fn an_upload_may_bring_its_name_and_its_transaction() {
    let owner = Owner::new().await;
    let pairs = metadata(&[("filename", "sea.mp4"), ("mint_tx", MINTED)]);
    let whole = owner.upload(&pairs).await;
    let tus = format!("Tus-Resumable: 1.0.0\r\nUpload-Length: 0\r\n{pairs}");
    let made = owner.ask("POST", "/v1/uploads", &tus, "").await;
    let resumed = format!("/v1/media/{}", made.header("streamgate-media-id").unwrap());
    for medium in [whole, resumed] {
        let document = owner.document(&medium).await;
        assert_eq!(
            (&document["title"], &document["mint_tx"]),
            (&json!("sea.mp4"), &json!(MINTED.to_lowercase()))
        );
    }
    let wrong = metadata(&[("mint_tx", "0x1234")]);
    let length = "Tus-Resumable: 1.0.0\r\nUpload-Length: 0\r\n";
    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut uploads = admin.subscribe_core(subjects::event_filter::<upload::UploadCreated>()).await.unwrap();
    for (path, headers) in [("/v1/uploads", length), ("/v1/media", "Content-Type: video/mp4\r\n")] {
        let refused = owner.ask("POST", path, &format!("{headers}{wrong}"), "").await;
        let problem: Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!((refused.status, &problem["code"]), (400, &json!("header_invalid")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("mint_tx"), "{problem}");
    }
    // The next event is of an upload that was taken: nothing was made of those.
    owner.upload(&metadata(&[("filename", "next.mp4")])).await;
    let message = futures::StreamExt::next(&mut uploads).await.unwrap();
    let created: upload::UploadCreated = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(created.filename.as_deref(), Some("next.mp4"));
}

fn code(answer: &Answer) -> (u16, String) {
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    (answer.status, problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_medium_is_removed_by_a_client_that_has_seen_it_and_is_gone_for_everybody() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let media_id: MediaId = medium.rsplit('/').next().unwrap().parse().unwrap();
    let admin = owner.site.broker.bus(Role::Admin).await;
    admin
        .commit_record(
            &mut VersionedRecord::new(asset(media_id, "admin", media::MediaStatus::Ready)),
            Outbox::new(),
        )
        .await
        .unwrap();
    let playback = format!("{medium}/playback");
    let playing = owner.ask("POST", &playback, "", "").await;
    let playing: Value = serde_json::from_str(&playing.body).unwrap();
    let address = playing["hls_url"].as_str().unwrap();
    let mut removals = admin.subscribe_core(subjects::event_filter::<media::MediaRemoved>()).await.unwrap();
    assert_eq!(code(&owner.ask("DELETE", &medium, "", "").await), (428, "precondition_required".into()));
    let old = owner.ask("DELETE", &medium, "If-Match: \"b1\"\r\n", "").await;
    assert_eq!(code(&old), (412, "precondition_failed".into()));
    let shown = owner.ask("GET", &medium, "", "").await;
    let seen = format!("If-Match: {}\r\n", shown.header("etag").unwrap());
    let removed = owner.ask("DELETE", &medium, &seen, "").await;
    assert_eq!((removed.status, removed.body.as_str()), (204, ""), "{removed:?}");
    let message = futures::StreamExt::next(&mut removals).await.unwrap();
    let event: media::MediaRemoved = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(
        (event.media_id, event.owner.as_str(), event.removed_by.as_str()),
        (media_id, "admin", "admin")
    );
    let json = "Content-Type: application/json\r\nIf-Match: *\r\n";
    let gate = format!("{medium}/gate");
    for (method, path, headers, body) in [
        ("GET", &medium, "", ""),
        ("DELETE", &medium, seen.as_str(), ""),
        ("PATCH", &medium, json, "{\"title\":\"back\"}"),
        ("GET", &gate, "", ""),
        ("PUT", &gate, json, "{\"kind\":\"public\"}"),
        ("POST", &playback, "", ""),
    ] {
        let answer = owner.ask(method, path, headers, body).await;
        assert_eq!(code(&answer), (404, "not_found".into()), "{method} {path}");
    }
    // The session was open: its next request is refused, whether or not its replica was notified of the removal.
    let refused = owner.site.ask("GET", address, "", "").await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
}

#[tokio::test]
async fn a_removal_leaves_stages_nothing_to_write_and_cancels_the_job() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let media_id: MediaId = medium.rsplit('/').next().unwrap().parse().unwrap();
    let admin = owner.site.broker.bus(Role::Admin).await;
    // A second encode after one that failed: nothing but the job has its number.
    let jobs = [(1, job::JobStatus::Failed), (2, job::JobStatus::Active)]
        .map(|(number, status)| job_record(media_id, "admin", number, status));
    for job in &jobs {
        admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
    }
    let control = subjects::job_cancel_subject(jobs[1].job_id);
    let mut cancels = admin.subscribe_core(control).await.unwrap();
    // The upload stage has not written anything yet.
    let removed = owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await;
    assert_eq!(removed.status, 204, "{removed:?}");
    futures::StreamExt::next(&mut cancels).await.unwrap();
    let mut ended = Vec::new();
    for job in &jobs {
        let held = admin.load_record::<job::JobRecord>(&job.job_id.to_string()).await.unwrap().unwrap();
        ended.push(held.record.status);
    }
    assert_eq!(ended, [job::JobStatus::Failed, job::JobStatus::Cancelled]);
    let mut late = VersionedRecord::new(asset(media_id, "admin", media::MediaStatus::Stored));
    let refused = admin.commit_record(&mut late, Outbox::new()).await;
    assert!(matches!(refused, Err(nats::BusError::Conflict { .. })), "{refused:?}");
    let asked = admin
        .change_record::<media::MediaRecord>(&media_id.to_string(), |_| {
            panic!("nobody is asked about a tombstone")
        })
        .await
        .unwrap();
    assert!(
        asked.is_none()
            && admin.load_record::<media::MediaRecord>(&media_id.to_string()).await.unwrap().is_none()
    );
}

#[tokio::test]
async fn what_is_said_about_a_medium_is_kept_shown_and_taken_back() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut events = admin.subscribe_core(subjects::event_filter::<document::MediaChanged>()).await.unwrap();
    let said = json!({
        "tags": ["Sea", "sea", " summer "], "language": "pt_br", "contact_email": "ann@Example.org",
        "links": [{ "url": "https://example.org/sea", "label": " More " }, { "url": "http://example.org" }],
        "attributes": { "shelf": 7, "crew": { "camera": "Bo", "sound": "Cy" } },
    });
    let (status, document) = owner.patch(&medium, &said).await;
    assert_eq!(status, 200, "{document}");
    assert_eq!(owner.document(&medium).await, document);
    assert_eq!((&document["tags"], &document["language"]), (&json!(["Sea", "summer"]), &json!("pt-BR")));
    let links =
        json!([{ "url": "https://example.org/sea", "label": "More" }, { "url": "http://example.org/" }]);
    assert_eq!((&document["links"], &document["contact_email"]), (&links, &json!("ann@example.org")));
    let message = futures::StreamExt::next(&mut events).await.unwrap();
    let changed: document::MediaChanged = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert_eq!(changed.fields, ["tags", "language", "links", "contact_email", "attributes"]);
    assert_eq!(
        (changed.tags, changed.language.as_deref()),
        (vec!["Sea".into(), "summer".into()], Some("pt-BR"))
    );
    let payload = String::from_utf8_lossy(&message.payload);
    assert!(!payload.contains("ann@example.org") && !payload.contains("shelf"), "{payload}");
    // What is not named stays; of the attributes also below.
    let (_, document) = owner.patch(&medium, &json!({ "attributes": { "crew": { "sound": null } } })).await;
    assert_eq!(document["attributes"], json!({ "shelf": 7, "crew": { "camera": "Bo" } }));
    assert_eq!(document["language"], "pt-BR");
    let nothing =
        json!({ "tags": null, "language": null, "links": [], "contact_email": null, "attributes": null });
    let (_, document) = owner.patch(&medium, &nothing).await;
    for member in ["tags", "language", "links", "contact_email", "attributes"] {
        assert_eq!(document[member], Value::Null, "{member}: {document}");
    }
}

#[tokio::test]
async fn what_can_not_be_said_about_a_medium_is_pointed_at_and_changes_nothing() {
    let owner = Owner::new().await;
    let medium = owner.upload("").await;
    let long = "x".repeat(5_000);
    for (wrong, code, pointer) in [
        (json!({ "tags": ["a", " "] }), "media_details_invalid", "/tags/1"),
        (json!({ "tags": vec!["a"; 21] }), "media_details_invalid", "/tags"),
        (json!({ "tags": "a" }), "json_invalid", "/tags"),
        (json!({ "language": "klingonish" }), "media_details_invalid", "/language"),
        (json!({ "links": [{ "url": "javascript:alert(1)" }] }), "media_details_invalid", "/links/0/url"),
        (json!({ "links": [{ "url": "https://a", "rel": "b" }] }), "json_invalid", "/links/0/rel"),
        (json!({ "contact_email": "ann" }), "json_invalid", "/contact_email"),
        (json!({ "attributes": { "a": long } }), "media_details_invalid", "/attributes"),
        (json!({ "attributes": { "a": [[[[]]]] } }), "media_details_invalid", "/attributes"),
        (json!({ "attributes": [] }), "json_invalid", "/attributes"),
    ] {
        let mut change = wrong.clone();
        change["title"] = json!("other");
        let (status, problem) = owner.patch(&medium, &change).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{wrong}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    assert_eq!(owner.document(&medium).await["title"], "");
}

/// A medium that can be restored for an hour after its removal, with `asset` as what stages know of it, and its id.
async fn restorable(change: impl FnOnce(&mut media::MediaRecord)) -> (Owner, String, MediaId) {
    restorable_with(|_| {}, change).await
}

/// The same with other settings.
async fn restorable_with(
    set: impl FnOnce(&mut IngressConfig),
    change: impl FnOnce(&mut media::MediaRecord),
) -> (Owner, String, MediaId) {
    let owner = Owner::with(|config| {
        config.restorable_ms = 3_600_000;
        set(config);
    })
    .await;
    let medium = owner.upload("").await;
    let media_id: MediaId = medium.rsplit('/').next().unwrap().parse().unwrap();
    let mut record = asset(media_id, "admin", media::MediaStatus::Ready);
    change(&mut record);
    let admin = owner.site.broker.bus(Role::Admin).await;
    admin.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    let gate = "Content-Type: application/json\r\nIf-Match: *\r\n";
    let gated = owner.ask("PUT", &format!("{medium}/gate"), gate, "{\"kind\":\"public\"}").await;
    assert_eq!(gated.status, 200, "{gated:?}");
    (owner, medium, media_id)
}

#[tokio::test]
async fn a_removed_medium_is_for_nobody_until_its_owner_restores_it_as_it_was() {
    let (owner, medium, media_id) = restorable(|_| {}).await;
    let said = json!({ "title": "by the sea", "tags": ["sea"], "attributes": { "shelf": 7 } });
    assert_eq!(owner.patch(&medium, &said).await.0, 200);
    let before = owner.document(&medium).await;
    let gate = owner.ask("GET", &format!("{medium}/gate"), "", "").await.body;
    let playback = format!("{medium}/playback");
    let restore = format!("{medium}/restore");
    for _ in 0..2 {
        let removed = owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await;
        assert_eq!(removed.status, 204, "{removed:?}");
        let json = "Content-Type: application/json\r\nIf-Match: *\r\n";
        for (method, headers, body) in
            [("GET", "", ""), ("DELETE", "If-Match: *\r\n", ""), ("PATCH", json, "{\"title\":\"back\"}")]
        {
            let answer = owner.ask(method, &medium, headers, body).await;
            assert_eq!(code(&answer), (410, "media_removed".into()), "{method}");
            assert!(answer.body.contains(&restore), "{answer:?}");
        }
        // Also for those who might play it.
        for (method, path) in [("POST", &playback), ("GET", &format!("{medium}/poster"))] {
            assert_eq!(owner.ask(method, path, "", "").await.status, 404, "{method} {path}");
        }
        let stranger = owner.site.ask("POST", &restore, "", "").await;
        assert_eq!(stranger.status, 401, "{stranger:?}");
        // What ends the work on it may come late.
        let admin = owner.site.broker.bus(Role::Admin).await;
        let key = media_id.to_string();
        let tombstone =
            admin.load_with_tombstone::<document::MediaDocumentRecord>(&key).await.unwrap().unwrap().record;
        let restored = owner.ask("POST", &restore, "", "").await;
        assert_eq!(restored.status, 200, "{restored:?}");
        removal::end_media_work(&admin, &tombstone).await.unwrap();
        let mut after = owner.document(&medium).await;
        assert_eq!(serde_json::from_str::<Value>(&restored.body).unwrap(), after);
        after["changed_at_ms"] = before["changed_at_ms"].clone();
        assert_eq!(after, before);
        assert_eq!(owner.ask("GET", &format!("{medium}/gate"), "", "").await.body, gate);
        assert_eq!(owner.site.ask("POST", &playback, "", "").await.status, 200);
    }
    // What is there is answered as it is, and nothing is written.
    let tag = owner.ask("GET", &medium, "", "").await.header("etag").unwrap().to_owned();
    assert_eq!(owner.ask("POST", &restore, "", "").await.header("etag"), Some(tag.as_str()));
}

#[tokio::test]
async fn an_encode_that_a_removal_cancelled_goes_on_with_what_it_was_asked_for() {
    for is_paused in [false, true] {
        let (owner, medium, media_id) = restorable(|record| {
            record.status = media::MediaStatus::Stored;
            record.technical = Some(technical_metadata());
            record.source = Some(media::MediaSource {
                key: schemas::keys::source_key(record.media_id),
                size_bytes: 5,
                sha256: "ab".into(),
            });
        })
        .await;
        let admin = owner.site.broker.bus(Role::Admin).await;
        let job = job_record(media_id, "admin", 1, job::JobStatus::Active);
        let job = job::JobRecord { paused_at_ms: is_paused.then_some(7), ..job };
        admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
        let mut reopened =
            admin.subscribe_core(subjects::event_filter::<media::MediaReopened>()).await.unwrap();
        assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
        let restored = owner.ask("POST", &format!("{medium}/restore"), "", "").await;
        assert_eq!(restored.status, 200, "{restored:?}");
        assert_eq!(owner.document(&medium).await["status"], "stored");
        let message = futures::StreamExt::next(&mut reopened).await.unwrap();
        let event: media::MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
        let media::ReopenStep::Encode { encode, settings, .. } = event.step else { panic!("{event:?}") };
        assert_eq!(settings.paused, is_paused, "what waits goes on waiting");
        let asked_for = EncodeSettings { paused: false, ..settings };
        assert_eq!((encode, asked_for), (2, jobs::retry::settings_of_job(&job)));
    }
}

#[tokio::test]
async fn what_goes_on_after_a_restoration_counts_for_the_quota_of_its_owner() {
    let quota = |config: &mut IngressConfig| config.quotas.each.daily_encode_ms_max = Some(1_000);
    let (owner, medium, media_id) = restorable_with(quota, |record| {
        record.status = media::MediaStatus::Stored;
        record.technical = Some(technical_metadata());
        record.source = Some(media::MediaSource {
            key: schemas::keys::source_key(record.media_id),
            size_bytes: 5,
            sha256: "ab".into(),
        });
    })
    .await;
    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut job = job_record(media_id, "admin", 1, job::JobStatus::Active);
    job.plan.duration_ms = 60_000;
    admin.commit_record(&mut VersionedRecord::new(job), Outbox::new()).await.unwrap();
    assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
    let restored = owner.ask("POST", &format!("{medium}/restore"), "", "").await;
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(
        owner.document(&medium).await["status"],
        "failed",
        "it is there, and is encoded when its owner may"
    );
    let record =
        admin.load_record::<media::MediaRecord>(&media_id.to_string()).await.unwrap().unwrap().record;
    assert_eq!(record.code.as_deref(), Some(job::JOB_CANCELLED));
}

#[tokio::test]
async fn a_new_encode_of_what_plays_is_made_anew_and_one_that_its_owner_cancelled_is_not() {
    for by_owner in [false, true] {
        let (owner, medium, media_id) = restorable(|record| {
            record.technical = Some(technical_metadata());
            let key = schemas::keys::source_key(record.media_id);
            record.source = Some(media::MediaSource { key, size_bytes: 5, sha256: "ab".into() });
            record.encode = Some(media::MediaEncode {
                number: 1,
                job_id: packaging::plan::derive_job_id(record.media_id, 1),
                prefix: schemas::keys::encode_prefix(record.media_id, 1, "abc"),
                duration_ms: 1_000,
                renditions: Vec::new(),
                subtitles: Vec::new(),
                has_poster: false,
                has_storyboard: false,
                has_checksums: false,
                warnings: Vec::new(),
            });
            record.attempt.encode = 2;
        })
        .await;
        let admin = owner.site.broker.bus(Role::Admin).await;
        let job = job_record(media_id, "admin", 2, job::JobStatus::Active);
        admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
        if by_owner {
            let path = format!("/v1/jobs/{}/cancel", job.job_id);
            assert_eq!(owner.ask("POST", &path, "", "").await.status, 200);
        }
        assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
        let restored = owner.ask("POST", &format!("{medium}/restore"), "", "").await;
        assert_eq!(restored.status, 200, "{restored:?}");
        let record =
            admin.load_record::<media::MediaRecord>(&media_id.to_string()).await.unwrap().unwrap().record;
        let begun = if by_owner { 2 } else { 3 };
        assert_eq!((record.status, record.attempt.encode), (media::MediaStatus::Ready, begun), "{by_owner}");
    }
}

#[tokio::test]
async fn what_was_not_verified_yet_is_verified_after_its_restoration_and_what_never_came_is_refused() {
    let (owner, medium, _) = restorable(|record| record.status = media::MediaStatus::Uploading).await;
    let admin = owner.site.broker.bus(Role::Admin).await;
    let mut reopened = admin.subscribe_core(subjects::event_filter::<media::MediaReopened>()).await.unwrap();
    assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
    assert_eq!(owner.ask("POST", &format!("{medium}/restore"), "", "").await.status, 200);
    let message = futures::StreamExt::next(&mut reopened).await.unwrap();
    let event: media::MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
    assert!(
        matches!(&event.step, media::ReopenStep::Verify { received } if received.size_bytes == 5),
        "{event:?}"
    );
    // An upload that is still open ends with its medium.
    let made = owner.ask("POST", "/v1/uploads", "Tus-Resumable: 1.0.0\r\nUpload-Length: 9\r\n", "").await;
    let open = format!("/v1/media/{}", made.header("streamgate-media-id").unwrap());
    assert_eq!(owner.ask("DELETE", &open, "If-Match: *\r\n", "").await.status, 204);
    let refused = owner.ask("POST", &format!("{open}/restore"), "", "").await;
    assert_eq!(code(&refused), (404, "not_found".into()));
}

#[tokio::test]
async fn what_is_removed_for_good_is_not_restored_also_after_it_could_have_been() {
    let (owner, medium, media_id) = restorable(|_| {}).await;
    assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
    let gone = format!("{medium}?permanent=true");
    assert_eq!(code(&owner.ask("DELETE", &gone, "", "").await), (428, "precondition_required".into()));
    assert_eq!(owner.ask("DELETE", &gone, "If-Match: *\r\n", "").await.status, 204);
    let restored = owner.ask("POST", &format!("{medium}/restore"), "", "").await;
    assert_eq!(code(&restored), (404, "not_found".into()));
    assert_eq!(code(&owner.ask("GET", &medium, "", "").await), (404, "not_found".into()));
    let admin = owner.site.broker.bus(Role::Admin).await;
    let key = media_id.to_string();
    let left =
        admin.load_with_tombstone::<document::MediaDocumentRecord>(&key).await.unwrap().unwrap().record;
    assert!(left.title.is_empty() && left.gate.is_none(), "{left:?}");
}
