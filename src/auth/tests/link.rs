//! Links that sign in once, while something goes away in between: a real broker.

use nats::{Bus, Outbox, Role, testing::TestBroker, topology};
use schemas::{
    access::{ApiKey, PrincipalRole},
    ids::{KeyId, RequestId},
    session::{SignInLink, sign_in_link_key},
};

use crate::{
    key,
    link::{LINK_KEYS_MAX, LinkOutcome, create_sign_in_link, hash_code, open_sign_in_link},
};

const OWNER: &str = "ann";
const KEYS_MAX: usize = 20;

struct Site {
    _broker: TestBroker,
    bus: Bus,
    admin: Bus,
}

impl Site {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let mut settings = broker.config(Role::Ingress);
        settings.request_timeout_ms = 1_000;
        let bus = Bus::connect(&settings).await.unwrap();
        let admin = broker.bus(Role::Admin).await;
        Self { _broker: broker, bus, admin }
    }

    async fn link(&self) -> String {
        let by = ("up", RequestId::from_bytes([7; 16]));
        create_sign_in_link(&self.bus, OWNER, PrincipalRole::Owner, by).await.unwrap()
    }

    async fn open(&self, code: &str, keys_max: usize) -> Result<LinkOutcome, nats::BusError> {
        open_sign_in_link(&self.bus, code, keys_max, RequestId::from_bytes([8; 16])).await
    }

    /// Opens a link that is to give a key.
    async fn key_of(&self, code: &str) -> (KeyId, String) {
        match self.open(code, KEYS_MAX).await.unwrap() {
            LinkOutcome::Key { key_id, text, .. } => (key_id, text),
            other => panic!("no key: {other:?}"),
        }
    }

    async fn assert_used(&self, code: &str) {
        let again = self.open(code, KEYS_MAX).await.unwrap();
        assert!(matches!(again, LinkOutcome::Refused), "{again:?}");
    }

    async fn is_good(&self, text: &str) -> bool {
        key::find_key(&self.bus, text).await.unwrap().is_some()
    }

    async fn record(&self, code: &str) -> SignInLink {
        self.bus.load_record(&sign_in_link_key(&hash_code(code))).await.unwrap().unwrap().record
    }
}

#[tokio::test]
async fn a_link_opens_again_when_its_key_could_not_be_made() {
    let site = Site::start().await;
    let code = site.link().await;
    site.admin.context().delete_stream("KV_apikeys").await.unwrap();
    site.open(&code, KEYS_MAX).await.unwrap_err();
    let settings = topology::TopologySettings::default();
    topology::apply_topology(site.admin.context(), &settings).await.unwrap();
    let (_, text) = site.key_of(&code).await;
    assert!(site.is_good(&text).await);
    site.assert_used(&code).await;
}

#[tokio::test]
async fn a_link_is_given_back_while_its_owner_has_too_many_keys() {
    let site = Site::start().await;
    let code = site.link().await;
    for _ in 0..2 {
        assert!(matches!(site.open(&code, 0).await.unwrap(), LinkOutcome::TooMany));
    }
    let (_, text) = site.key_of(&code).await;
    assert!(site.is_good(&text).await);
    site.assert_used(&code).await;
}

/// The key was made, and something went away before the link was marked.
#[tokio::test]
async fn a_link_that_was_not_marked_gives_the_key_that_it_made_and_no_second_one() {
    let site = Site::start().await;
    let code = site.link().await;
    assert!(matches!(site.open(&code, 0).await.unwrap(), LinkOutcome::TooMany));
    let unmarked = site.record(&code).await;
    let first = site.key_of(&code).await;
    let used = site.record(&code).await;
    assert!(
        used.used_at_ms.is_some() && used.key.is_none(),
        "what its secret is made of goes with the mark: {used:?}"
    );
    let put_back = |_: Option<&SignInLink>| Some((unmarked.clone(), Outbox::new()));
    site.bus.change_record(&sign_in_link_key(&hash_code(&code)), put_back).await.unwrap();
    assert_eq!(site.key_of(&code).await, first);
    assert_eq!(key::list_key_ids(&site.bus, OWNER).await.unwrap(), [first.0]);
    site.assert_used(&code).await;
    // Neither record alone has the secret, nor has the code.
    let (_, secret) = key::parse_key(&first.1).unwrap();
    let held = site.bus.load_record::<ApiKey>(&first.0.to_string()).await.unwrap().unwrap();
    assert!(!format!("{unmarked:?} {:?} {code}", held.record).contains(secret));
}

#[tokio::test]
async fn of_many_who_open_a_link_at_once_one_gets_the_one_key() {
    let site = Site::start().await;
    let code = site.link().await;
    let opened = futures::future::join_all((0..8).map(|_| site.open(&code, KEYS_MAX))).await;
    let given =
        |outcome: &&Result<LinkOutcome, nats::BusError>| matches!(outcome, Ok(LinkOutcome::Key { .. }));
    assert_eq!(opened.iter().filter(given).count(), 1, "{opened:?}");
    assert_eq!(key::list_key_ids(&site.bus, OWNER).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_key_of_an_earlier_link_ends_once_the_new_one_is_there() {
    let site = Site::start().await;
    let mut earlier = Vec::new();
    for _ in 0..LINK_KEYS_MAX {
        let code = site.link().await;
        earlier.push(site.key_of(&code).await);
    }
    let code = site.link().await;
    let refused = site.open(&code, LINK_KEYS_MAX - 1).await.unwrap();
    assert!(matches!(refused, LinkOutcome::TooMany), "{refused:?}");
    for (_, text) in &earlier {
        assert!(site.is_good(text).await, "no key ends for nothing");
    }
    // The oldest makes room where the list is full.
    let opened = site.open(&code, LINK_KEYS_MAX).await.unwrap();
    let LinkOutcome::Key { key_id, .. } = opened else { panic!("{opened:?}") };
    let left: Vec<KeyId> = earlier.iter().skip(1).map(|(key_id, _)| *key_id).chain([key_id]).collect();
    assert_eq!(key::list_key_ids(&site.bus, OWNER).await.unwrap(), left);
}
