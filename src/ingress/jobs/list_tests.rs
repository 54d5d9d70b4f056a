//! Lists of jobs by filters, from an index of a version before.

use futures::StreamExt;
use nats::Role;
use parking_lot::Mutex;
use schemas::{
    access::PrincipalRole,
    examples,
    ids::JobId,
    index_query::{self, IndexReply, JobIndexItem, JobIndexPage, JobIndexQuery},
    job::JobStatus,
    subjects::{self, JobPriority},
};
use serde_json::Value;

use crate::tests::Site;

fn job_id(number: u8) -> JobId {
    JobId::from_bytes([number; 16])
}

/// Of two owners: jobs that failed, that go on and that are paused.
fn items() -> Vec<JobIndexItem> {
    let active = |number, owner: &str, kind: &str| JobIndexItem {
        job_id: job_id(number),
        kind: kind.into(),
        owner: owner.into(),
        status: JobStatus::Active,
        code: None,
        detail: None,
        ended_at_ms: None,
        ..examples::job_index_item()
    };
    let failed = |number, owner: &str| JobIndexItem {
        status: JobStatus::Failed,
        code: Some("store_full".into()),
        ..active(number, owner, "transcode")
    };
    vec![
        JobIndexItem { paused_at_ms: Some(5), ..active(5, "otto", "verify") },
        JobIndexItem { paused_at_ms: Some(4), priority: JobPriority::P2, ..active(4, "olga", "verify") },
        active(3, "olga", "transcode"),
        failed(2, "otto"),
        failed(1, "olga"),
    ]
}

/// What an index answers that knows owner, medium and status alone.
fn page_of(question: &JobIndexQuery) -> JobIndexPage {
    let (owner, media_id, status) = (question.owner.clone(), question.media_id, question.status);
    let known = JobIndexQuery { owner, media_id, status, ..JobIndexQuery::default() };
    let items = items().into_iter().filter(|item| known.matches(item)).collect();
    JobIndexPage { items, next: Some("position".into()), revision: 9 }
}

struct Listed {
    site: Site,
    owner: String,
    operator: String,
}

impl Listed {
    async fn start() -> Self {
        let site = Site::start(|_| {}).await;
        let admin = site.broker.bus(Role::Admin).await;
        let owner = auth::create_api_key(&admin, "olga", PrincipalRole::Owner).await.unwrap();
        let operator = auth::create_api_key(&admin, "ops", PrincipalRole::Operator).await.unwrap();
        let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
        Self { site, owner: bearer(&owner), operator: bearer(&operator) }
    }

    async fn list(&self, key: &str, query: &str) -> (u16, Value) {
        let answer = self.site.ask("GET", &format!("/v1/jobs?{query}"), key, "").await;
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}")))
    }

    async fn refused(&self, key: &str, query: &str) -> (u16, String) {
        let (status, problem) = self.list(key, query).await;
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Lists by filters while an index answers; `asked` has each question.
    async fn check_lists(&self, asked: &Mutex<Vec<JobIndexQuery>>) {
        let all = JobIndexQuery { limit: 50, ..JobIndexQuery::default() };
        let olga = JobIndexQuery { owner: Some("olga".into()), ..all.clone() };
        let verify =
            |question: &JobIndexQuery| JobIndexQuery { kind: Some("verify".into()), ..question.clone() };
        let paused = JobIndexQuery { paused: Some(true), status: Some(JobStatus::Active), ..olga.clone() };
        let failed = JobIndexQuery {
            code: Some("store_full".into()),
            status: Some(JobStatus::Failed),
            ..olga.clone()
        };
        let otto = JobIndexQuery { owner: Some("otto".into()), ..all.clone() };
        let cases: Vec<(&String, &str, JobIndexQuery, &[u8])> = vec![
            (&self.owner, "", olga.clone(), &[4, 3, 1]),
            (&self.owner, "kind=verify", verify(&olga), &[4]),
            (&self.owner, "owner=olga&kind=verify", verify(&olga), &[4]),
            (
                &self.owner,
                "priority=p2",
                JobIndexQuery { priority: Some(JobPriority::P2), ..olga.clone() },
                &[4],
            ),
            (&self.owner, "code=store_full", failed, &[1]),
            (&self.owner, "paused=true", paused, &[4]),
            (&self.owner, "paused=false", JobIndexQuery { paused: Some(false), ..olga }, &[3, 1]),
            (&self.operator, "kind=verify", verify(&all), &[5, 4]),
            (&self.operator, "owner=otto", otto.clone(), &[5, 2]),
            (&self.operator, "owner=otto&kind=verify", verify(&otto), &[5]),
        ];
        for (key, query, question, wanted) in cases {
            let (status, page) = self.list(key, query).await;
            let items = page["items"].as_array().unwrap();
            let ids: Vec<&str> = items.iter().map(|item| item["job_id"].as_str().unwrap()).collect();
            let wanted: Vec<String> = wanted.iter().map(|number| job_id(*number).to_string()).collect();
            assert_eq!((status, ids), (200, wanted.iter().map(String::as_str).collect()), "{query}");
            assert_eq!(asked.lock().pop(), Some(question), "{query}");
        }
    }

    /// A cursor goes on in its own list only.
    async fn check_cursors(&self) {
        let (_, page) = self.list(&self.owner, "kind=verify").await;
        let cursor = page["next_cursor"].as_str().unwrap();
        assert_eq!(self.list(&self.owner, &format!("kind=verify&cursor={cursor}")).await.0, 200);
        for other in ["", "kind=fetch&", "kind=verify&priority=p2&", "kind=verify&paused=false&"] {
            let refused = self.refused(&self.owner, &format!("{other}cursor={cursor}")).await;
            assert_eq!(refused, (400, "cursor_malformed".into()), "{other}");
        }
    }
}

#[tokio::test]
async fn a_list_has_what_is_asked_for_and_nothing_of_others() {
    let listed = Listed::start().await;
    let bus = listed.site.broker.bus(Role::Index).await;
    let mut questions = bus.subscribe_core(subjects::index_request_subject(index_query::JOBS)).await.unwrap();
    nats::testing::wait_until_taken(&bus).await;
    let asked = Mutex::new(Vec::new());
    let ask = async {
        listed.check_lists(&asked).await;
        listed.check_cursors().await;
    };
    let answer = async {
        while let Some(message) = questions.next().await {
            let question: JobIndexQuery = nats::decode_message(&message.subject, &message.payload).unwrap();
            let reply = IndexReply::Page(page_of(&question));
            asked.lock().push(question);
            let reply = nats::encode_message(&message.subject, &reply).unwrap();
            bus.publish_core(message.reply.unwrap().to_string(), reply).await.unwrap();
        }
    };
    tokio::select! {
        () = ask => {}
        () = answer => panic!("the broker ended"),
    }
}

#[tokio::test]
async fn a_filter_that_can_t_be_is_refused() {
    let listed = Listed::start().await;
    for query in [
        "kind=transcoding",
        "kind=",
        "priority=p3",
        "paused=perhaps",
        "code=",
        "code=store_full&status=active",
        "code=store_full&paused=true",
        "paused=true&status=cancelled",
        "owner=",
        "owner=0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "state=paused",
    ] {
        let refused = listed.refused(&listed.operator, query).await;
        assert_eq!(refused, (400, "query_malformed".into()), "{query}");
    }
    let others = listed.refused(&listed.owner, "owner=otto").await;
    assert_eq!(others, (403, "operators_only".into()));
}
