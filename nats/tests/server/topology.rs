use async_nats::jetstream::{Context, consumer::pull, stream};
use nats::{
    Bus, Error, Role,
    testing::TestBroker,
    topology::{self, Class, Settings},
};

async fn fields(context: &Context, settings: &Settings) -> Vec<(String, String, Class)> {
    let found = topology::diff(context, settings).await.unwrap();
    found.into_iter().map(|d| (d.asset, d.field, d.class)).collect()
}

async fn empty() -> (TestBroker, Bus) {
    let broker = TestBroker::start_empty().await;
    let bus = broker.bus(Role::Admin).await;
    (broker, bus)
}

fn reason(error: &Error) -> &str {
    match error {
        Error::Topology { reason } => reason,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let (_broker, bus) = empty().await;
    let settings = Settings::default();
    let missing = topology::diff(bus.context(), &settings).await.unwrap();
    assert!(
        missing.iter().all(|d| d.class == Class::Absent && d.to_string().ends_with("is missing")),
        "{missing:?}"
    );
    assert_eq!(missing.len(), 6 + 15 + 6, "streams, buckets and durables");
    assert_eq!(topology::apply(bus.context(), &settings).await.unwrap(), missing);
    assert_eq!(topology::diff(bus.context(), &settings).await.unwrap(), []);
    assert_eq!(topology::apply(bus.context(), &settings).await.unwrap(), []);
}

#[tokio::test]
async fn every_role_finds_what_it_needs_with_its_own_rights() {
    let broker = TestBroker::start().await;
    for role in Role::ALL {
        let bus = broker.bus(role).await;
        topology::verify(bus.context(), role)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", role.name()));
    }
}
