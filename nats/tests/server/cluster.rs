use nats::{
    Role,
    testing::TestCluster,
    topology::{self, TopologySettings},
};

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
