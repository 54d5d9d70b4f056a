use async_nats::HeaderMap;
use futures::StreamExt;
use nats::{
    Bus, BusConfig, PublishOutcome, ReaderStart, Role,
    reader::ReaderConfig,
    testing::{SERVERS, TestCluster},
    topology::{self, TopologySettings},
};
use schemas::subjects;

#[tokio::test]
async fn three_servers_keep_everything_three_times() {
    let mut cluster = TestCluster::start().await;
    let bus = cluster.bus(Role::Admin).await;
    let settings = TopologySettings { replicas: 3, ..TopologySettings::default() };
    assert_eq!(topology::diff_topology(bus.context(), &settings).await.unwrap(), []);
    assert_eq!(topology::apply_topology(bus.context(), &settings).await.unwrap(), []);
    for role in Role::ALL {
        let bus = cluster.bus(role).await;
        topology::verify_topology(bus.context(), role)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", role.name()));
    }
    // A program reads what is stored, whichever server it is connected to.
    bus.context().publish("evt.media.stored.P", "x".into()).await.unwrap().await.unwrap();
    for url in cluster.config(Role::Reader).urls {
        let config = BusConfig { urls: vec![url], ..cluster.config(Role::Reader) };
        let reader = Bus::connect(&config).await.unwrap();
        let events = ReaderConfig::new("EVENTS", vec!["evt.media.>".into()], ReaderStart::All);
        let mut events = reader.open_reader(events).await.unwrap();
        let entry = tokio::time::timeout(crate::WAIT_MAX, events.next()).await.unwrap().unwrap();
        assert_eq!(entry.subject, "evt.media.stored.P");
    }
    // One server less: writes go on.
    cluster.kill_server(2);
    crate::until("an event is stored", || async {
        match bus.context().publish("evt.media.stored.M", "x".into()).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
}

/// The leader has taken it, but no other server has confirmed it: the same message again is refused with "is in process".
#[tokio::test]
async fn a_publish_that_is_still_in_process_is_repeated_until_it_is_stored() {
    const SUBJECT: &str = "evt.media.stored.000000000001u0000000000000";
    let cluster = TestCluster::start().await;
    let admin = cluster.bus(Role::Admin).await;
    let mut events = admin.context().get_stream(subjects::EVENTS).await.unwrap();
    let leader = events.info().await.unwrap().cluster.as_ref().unwrap().leader.clone().unwrap();
    let leader = cluster.index_of_name(&leader).unwrap();
    let followers: Vec<usize> = (0..SERVERS).filter(|index| *index != leader).collect();
    let mut config = cluster.config(Role::Admin);
    config.urls = vec![config.urls.remove(leader)];
    let bus = Bus::connect(&config).await.unwrap();

    let mut seen = bus.subscribe_core(SUBJECT.into()).await.unwrap();
    for index in &followers {
        cluster.freeze_server(*index);
    }
    let publish = || bus.publish_raw(subjects::EVENTS, SUBJECT, "one", HeaderMap::new(), b"x".to_vec());
    let (first, second, ()) = tokio::join!(publish(), publish(), async {
        // Two first tries, and one that follows a refusal.
        for _ in 0..3 {
            seen.next().await.unwrap();
        }
        for index in &followers {
            cluster.thaw_server(*index);
        }
    });
    let outcomes = [first.unwrap(), second.unwrap()];
    assert!(outcomes.contains(&PublishOutcome::Known), "one of them finds it stored: {outcomes:?}");
    assert_eq!(events.info().await.unwrap().state.messages, 1);
}
