use nats::{Role, testing::TestBroker};

use super::*;

fn medium(number: u8) -> MediaId {
    MediaId::from_bytes([number; 16])
}

async fn open(bus: &Bus, media_id: MediaId, session: u8) {
    let playback_id = PlaybackId::from_bytes([session; 16]);
    let opened = ViewOpened { media_id, owner: "olga".into(), playback_id };
    // Another cause each time: nothing here may rest on the window for duplicates.
    let cause = data_encoding::HEXLOWER.encode(&nats::new_id_bytes());
    bus.publish_event(&opened, &cause).await.unwrap();
}

async fn sums(admin: &Bus) -> Vec<(MediaId, u64, u64)> {
    let all = vec![subjects::event_filter::<ViewSummed>()];
    let mut events =
        admin.open_reader(reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All)).await.unwrap();
    let mut sums = Vec::new();
    let mut left = events.pending_at_start();
    while left > 0 {
        let entry = events.next().await.unwrap();
        left = entry.pending;
        let summed: ViewSummed = nats::decode_message(&entry.subject, &entry.payload).unwrap();
        sums.push((summed.media_id, summed.hour_ms, summed.opened_count));
    }
    sums.sort_unstable();
    sums
}

#[tokio::test]
async fn every_opening_is_in_one_sum() {
    let broker = TestBroker::start().await;
    let (admin, ingress, keeper) =
        (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await, broker.bus(Role::Keeper).await);
    // Three media in one part of the stream, one in another.
    for (number, openings) in [(16, 3), (32, 1), (48, 2), (1, 5)] {
        for session in 0..openings {
            open(&ingress, medium(number), session).await;
        }
    }
    open(&ingress, medium(16), 0).await;
    let now_ms = nats::now_ms();
    let hour_ms = now_ms - now_ms % HOUR_MS;
    assert_eq!(sum_views(&keeper, now_ms, SUMS_MAX).await.unwrap(), 0, "the hour is not over");
    let later_ms = now_ms + 2 * HOUR_MS;
    // A write that carries one sum at a time.
    assert_eq!(sum_views(&keeper, later_ms, 1).await.unwrap(), 4);
    let found = sums(&admin).await;
    let counts: Vec<(MediaId, u64)> = found.iter().map(|(media_id, _, count)| (*media_id, *count)).collect();
    assert_eq!(counts, [(medium(1), 5), (medium(16), 3), (medium(32), 1), (medium(48), 2)]);
    assert!(found.iter().all(|(_, hour, _)| *hour == hour_ms || *hour == hour_ms + HOUR_MS), "{found:?}");
    assert_eq!(sum_views(&keeper, later_ms, SUMS_MAX).await.unwrap(), 0, "once");
    open(&ingress, medium(32), 9).await;
    assert_eq!(sum_views(&keeper, later_ms, SUMS_MAX).await.unwrap(), 1, "only what is new");
    // The stream is made anew: it is summed from its beginning.
    admin.context().delete_stream(subjects::VIEWS).await.unwrap();
    nats::topology::apply_topology(admin.context(), &nats::topology::TopologySettings::default())
        .await
        .unwrap();
    open(&ingress, medium(1), 7).await;
    assert_eq!(sum_views(&keeper, later_ms, SUMS_MAX).await.unwrap(), 1);
}

#[tokio::test]
async fn a_keeper_that_dies_between_two_writes_counts_nothing_twice() {
    let broker = TestBroker::start().await;
    let (admin, ingress, keeper) =
        (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await, broker.bus(Role::Keeper).await);
    for number in [16, 32, 48] {
        open(&ingress, medium(number), 1).await;
    }
    let later_ms = nats::now_ms() + 2 * HOUR_MS;
    // The first write of the hour, as a keeper left it that died then.
    let created = admin.context().get_stream(subjects::VIEWS).await.unwrap().cached_info().created;
    let position = ViewPosition {
        partition: 0,
        stream_created_us: u64::try_from(created.unix_timestamp_nanos() / 1_000).unwrap(),
        sequence: 0,
        media_id: Some(medium(16)),
    };
    keeper.commit_record(&mut VersionedRecord::new(position), Outbox::new()).await.unwrap();
    assert_eq!(sum_views(&keeper, later_ms, 1).await.unwrap(), 2, "the two others");
    let media: Vec<MediaId> = sums(&admin).await.into_iter().map(|(media_id, ..)| media_id).collect();
    assert_eq!(media, [medium(32), medium(48)]);
}
