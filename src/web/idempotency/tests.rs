//! What a client sees when it repeats itself: a real broker, two replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Path,
    http::StatusCode,
    middleware,
    routing::post,
};
use nats::{Outbox, Role as BusRole, testing::TestBroker};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::*;

/// What the handlers of all replicas did.
#[derive(Debug, Clone)]
struct Made {
    count: Arc<AtomicU32>,
    /// Handlers of `/wait` go on once there is a permit.
    gate: Arc<Semaphore>,
    /// They give one here when they begin.
    started: Arc<Semaphore>,
}

async fn sign_in(mut request: Request, next: Next) -> Response {
    let owner = request.headers().get("x-owner").map_or("ann", |value| value.to_str().unwrap()).to_owned();
    request.extensions_mut().insert(RequestOwner(owner));
    if let Some(grant) = request.headers().get("x-grant") {
        let grant = RequestGrant(grant.to_str().unwrap().to_owned());
        request.extensions_mut().insert(grant);
    }
    next.run(request).await
}

fn router(keeper: IdempotencyService, made: &Made) -> Router {
    let (counting, waiting) = (made.clone(), made.clone());
    let create = move |Path(status): Path<u16>, body: String| {
        let number = counting.count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(header::LOCATION, format!("/made/{number}"))], format!("{number} {body}"))
        }
    };
    let wait = move |claim: axum::Extension<IdempotencyClaim>| {
        let made = waiting.clone();
        async move {
            made.started.add_permits(1);
            made.gate.acquire().await.unwrap().forget();
            made.count.fetch_add(1, Ordering::SeqCst);
            data_encoding::HEXLOWER.encode(&claim.derive_id(0))
        }
    };
    let panicking = made.clone();
    let panic = move || {
        let count = panicking.count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { assert_eq!(count, 0, "on purpose") }
    };
    Router::new()
        .route("/make/{status}", post(create))
        .route("/wait", post(wait))
        .route("/panic", post(panic))
        .layer(middleware::from_fn_with_state(keeper, deduplicate_request))
        .layer(middleware::from_fn(sign_in))
}

struct Site {
    broker: TestBroker,
    made: Made,
    keepers: Vec<IdempotencyService>,
    replicas: Vec<Router>,
}

impl Site {
    async fn start(config: IdempotencyConfig) -> Self {
        let broker = TestBroker::start().await;
        let made = Made {
            count: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            started: Arc::new(Semaphore::new(0)),
        };
        let (mut keepers, mut replicas) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut settings = broker.config(BusRole::Ingress);
            settings.request_timeout_ms = 1_000;
            let bus = Bus::connect(&settings).await.unwrap();
            keepers.push(IdempotencyService::new(bus, config));
            replicas.push(router(keepers.last().unwrap().clone(), &made));
        }
        Self { broker, made, keepers, replicas }
    }

    fn count(&self) -> u32 {
        self.made.count.load(Ordering::SeqCst)
    }

    async fn post(&self, replica: usize, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Answer::of(send(&self.replicas[replica], path, headers, body).await).await
    }

    /// Sends a request to `/wait`, and goes away once it is worked on.
    async fn leave_waiting(&self, replica: usize) {
        tokio::select! {
            answer = self.post(replica, "/wait", &[KEY], "{}") => panic!("nobody let it go on: {answer:?}"),
            permit = self.made.started.acquire() => permit.unwrap().forget(),
        }
    }

    /// Leaves a request to `/wait` that is worked on, and writes its claim once more behind the back of its replica, with the end that
    /// `change` makes of its own. Answers a connection and the key of the record.
    async fn wait_renewed_unseen(&self, change: fn(u64) -> u64) -> (Bus, String) {
        self.leave_waiting(0).await;
        let bus = self.broker.bus(BusRole::Ingress).await;
        let digest = key::digest_texts(&[b"key", b"ann", b"/wait", b"one"]);
        let digest = data_encoding::HEXLOWER.encode(&digest);
        let renew = |found: Option<&record::IdempotencyRecord>| {
            let found = found?;
            let record::IdempotencyState::Open { until_ms } = found.state else { return None };
            let state = record::IdempotencyState::Open { until_ms: change(until_ms) };
            Some((record::IdempotencyRecord { state, ..found.clone() }, Outbox::new()))
        };
        bus.change_record(&digest, renew).await.unwrap().unwrap();
        (bus, digest)
    }

    /// Repeats the request to `/wait` for as long as it is being worked on.
    async fn until_done(&self, replica: usize) -> Answer {
        loop {
            let answer = self.post(replica, "/wait", &[KEY], "{}").await;
            if answer.status != 409 {
                assert_eq!(answer.status, 200, "{answer:?}");
                return answer;
            }
        }
    }
}

/// Waits for a claim whose end is as `is_wanted` says, as long as one holds; answers its end.
async fn until_claimed(bus: &Bus, key: &str, is_wanted: impl Fn(u64) -> bool) -> u64 {
    loop {
        let held = bus.load_record::<record::IdempotencyRecord>(key).await.unwrap().unwrap();
        let record::IdempotencyState::Open { until_ms } = held.record.state else { panic!("{held:?}") };
        assert!(until_ms > now_ms(), "the claim ended");
        if is_wanted(until_ms) {
            return until_ms;
        }
    }
}

async fn send(router: &Router, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut request = Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    replayed: bool,
    location: String,
    body: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let headers = response.headers().clone();
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (location, replayed) = (text("location"), text("idempotency-replayed") == "true");
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        Self { status, replayed, location, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        value["code"].as_str().unwrap().to_owned()
    }
}

const KEY: (&str, &str) = ("idempotency-key", "\"one\"");

#[tokio::test]
async fn a_repetition_on_another_replica_is_answered_as_the_first_was() {
    let site = Site::start(IdempotencyConfig::default()).await;
    let first = site.post(0, "/make/201", &[KEY], "{}").await;
    assert_eq!((first.status, first.replayed), (201, false));
    for replica in [0, 1, 1] {
        let again = site.post(replica, "/make/201", &[("idempotency-key", "one")], "{}").await;
        assert!(again.replayed);
        assert_eq!((again.status, &again.location, &again.body), (201, &first.location, &first.body));
    }
    assert_eq!(site.count(), 1);
    // Another principal, grant, route or key is another request; and so is one without a key.
    assert!(!site.post(0, "/make/201", &[KEY, ("x-grant", "a")], "{}").await.replayed);
    assert!(!site.post(0, "/make/201", &[KEY, ("x-grant", "b")], "{}").await.replayed);
    assert!(site.post(1, "/make/201", &[KEY, ("x-grant", "b")], "{}").await.replayed);
    assert!(!site.post(0, "/make/201", &[KEY, ("x-owner", "bob")], "{}").await.replayed);
    assert!(!site.post(0, "/make/202", &[KEY], "{}").await.replayed);
    assert!(!site.post(0, "/make/201", &[("idempotency-key", "two")], "{}").await.replayed);
    assert!(!site.post(0, "/make/201", &[], "{}").await.replayed);
    assert_eq!(site.count(), 7);
}

#[tokio::test]
async fn the_same_key_for_another_request_is_refused() {
    let site = Site::start(IdempotencyConfig::default()).await;
    assert_eq!(site.post(0, "/make/201", &[KEY], "{\"a\":1}").await.status, 201);
    for (path, headers, body) in [
        ("/make/201", &[KEY][..], "{\"a\":2}"),
        ("/make/201?dry=1", &[KEY], "{\"a\":1}"),
        ("/make/201", &[KEY, ("upload-length", "5")], "{\"a\":1}"),
    ] {
        let refused = site.post(1, path, headers, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (422, "idempotency_mismatch"), "{path} {body}");
    }
    assert_eq!(site.post(0, "/make/201", &[("idempotency-key", "\"open")], "{}").await.status, 400);
    assert_eq!(site.count(), 1);
}

#[tokio::test]
async fn while_the_first_is_worked_on_repetitions_wait_and_it_runs_once() {
    // A claim shorter than the work: it is renewed.
    let site = Site::start(IdempotencyConfig { claim_ms: 300, ..IdempotencyConfig::default() }).await;
    let working = tokio::spawn({
        let router = site.replicas[0].clone();
        async move { Answer::of(send(&router, "/wait", &[KEY], "{}").await).await }
    });
    site.made.started.acquire().await.unwrap().forget();
    let deadline = tokio::time::Instant::now() + Duration::from_millis(1_200);
    while tokio::time::Instant::now() < deadline {
        let refused = site.post(1, "/wait", &[KEY], "{}").await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "idempotency_in_progress"));
    }
    site.made.gate.add_permits(2);
    working.await.unwrap();
    assert_eq!(site.count(), 1);
    assert!(site.post(1, "/wait", &[KEY], "{}").await.replayed);
}

#[tokio::test]
async fn a_request_whose_replica_died_is_done_by_the_next_repetition_under_the_same_id() {
    let site = Site::start(IdempotencyConfig { claim_ms: 200, ..IdempotencyConfig::default() }).await;
    // With a runtime of its own, all that it does ends at once.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let router = site.replicas[0].clone();
    dying.spawn(async move { send(&router, "/wait", &[KEY], "{}").await });
    site.made.started.acquire().await.unwrap().forget();
    tokio::task::spawn_blocking(move || drop(dying)).await.unwrap();
    site.made.gate.add_permits(1);
    let done = site.until_done(1).await;
    assert!(!done.replayed);
    let again = site.post(0, "/wait", &[KEY], "{}").await;
    assert_eq!((again.replayed, &again.body), (true, &done.body));
    assert_eq!(done.body.len(), 32, "the id made of the key");
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_done_and_its_answer_kept() {
    let site = Site::start(IdempotencyConfig { claim_ms: 200, ..IdempotencyConfig::default() }).await;
    site.leave_waiting(0).await;
    // For one: a second doing would never end.
    site.made.gate.add_permits(1);
    let again = site.until_done(1).await;
    assert!(again.replayed, "{again:?}");
    assert_eq!(site.count(), 1);
}

/// The broker stored a renewal and its answer was lost: the record is at a revision that its replica does not know.
#[tokio::test]
async fn a_renewal_whose_answer_was_lost_loses_neither_the_claim_nor_the_answer() {
    let site = Site::start(IdempotencyConfig { claim_ms: 1_500, ..IdempotencyConfig::default() }).await;
    let (bus, digest) = site.wait_renewed_unseen(|until_ms| until_ms).await;
    // It is renewed again all the same.
    let mut last_ms = until_claimed(&bus, &digest, |_| true).await;
    for _ in 0..2 {
        last_ms = until_claimed(&bus, &digest, |until_ms| until_ms > last_ms).await;
    }
    site.made.gate.add_permits(1);
    assert!(site.until_done(1).await.replayed);
    assert_eq!(site.count(), 1);
}

#[tokio::test]
async fn the_answer_is_kept_where_the_answer_to_the_last_renewal_was_lost() {
    // Longer than the test: nothing is renewed in it.
    let site = Site::start(IdempotencyConfig { claim_ms: 600_000, ..IdempotencyConfig::default() }).await;
    site.wait_renewed_unseen(|until_ms| until_ms).await;
    site.made.gate.add_permits(1);
    site.keepers[0].finish_requests().await;
    assert!(site.post(1, "/wait", &[KEY], "{}").await.replayed);
    assert_eq!(site.count(), 1);
}

#[tokio::test]
async fn a_claim_that_another_replica_took_over_is_left_to_it() {
    let site = Site::start(IdempotencyConfig { claim_ms: 600_000, ..IdempotencyConfig::default() }).await;
    let (bus, digest) = site.wait_renewed_unseen(|until_ms| until_ms + 1).await;
    let theirs = until_claimed(&bus, &digest, |_| true).await;
    site.made.gate.add_permits(1);
    site.keepers[0].finish_requests().await;
    assert_eq!(site.count(), 1);
    assert_eq!(until_claimed(&bus, &digest, |_| true).await, theirs);
}

#[tokio::test]
async fn a_replica_ends_after_what_clients_that_went_away_asked_for() {
    let site = Site::start(IdempotencyConfig::default()).await;
    site.leave_waiting(0).await;
    let mut ending = std::pin::pin!(site.keepers[0].finish_requests());
    assert!(futures::poll!(&mut ending).is_pending());
    site.made.gate.add_permits(1);
    ending.await;
    assert!(site.post(1, "/wait", &[KEY], "{}").await.replayed);
    assert_eq!(site.count(), 1);
}

#[tokio::test]
async fn a_panic_is_answered_and_frees_the_key() {
    let site = Site::start(IdempotencyConfig::default()).await;
    for replica in [0, 1] {
        let answer = site.post(replica, "/panic", &[KEY], "{}").await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal"), "{answer:?}");
    }
    assert_eq!(site.count(), 2);
}

#[tokio::test]
async fn what_is_no_result_is_not_kept() {
    let site = Site::start(IdempotencyConfig { answer_bytes_max: 100, ..IdempotencyConfig::default() }).await;
    for status in ["500", "503", "429", "409"] {
        let path = format!("/make/{status}");
        assert_eq!(site.post(0, &path, &[KEY], "{}").await.status.to_string(), status);
        assert!(!site.post(1, &path, &[KEY], "{}").await.replayed, "{status}");
    }
    assert_eq!(site.count(), 8);
    let large = format!("\"{}\"", "x".repeat(200));
    assert_eq!(site.post(0, "/make/200", &[KEY], &large).await.status, 200);
    assert!(!site.post(0, "/make/200", &[KEY], &large).await.replayed);
    // A refusal for good is a result.
    assert_eq!(site.post(0, "/make/422", &[KEY], "{}").await.status, 422);
    assert!(site.post(1, "/make/422", &[KEY], "{}").await.replayed);
}

#[tokio::test]
async fn of_many_at_once_one_is_done() {
    let site = Site::start(IdempotencyConfig::default()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..20 {
        let router = site.replicas[i % 2].clone();
        tasks.spawn(async move { Answer::of(send(&router, "/make/201", &[KEY], "{}").await).await });
    }
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.status == 201 || answer.status == 409, "{answer:?}");
    }
    assert_eq!(site.count(), 1);
}

#[tokio::test]
async fn an_unreadable_bucket_refuses_and_an_expired_key_is_free() {
    let site = Site::start(IdempotencyConfig { keep_s: 0, ..IdempotencyConfig::default() }).await;
    assert!(!site.post(0, "/make/201", &[KEY], "{}").await.replayed);
    assert!(!site.post(0, "/make/201", &[KEY], "{}").await.replayed);
    assert_eq!(site.count(), 2);
    let admin = site.broker.bus(BusRole::Admin).await;
    admin.context().delete_stream("KV_idempotency").await.unwrap();
    let refused = site.post(0, "/make/201", &[KEY], "{}").await;
    assert!(refused.status >= 500, "{refused:?}");
    assert_eq!(site.count(), 2, "nothing is done that could not be remembered");
}
