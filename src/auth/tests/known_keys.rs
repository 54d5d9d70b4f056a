//! API keys that a replica knows, while they are changed here and elsewhere: a real broker.

use std::time::Duration;

use nats::{Bus, Role, testing::TestBroker};
use schemas::{
    access::PrincipalRole,
    ids::{KeyId, RequestId},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{AuthConfig, ProofChecker, SignInService, key};

const BY: (&str, RequestId) = ("ann", RequestId::from_bytes([7; 16]));

/// One ingress.
struct Replica {
    bus: Bus,
    sign_in: SignInService,
    _running: JoinSet<()>,
}

impl Replica {
    async fn start(broker: &TestBroker, recheck_ms: u64) -> Self {
        let bus = Bus::connect(&broker.config(Role::Ingress)).await.unwrap();
        let config = AuthConfig { recheck_ms, ..AuthConfig::default() };
        let proofs = ProofChecker::new(bus.clone(), None, &config);
        let sign_in = SignInService::open(bus.clone(), config, None, proofs).await.unwrap();
        let written = sign_in.clone();
        bus.observe_writes(move |bucket, key| written.note_write(bucket, key));
        let mut running = JoinSet::new();
        let beside = sign_in.clone();
        running.spawn(async move { beside.run(CancellationToken::new()).await.unwrap() });
        Self { bus, sign_in, _running: running }
    }

    /// A new key: its id and its text.
    async fn create_key(&self) -> (KeyId, String) {
        let text = key::create_api_key(&self.bus, "ann", PrincipalRole::Owner).await.unwrap();
        (key::parse_key(&text).unwrap().0, text)
    }

    async fn revoke(&self, key_id: KeyId) {
        assert!(key::revoke_key(&self.bus, key_id, |_| true, BY).await.unwrap());
    }

    async fn is_let_in(&self, text: &str) -> bool {
        self.sign_in.identify_credential(text).await.unwrap().is_some_and(|who| who.owner == "ann")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_here_opens_nothing_from_then_on() {
    let broker = TestBroker::start().await;
    let replica = Replica::start(&broker, crate::RECHECK_MS_MAX).await;
    for _ in 0..20 {
        let (key_id, text) = replica.create_key().await;
        assert!(replica.is_let_in(&text).await);
        // Those that use it meanwhile may read it before it is revoked and keep what they read behind it.
        let mut users = JoinSet::new();
        for _ in 0..4 {
            let (sign_in, text) = (replica.sign_in.clone(), text.clone());
            users.spawn(async move {
                while sign_in.identify_credential(&text).await.unwrap().is_some() {
                    tokio::task::yield_now().await;
                }
            });
        }
        replica.revoke(key_id).await;
        assert!(!replica.is_let_in(&text).await);
        users.join_all().await;
    }
}

#[tokio::test]
async fn other_replicas_refuse_a_revoked_key_as_soon_as_they_know_and_by_themselves_after_a_moment() {
    let broker = TestBroker::start().await;
    let (one, two) = (Replica::start(&broker, 0).await, Replica::start(&broker, crate::RECHECK_MS_MAX).await);
    let (key_id, text) = one.create_key().await;
    let (other_id, other) = one.create_key().await;
    assert!(two.is_let_in(&text).await && two.is_let_in(&other).await);
    let revoked = Instant::now();
    one.revoke(key_id).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while two.is_let_in(&text).await {
        ticks.tick().await;
        assert!(revoked.elapsed() < Duration::from_secs(20), "the key is good for ever");
    }
    // A record that changes without a message: what was read is believed for as long as it may be, and no longer.
    let admin = broker.bus(Role::Admin).await;
    assert!(two.is_let_in(&other).await);
    let read_by = Instant::now();
    admin.purge_key("apikeys", &other_id.to_string(), Duration::from_secs(60)).await.unwrap();
    while two.is_let_in(&other).await {
        ticks.tick().await;
        assert!(read_by.elapsed() < Duration::from_millis(crate::RECHECK_MS_MAX) + Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_known_key_wants_its_secret_and_nobody_is_let_in_for_long_while_the_broker_is_away() {
    let broker = TestBroker::start().await;
    let replica = Replica::start(&broker, 500).await;
    let (key_id, text) = replica.create_key().await;
    assert!(replica.is_let_in(&text).await);
    assert!(!replica.is_let_in(&format!("sg_{key_id}_0123456789012345678901234567890123456789")).await);
    broker.freeze();
    let refused = async {
        while replica.sign_in.identify_credential(&text).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .expect("a key that can't be read is refused");
    broker.thaw();
}
