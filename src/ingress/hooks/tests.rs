//! Hooks over HTTP, with a real broker and without a keeper.

use nats::{HeaderMap, Role};
use schemas::{
    hook::{AskedContent, HOOKS_MAX, HookPause, HookPauseReason, HookRecord, HookRequests, SECRETS_MAX},
    hook_delivery::{DELIVERY_ID_HEADER, HookDelivery},
    ids::DeliveryId,
};
use serde_json::Value;

use super::*;
use crate::tests::{Answer, Site};
use schemas::hook::hook_requests_key;

/// Logs a delivery as the keeper does.
pub(crate) async fn log_delivery(bus: &Bus, delivery: &HookDelivery) {
    let (subject, id) = (subjects::hook_log_subject(delivery.hook_id), delivery.delivery_id.to_string());
    let mut all = HeaderMap::new();
    all.insert(DELIVERY_ID_HEADER, id.as_str());
    let payload = nats::encode_message(&subject, delivery).unwrap();
    bus.publish_raw(subjects::HOOKLOG, &subject, &id, all, payload).await.unwrap();
}

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, read(answer)["code"].as_str().unwrap_or_default().to_owned())
}

/// Somebody who asks.
struct Asking<'a> {
    site: &'a Site,
    key: String,
}

impl Asking<'_> {
    async fn new<'a>(site: &'a Site, owner: &str, role: PrincipalRole) -> Asking<'a> {
        let admin = site.broker.bus(Role::Admin).await;
        let key = auth::create_api_key(&admin, owner, role).await.unwrap();
        Asking { site, key: format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n") }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.site.ask(method, path, &format!("{}{headers}", self.key), body).await
    }

    async fn make(&self, body: &str) -> Answer {
        self.ask("POST", "/v1/hooks", "", body).await
    }

    /// A hook, by its path.
    async fn make_any(&self) -> String {
        let made =
            self.make("{\"url\":\"https://films.example/hooks?key=5up3r\",\"types\":[\"media\"]}").await;
        assert_eq!(made.status, 201, "{made:?}");
        format!("/v1/hooks/{}", read(&made)["hook"]["hook_id"].as_str().unwrap())
    }
}

#[tokio::test]
async fn what_can_not_be_a_hook_is_refused_with_a_pointer() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    for (body, wanted, pointer) in [
        ("{\"url\":\"http://10.0.0.1/\"}", (422, "hook_url_refused"), "/url"),
        ("{\"url\":\"http://[::ffff:10.0.0.1]/\"}", (422, "hook_url_refused"), "/url"),
        ("{\"url\":\"http://2130706433/\"}", (422, "hook_url_refused"), "/url"),
        ("{\"url\":\"ftp://films.example/\"}", (422, "hook_url_refused"), "/url"),
        ("{\"url\":\"https://a:b@films.example/\"}", (422, "hook_url_refused"), "/url"),
        (
            "{\"url\":\"https://films.example/\",\"types\":[\"media\",\"medio\"]}",
            (422, "hook_types_invalid"),
            "/types/1",
        ),
        (
            "{\"url\":\"https://films.example/\",\"types\":[\"hook.skipped\"]}",
            (422, "hook_types_invalid"),
            "/types/0",
        ),
        ("{\"url\":\"https://films.example/\",\"name\":\"a\\u0007\"}", (400, "hook_name_invalid"), "/name"),
    ] {
        let refused = olga.make(body).await;
        assert_eq!(code(&refused), (wanted.0, wanted.1.to_owned()), "{body}");
        assert_eq!(read(&refused)["errors"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    let all = olga.make("{\"url\":\"https://films.example/\",\"all_owners\":true}").await;
    assert_eq!(code(&all), (403, "not_yours".into()));
    let boss = Asking::new(&site, "control", PrincipalRole::Admin).await;
    assert_eq!(boss.make("{\"url\":\"https://films.example/\",\"all_owners\":true}").await.status, 201);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_the_query_of_an_address_never() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let once = "Idempotency-Key: \"a hook\"\r\n";
    let body = "{\"url\":\"https://films.example/hooks?key=5up3r\"}";
    let made = olga.ask("POST", "/v1/hooks", once, body).await;
    assert_eq!((made.status, made.header("cache-control")), (201, Some("no-store")), "{made:?}");
    let secret = read(&made)["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_") && secret.len() == 6 + 44, "{secret}");
    let again = olga.ask("POST", "/v1/hooks", once, body).await;
    assert_eq!(code(&again), (409, "answer_shown_once".into()));
    let path = made.header("location").unwrap().split_once("/v1/").unwrap().1.to_owned();
    let shown = olga.ask("GET", &format!("/v1/{path}"), "", "").await;
    let listed = olga.ask("GET", "/v1/hooks", "", "").await;
    for answer in [&made, &shown, &listed] {
        assert!(!answer.body.contains("5up3r"), "{answer:?}");
    }
    assert!(!shown.body.contains(&secret) && !listed.body.contains(&secret));
    assert_eq!(read(&listed)["items"].as_array().unwrap().len(), 1, "it was made once");
    assert_eq!(read(&shown)["has_query"], true);
    assert_eq!(read(&shown)["state"], "active");
}

#[tokio::test]
async fn hooks_are_for_their_owners_and_a_change_names_what_it_changes() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let petr = Asking::new(&site, "petr", PrincipalRole::Owner).await;
    let operator = Asking::new(&site, "control", PrincipalRole::Operator).await;
    let path = olga.make_any().await;
    let any = "If-Match: *\r\n";
    for (method, more) in [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/rotate"),
        ("POST", "/test"),
        ("GET", "/deliveries"),
    ] {
        let body = if method == "GET" { "" } else { "{}" };
        let refused = petr.ask(method, &format!("{path}{more}"), any, body).await;
        assert_eq!(code(&refused), (404, "not_found".into()), "{method} {more}");
    }
    assert_eq!(operator.ask("GET", &path, "", "").await.status, 200);
    assert_eq!(
        code(&operator.ask("POST", &format!("{path}/pause"), "", "").await),
        (403, "read_only".into())
    );
    assert_eq!(code(&olga.ask("PATCH", &path, "", "{}").await), (428, "precondition_required".into()));
    let seen = olga.ask("GET", &path, "", "").await.header("etag").unwrap().to_owned();
    let if_match = format!("If-Match: {seen}\r\n");
    let medium = "06db00820dt0303jc5mn0r355k";
    let change = format!("{{\"types\":[],\"media_id\":\"{medium}\"}}");
    let changed = olga.ask("PATCH", &path, &if_match, &change).await;
    assert_eq!((changed.status, read(&changed)["media_id"].as_str()), (200, Some(medium)));
    assert_eq!(code(&olga.ask("PATCH", &path, &if_match, "{}").await), (412, "precondition_failed".into()));
    let changed = olga.ask("PATCH", &path, any, "{\"media_id\":null}").await;
    assert_eq!(read(&changed)["media_id"], Value::Null);
    assert_eq!(code(&olga.ask("DELETE", &path, &if_match, "").await), (412, "precondition_failed".into()));
    assert_eq!(olga.ask("DELETE", &path, any, "").await.status, 204);
    assert_eq!(code(&olga.ask("GET", &path, "", "").await), (404, "not_found".into()));
    let admin = site.broker.bus(Role::Admin).await;
    let hook_id = path.rsplit('/').next().unwrap();
    let left = admin
        .load_with_tombstone::<HookRecord>(&hook_key(&owner_key("olga"), hook_id))
        .await
        .unwrap()
        .unwrap();
    assert!(left.record.secrets.is_empty() && left.record.url.is_empty(), "a tombstone keeps no secret");
}

#[tokio::test]
async fn an_account_has_so_many_hooks() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let mut last = String::new();
    for _ in 0..HOOKS_MAX {
        last = olga.make_any().await;
    }
    let refused = olga.make("{\"url\":\"https://films.example/\"}").await;
    assert_eq!(code(&refused), (409, "hooks_too_many".into()));
    assert_eq!(olga.ask("DELETE", &last, "If-Match: *\r\n", "").await.status, 204);
    olga.make_any().await;
}

#[tokio::test]
async fn a_pause_and_its_end_are_no_error_twice_and_old_secrets_have_an_end() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let path = olga.make_any().await;
    for (action, state) in
        [("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")]
    {
        let answer = olga.ask("POST", &format!("{path}/{action}"), "", "").await;
        assert_eq!((answer.status, read(&answer)["state"].as_str()), (200, Some(state)), "{action}");
    }
    let late = olga.ask("POST", &format!("{path}/rotate"), "", "{\"old_signs_s\":604801}").await;
    assert_eq!(code(&late), (400, "request_invalid".into()));
    for _ in 1..SECRETS_MAX {
        let rotated = olga.ask("POST", &format!("{path}/rotate"), "", "").await;
        assert_eq!((rotated.status, rotated.header("cache-control")), (201, Some("no-store")), "{rotated:?}");
    }
    let refused = olga.ask("POST", &format!("{path}/rotate"), "", "").await;
    assert_eq!(code(&refused), (409, "hook_secrets_too_many".into()));
    let shown = read(&olga.ask("GET", &path, "", "").await);
    let until: Vec<bool> = shown["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|secret| secret["signs_until_ms"].is_null())
        .collect();
    assert_eq!(until, [true, false, false, false], "the newest has no end");
    // One that is of no use any more makes room.
    let admin = site.broker.bus(Role::Admin).await;
    let key = hook_key(&owner_key("olga"), path.rsplit('/').next().unwrap());
    admin
        .change_record::<HookRecord>(&key, |found| {
            let mut hook = found?.clone();
            hook.secrets[0].signs_until_ms = Some(1);
            hook.paused = Some(HookPause { at_ms: 1, reason: HookPauseReason::Gone, by: None });
            Some((hook, Outbox::new()))
        })
        .await
        .unwrap();
    assert_eq!(olga.ask("POST", &format!("{path}/rotate"), "", "").await.status, 201);
    assert_eq!(read(&olga.ask("GET", &path, "", "").await)["paused"]["reason"], "gone");
}

#[tokio::test]
async fn deliveries_are_paged_from_the_newest_and_one_can_be_sent_again() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let path = olga.make_any().await;
    let keeper = site.broker.bus(Role::Keeper).await;
    let hook_id = path.rsplit('/').next().unwrap().parse().unwrap();
    let admin = site.broker.bus(Role::Admin).await;
    let medium = MediaId::from_bytes(nats::new_id_bytes());
    let film = schemas::document::MediaDocumentRecord::new(medium, "olga".to_owned(), 1);
    let event = schemas::document::MediaChanged::new(&film, "olga", &["title"]);
    admin.publish_event(&event, "1").await.unwrap();
    let sequence = admin.stream_extent(subjects::EVENTS).await.unwrap().end.sequence;
    let entry = admin.read_stream_message(subjects::EVENTS, sequence).await.unwrap().unwrap();
    let event_id = entry.headers.get_last(schemas::headers::ID).unwrap().to_string();
    let example = HookDelivery {
        hook_id,
        sequence: Some(sequence),
        event_id: event_id.clone(),
        media_id: Some(medium),
        sent_at_ms: 1_000,
        ..schemas::examples::hook_delivery()
    };
    let mut ids = Vec::new();
    for _ in 0..5 {
        let delivery_id = DeliveryId::from_bytes(nats::new_id_bytes());
        log_delivery(&keeper, &HookDelivery { delivery_id, ..example.clone() }).await;
        ids.insert(0, delivery_id.to_string());
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = read(&olga.ask("GET", &format!("{path}/deliveries?limit=2{after}"), "", "").await);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["delivery_id"].as_str().unwrap().to_owned()));
        assert!(items.len() <= 2 && items.iter().all(|item| item["answer"] == "later"), "{page}");
        match page["next_after"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let wrong = olga.ask("GET", &format!("{path}/deliveries?limit=51"), "", "").await;
    assert_eq!(code(&wrong), (400, "query_malformed".into()));

    let again = olga.ask("POST", &format!("{path}/deliveries/{}/redeliver", ids[0]), "", "").await;
    assert_eq!(again.status, 202, "{again:?}");
    let key = hook_requests_key(path.rsplit('/').next().unwrap());
    let asked = admin.load_record::<HookRequests>(&key).await.unwrap().unwrap().record.deliveries;
    assert_eq!(asked[0].delivery_id.to_string(), read(&again)["delivery_id"]);
    assert_eq!(
        asked[0].content,
        AskedContent::Event { sequence, media_id: Some(medium), event_id: Some(event_id) }
    );
    let none = olga.ask("POST", &format!("{path}/deliveries/{}/redeliver", "0".repeat(26)), "", "").await;
    assert_eq!(code(&none), (404, "not_found".into()));
    // One that is gone, and one in whose place another stream has something else.
    for (sequence, event_id) in [(1_000_000, example.event_id.clone()), (sequence, "another".to_owned())] {
        let delivery_id = DeliveryId::from_bytes(nats::new_id_bytes());
        let gone = HookDelivery { delivery_id, sequence: Some(sequence), event_id, ..example.clone() };
        log_delivery(&keeper, &gone).await;
        let gone = olga.ask("POST", &format!("{path}/deliveries/{delivery_id}/redeliver"), "", "").await;
        assert_eq!(code(&gone), (410, "events_gone".into()));
    }

    // What was sent while the hook was somebody else's is not shown, and not sent again.
    let key = hook_key(&owner_key("olga"), path.rsplit('/').next().unwrap());
    let given = |found: Option<&HookRecord>| {
        Some((HookRecord { log_from_ms: Some(2_000), ..found?.clone() }, Outbox::new()))
    };
    admin.change_record::<HookRecord>(&key, given).await.unwrap();
    let page = read(&olga.ask("GET", &format!("{path}/deliveries"), "", "").await);
    assert_eq!(page["items"], serde_json::json!([]));
    let hidden = olga.ask("POST", &format!("{path}/deliveries/{}/redeliver", ids[0]), "", "").await;
    assert_eq!(code(&hidden), (404, "not_found".into()));
}

#[tokio::test]
async fn who_is_no_admin_any_more_only_ends_a_hook_for_all_owners() {
    let site = Site::start(|_| {}).await;
    let admin = Asking::new(&site, "olga", PrincipalRole::Admin).await;
    let made = admin.make("{\"url\":\"https://films.example/5ecret/hooks\",\"all_owners\":true}").await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = format!("/v1/hooks/{}", read(&made)["hook"]["hook_id"].as_str().unwrap());
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let any = "If-Match: *\r\n";
    for (method, more, body) in [
        ("PATCH", "", "{\"url\":\"https://elsewhere.example/\"}"),
        ("POST", "/resume", ""),
        ("POST", "/rotate", ""),
        ("POST", "/test", ""),
        ("POST", "/replay", "{\"behind\":\"0-0\"}"),
        ("POST", "/deliveries/06db0230a5t0303jc5mn0r355k/redeliver", ""),
        ("GET", "/deliveries", ""),
    ] {
        let refused = olga.ask(method, &format!("{path}{more}"), any, body).await;
        assert_eq!(code(&refused), (403, "not_yours".into()), "{method} {more}");
    }
    assert_eq!(olga.ask("POST", &format!("{path}/pause"), "", "").await.status, 200);
    let changed = olga.ask("PATCH", &path, any, "{\"all_owners\":false}").await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let bus = site.broker.bus(Role::Admin).await;
    let key = hook_key(&owner_key("olga"), path.rsplit('/').next().unwrap());
    let record = bus.load_record::<HookRecord>(&key).await.unwrap().unwrap().record;
    assert!(record.log_from_ms.is_some(), "its log is of all owners");
    assert_eq!(olga.ask("GET", &format!("{path}/deliveries"), "", "").await.status, 200);
    assert_eq!(describe_change(&record, "olga").url, "https://films.example", "a path may hold a secret");
}

#[tokio::test]
async fn a_replay_names_an_event_or_a_time_and_tests_have_an_end() {
    let site = Site::start(|_| {}).await;
    let olga = Asking::new(&site, "olga", PrincipalRole::Owner).await;
    let path = olga.make_any().await;
    let replay = format!("{path}/replay");
    let begun = read(&olga.ask("POST", &replay, "", "{\"behind\":\"0-0\"}").await);
    assert!(begun["behind"].as_str().unwrap().ends_with("-0"), "{begun}");
    let now = format!("{{\"since_ms\":{}}}", nats::now_ms() + 60_000);
    let late = read(&olga.ask("POST", &replay, "", &now).await);
    let extent = site.broker.bus(Role::Admin).await.stream_extent(subjects::EVENTS).await.unwrap();
    let sequence: u64 = late["behind"].as_str().unwrap().split_once('-').unwrap().1.parse().unwrap();
    assert!((1..=extent.end.sequence).contains(&sequence), "{late}");
    for (body, wanted) in [
        ("{}", (400, "request_invalid")),
        ("{\"behind\":\"0-0\",\"since_ms\":1}", (400, "request_invalid")),
        ("{\"behind\":\"x\"}", (400, "event_id_malformed")),
        ("{\"behind\":\"abc-7\"}", (410, "events_gone")),
        (&format!("{{\"behind\":\"{:x}-99999\"}}", extent.end.created_at_ms), (410, "events_gone")),
    ] {
        assert_eq!(
            code(&olga.ask("POST", &replay, "", body).await),
            (wanted.0, wanted.1.to_owned()),
            "{body}"
        );
    }
    for _ in 0..schemas::hook::ASKED_MAX {
        assert_eq!(olga.ask("POST", &format!("{path}/test"), "", "").await.status, 202);
    }
    let refused = olga.ask("POST", &format!("{path}/test"), "", "").await;
    assert_eq!(code(&refused), (409, "hook_requests_too_many".into()));
}
