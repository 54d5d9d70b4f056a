//! Encoding again over HTTP, by the records and the events that are there afterwards, and by what sessions play.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt;
use nats::{Bus, Outbox, Role, VersionedRecord, testing::store_dead_letter};
use packaging::{EncodeProfile, plan::derive_job_id};
use schemas::{
    access::PrincipalRole,
    document::MediaDocumentRecord,
    encode::{EncodeSettings, SUPERSEDED_ENCODES_MAX, SupersededEncode},
    ids::{MediaId, UploadId},
    job::{JobPartRecord, JobRecord, JobStatus, PLAN_TRANSCODE},
    media::{
        MediaEncode, MediaReady, MediaRecord, MediaReopened, MediaSource, MediaStatus, MediaStored,
        MediaWaitReason, ReopenStep,
    },
    subjects::{self, JobPriority},
    upload::UploadReceived,
    usage::OwnerUsage,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::ProfileCatalog;
use crate::IngressConfig;
use crate::dead_letters::redrive::redrive_letter;
use crate::tests::{Answer, Site, asset, job_record, technical_metadata};

pub(crate) const FILM: MediaId = MediaId::from_bytes([3; 16]);
pub(crate) const OWNER: &str = "olga";

/// A medium that plays, two profiles, and its owner's key.
pub(crate) struct Encoded {
    pub(crate) site: Site,
    pub(crate) admin: Bus,
    pub(crate) owner: String,
}

fn encode(number: u32) -> MediaEncode {
    let made = asset(FILM, OWNER, MediaStatus::Ready).encode.unwrap();
    let prefix = schemas::keys::encode_prefix(FILM, number, "abc");
    MediaEncode { number, job_id: derive_job_id(FILM, number), prefix, ..made }
}

impl Encoded {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut IngressConfig)) -> Self {
        let site = Site::start(|config| {
            change(config);
            let profiles = ["default", "small"].map(|name| (name.to_owned(), EncodeProfile::default()));
            let profiles = BTreeMap::from(profiles);
            config.profiles = ProfileCatalog { default_name: "default".to_owned(), profiles };
        })
        .await;
        let admin = site.broker.bus(Role::Admin).await;
        let key = auth::create_api_key(&admin, OWNER, PrincipalRole::Owner).await.unwrap();
        let source =
            MediaSource { key: schemas::keys::source_key(FILM), size_bytes: 5, sha256: "0".repeat(64) };
        site.store.put(&source.key, "hello").await.unwrap();
        let medium = MediaRecord {
            source: Some(source),
            technical: Some(technical_metadata()),
            encode: Some(encode(1)),
            ..asset(FILM, OWNER, MediaStatus::Ready)
        };
        let document = MediaDocumentRecord::new(FILM, OWNER.into(), 1);
        admin.commit_record(&mut VersionedRecord::new(medium), Outbox::new()).await.unwrap();
        admin.commit_record(&mut VersionedRecord::new(document), Outbox::new()).await.unwrap();
        let made = Self { site, admin, owner: format!("Authorization: Bearer {key}\r\n") };
        made.put_job(1, JobStatus::Succeeded).await;
        made
    }

    pub(crate) async fn put_job(&self, number: u32, status: JobStatus) {
        let job = job_record(FILM, OWNER, number, status);
        self.admin
            .change_record::<JobRecord>(&job.job_id.to_string(), |_| Some((job.clone(), Outbox::new())))
            .await
            .unwrap();
    }

    pub(crate) async fn change_medium(&self, change: impl Fn(&mut MediaRecord) -> Outbox + Sync) {
        let changed = |found: Option<&MediaRecord>| {
            let mut medium = found?.clone();
            let outbox = change(&mut medium);
            Some((medium, outbox))
        };
        self.admin.change_record(&FILM.to_string(), changed).await.unwrap();
    }

    pub(crate) async fn medium(&self) -> MediaRecord {
        self.admin.load_record::<MediaRecord>(&FILM.to_string()).await.unwrap().unwrap().record
    }

    async fn post(&self, authorization: &str, body: &Value) -> Answer {
        let headers = format!("{authorization}Content-Type: application/json\r\n");
        self.site.ask("POST", &format!("/v1/media/{FILM}/transcode"), &headers, &body.to_string()).await
    }

    async fn refused(&self, authorization: &str, body: &Value) -> (u16, String) {
        let answer = self.post(authorization, body).await;
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        (answer.status, problem["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Where a new session of the owner plays from.
    async fn open_session(&self) -> String {
        let path = format!("/v1/media/{FILM}/playback");
        let answer = self.site.ask("POST", &path, &self.owner, "").await;
        let playback: Value = serde_json::from_str(&answer.body).unwrap();
        format!("/play/{}/{FILM}", playback["token"].as_str().unwrap_or_else(|| panic!("{answer:?}")))
    }
}

#[tokio::test]
async fn a_medium_that_plays_is_encoded_again_and_plays_on() {
    let site = Encoded::start().await;
    let mut events = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
    let before = site.medium().await;
    for (number, body, profile, priority) in [
        (2, json!({}), "default", JobPriority::P1),
        (3, json!({ "profile": "small", "priority": "p2" }), "small", JobPriority::P2),
    ] {
        let answer = site.post(&site.owner, &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let job_id = derive_job_id(FILM, number).to_string();
        let wanted = json!({
            "job_id": job_id, "media_id": FILM, "encode": number, "profile": profile, "priority": priority,
        });
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), wanted);
        assert!(answer.header("location").unwrap().ends_with(&format!("/v1/jobs/{job_id}")), "{answer:?}");
        let message = events.next().await.unwrap();
        let reopened: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
        let ReopenStep::Encode { encode, settings, .. } = reopened.step else { panic!("{reopened:?}") };
        assert_eq!(
            (encode, settings),
            (number, EncodeSettings { profile: Some(profile.into()), priority, ..EncodeSettings::default() })
        );
        let medium = site.medium().await;
        assert_eq!((medium.status, &medium.encode), (MediaStatus::Ready, &before.encode), "it plays on");
        // Before it is planned, and while it is made, there is no other.
        assert_eq!(site.refused(&site.owner, &body).await, (409, "not_encodable".into()));
        site.put_job(number, JobStatus::Active).await;
        assert_eq!(site.refused(&site.owner, &body).await, (409, "not_encodable".into()));
        site.put_job(number, JobStatus::Failed).await;
    }
}

#[tokio::test]
async fn what_can_not_be_encoded_again_says_why_and_changes_nothing() {
    let site = Encoded::start().await;
    let other = auth::create_api_key(&site.admin, "other", PrincipalRole::Owner).await.unwrap();
    let other = format!("Authorization: Bearer {other}\r\n");
    let before = site.medium().await;
    let unknown = site.post(&site.owner, &json!({ "profile": "huge" })).await;
    let problem: Value = serde_json::from_str(&unknown.body).unwrap();
    assert_eq!((unknown.status, &problem["code"]), (422, &json!("profile_unknown")), "{unknown:?}");
    assert_eq!(problem["profiles"], json!(["default", "small"]));
    assert_eq!(problem["errors"][0]["detail"], "there are default, small");
    let p0 = json!({ "priority": "p0" });
    assert_eq!(site.refused(&site.owner, &p0).await, (403, "operators_only".into()));
    assert_eq!(site.refused(&other, &json!({})).await, (404, "not_found".into()));
    assert_eq!(site.refused(&site.owner, &json!({ "bitrate": 1 })).await.0, 400);
    assert_eq!(site.medium().await, before);
    for (status, code) in [
        (MediaStatus::Uploading, "not_encodable"),
        (MediaStatus::Stored, "not_encodable"),
        (MediaStatus::Playable, "not_encodable"),
        (MediaStatus::Rejected, "not_encodable"),
    ] {
        site.change_medium(|medium| {
            medium.status = status;
            Outbox::new()
        })
        .await;
        assert_eq!(site.refused(&site.owner, &json!({})).await, (409, code.into()), "{status:?}");
    }
    site.change_medium(|medium| {
        medium.status = MediaStatus::Ready;
        let old = SupersededEncode { encode: encode(1), superseded_at_ms: 1 };
        medium.superseded = vec![old; SUPERSEDED_ENCODES_MAX];
        Outbox::new()
    })
    .await;
    assert_eq!(site.refused(&site.owner, &json!({})).await, (409, "encodes_in_use".into()));
    site.change_medium(|medium| {
        medium.superseded.clear();
        Outbox::new()
    })
    .await;
    site.site.store.remove_folder(&schemas::keys::media_prefix(FILM)).await.unwrap();
    assert_eq!(site.refused(&site.owner, &json!({})).await, (409, "source_gone".into()));
}

#[tokio::test]
async fn a_medium_whose_new_job_never_came_can_be_encoded_again_later() {
    let site = Encoded::start().await;
    site.change_medium(|medium| {
        // Its event was given up, or the record of a job that failed has gone with its age.
        medium.attempt.encode = 2;
        medium.changed_at_ms = nats::now_ms() - super::retry::PLANNING_MS_MAX;
        Outbox::new()
    })
    .await;
    let answer = site.post(&site.owner, &json!({})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(site.medium().await.attempt.encode, 3);
}

#[tokio::test]
async fn an_upload_says_how_it_is_encoded_first() {
    let site = Encoded::start().await;
    let mut events = site.admin.subscribe_core(subjects::event_filter::<UploadReceived>()).await.unwrap();
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{key} {}", BASE64.encode(value.as_bytes()))).collect();
        format!("Upload-Metadata: {}\r\n", pairs.join(","))
    };
    let whole = "Content-Type: video/mp4\r\n";
    let tus = "Tus-Resumable: 1.0.0\r\nUpload-Length: 0\r\n";
    let send = async |path: &str, headers: &str| {
        site.site.ask("POST", path, &format!("{}{headers}", site.owner), "").await
    };
    for (path, headers) in [("/v1/media", whole), ("/v1/uploads", tus)] {
        let wanted = pairs(&[("profile", "small"), ("priority", "p2"), ("encode_paused", "true")]);
        let answer = send(path, &format!("{headers}{wanted}")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let message = events.next().await.unwrap();
        let received: UploadReceived = nats::decode_message(&message.subject, &message.payload).unwrap();
        let settings = EncodeSettings {
            profile: Some("small".into()),
            priority: JobPriority::P2,
            paused: true,
            ..EncodeSettings::default()
        };
        assert_eq!(received.settings, settings, "{path}");
        for (pairs, wanted) in [
            (pairs(&[("profile", "huge")]), (422, "profile_unknown")),
            (pairs(&[("priority", "p0")]), (403, "operators_only")),
            (pairs(&[("priority", "high")]), (400, "header_invalid")),
            (pairs(&[("encode_paused", "yes")]), (400, "header_invalid")),
        ] {
            let answer = send(path, &format!("{headers}{pairs}")).await;
            let problem: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!((answer.status, problem["code"].as_str().unwrap()), wanted, "{path} {problem}");
        }
    }
}

#[tokio::test]
async fn a_first_encode_that_waits_paused_gives_way_to_another() {
    let site = Encoded::start().await;
    let path = format!("/v1/media/{FILM}/transcode");
    let headers = format!("{}Content-Type: application/json\r\n", site.owner);
    let ask = async || site.site.ask("POST", &path, &headers, r#"{"profile":"small"}"#).await;
    site.change_medium(|medium| {
        (medium.status, medium.encode) = (MediaStatus::Stored, None);
        Outbox::new()
    })
    .await;
    site.put_job(1, JobStatus::Active).await;
    let refused = ask().await;
    assert!(refused.status == 409 && refused.body.contains("it is being encoded"), "{refused:?}");

    let first = derive_job_id(FILM, 1).to_string();
    let pause = |found: Option<&JobRecord>| {
        let (paused, _) = found?.with_pause(OWNER, 7)?;
        Some((JobRecord { parts: vec!["v0000".into()], ..paused }, Outbox::new()))
    };
    let job = site.admin.change_record::<JobRecord>(&first, pause).await.unwrap().unwrap().record;
    let digest = Sha256::digest(OWNER.as_bytes());
    let day = OwnerUsage::day_of_ms(job.created_at_ms);
    let used_ms = job.plan.duration_ms + 5;
    let usage = OwnerUsage::with_added(None, (&digest, day), (0, used_ms));
    site.admin.commit_record(&mut VersionedRecord::new(usage.clone()), Outbox::new()).await.unwrap();
    let begun = ask().await;
    let document: Value = serde_json::from_str(&begun.body).unwrap();
    assert_eq!((begun.status, &document["encode"]), (202, &json!(2)), "{begun:?}");
    let medium = site.medium().await;
    assert_eq!((medium.status, medium.attempt.encode), (MediaStatus::Stored, 2));
    let first = site.admin.load_record::<JobRecord>(&first).await.unwrap().unwrap().record;
    assert_eq!(first.status, JobStatus::Cancelled);
    let usage = site.admin.load_record::<OwnerUsage>(&usage.key).await.unwrap().unwrap().record;
    assert_eq!(usage.encoded_ms, 5, "what was not encoded does not count");

    // Without a source there is nothing else to make, and the job goes on waiting.
    site.put_job(2, JobStatus::Active).await;
    let second = derive_job_id(FILM, 2).to_string();
    site.admin.change_record::<JobRecord>(&second, pause).await.unwrap();
    site.site.store.delete(&schemas::keys::source_key(FILM)).await.unwrap();
    let refused = ask().await;
    assert!(refused.status == 409 && refused.body.contains("source_gone"), "{refused:?}");
    // Of this one something is made already.
    let part = JobPartRecord::new(derive_job_id(FILM, 2), &job.parts[0]);
    site.admin.commit_record(&mut VersionedRecord::new(part), Outbox::new()).await.unwrap();
    site.site.store.put(&schemas::keys::source_key(FILM), "hello").await.unwrap();
    let refused = ask().await;
    assert!(refused.status == 409 && refused.body.contains("it is being encoded"), "{refused:?}");
    let second = site.admin.load_record::<JobRecord>(&second).await.unwrap().unwrap().record;
    assert_eq!(second.status, JobStatus::Active);
}

#[tokio::test]
async fn a_first_encode_that_could_not_be_planned_is_taken_up_again_as_its_upload_said() {
    let site = Encoded::start().await;
    let before = site.medium().await;
    let settings = EncodeSettings {
        profile: Some("small".into()),
        priority: JobPriority::P2,
        ..EncodeSettings::default()
    };
    let stored = MediaStored {
        media_id: FILM,
        upload_id: UploadId::from_bytes([5; 16]),
        owner: OWNER.into(),
        source: before.source.clone().unwrap(),
        technical: technical_metadata(),
        settings: settings.clone(),
    };
    site.change_medium(|medium| {
        (medium.status, medium.encode) = (MediaStatus::Failed, None);
        Outbox::new()
    })
    .await;
    let job_id = derive_job_id(FILM, 1).to_string();
    site.admin
        .change_record::<JobRecord>(&job_id, |job| {
            Some((JobRecord { status: JobStatus::Failed, ..job?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    let mut events = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
    let subject = subjects::event_subject(&stored);
    let payload = nats::encode_message(&subject, &stored).unwrap();
    let place = (subjects::EVENTS, subject.as_str());
    let letter = store_dead_letter(&site.admin, PLAN_TRANSCODE, place, payload).await;
    redrive_letter(&site.admin, &site.site.store, letter, "anna").await.unwrap();
    let message = events.next().await.unwrap();
    let reopened: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
    let ReopenStep::Encode { settings: found, .. } = reopened.step else { panic!("{reopened:?}") };
    assert_eq!(found, settings);
}

#[tokio::test]
async fn a_retry_makes_what_its_job_was_to_make() {
    let site = Encoded::start().await;
    let mut events = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
    let mut job = job_record(FILM, OWNER, 2, JobStatus::Failed);
    (job.plan.profile, job.priority) = ("small".to_owned(), JobPriority::P2);
    let job_id = job.job_id;
    site.admin.commit_record(&mut VersionedRecord::new(job), Outbox::new()).await.unwrap();
    let answer = site.site.ask("POST", &format!("/v1/jobs/{job_id}/retry"), &site.owner, "").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let message = events.next().await.unwrap();
    let reopened: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
    let ReopenStep::Encode { settings, .. } = reopened.step else { panic!("{reopened:?}") };
    assert_eq!(
        settings,
        EncodeSettings {
            profile: Some("small".into()),
            priority: JobPriority::P2,
            ..EncodeSettings::default()
        }
    );
}

#[tokio::test]
async fn a_session_plays_the_encode_it_began_with_and_a_new_one_the_new() {
    let site = Encoded::start().await;
    for number in [1, 2] {
        let key = format!("{}/v360/1.m4s", encode(number).prefix);
        site.site.store.put(&key, format!("segment of encode {number}")).await.unwrap();
    }
    let fetch = async |base: &str| {
        let answer = site.site.ask("GET", &format!("{base}/v360/1.m4s"), "", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let old = site.open_session().await;
    assert_eq!(fetch(&old).await, "segment of encode 1");
    let made = encode(2);
    site.change_medium(|medium| {
        *medium = medium.with_ready_encode(&made, 5);
        Outbox::new().with_event(&MediaReady { media_id: FILM, owner: OWNER.into(), encode: made.clone() })
    })
    .await;
    // At once, though a replica may have what played before in memory.
    let new = site.open_session().await;
    assert_eq!(fetch(&new).await, "segment of encode 2");
    assert_eq!(fetch(&old).await, "segment of encode 1");
    // A token of before tokens named an encode.
    let bare = new.replace("-2/", "/");
    assert_eq!(site.site.ask("GET", &format!("{bare}/v360/1.m4s"), "", "").await.status, 403);
    // Once the old one is gone its sessions are over: segments of another one do not go with what they have.
    site.change_medium(|medium| {
        medium.superseded.clear();
        Outbox::new().with_event(&MediaReady { media_id: FILM, owner: OWNER.into(), encode: made.clone() })
    })
    .await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let answer = site.site.ask("GET", &format!("{old}/v360/1.m4s"), "", "").await;
        if answer.status == 403 {
            break assert!(answer.body.contains("session_unknown"), "{answer:?}");
        }
        assert!(tokio::time::Instant::now() < deadline, "what was replaced is gone");
    }
    assert_eq!(fetch(&new).await, "segment of encode 2");
}

#[tokio::test]
async fn of_a_medium_that_plays_only_one_retry_is_begun() {
    let site = Encoded::start().await;
    let mut job = job_record(FILM, OWNER, 2, JobStatus::Failed);
    job.priority = JobPriority::P0;
    site.admin.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
    let mut events = site.admin.subscribe_core(subjects::event_filter::<MediaReopened>()).await.unwrap();
    let path = format!("/v1/jobs/{}/retry", job.job_id);
    assert_eq!(site.site.ask("POST", &path, &site.owner, "").await.status, 202);
    let message = events.next().await.unwrap();
    let reopened: MediaReopened = nats::decode_message(&message.subject, &message.payload).unwrap();
    let ReopenStep::Encode { settings, .. } = reopened.step else { panic!("{reopened:?}") };
    assert_eq!(settings.priority, JobPriority::P1, "p0 is for operators");
    // Before anybody has planned it.
    assert_eq!(site.site.ask("POST", &path, &site.owner, "").await.status, 409);
    assert_eq!(site.refused(&site.owner, &json!({})).await, (409, "not_encodable".into()));
    assert_eq!(site.medium().await.attempt.encode, 3);
}

#[tokio::test]
async fn a_medium_whose_second_job_is_cancelled_waits_for_nothing() {
    let site = Encoded::start().await;
    assert_eq!(site.post(&site.owner, &json!({})).await.status, 202);
    site.put_job(2, JobStatus::Active).await;
    site.change_medium(|medium| {
        medium.waiting = Some(MediaWaitReason { code: "store_unavailable".into(), since_ms: 1 });
        Outbox::new()
    })
    .await;
    let path = format!("/v1/jobs/{}/cancel", derive_job_id(FILM, 2));
    assert_eq!(site.site.ask("POST", &path, &site.owner, "").await.status, 200);
    let medium = site.medium().await;
    assert_eq!((medium.status, medium.waiting), (MediaStatus::Ready, None));
}

#[tokio::test]
async fn the_profiles_are_listed() {
    let site = Encoded::start().await;
    let answer = site.site.ask("GET", "/v1/profiles", &site.owner, "").await;
    let list: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    let items = list["items"].as_array().unwrap();
    let named: Vec<_> =
        items.iter().map(|item| (item["name"].as_str().unwrap(), &item["is_default"])).collect();
    assert_eq!(named, [("default", &json!(true)), ("small", &json!(false))]);
    assert_eq!(items[0]["profile"], serde_json::to_value(EncodeProfile::default()).unwrap());
}
