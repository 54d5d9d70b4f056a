use nats::{Role, testing::TestBroker};

#[tokio::test]
async fn a_killed_server_comes_back_at_the_same_address() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Admin).await;
    let before = broker.broker().pid();
    broker.kill().await;
    assert_ne!(broker.broker().pid(), before);
    crate::until("the connection is made again", || async { bus.is_up() }).await;
    let stored = bus.context().get_stream("EVENTS").await.unwrap();
    assert!(stored.cached_info().config.deny_delete);
}
