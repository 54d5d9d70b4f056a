//! Which sum a request is in, that sums are bounded, and that each request is counted once whatever the broker does.

use axum::{Extension, response::IntoResponse};
use nats::{ReaderStart, Role, reader::ReaderConfig, testing::TestBroker};
use schemas::{access::ApiKeyScope, subjects};

use super::*;
use crate::{error::Problem, limit::RateLimitGroup, operation::OperationAccess};

static READ: Operation = Operation::read(
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);
static CHANGE: Operation = Operation::change(
    Method::PATCH,
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
);
static VERIFY: Operation =
    Operation::change(Method::POST, "/v1/verify", OperationAccess::Open, Some(RateLimitGroup::Auth), &[]);
static PLAY: Operation =
    Operation::read("/play/{token}", OperationAccess::Path, Some(RateLimitGroup::Streaming));

/// How long the last sums may take.
const PUBLISH_MAX: Duration = Duration::from_secs(5);

fn known(role: PrincipalRole) -> Extension<RequestSender> {
    Extension(RequestSender::Known { role, account: "ann".into() })
}

fn refused(shown: ShownCredential) -> Extension<RequestSender> {
    Extension(RequestSender::Refused(shown))
}

fn problem(code: ProblemCode) -> Response {
    Problem::new(code).into_response()
}

/// `class what role who outcome` of the sum.
fn sum_of(operation: Option<&'static Operation>, response: &Response) -> Option<String> {
    let (class, key) = classify(operation, response)?;
    let AccessSum { class, what, role, who, outcome, .. } = key.into_sum(class, 1);
    Some(format!("{class:?} {what} {role:?} {who:?} {outcome}"))
}

#[test]
fn a_request_is_in_the_sum_of_what_it_asked_and_how_it_was_answered() {
    let key_id = KeyId::from_bytes([7; 16]);
    let shown = ShownCredential::ApiKey(key_id);
    let limit = RefusingLimit { group: "metadata", scope: "client" };
    for (operation, response, wanted) in [
        (
            Some(&READ),
            (known(PrincipalRole::Owner), "").into_response(),
            Some("Read GET /v1/media/{media_id} Some(Owner) None ok".to_owned()),
        ),
        (
            Some(&READ),
            (known(PrincipalRole::Operator), "").into_response(),
            Some("Read GET /v1/media/{media_id} Some(Operator) Some(\"ann\") ok".to_owned()),
        ),
        (
            Some(&READ),
            problem(ProblemCode::NotFound),
            Some("Read GET /v1/media/{media_id} None None not_found".to_owned()),
        ),
        (Some(&CHANGE), (known(PrincipalRole::Owner), "").into_response(), None),
        (
            Some(&CHANGE),
            (known(PrincipalRole::Owner), Extension(CausedNoEvent), "").into_response(),
            Some("Change PATCH /v1/media/{media_id} Some(Owner) None ok".to_owned()),
        ),
        (
            Some(&CHANGE),
            (known(PrincipalRole::Owner), problem(ProblemCode::NotFound)).into_response(),
            Some("Change PATCH /v1/media/{media_id} Some(Owner) None not_found".to_owned()),
        ),
        (
            Some(&CHANGE),
            (known(PrincipalRole::Owner), problem(ProblemCode::ScopeMissing)).into_response(),
            Some("Refusal PATCH /v1/media/{media_id} Some(Owner) Some(\"ann\") scope_missing".to_owned()),
        ),
        (
            Some(&CHANGE),
            (refused(shown), problem(ProblemCode::Unauthorized)).into_response(),
            Some(format!("Refusal api_key None Some(\"sg_{key_id}\") unauthorized")),
        ),
        (
            Some(&READ),
            (refused(ShownCredential::None), problem(ProblemCode::Unauthorized)).into_response(),
            Some("Refusal none None None unauthorized".to_owned()),
        ),
        (
            Some(&VERIFY),
            problem(ProblemCode::SignatureRefused),
            Some("Refusal POST /v1/verify None None signature_refused".to_owned()),
        ),
        (
            Some(&VERIFY),
            (Extension(AccessOutcome("inactive")), refused(shown), "").into_response(),
            Some(format!("Authentication POST /v1/verify None Some(\"sg_{key_id}\") inactive")),
        ),
        (
            Some(&READ),
            (Extension(limit), problem(ProblemCode::RateLimited)).into_response(),
            Some("Limit metadata None None client".to_owned()),
        ),
        (Some(&PLAY), "".into_response(), Some("Playback GET /play/{token} None None ok".to_owned())),
        (None, problem(ProblemCode::NotFound), Some("Probe no operation None None not_found".to_owned())),
    ] {
        assert_eq!(sum_of(operation, &response), wanted);
    }
}

#[test]
fn a_name_that_is_too_long_stands_in_no_sum() {
    let account = "x".repeat(WHO_BYTES_MAX + 1);
    let sender = RequestSender::Known { role: PrincipalRole::Admin, account };
    assert_eq!(sender.name_in(AccessClass::Read), None);
}

#[test]
fn a_flood_of_keys_is_bounded_and_all_of_it_is_counted() {
    let mut collected = CollectedSums::new(5);
    let key = |number: u8| {
        let shown = ShownCredential::ApiKey(KeyId::from_bytes([number; 16]));
        let who = shown.public_half();
        SumKey { who, ..SumKey::new(SumSubject::Named(shown.kind()), "unauthorized") }
    };
    for _ in 0..2 {
        for number in 0..200 {
            collected.add(AccessClass::Refusal, key(number));
        }
    }
    let admin = SumKey { role: Some(PrincipalRole::Admin), who: Some("ann".into()), ..key(7) };
    collected.add(AccessClass::Refusal, admin);
    for number in 0..100 {
        let what = SumSubject::Named(format!("group {number}").leak());
        collected.add(AccessClass::Limit, SumKey::new(what, "client"));
    }
    let event = collected.take_event(9).unwrap();
    assert_eq!((event.from_ms, event.until_ms), (5, 9));
    assert_eq!(event.sums.iter().map(|sum| sum.count).sum::<u64>(), 501);
    let of_class = |class| event.sums.iter().filter(move |sum| sum.class == class);
    let names: Vec<&AccessSum> = of_class(AccessClass::Refusal).collect();
    let named_count = AccessClass::Refusal.sums_max() / NAMES_PART;
    assert_eq!((names[0].count, &names[0].who), (400 - 2 * named_count as u64, &None), "without their names");
    assert!(names[1..=named_count].iter().all(|sum| sum.count == 2 && sum.who.is_some()), "{names:?}");
    assert_eq!(names[named_count + 1].who.as_deref(), Some("ann"), "invented keys leave room for her");
    let limits: Vec<&AccessSum> = of_class(AccessClass::Limit).collect();
    assert_eq!(limits.len(), AccessClass::Limit.sums_max() + 1, "each class has its own room");
    assert_eq!((limits[0].what.as_str(), limits[0].outcome.as_str()), (OTHERS, ANY));
    assert_eq!(limits[0].count, 100 - AccessClass::Limit.sums_max() as u64);
    assert_eq!(collected.take_event(12), None);
    collected.add(AccessClass::Limit, SumKey::new(SumSubject::Named("api"), "client"));
    assert_eq!(collected.take_event(15).unwrap().from_ms, 12, "windows follow each other");
}

#[test]
fn a_client_that_leaves_before_its_answer_is_counted() {
    let sums = AccessSums::default();
    drop(sums.expect_response(Some(&READ)));
    drop(sums.expect_response(None));
    sums.expect_response(Some(&READ)).count(&"".into_response());
    let [_, long] = &*sums.windows;
    let event = long.collected.lock().take_event(9).unwrap();
    let found: Vec<(&str, &str)> = event.sums.iter().map(|sum| (&*sum.what, &*sum.outcome)).collect();
    assert!(found.contains(&("GET /v1/media/{media_id}", ABANDONED)), "{found:?}");
    assert!(found.contains(&("no operation", ABANDONED)) && found.len() == 3, "{found:?}");
}

/// Counts of all sums that were published, by their outcome.
async fn published(broker: &TestBroker) -> Vec<(u64, usize)> {
    let admin = broker.bus(Role::Admin).await;
    let filter = vec![subjects::event_filter::<AccessSummed>()];
    let mut reader =
        admin.open_reader(ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::All)).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..reader.pending_at_start() {
        let entry = reader.next().await.unwrap();
        let event: AccessSummed = nats::decode_message(&entry.subject, &entry.payload).unwrap();
        found.push((event.sums.iter().map(|sum| sum.count).sum(), event.sums.len()));
    }
    found
}

#[tokio::test]
async fn what_could_not_be_published_is_published_once_and_before_what_came_since() {
    let broker = TestBroker::start().await;
    let mut away = broker.config(Role::Index);
    away.request_timeout_ms = 500;
    // It has no right to publish sums: its broker refuses each.
    let without_right = Bus::connect(&away).await.unwrap();
    let sums = AccessSums::default();
    let count = |times: usize| {
        (0..times).for_each(|_| sums.count_response(Some(&READ), &"".into_response()));
    };
    count(3);
    let [_, long] = &*sums.windows;
    long.publish(&without_right).await.unwrap_err();
    count(2);
    assert!(long.publish(&without_right).await.is_err());
    let bus = broker.bus(Role::Ingress).await;
    // As if the first had been stored, and its confirmation lost.
    let kept = long.unsent.lock().await.clone().unwrap();
    bus.publish_event(&kept, "summed").await.unwrap();
    sums.publish_rest(&bus, PUBLISH_MAX).await;
    sums.publish_rest(&bus, PUBLISH_MAX).await;
    assert_eq!(published(&broker).await, [(3, 1), (2, 1)]);
}

#[tokio::test]
async fn what_can_not_be_published_at_the_end_is_counted() {
    let broker = TestBroker::start().await;
    let mut settings = broker.config(Role::Index);
    settings.request_timeout_ms = 500;
    let without_right = Bus::connect(&settings).await.unwrap();
    let sums = AccessSums::default();
    let before = SUMMED_REQUESTS.count(SumOutcome::Lost);
    (0..4).for_each(|_| sums.count_response(Some(&PLAY), &"".into_response()));
    sums.count_refused_message(ShownCredential::Unknown, "unauthorized");
    sums.publish_rest(&without_right, PUBLISH_MAX).await;
    assert_eq!(SUMMED_REQUESTS.count(SumOutcome::Lost) - before, 5);
    assert_eq!(published(&broker).await, []);
}
