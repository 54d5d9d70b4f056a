//! What a client sees of the limits, with paused time.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use proptest::prelude::*;
use schemas::access::ApiKeyScope;
use tower::ServiceExt;

use super::{gcra::BucketRate, *};
use crate::{
    operation::{Operation, OperationAccess, OperationTable},
    request::RequestOwner,
};

const PROBLEM: &str = "application/problem+json";

fn config(rate: BucketRate) -> RateLimitConfig {
    let rates = GroupRates { api: rate, upload: rate, worker: rate, ..GroupRates::default() };
    RateLimitConfig { rates, replicas_assumed_count: 1, ..RateLimitConfig::default() }
}

/// Looks credentials up as authentication does.
async fn sign_in(mut request: Request, next: Next) -> Response {
    if request.headers().get("authorization").is_some_and(|value| value == "Bearer wrong") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let owner = request.headers().get("x-owner").and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
    if let Some(owner) = owner {
        request.extensions_mut().insert(RequestOwner(owner));
    }
    next.run(request).await
}

/// A handler that does not listen the first time.
async fn insist(ticket: RateLimitPermit) -> Result<&'static str, crate::error::Problem> {
    ticket.charge_group(RateLimitGroup::Transcoder).ok();
    transcode(ticket).await
}

async fn transcode(ticket: RateLimitPermit) -> Result<&'static str, crate::error::Problem> {
    ticket.charge_group(RateLimitGroup::Transcoder)?;
    Ok("queued")
}

/// A refresh token is good when it says of which session.
async fn refresh(ticket: RateLimitPermit, session: String) -> Result<&'static str, crate::error::Problem> {
    if session.is_empty() {
        return Err(crate::error::Problem::unauthorized());
    }
    ticket.admit_session(&session)?;
    Ok("tokens")
}

static OPERATIONS: [Operation; 10] = [
    Operation::read("/", OperationAccess::Open, Some(RateLimitGroup::Api)),
    Operation::read("/livez", OperationAccess::Open, None),
    Operation::change(
        Method::POST,
        "/v1/jobs",
        OperationAccess::Principal(ApiKeyScope::Worker),
        Some(RateLimitGroup::Worker),
        &[],
    ),
    Operation::change(
        Method::POST,
        "/v1/jobs/insist",
        OperationAccess::Principal(ApiKeyScope::Worker),
        Some(RateLimitGroup::Worker),
        &[],
    ),
    Operation::read("/v1/events", OperationAccess::Principal(ApiKeyScope::Events), Some(RateLimitGroup::Api)),
    Operation::change(
        Method::POST,
        "/v1/auth/refresh",
        OperationAccess::Body,
        Some(RateLimitGroup::Auth),
        &[],
    ),
    Operation::read("/play/{token}/film", OperationAccess::Path, Some(RateLimitGroup::Streaming)),
    upload_operation(Method::PATCH, None),
    upload_operation(Method::HEAD, None),
    upload_operation(Method::DELETE, Some(RateLimitGroup::Upload)),
];

const fn upload_operation(method: Method, rate_group: Option<RateLimitGroup>) -> Operation {
    let access = OperationAccess::Principal(ApiKeyScope::Upload);
    Operation::change(method, "/v1/uploads/{id}", access, rate_group, &[])
}

fn router(limits: &RateLimiter) -> Router {
    let operations = OperationTable::new(&OPERATIONS.iter().collect::<Vec<_>>());
    Router::new()
        .route("/", get(|| async { "here" }))
        .route("/livez", get(|| async { "live" }))
        .route("/elsewhere", get(|| async { axum::response::Redirect::temporary("/") }))
        .route("/v1/jobs", post(transcode))
        .route("/v1/jobs/insist", post(insist))
        .route("/v1/events", get(|| async { "events" }))
        .route("/v1/auth/refresh", post(refresh))
        .route("/play/{token}/film", get(|| async { "film" }))
        .route("/v1/uploads/{id}", axum::routing::any(|| async { "upload" }))
        .layer(limit_by_principal())
        .layer(middleware::from_fn(sign_in))
        .layer(limit_by_client(limits.clone(), |token| token.parse().ok()))
        .layer(operations.match_layer())
}

/// One request from `address`, by `owner` when there is one.
async fn ask(router: &Router, method: Method, path: &str, address: &str, owner: Option<&str>) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(owner) = owner {
        request = request.header("x-owner", owner).header("authorization", "Bearer right");
    }
    send(router, address, request.body(Body::empty()).unwrap()).await
}

async fn send(router: &Router, address: &str, mut request: Request) -> Response {
    let address: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address, 1)));
    router.clone().oneshot(request).await.unwrap()
}

async fn get_from(router: &Router, address: &str) -> Response {
    ask(router, Method::GET, "/", address, None).await
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Names and integer parameters of a list of strings (RFC 9651), of which only that is used.
fn list(field: &str) -> Vec<(String, Vec<(String, u64)>)> {
    let items = field.split(", ").filter(|item| !item.is_empty());
    let parsed = items.map(|item| {
        let mut parts = item.split(';');
        let name = parts.next().unwrap().strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        let parameters = parts.map(|part| part.split_once('=').unwrap());
        (name.to_owned(), parameters.map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect())
    });
    parsed.collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_too_many_is_refused_with_the_wait_that_is_enough() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 3, refill_per_s: 1 }));
    let router = router(&limits);
    for left in [2, 1, 0] {
        let answer = get_from(&router, "192.0.2.1").await;
        assert_eq!(answer.status(), StatusCode::OK);
        let found = list(text(answer.headers(), "ratelimit"));
        assert_eq!(found[0].0, "api-client");
        assert_eq!(found[0].1[0], ("r".into(), left));
        assert_eq!(text(answer.headers(), "ratelimit-policy"), "\"api-client\";q=3;w=3");
    }
    let refused = get_from(&router, "192.0.2.1").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let headers = refused.headers().clone();
    assert_eq!(text(&headers, "content-type"), PROBLEM);
    assert_eq!(text(&headers, "retry-after"), "1");
    assert_eq!(text(&headers, "ratelimit"), "\"api-client\";r=0;t=1");
    let body = to_bytes(refused.into_body(), 4096).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "rate_limited");
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(body["violated-policies"], serde_json::json!(["api-client"]));
    // Refusals cost nothing: however often it was asked, the wait is as long.
    for _ in 0..50 {
        assert_eq!(text(get_from(&router, "192.0.2.1").await.headers(), "retry-after"), "1");
    }
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(get_from(&router, "192.0.2.1").await.status(), StatusCode::TOO_MANY_REQUESTS);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(get_from(&router, "192.0.2.1").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn clients_do_not_starve_each_other_but_neighbours_of_one_line_are_one() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 1, refill_per_s: 1 }));
    let router = router(&limits);
    assert_eq!(get_from(&router, "192.0.2.1").await.status(), 200);
    assert_eq!(get_from(&router, "192.0.2.1").await.status(), 429);
    assert_eq!(get_from(&router, "192.0.2.2").await.status(), 200);
    assert_eq!(get_from(&router, "2001:db8:0:1::1").await.status(), 200);
    assert_eq!(get_from(&router, "2001:db8:0:1::2").await.status(), 429);
    assert_eq!(get_from(&router, "2001:db8:0:2::2").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_principal_is_limited_from_wherever_and_its_requests_cost_the_address_nothing() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 2, refill_per_s: 1 }));
    let router = router(&limits);
    for address in ["192.0.2.1", "192.0.2.2"] {
        let answer = ask(&router, Method::GET, "/v1/events", address, Some("ann")).await;
        assert_eq!(answer.status(), 200);
        let names: Vec<String> = list(text(answer.headers(), "ratelimit")).into_iter().map(|i| i.0).collect();
        assert_eq!(names, ["api-principal"], "{address}");
    }
    for _ in 0..3 {
        let refused = ask(&router, Method::GET, "/v1/events", "192.0.2.3", Some("ann")).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(text(refused.headers(), "ratelimit"), "\"api-principal\";r=0;t=1");
    }
    // Others behind that address have all of it, whether or not they sign in.
    for _ in 0..2 {
        assert_eq!(ask(&router, Method::GET, "/v1/events", "192.0.2.3", Some("bob")).await.status(), 200);
        assert_eq!(get_from(&router, "192.0.2.3").await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn what_continues_an_upload_is_never_refused() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 1, refill_per_s: 1 }));
    let router = router(&limits);
    assert_eq!(ask(&router, Method::DELETE, "/v1/uploads/x", "192.0.2.1", None).await.status(), 200);
    assert_eq!(ask(&router, Method::DELETE, "/v1/uploads/x", "192.0.2.1", None).await.status(), 429);
    for _ in 0..100 {
        for method in [Method::PATCH, Method::HEAD, Method::OPTIONS] {
            assert_eq!(ask(&router, method, "/v1/uploads/x", "192.0.2.1", None).await.status(), 200);
        }
        assert_eq!(ask(&router, Method::GET, "/livez", "192.0.2.1", None).await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_charges_what_only_the_body_says() {
    let mut config = config(BucketRate { capacity: 100, refill_per_s: 1 });
    config.rates.transcoder = BucketRate { capacity: 1, refill_per_s: 1 };
    let limits = RateLimiter::new(config);
    let router = router(&limits);
    let first = ask(&router, Method::POST, "/v1/jobs", "192.0.2.1", Some("ann")).await;
    assert_eq!(first.status(), 200);
    assert_eq!(list(text(first.headers(), "ratelimit")).len(), 2);
    for address in ["192.0.2.1", "192.0.2.2"] {
        let refused = ask(&router, Method::POST, "/v1/jobs", address, Some("ann")).await;
        assert_eq!(refused.status(), 429);
        let worker = list(text(refused.headers(), "ratelimit"));
        let left = worker.iter().find(|item| item.0 == "worker-principal").unwrap().1[0].1;
        assert_eq!(left, 99, "nothing was taken from the other bucket");
        assert_eq!(violated(refused).await, ["transcoder-principal"]);
        let insisted = ask(&router, Method::POST, "/v1/jobs/insist", address, Some("ann")).await;
        assert_eq!(insisted.status(), 429, "who is refused stays so");
    }
    assert_eq!(ask(&router, Method::POST, "/v1/jobs", "192.0.2.1", Some("bob")).await.status(), 200);
    let both = ask(&router, Method::POST, "/v1/jobs/insist", "192.0.2.3", Some("cat")).await;
    assert_eq!(both.status(), 200, "twice in one group is once");
}

async fn violated(refused: Response) -> Vec<String> {
    let body = to_bytes(refused.into_body(), 4096).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    serde_json::from_value(body["violated-policies"].clone()).unwrap()
}

/// One request with a credential; `path` is that of an upload, where nothing else counts.
async fn show(router: &Router, address: &str, credential: &str) -> Response {
    let mut request = Request::builder().method(Method::PATCH).uri("/v1/uploads/x");
    if !credential.is_empty() {
        request = request.header("authorization", format!("Bearer {credential}"));
    }
    send(router, address, request.body(Body::empty()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn guesses_count_everywhere_and_close_the_door_to_guesses_alone() {
    let mut config = RateLimitConfig { replicas_assumed_count: 1, ..RateLimitConfig::default() };
    config.rates.credential = BucketRate { capacity: 3, refill_per_s: 1 };
    let router = router(&RateLimiter::new(config));
    for left in [2, 1, 0] {
        let answer = show(&router, "192.0.2.1", "wrong").await;
        assert_eq!(answer.status(), 401);
        assert_eq!(list(text(answer.headers(), "ratelimit"))[0].1[0].1, left);
    }
    for _ in 0..100 {
        let refused = show(&router, "192.0.2.1", "wrong").await;
        assert_eq!((refused.status().as_u16(), text(refused.headers(), "retry-after")), (429, "1"));
        assert_eq!(violated(refused).await, ["credential-client"]);
        // A healthy upload behind the same address.
        for method in [Method::PATCH, Method::HEAD] {
            assert_eq!(ask(&router, method, "/v1/uploads/x", "192.0.2.1", Some("ann")).await.status(), 200);
        }
    }
    assert_eq!(show(&router, "192.0.2.1", "").await.status(), 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(show(&router, "192.0.2.1", "wrong").await.status(), 401);
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_address_take_nothing_from_who_proves_something_there() {
    let mut config = config(BucketRate { capacity: 3, refill_per_s: 1 });
    (config.rates.auth, config.rates.streaming) = (config.rates.api, config.rates.api);
    let router = router(&RateLimiter::new(config));
    let refresh = async |session: &'static str| {
        let request = Request::post("/v1/auth/refresh").body(Body::from(session)).unwrap();
        send(&router, "192.0.2.1", request).await
    };
    let play = async |token: &str| {
        ask(&router, Method::GET, &format!("/play/{token}/film"), "192.0.2.1", None).await
    };
    for _ in 0..10 {
        get_from(&router, "192.0.2.1").await;
        refresh("").await;
        play("nonsense").await;
    }
    assert_eq!(get_from(&router, "192.0.2.1").await.status(), 429);
    assert_eq!(refresh("").await.status(), 429);
    assert_eq!(play("nonsense").await.status(), 429);
    for viewer in 0..200_u8 {
        let playback_id = schemas::ids::PlaybackId::from_bytes([viewer; 16]);
        let token = playback_id.to_string();
        assert_eq!(play(&token).await.status(), 200, "viewer {viewer}");
        assert_eq!(play(&token).await.status(), 200, "viewer {viewer}");
    }
    for session in ["ann", "bob"] {
        assert_eq!(refresh(session).await.status(), 200);
        assert_eq!(ask(&router, Method::GET, "/v1/events", "192.0.2.1", Some(session)).await.status(), 200);
    }
    for _ in 0..2 {
        assert_eq!(refresh("ann").await.status(), 200);
    }
    let refused = refresh("ann").await;
    assert_eq!(violated(refused).await, ["auth-session"], "a session has its own limit");
}

#[tokio::test(start_paused = true)]
async fn so_many_credentials_of_a_client_are_looked_up_at_once_and_the_next_waits_for_its_turn() {
    let limits = RateLimiter::new(RateLimitConfig::default());
    let ticket = |address: &str| limits.new_permit(address.parse().unwrap(), None);
    let mut turns = Vec::new();
    for _ in 0..LOOKUPS_PER_CLIENT_MAX {
        turns.push(ticket("192.0.2.1").wait_for_lookup().await.unwrap());
    }
    let waiting = ticket("192.0.2.1");
    let next = waiting.wait_for_lookup();
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_pending());
    turns.pop();
    turns.push(next.await.unwrap());
    assert_eq!(
        ticket("192.0.2.1").wait_for_lookup().await.unwrap_err().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_points_elsewhere_never_says_that_nothing_is_left() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 1, refill_per_s: 1 }));
    let answer = ask(&router(&limits), Method::GET, "/elsewhere", "192.0.2.1", None).await;
    assert_eq!(answer.status(), 307);
    assert_eq!(text(answer.headers(), "ratelimit"), "");
    assert_eq!(text(answer.headers(), "ratelimit-policy"), "\"api-client\";q=1;w=1");
}

#[tokio::test(start_paused = true)]
async fn replicas_share_and_one_that_knows_nothing_takes_the_conservative_share() {
    let rate = BucketRate { capacity: 8, refill_per_s: 8 };
    let limits = RateLimiter::new(RateLimitConfig { replicas_assumed_count: 4, ..config(rate) });
    let one = router(&limits);
    let passed = passes(&one, "192.0.2.1", 20).await;
    assert_eq!(passed, 2, "a quarter, until the record was read");
    limits.shared.sharers.set_count(1);
    assert_eq!(passes(&one, "192.0.2.2", 20).await, 8);
    let replicas = [(); 3].map(|()| {
        let limits = RateLimiter::new(config(rate));
        limits.shared.sharers.set_count(3);
        router(&limits)
    });
    let mut passed = 0;
    for replica in &replicas {
        passed += passes(replica, "192.0.2.1", 20).await;
    }
    assert_eq!(passed, 6, "never more than the whole");
}

async fn passes(router: &Router, address: &str, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(get_from(router, address).await.status() == 200);
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_policy() {
    let limits = RateLimiter::new(config(BucketRate { capacity: 1, refill_per_s: 1 }));
    let router = router(&limits);
    assert_eq!(passes(&router, "192.0.2.1", 5).await, 1);
    let count = limits
        .counts()
        .into_iter()
        .find(|c| c.group == RateLimitGroup::Api && c.scope == RateLimitScope::Client)
        .unwrap();
    assert_eq!((count.passed, count.denied), (1, 4));
    let metrics = nats::metrics::render_collector(limits.clone());
    assert!(
        metrics.contains(
            "streamgate_limit_requests_total{group=\"api\",scope=\"client\",outcome=\"denied\"} 4\n"
        ),
        "{metrics}"
    );
    assert!(metrics.contains("streamgate_limit_replicas 1\n"), "{metrics}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// A client that waits as long as `Retry-After` says passes; and `t` is never later than that.
    #[test]
    fn the_header_is_right_about_the_wait(
        capacity in 1_u32..40,
        refill_per_s in 1_u32..2_000,
        replicas in 1_u32..9,
        pauses_ms in proptest::collection::vec(0_u64..400, 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = RateLimiter::new(config(BucketRate { capacity, refill_per_s }));
            limits.shared.sharers.set_count(replicas);
            let router = router(&limits);
            for pause_ms in pauses_ms {
                tokio::time::advance(Duration::from_millis(pause_ms / 8)).await;
                let answer = get_from(&router, "192.0.2.1").await;
                let limit = list(text(answer.headers(), "ratelimit"));
                let (left, reset_s) = (limit[0].1[0].1, limit[0].1[1].1);
                if answer.status() == 200 {
                    // What is left can be used at once.
                    let next = get_from(&router, "192.0.2.1").await;
                    assert_eq!(next.status() == 200, left > 0);
                } else {
                    let wait_s: u64 = text(answer.headers(), "retry-after").parse().unwrap();
                    assert!(wait_s >= 1 && reset_s <= wait_s, "t={reset_s} after {wait_s}");
                    tokio::time::advance(Duration::from_secs(wait_s)).await;
                    assert_eq!(get_from(&router, "192.0.2.1").await.status(), 200);
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Of several policies without room the slowest says how long to wait.
    #[test]
    fn the_wait_is_enough_for_all_policies(
        capacity in 1_u32..6,
        refill_per_s in 1_u32..6,
        replicas in 1_u32..9,
        steps in proptest::collection::vec((0_u64..2_000, 0_usize..2, 0_usize..2), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut config = config(BucketRate { capacity: 1_000_000, refill_per_s: 1_000_000 });
            config.rates.transcoder = BucketRate { capacity, refill_per_s };
            let limits = RateLimiter::new(config);
            limits.shared.sharers.set_count(replicas);
            let router = router(&limits);
            for (pause_ms, address, owner) in steps {
                tokio::time::advance(Duration::from_millis(pause_ms)).await;
                let (address, owner) = (["192.0.2.1", "192.0.2.2"][address], ["ann", "bob"][owner]);
                let answer = ask(&router, Method::POST, "/v1/jobs", address, Some(owner)).await;
                if answer.status() == 429 {
                    let wait_s: u64 = text(answer.headers(), "retry-after").parse().unwrap();
                    tokio::time::advance(Duration::from_secs(wait_s)).await;
                    let again = ask(&router, Method::POST, "/v1/jobs", address, Some(owner)).await;
                    assert_eq!(again.status(), 200);
                }
            }
        });
    }
}

#[tokio::test]
async fn replicas_find_each_other_and_refusals_become_events_under_the_cap() {
    use nats::{ReaderStart, Role as BusRole, reader, testing::TestBroker};
    let broker = TestBroker::start().await;
    let settings = RateLimitConfig {
        events_per_min_max: 2,
        replicas_assumed_count: 7,
        ..config(BucketRate { capacity: 1, refill_per_s: 1 })
    };
    let stop = CancellationToken::new();
    let (one, two) = (RateLimiter::new(settings.clone()), RateLimiter::new(settings));
    assert_eq!(one.shared.sharers.count(), 7);
    let mut tasks = tokio::task::JoinSet::new();
    for limits in [&one, &two] {
        let (limits, bus, stop) = (limits.clone(), broker.bus(BusRole::Ingress).await, stop.clone());
        tasks.spawn(async move { limits.run(bus, stop).await });
    }
    while one.shared.sharers.count() != 2 || two.shared.sharers.count() != 2 {
        tokio::task::yield_now().await;
    }
    for (i, owner) in ["ann", "bob", "cat", "dan"].into_iter().enumerate() {
        let router = router(&one);
        for j in 1..4 {
            ask(&router, Method::GET, "/", &format!("192.0.{i}.{j}"), Some(owner)).await;
        }
    }
    let admin = broker.bus(BusRole::Admin).await;
    let mut events = admin
        .open_reader(reader::ReaderConfig::new(
            schemas::subjects::EVENTS,
            vec!["evt.limit.>".into()],
            ReaderStart::All,
        ))
        .await
        .unwrap();
    for _ in 0..2 {
        let entry = events.next().await.unwrap();
        let event: schemas::limit::RateLimitExceeded =
            nats::decode_message(&entry.subject, &entry.payload).unwrap();
        assert_eq!((event.group.as_str(), event.scope.as_str()), ("api", "principal"));
        assert!(event.denied_count > 0);
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    let record =
        admin.load_record::<schemas::limit::RateLimitEventCounter>("reported").await.unwrap().unwrap().record;
    assert_eq!(record.events_count, 2);
    assert!(record.untold_count > 0);
    let left =
        admin.load_record::<schemas::limit::IngressReplicas>("replicas").await.unwrap().unwrap().record;
    assert!(left.expires_at_ms.is_empty(), "who stops frees its share at once");
}

#[tokio::test]
async fn without_a_broker_the_conservative_share_stays() {
    use nats::{Role as BusRole, testing::TestBroker};
    let broker = TestBroker::start_empty().await;
    let mut settings = broker.config(BusRole::Ingress);
    settings.request_timeout_ms = 200;
    let bus = Bus::connect(&settings).await.unwrap();
    let limits =
        RateLimiter::new(RateLimitConfig { replicas_assumed_count: 3, ..RateLimitConfig::default() });
    limits.shared.sharers.set_count(1);
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let (running, stopping) = (limits.clone(), stop.clone());
    tasks.spawn(async move { running.run(bus, stopping).await });
    while limits.shared.sharers.count() != 3 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
}
