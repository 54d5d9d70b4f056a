//! Webhooks whose record or whose stream changes while something waits, and receivers that answer late.

use std::convert::Infallible;

use super::*;

fn waiting(media_id: MediaId, sequence: u64) -> schemas::hook::HookLane {
    schemas::hook::HookLane {
        media_id: Some(media_id),
        waiting: vec![schemas::hook::WaitingEvent { sequence, since_ms: BEGIN_MS }],
        tries: 0,
        next_try_at_ms: 0,
        code: None,
        is_expedited: false,
    }
}

async fn last_sequence(bench: &Bench) -> u64 {
    bench.admin.stream_extent(subjects::EVENTS).await.unwrap().end.sequence
}

#[tokio::test]
async fn what_waits_by_a_sequence_that_is_another_event_is_not_sent() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    let [medium, other] = media();
    bench.publish(medium, "olga", 1).await;
    let of_somebody = last_sequence(&bench).await;
    bench.publish(other, "admin", 2).await;
    let of_other_medium = last_sequence(&bench).await;
    let position = HookPosition { sequence: of_other_medium, ..hook.begins };
    let progress = HookProgress {
        // The second has the sequence of an event of the hook's owner, about another medium.
        lanes: vec![waiting(medium, of_somebody), waiting(media::<1>()[0], of_other_medium)],
        ..HookProgress::new(hook.hook_id, position)
    };
    bench.admin.commit_record(&mut VersionedRecord::new(progress), Outbox::new()).await.unwrap();
    // Nor is one that is asked for, and has another id than was logged.
    let event_id = Some("another".to_owned());
    let asked = AskedDelivery {
        delivery_id: DeliveryId::from_bytes(nats::new_id_bytes()),
        content: AskedContent::Event { sequence: of_other_medium, media_id: Some(other), event_id },
        asked_at_ms: BEGIN_MS,
    };
    bench.ask(HookRequests { deliveries: vec![asked], ..HookRequests::new(hook.hook_id) }).await;
    let (_held, _running) = bench.run().await;
    wait_for("an empty queue", async || {
        bench.progress(&hook).await.filter(|progress| progress.lanes.is_empty())
    })
    .await;
    bench.publish(other, "admin", 3).await;
    wait_for("what comes then", async || (!receiver.received().is_empty()).then_some(())).await;
    let numbers: Vec<u64> = receiver.received().iter().map(|received| received.number).collect();
    assert_eq!(numbers, [3]);
}

#[tokio::test]
async fn what_a_hook_does_not_name_any_more_is_not_sent_though_it_waits() {
    let (bench, receiver) = (Bench::start().await, Receiver::start().await);
    let hook = bench.make_hook(&receiver.url()).await;
    bench.change_hook(&hook, |hook| hook.is_for_all = true).await;
    let (_held, _running) = bench.run().await;
    receiver.answer_with(StatusCode::SERVICE_UNAVAILABLE);
    let [medium] = media();
    bench.publish(medium, "olga", 1).await;
    bench.wait_for_tries(&hook, 1).await;
    bench.change_hook(&hook, |hook| hook.is_for_all = false).await;
    // The bucket is read in its order: what is asked for behind the change is done by who knows of it.
    let asked = AskedDelivery {
        delivery_id: DeliveryId::from_bytes(nats::new_id_bytes()),
        content: AskedContent::Test,
        asked_at_ms: BEGIN_MS,
    };
    bench.ask(HookRequests { deliveries: vec![asked], ..HookRequests::new(hook.hook_id) }).await;
    wait_for("what is asked for", async || (receiver.received().len() == 2).then_some(())).await;
    bench.publish(medium, "admin", 2).await;
    receiver.answer_with(StatusCode::OK);
    bench.turn_to(BEGIN_MS + HOUR_MS);
    wait_for("its own", async || (!receiver.taken().is_empty()).then_some(())).await;
    assert_eq!(receiver.taken()[&medium.to_string()], [2]);
    assert_eq!(bench.events::<HookSkipped>().await.len(), 0, "nothing that it sends is left out");
}

#[tokio::test]
async fn another_address_is_tried_at_once_and_what_the_old_one_answers_pauses_nothing() {
    let (bench, wrong, right) = (Bench::start().await, Receiver::start().await, Receiver::start().await);
    let hook = bench.make_hook(&wrong.url()).await;
    let (_held, _running) = bench.run().await;
    wrong.answer_with(StatusCode::TOO_MANY_REQUESTS);
    let [medium] = media();
    bench.publish(medium, "admin", 1).await;
    wait_for("a failure", async || {
        bench.progress(&hook).await.filter(|progress| progress.failing_since_ms.is_some())
    })
    .await;
    let url = right.url();
    bench.change_hook(&hook, move |hook| hook.url = url.clone()).await;
    wait_for("the event", async || (right.taken().len() == 1).then_some(())).await;

    let keeper = bench.broker.bus(Role::Keeper).await;
    let pause = async |hook: &HookRecord| {
        let why = (BEGIN_MS, "gone");
        settings::pause_hook(&keeper, hook, HookPauseReason::Gone, why).await.unwrap();
        bench.hook(hook).await.paused.is_some()
    };
    assert!(!pause(&hook).await, "it is sent elsewhere");
    let now = bench.hook(&hook).await;
    assert!(!pause(&HookRecord { resumed_at_ms: Some(7), ..now.clone() }).await, "it was resumed since");
    assert!(pause(&now).await);
}

#[tokio::test]
async fn a_hook_compares_its_stream_with_that_of_the_feed_and_gives_its_turn_back() {
    let bench = Bench::start().await;
    let [medium] = media();
    for number in 1..=3 {
        bench.publish(medium, "admin", number).await;
    }
    let end = bench.admin.stream_extent(subjects::EVENTS).await.unwrap().end;
    let feed = EventFeed::open(bench.broker.bus(Role::Keeper).await).await.unwrap();
    let turns = Arc::new(Semaphore::new(1));
    let mut follower = feed.follow(Arc::clone(&turns));
    let next = follower.next(HookPosition { created_at_ms: 7, sequence: 1 }).await.unwrap();
    assert!(matches!(next, feed::FeedItem::Reset), "{next:?}");
    let begin = HookPosition { created_at_ms: end.created_at_ms, sequence: end.sequence - 3 };
    let next = follower.next(begin).await.unwrap();
    assert!(matches!(&next, feed::FeedItem::Event(head) if head.sequence == begin.sequence + 1), "{next:?}");
    assert_eq!(turns.available_permits(), 0);
    follower.restart();
    assert_eq!(turns.available_permits(), 1, "one that does not read keeps no turn");
}

#[tokio::test]
async fn a_status_counts_though_the_rest_of_its_answer_never_comes() {
    let bench = Bench::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async || {
        let first = futures::stream::once(async { Ok::<_, Infallible>("thank you") });
        axum::body::Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
    };
    let router = Router::new().route("/hook", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let hook = bench.make_hook(&format!("http://{address}/hook")).await;
    let (_held, _running) = bench.run().await;
    bench.publish(media::<1>()[0], "admin", 1).await;
    let logged = wait_for("the delivery", async || bench.log(&hook).await.pop()).await;
    assert_eq!((logged.outcome, logged.status), (DeliveryOutcome::Delivered, Some(200)));
    assert!(logged.took_ms < 10_000, "{} ms", logged.took_ms);
    assert_eq!(logged.url, format!("http://{address}"), "a path may hold a secret");
}
