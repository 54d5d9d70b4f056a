//! Webhooks with a real broker, real receivers on loopback, and a clock that the tests turn.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{FutureExt as _, future::BoxFuture};
use nats::{Outbox, Role, VersionedRecord, testing::TestBroker};
use outbound::LookUp;
use parking_lot::Mutex;
use schemas::{
    document::{MediaChanged, MediaDocumentRecord},
    hook::{
        AskedContent, AskedDelivery, AskedReplay, HookPauseReason, HookPosition, HookProgress, HookSecret,
    },
    hook_delivery::{DeliveryOutcome, DeliveryTrigger, HookDelivery},
    hook_event::{HookPaused, HookSkipReason, HookSkipped},
    ids::{DeliveryId, MediaId},
};
use serde_bytes::ByteBuf;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use webhooks::signature;

use super::*;

mod changes;

const HOUR_MS: u64 = 3_600_000;
const BEGIN_MS: u64 = 1_900_000_000_000;
const SECRETS: [&[u8]; 2] = [b"an old secret of thirty-two byte", b"a new secret of thirty-two bytes"];

/// What a receiver was sent.
#[derive(Debug, Clone)]
struct Received {
    event_id: String,
    media_id: String,
    number: u64,
    is_taken: bool,
}

/// A receiver, which answers as the test says.
#[derive(Debug)]
struct Receiver {
    address: SocketAddr,
    status: Mutex<StatusCode>,
    received: Mutex<Vec<Received>>,
    /// Holds answers back while the test has it.
    gate: tokio::sync::RwLock<()>,
    under_way: Mutex<BTreeMap<String, usize>>,
}

impl Receiver {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            status: Mutex::new(StatusCode::OK),
            received: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            under_way: Mutex::default(),
        });
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&receiver));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=5up3rs3cr3t", self.address)
    }

    fn answer_with(&self, status: StatusCode) {
        *self.status.lock() = status;
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// Numbers of what was taken, by medium.
    fn taken(&self) -> BTreeMap<String, Vec<u64>> {
        let mut taken: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for received in self.received().into_iter().filter(|received| received.is_taken) {
            taken.entry(received.media_id).or_default().push(received.number);
        }
        taken
    }
}

/// Checks the signatures of a delivery by both secrets.
fn check_signatures(headers: &HeaderMap, body: &[u8]) {
    let text = |name: &str| headers[name].to_str().unwrap();
    let timestamp_s: u64 = text(signature::TIMESTAMP).parse().unwrap();
    for secret in SECRETS {
        let wanted = signature::sign(text(signature::ID), timestamp_s, body, [secret]);
        assert!(text(signature::SIGNATURE).split(' ').any(|found| found == wanted), "{headers:?}");
    }
}

async fn take(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Response {
    check_signatures(&headers, &body);
    let event: Value = serde_json::from_slice(&body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let media_id = text(&event["media_id"]);
    let under_way = {
        let mut all = receiver.under_way.lock();
        let count = all.entry(media_id.clone()).or_default();
        *count += 1;
        *count
    };
    assert_eq!(under_way, 1, "two of one medium are under way");
    let _open = receiver.gate.read().await;
    *receiver.under_way.lock().get_mut(&media_id).unwrap() -= 1;
    let status = *receiver.status.lock();
    let number = text(&event["data"]["title"]).parse().unwrap_or_default();
    let event_id = headers[signature::ID].to_str().unwrap().to_owned();
    receiver.received.lock().push(Received { event_id, media_id, number, is_taken: status.is_success() });
    match status {
        StatusCode::FOUND => (status, [(header::LOCATION, "http://127.0.0.1/elsewhere")]).into_response(),
        StatusCode::TOO_MANY_REQUESTS => (status, [(header::RETRY_AFTER, "1800")]).into_response(),
        status => (status, "thank you").into_response(),
    }
}

/// Names that stand for what a test says.
#[derive(Debug)]
struct Names(AtomicUsize, Vec<IpAddr>);

impl LookUp for Names {
    fn look_up(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let number = self.0.fetch_add(1, Ordering::SeqCst).min(self.1.len() - 1);
        let found = vec![self.1[number]];
        async move { Ok(found) }.boxed()
    }
}

/// A broker with webhooks.
struct Bench {
    broker: TestBroker,
    admin: Bus,
    times: watch::Sender<u64>,
    client: OutboundClient,
    metrics: WebhookMetrics,
}

fn loopback() -> OutboundConfig {
    OutboundConfig { allow: vec!["127.0.0.0/8".parse().unwrap()], ..OutboundConfig::default() }
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(OutboundClient::new(loopback()).unwrap()).await
    }

    async fn start_with(client: OutboundClient) -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        Self { broker, admin, times: watch::channel(BEGIN_MS).0, client, metrics: WebhookMetrics::default() }
    }

    /// A keeper's webhooks, until the token fires.
    async fn run(&self) -> (CancellationToken, JoinHandle<()>) {
        let held = CancellationToken::new();
        let services = WebhookServices {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            clock: HookClock::turned_by(self.times.subscribe()),
        };
        let bus = self.broker.bus(Role::Keeper).await;
        let running = run_webhooks(bus, services, WebhookConfig::default(), held.clone());
        (held, tokio::spawn(running))
    }

    async fn make_hook(&self, url: &str) -> HookRecord {
        let extent = self.admin.stream_extent(subjects::EVENTS).await.unwrap();
        let secret = |bytes: &[u8]| HookSecret {
            bytes: ByteBuf::from(bytes.to_vec()),
            made_at_ms: BEGIN_MS,
            signs_until_ms: None,
        };
        let hook = HookRecord {
            hook_id: HookId::from_bytes(nats::new_id_bytes()),
            url: url.to_owned(),
            types: vec!["media".to_owned()],
            secrets: SECRETS.map(secret).to_vec(),
            begins: HookPosition { created_at_ms: extent.end.created_at_ms, sequence: extent.end.sequence },
            paused: None,
            ..schemas::examples::hook_record()
        };
        self.admin.commit_record(&mut VersionedRecord::new(hook.clone()), Outbox::new()).await.unwrap();
        hook
    }

    /// An event about a medium, with a number as its title.
    async fn publish(&self, media_id: MediaId, owner: &str, number: u64) {
        let document = MediaDocumentRecord {
            title: number.to_string(),
            ..MediaDocumentRecord::new(media_id, owner.to_owned(), BEGIN_MS)
        };
        let event = MediaChanged::new(&document, owner, &["title"]);
        self.admin.publish_event(&event, &number.to_string()).await.unwrap();
    }

    fn turn_to(&self, at_ms: u64) {
        self.times.send_replace(at_ms);
    }

    async fn progress(&self, hook: &HookRecord) -> Option<HookProgress> {
        let key = schemas::hook::hook_progress_key(&hook.hook_id.to_string());
        Some(self.admin.load_record::<HookProgress>(&key).await.unwrap()?.record)
    }

    /// Waits until so many failed tries of what waits are written down: only then are they judged by the time that it was.
    async fn wait_for_tries(&self, hook: &HookRecord, tries: u32) {
        wait_for("the tries are written down", async || {
            let found: u32 = self.progress(hook).await?.lanes.iter().map(|lane| lane.tries).sum();
            (found == tries).then_some(())
        })
        .await;
    }

    async fn log(&self, hook: &HookRecord) -> Vec<HookDelivery> {
        let filter = subjects::hook_log_subject(hook.hook_id);
        let settings = reader::ReaderConfig::new(subjects::HOOKLOG, vec![filter], ReaderStart::All);
        let mut entries = self.admin.open_reader(settings).await.unwrap();
        let mut found = Vec::new();
        while let Some(entry) = entries.next_pending().await.unwrap() {
            found.push(nats::decode_message(&entry.subject, &entry.payload).unwrap());
        }
        found
    }

    async fn events<E: schemas::BusEvent>(&self) -> Vec<E> {
        let settings = reader::ReaderConfig::new(
            subjects::EVENTS,
            vec![subjects::event_filter::<E>()],
            ReaderStart::All,
        );
        let mut entries = self.admin.open_reader(settings).await.unwrap();
        let mut found = Vec::new();
        while let Some(entry) = entries.next_pending().await.unwrap() {
            found.push(nats::decode_message(&entry.subject, &entry.payload).unwrap());
        }
        found
    }

    async fn hook(&self, hook: &HookRecord) -> HookRecord {
        self.admin.load_record::<HookRecord>(&hook.key()).await.unwrap().unwrap().record
    }

    async fn change_hook(&self, hook: &HookRecord, change: impl Fn(&mut HookRecord) + Send + Sync) {
        let changed = |found: Option<&HookRecord>| {
            let mut hook = found?.clone();
            change(&mut hook);
            Some((hook, Outbox::new()))
        };
        self.admin.change_record::<HookRecord>(&hook.key(), changed).await.unwrap();
    }

    async fn ask(&self, requests: HookRequests) {
        let key = requests.key();
        let change = |_: Option<&HookRequests>| Some((requests.clone(), Outbox::new()));
        self.admin.change_record::<HookRequests>(&key, change).await.unwrap();
    }
}

/// Waits until `found` finds something.
async fn wait_for<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), looking).await;
    found.unwrap_or_else(|_| panic!("it never comes: {what}"))
}

fn media<const N: usize>() -> [MediaId; N] {
    std::array::from_fn(|_| MediaId::from_bytes(nats::new_id_bytes()))
}

#[tokio::test]
async fn a_receiver_that_was_away_for_an_hour_gets_everything_in_order_by_medium() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    let media = media::<3>();
    receiver.answer_with(StatusCode::SERVICE_UNAVAILABLE);
    let (held, running) = bench.run().await;
    for number in 1..=30_u64 {
        bench.publish(media[usize::try_from(number % 3).unwrap()], "admin", number).await;
        bench.publish(media[0], "somebody else", 1_000 + number).await;
    }
    let all_tried = async |tries: u32| {
        let progress = bench.progress(&hook).await?;
        let is_tried = progress.lanes.len() == 3 && progress.lanes.iter().all(|lane| lane.tries >= tries);
        (is_tried && progress.waiting_count() == 30).then_some(progress)
    };
    let progress = wait_for("the first tries", async || all_tried(1).await).await;
    assert_eq!(progress.failing_since_ms, Some(BEGIN_MS));
    for (tries, minutes) in [(2, 20), (3, 40), (4, 60)] {
        bench.turn_to(BEGIN_MS + minutes * 60_000);
        wait_for("another try", async || all_tried(tries).await).await;
    }
    let metrics = nats::metrics::render_collector(bench.metrics.clone());
    assert!(metrics.contains("streamgate_webhooks{state=\"failing\"} 1"), "{metrics}");
    receiver.answer_with(StatusCode::NO_CONTENT);
    bench.turn_to(BEGIN_MS + 2 * HOUR_MS);
    wait_for("all of it", async || {
        let count: usize = receiver.taken().values().map(Vec::len).sum();
        (count >= 30).then_some(())
    })
    .await;
    let taken = receiver.taken();
    assert_eq!(taken.len(), 3);
    for (index, media_id) in media.iter().enumerate() {
        let wanted: Vec<u64> =
            (1..=30).filter(|number| usize::try_from(number % 3).unwrap() == index).collect();
        assert_eq!(taken[&media_id.to_string()], wanted);
    }
    // The id of an event is the same at each try.
    let first = receiver.received().into_iter().filter(|received| received.number == 3).collect::<Vec<_>>();
    assert!(
        first.len() >= 5 && first.iter().all(|received| received.event_id == first[0].event_id),
        "{first:?}"
    );
    let progress = wait_for("an empty queue", async || {
        bench.progress(&hook).await.filter(|progress| progress.lanes.is_empty())
    })
    .await;
    assert_eq!(progress.failing_since_ms, None);
    let log = bench.log(&hook).await;
    let delivered: Vec<&HookDelivery> =
        log.iter().filter(|found| found.outcome == DeliveryOutcome::Delivered).collect();
    assert_eq!(delivered.len(), 30);
    assert!(log.iter().all(|found| !found.url.contains("5up3rs3cr3t")), "the query is logged");
    assert_eq!(log[0].code.as_deref(), Some("status_refused"));
    assert_eq!((log[0].status, log[0].answer.as_deref()), (Some(503), Some("thank you")));
    assert!(log[0].next_try_at_ms.is_some_and(|at_ms| at_ms > BEGIN_MS) && log[0].body.is_some());
    held.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_receiver_that_is_gone_pauses_its_hook_and_resuming_sends_what_waited() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    receiver.answer_with(StatusCode::GONE);
    let (_held, _running) = bench.run().await;
    let [medium] = media();
    bench.publish(medium, "admin", 1).await;
    let paused = wait_for("the pause", async || bench.hook(&hook).await.paused).await;
    assert_eq!((paused.reason, paused.by), (HookPauseReason::Gone, None));
    let events = bench.events::<HookPaused>().await;
    assert_eq!((events.len(), events[0].code.as_deref()), (1, Some("gone")));
    bench.publish(medium, "admin", 2).await;
    receiver.answer_with(StatusCode::OK);
    let now_ms = BEGIN_MS + 24 * HOUR_MS;
    bench.turn_to(now_ms);
    bench.change_hook(&hook, |hook| (hook.paused, hook.resumed_at_ms) = (None, Some(now_ms))).await;
    wait_for("what waited", async || {
        (receiver.taken().len() == 1 && receiver.taken()[&medium.to_string()] == [1, 2]).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 3, "nothing was sent while it was paused");
}

#[tokio::test]
async fn what_fails_for_three_days_is_left_out_and_after_five_the_hook_is_paused() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    receiver.answer_with(StatusCode::INTERNAL_SERVER_ERROR);
    let (_held, _running) = bench.run().await;
    let [medium, other] = media();
    bench.publish(medium, "admin", 1).await;
    bench.wait_for_tries(&hook, 1).await;
    bench.turn_to(BEGIN_MS + 60 * HOUR_MS);
    bench.publish(other, "admin", 2).await;
    bench.wait_for_tries(&hook, 3).await;
    assert_eq!(receiver.received().len(), 3);
    bench.turn_to(BEGIN_MS + 72 * HOUR_MS);
    let skipped = wait_for("the event", async || bench.events::<HookSkipped>().await.pop()).await;
    assert_eq!((skipped.reason, skipped.media_id, skipped.tries), (HookSkipReason::GivenUp, Some(medium), 3));
    assert_eq!(skipped.code.as_deref(), Some("status_refused"));
    // The one that was given up has no lane any more.
    bench.wait_for_tries(&hook, 2).await;
    assert_eq!(receiver.received().len(), 5);
    assert_eq!(bench.hook(&hook).await.paused, None);
    bench.turn_to(BEGIN_MS + 120 * HOUR_MS);
    let paused = wait_for("the pause", async || bench.hook(&hook).await.paused).await;
    assert_eq!(paused.reason, HookPauseReason::Failing);
    let progress = bench.progress(&hook).await.unwrap();
    assert_eq!(progress.waiting_count(), 1, "what waits is kept: {progress:?}");
    let metrics = nats::metrics::render_collector(bench.metrics.clone());
    assert!(metrics.contains("streamgate_webhook_skipped_events_total 1"), "{metrics}");
    assert!(metrics.contains("streamgate_webhook_deliveries_total{outcome=\"failed\"} 6"), "{metrics}");
}

#[tokio::test]
async fn another_keeper_sends_again_what_was_under_way() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    bench.make_hook(&receiver.url()).await;
    let (held, running) = bench.run().await;
    let [one, other] = media();
    bench.publish(one, "admin", 1).await;
    wait_for("the first", async || (receiver.received().len() == 1).then_some(())).await;
    let gate = receiver.gate.write().await;
    for number in 2..=5 {
        bench.publish(one, "admin", number).await;
        bench.publish(other, "admin", number).await;
    }
    wait_for("both", async || (receiver.under_way.lock().values().sum::<usize>() == 2).then_some(())).await;
    held.cancel();
    running.await.unwrap();
    // As the receiver of a connection that was cut.
    receiver.under_way.lock().clear();
    drop(gate);
    let (_held, _running) = bench.run().await;
    wait_for("all of it", async || {
        let taken = receiver.taken();
        let distinct = |media_id: MediaId| {
            let mut numbers = taken.get(&media_id.to_string()).cloned().unwrap_or_default();
            assert!(numbers.is_sorted(), "{numbers:?}");
            numbers.dedup();
            numbers
        };
        (distinct(one) == [1, 2, 3, 4, 5] && distinct(other) == [2, 3, 4, 5]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn addresses_that_are_not_public_are_not_reached_in_any_form() {
    let receiver = Receiver::start().await;
    let port = receiver.address.port();
    let looks = ["127.0.0.1", "169.254.169.254"].map(|text| text.parse().unwrap()).to_vec();
    let names = Arc::new(Names(AtomicUsize::new(0), looks));
    let bench = Bench::start_with(OutboundClient::with_look_up(loopback(), names).unwrap()).await;
    let hook = bench.make_hook(&format!("http://films.example:{port}/hook")).await;
    let (_held, _running) = bench.run().await;
    let [medium] = media();
    bench.publish(medium, "admin", 1).await;
    wait_for("the first look", async || (receiver.received().len() == 1).then_some(())).await;
    bench.publish(medium, "admin", 2).await;
    let refused = wait_for("the second look", async || bench.log(&hook).await.into_iter().nth(1)).await;
    assert_eq!(refused.code.as_deref(), Some("address_refused"), "{refused:?}");
    assert!(!refused.detail.unwrap().contains("169.254"), "it says what is behind the name");
    assert_eq!(receiver.received().len(), 1);

    let bench = Bench::start_with(OutboundClient::new(OutboundConfig::default()).unwrap()).await;
    let forms = [
        format!("http://127.0.0.1:{port}/hook"),
        format!("http://2130706433:{port}/hook"),
        format!("http://0x7f.1:{port}/hook"),
        format!("http://[::ffff:127.0.0.1]:{port}/hook"),
        format!("http://localhost:{port}/hook"),
    ];
    let mut hooks = Vec::new();
    for form in &forms {
        hooks.push(bench.make_hook(form).await);
    }
    let (_held, _running) = bench.run().await;
    bench.publish(medium, "admin", 3).await;
    for (hook, form) in hooks.iter().zip(forms) {
        let refused = wait_for(&form, async || bench.log(hook).await.pop()).await;
        assert_eq!(refused.code.as_deref(), Some("address_refused"), "{form}: {refused:?}");
    }
    assert_eq!(receiver.received().len(), 1, "one of them was reached");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_receiver_may_ask_for_time() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    let (_held, _running) = bench.run().await;
    let [medium] = media();
    receiver.answer_with(StatusCode::FOUND);
    bench.publish(medium, "admin", 1).await;
    let refused = wait_for("the answer", async || bench.log(&hook).await.pop()).await;
    assert_eq!((refused.code.as_deref(), refused.status), (Some("redirect_refused"), Some(302)));
    receiver.answer_with(StatusCode::TOO_MANY_REQUESTS);
    bench.turn_to(BEGIN_MS + 60_000);
    let asked = wait_for("the next answer", async || bench.log(&hook).await.into_iter().nth(1)).await;
    assert_eq!(asked.next_try_at_ms, Some(BEGIN_MS + 60_000 + 1_800_000));
}

#[tokio::test]
async fn what_people_ask_for_is_sent_once_and_a_replay_sends_everything_behind_a_place() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    let (_held, _running) = bench.run().await;
    let [medium] = media();
    for number in 1..=3 {
        bench.publish(medium, "admin", number).await;
    }
    let log = wait_for("three", async || Some(bench.log(&hook).await).filter(|log| log.len() == 3)).await;
    let asked = |content: AskedContent| AskedDelivery {
        delivery_id: DeliveryId::from_bytes(nats::new_id_bytes()),
        content,
        asked_at_ms: BEGIN_MS,
    };
    // Also of one that sends nothing else.
    let pause = schemas::hook::HookPause { at_ms: BEGIN_MS, reason: HookPauseReason::Person, by: None };
    bench.change_hook(&hook, |hook| hook.paused = Some(pause.clone())).await;
    let again = asked(AskedContent::Event {
        sequence: log[1].sequence.unwrap(),
        media_id: Some(medium),
        event_id: Some(log[1].event_id.clone()),
    });
    let test = asked(AskedContent::Test);
    let deliveries = vec![again.clone(), test.clone()];
    bench.ask(HookRequests { deliveries, ..HookRequests::new(hook.hook_id) }).await;
    let log = wait_for("both", async || Some(bench.log(&hook).await).filter(|log| log.len() == 5)).await;
    let find = |id: DeliveryId| log.iter().find(|found| found.delivery_id == id).unwrap();
    assert_eq!(find(again.delivery_id).trigger, DeliveryTrigger::Redelivery);
    assert_eq!(find(again.delivery_id).event_id, log[1].event_id);
    assert_eq!(
        (find(test.delivery_id).trigger, find(test.delivery_id).sequence),
        (DeliveryTrigger::Test, None)
    );
    assert!(find(test.delivery_id).body.as_deref().unwrap().contains("hook.test"));
    let key = schemas::hook::hook_requests_key(&hook.hook_id.to_string());
    wait_for("nothing is asked any more", async || {
        let left = bench.admin.load_record::<HookRequests>(&key).await.unwrap().unwrap().record;
        left.deliveries.is_empty().then_some(())
    })
    .await;

    let position = HookPosition { sequence: log[0].sequence.unwrap(), ..hook.begins };
    let replay = Some(AskedReplay { position, asked_at_ms: BEGIN_MS });
    bench.ask(HookRequests { replay, ..HookRequests::new(hook.hook_id) }).await;
    bench.change_hook(&hook, |hook| hook.paused = None).await;
    let log =
        wait_for("the replay", async || Some(bench.log(&hook).await).filter(|log| log.len() == 7)).await;
    assert_eq!([&log[5].event_id, &log[6].event_id], [&log[1].event_id, &log[2].event_id]);
    bench.publish(medium, "admin", 4).await;
    wait_for("what comes then", async || {
        (receiver.taken()[&medium.to_string()].last() == Some(&4)).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 8);
}

#[tokio::test]
async fn nothing_of_a_removed_hook_or_medium_stays_in_the_log() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let (hook, other) = (bench.make_hook(&receiver.url()).await, bench.make_hook(&receiver.url()).await);
    let [one, two] = media();
    let mut held = VersionedRecord::new(MediaDocumentRecord::new(one, "admin".to_owned(), BEGIN_MS));
    bench.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    receiver.under_way.lock().clear();
    let (_held, _running) = bench.run().await;
    bench.publish(one, "admin", 1).await;
    wait_for("both", async || {
        (bench.log(&hook).await.len() + bench.log(&other).await.len() == 2).then_some(())
    })
    .await;
    assert!(bench.log(&hook).await[0].body.is_some());
    // Once it is removed, no body of it comes into the log any more.
    held.record.removed_at_ms = Some(BEGIN_MS);
    bench.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    bench.publish(one, "admin", 2).await;
    bench.publish(two, "admin", 3).await;
    let log = wait_for("three", async || Some(bench.log(&hook).await).filter(|log| log.len() == 3)).await;
    let late = log.iter().find(|found| found.media_id == Some(one) && found.body.is_none());
    assert!(late.is_some_and(|found| found.answer.is_none()), "{log:?}");
    let keeper = bench.broker.bus(Role::Keeper).await;
    let found = hook_log::find_deliveries(&keeper, &[one]).await.unwrap();
    hook_log::remove_deliveries(&keeper, &found[&one]).await.unwrap();
    hook_log::remove_deliveries(&keeper, &found[&one]).await.unwrap();
    let log = bench.log(&hook).await;
    assert!(log.len() == 1 && log[0].media_id == Some(two) && log[0].body.is_some(), "{log:?}");

    bench.change_hook(&hook, |hook| hook.removed_at_ms = Some(BEGIN_MS)).await;
    wait_for("the end of its log", async || bench.log(&hook).await.is_empty().then_some(())).await;
    wait_for("the end of its records", async || {
        let key = hook.key();
        let found = bench.admin.read_value(HookRecord::BUCKET, &key).await.unwrap().unwrap();
        found.value.is_none().then_some(())
    })
    .await;
    assert_eq!(bench.progress(&hook).await, None);
    assert!(!bench.log(&other).await.is_empty(), "another hook keeps its own");
}

#[tokio::test]
async fn a_hook_that_was_in_another_stream_begins_with_the_one_that_is_there() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    let [medium] = media();
    bench.publish(medium, "admin", 1).await;
    let lane = |sequence: u64| schemas::hook::HookLane {
        media_id: None,
        waiting: vec![schemas::hook::WaitingEvent { sequence, since_ms: BEGIN_MS }],
        tries: 0,
        next_try_at_ms: 0,
        code: None,
        is_expedited: false,
    };
    let progress = HookProgress {
        lanes: vec![lane(40), schemas::hook::HookLane { media_id: Some(medium), ..lane(90) }],
        ..HookProgress::new(hook.hook_id, HookPosition { created_at_ms: 7, sequence: 99 })
    };
    bench.admin.commit_record(&mut VersionedRecord::new(progress), Outbox::new()).await.unwrap();
    let (_held, _running) = bench.run().await;
    let skipped = wait_for("what is lost", async || bench.events::<HookSkipped>().await.pop()).await;
    let range = (skipped.first_sequence, skipped.last_sequence);
    assert_eq!((skipped.reason, range), (HookSkipReason::StreamReset, (40, 90)));
    wait_for("the first event", async || (receiver.taken().len() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_hook_that_was_behind_reads_what_it_missed_and_no_medium_overtakes_itself() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    bench.make_hook(&receiver.url()).await;
    let media = media::<4>();
    // More than waits at a time, so that it has to stop reading and to go on.
    let count = u64::try_from(schemas::hook::WAITING_MAX).unwrap() + 200;
    for number in 1..=count {
        bench.publish(media[usize::try_from(number % 4).unwrap()], "admin", number).await;
    }
    let (_held, _running) = bench.run().await;
    wait_for("all of it", async || {
        let taken = receiver.taken();
        (taken.values().map(Vec::len).sum::<usize>() >= usize::try_from(count).unwrap()).then_some(())
    })
    .await;
    for numbers in receiver.taken().values() {
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}
