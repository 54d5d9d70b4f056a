//! What operators see of messages that were given up, and what admins do about them.

use nats::{Bus, Outbox, Role, VersionedRecord, dead_letter::LetterMark, testing::store_dead_letter};
use schemas::{
    access::PrincipalRole,
    dead_letter::{AdminLetterChanged, LetterAction},
    examples,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartTask, JobRecord, JobStatus},
    subjects,
};
use serde_json::{Value, json};

use crate::tests::{Answer, Site};

/// Stores the letter of a part of a job.
pub(crate) async fn store_part_letter(bus: &Bus, job: &JobRecord, part: &str) -> u64 {
    let subject = job.part_subject(part);
    let task = JobPartTask { job_id: job.job_id, part: part.into() };
    let payload = nats::encode_message(&subject, &task).unwrap();
    store_dead_letter(bus, job::TRANSCODE, (subjects::JOBS, &subject), payload).await
}

fn job(number: u8, status: JobStatus) -> JobRecord {
    JobRecord {
        job_id: JobId::from_bytes([number; 16]),
        media_id: MediaId::from_bytes([number; 16]),
        status,
        ..examples::job_record()
    }
}

async fn store(bus: &Bus, job: &JobRecord) {
    bus.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
}

fn document(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn operators_page_through_letters_and_read_them() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let operator = auth::create_api_key(&admin, "olga", PrincipalRole::Operator).await.unwrap();
    let key = format!("Authorization: Bearer {operator}\r\n");
    let ask = async |path: &str| site.ask("GET", &format!("/v1/dead-letters{path}"), &key, "").await;
    assert_eq!(document(&ask("").await), json!({ "items": [], "next_after": null }));
    let job = job(1, JobStatus::Succeeded);
    let part = store_part_letter(&admin, &job, "v0001").await;
    let junk =
        store_dead_letter(&admin, "upload", (subjects::EVENTS, "evt.upload.received.x"), vec![0xc1]).await;
    let letter = admin.dead_letter(junk).await.unwrap().unwrap();
    admin.mark_dead_letter(&letter, LetterMark::Discarded).await.unwrap();
    let sequences = |answer: &Answer| -> Vec<u64> {
        let items = document(answer)["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["sequence"].as_u64().unwrap()).collect()
    };
    for (query, wanted) in [
        ("", vec![part, junk]),
        ("?stage=upload", vec![junk]),
        ("?state=waiting", vec![part]),
        ("?state=discarded", vec![junk]),
        ("?state=redriven", vec![]),
        ("?limit=1", vec![part]),
    ] {
        let answer = ask(query).await;
        assert_eq!((answer.status, sequences(&answer)), (200, wanted), "{query}: {answer:?}");
    }
    let next = document(&ask("?limit=1").await)["next_after"].as_u64().unwrap();
    let rest = ask(&format!("?limit=1&after={next}")).await;
    assert_eq!(sequences(&rest), [junk], "{rest:?}");
    let read = document(&ask(&format!("/{part}")).await);
    assert_eq!(read["payload"], json!({ "job_id": job.job_id, "part": "v0001" }), "{read}");
    assert_eq!(
        (&read["stage"], &read["state"], &read["code"]),
        (&json!("transcode"), &json!("waiting"), &json!("crashed"))
    );
    let read = document(&ask(&format!("/{junk}")).await);
    assert_eq!((&read["payload"], &read["payload_base64"]), (&Value::Null, &json!("wQ==")), "{read}");
    assert_eq!(read["state"], "discarded");
    // What says that something was done about a letter is none, and neither is what can't be a sequence.
    for sequence in
        [&(junk + 1).to_string(), "0", "99", "x", "-1", "18446744073709551615", "99999999999999999999"]
    {
        assert_eq!(ask(&format!("/{sequence}")).await.status, 404, "{sequence}");
    }
    for query in ["?limit=0", "?state=x", "?after=x", "?other=1"] {
        assert_eq!(ask(query).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn owners_see_no_letters_and_operators_change_none() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let sequence = store_part_letter(&admin, &job(1, JobStatus::Succeeded), "v0001").await;
    for (role, read, change) in [
        (PrincipalRole::Owner, 403, 403),
        (PrincipalRole::Operator, 200, 403),
        (PrincipalRole::Admin, 200, 204),
    ] {
        let key = auth::create_api_key(&admin, "ann", role).await.unwrap();
        let key = format!("Authorization: Bearer {key}\r\n");
        for path in ["/v1/dead-letters".to_owned(), format!("/v1/dead-letters/{sequence}")] {
            assert_eq!(site.ask("GET", &path, &key, "").await.status, read, "{role:?}");
        }
        let path = format!("/v1/dead-letters/{sequence}/discard");
        assert_eq!(site.ask("POST", &path, &key, "").await.status, change, "{role:?}");
    }
}

#[tokio::test]
async fn a_part_that_was_put_aside_is_resumed_and_that_is_an_event() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let key = auth::create_api_key(&admin, "otto", PrincipalRole::Admin).await.unwrap();
    let key = format!("Authorization: Bearer {key}\r\n");
    let job = job(1, JobStatus::Active);
    store(&admin, &job).await;
    let lost = job::LostWorkers {
        workers: 3,
        first_at_ms: 1,
        last_at_ms: 2,
        parked_at_ms: Some(2),
        retry_at_ms: None,
    };
    let parked = JobPartRecord { lost: Some(lost), ..JobPartRecord::new(job.job_id, "v0000") };
    admin.commit_record(&mut VersionedRecord::new(parked), Outbox::new()).await.unwrap();
    let sequence = store_part_letter(&admin, &job, "v0000").await;
    let mut events = admin.subscribe_core("evt.admin.letter_changed.*".into()).await.unwrap();
    let mut looks = admin.subscribe_core(subjects::CONTROL_DISPATCH.into()).await.unwrap();
    let redrive = async || site.ask("POST", &format!("/v1/dead-letters/{sequence}/redrive"), &key, "").await;
    let answer = redrive().await;
    let wanted = json!({ "sequence": sequence, "result": "resumed", "job_id": job.job_id, "part": "v0000" });
    assert_eq!((answer.status, document(&answer)), (200, wanted));
    let part = admin.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, "v0000")).await.unwrap();
    assert!(!part.unwrap().record.is_parked());
    let look = futures::StreamExt::next(&mut looks).await.unwrap();
    assert_eq!(
        subjects::parse_dispatch_look(&look.subject),
        Some(job.job_id),
        "the dispatcher looks at once"
    );
    let message = futures::StreamExt::next(&mut events).await.unwrap();
    let event: AdminLetterChanged = nats::decode_message(&message.subject, &message.payload).unwrap();
    let wanted = AdminLetterChanged {
        sequence,
        stage: job::TRANSCODE.into(),
        action: LetterAction::Redriven,
        changed_by: "otto".into(),
    };
    assert_eq!(event, wanted);
    // Again: the job goes on, and nothing is to be done.
    let again = document(&redrive().await);
    assert_eq!((&again["result"], &again["reason"]), (&json!("superseded"), &json!("its job goes on")));
    let letter = admin.dead_letter(sequence).await.unwrap().unwrap();
    assert_eq!(letter.mark.map(|(mark, _)| mark), Some(LetterMark::Redriven));
}

#[tokio::test]
async fn a_letter_that_can_t_have_a_second_chance_says_why_and_stays() {
    let site = Site::start(|_| {}).await;
    let admin = site.broker.bus(Role::Admin).await;
    let key = format!("Authorization: Bearer {}\r\n", site.key);
    let cancelled = job(2, JobStatus::Cancelled);
    let failed = job(3, JobStatus::Failed);
    store(&admin, &cancelled).await;
    store(&admin, &failed).await;
    let junk =
        store_dead_letter(&admin, "transcode", (subjects::JOBS, "job.transcode.p1.x.v0000"), vec![0xc1])
            .await;
    for (sequence, status, code) in [
        (junk, 409, "letter_unreadable"),
        (store_part_letter(&admin, &job(1, JobStatus::Active), "v0000").await, 404, "not_found"),
        (store_part_letter(&admin, &cancelled, "v0000").await, 409, "job_ended"),
        (store_part_letter(&admin, &failed, "v0000").await, 404, "not_found"),
        (99, 404, "not_found"),
    ] {
        let answer = site.ask("POST", &format!("/v1/dead-letters/{sequence}/redrive"), &key, "").await;
        assert_eq!((answer.status, document(&answer)["code"].as_str()), (status, Some(code)), "{answer:?}");
        if let Some(letter) = admin.dead_letter(sequence).await.unwrap() {
            assert_eq!(letter.mark, None, "it waits for somebody still");
        }
    }
}
