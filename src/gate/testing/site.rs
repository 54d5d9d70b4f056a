//! A broker and a chain for tests of sessions, routes and the watcher.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use evm::{
    ChainConfig,
    testing::{CHAIN, ModelChain},
};
use nats::{Bus, Outbox, Role, VersionedRecord, testing::TestBroker};
use schemas::{
    BusEvent, document,
    gate::{GateRule, MediaGate, PlaybackSession},
    ids::MediaId,
    subjects,
};

use crate::{
    GateViewer, ViewerRights,
    gate_evaluator::GateEvaluator,
    grant::{GrantConfig, PlaybackDenied, PlaybackGrants},
    rule::compile_rule,
    testing::ANN,
};

pub const OWNER: &str = "olga";

/// Lets `viewer` in and opens its session.
pub async fn open_playback(
    grants: &PlaybackGrants,
    viewer: &GateViewer,
    media_id: MediaId,
) -> Result<PlaybackSession, PlaybackDenied> {
    grants.open_session(grants.admit_viewer(viewer, media_id).await?, None).await
}

/// One installation.
pub struct GateTestSite {
    pub broker: TestBroker,
    pub admin: Bus,
    pub world: ModelChain,
    /// Milliseconds that the clock of the sessions is ahead of the real one.
    pub ahead_ms: Arc<AtomicU64>,
}

impl GateTestSite {
    pub async fn start() -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        let world = ModelChain::new(3);
        world.transfer_token(1, Some(ANN));
        (0..3).for_each(|_| world.mine_block(|_| {}));
        world.sync_all();
        Self { broker, admin, world, ahead_ms: Arc::default() }
    }

    pub fn gate_evaluator(&self) -> GateEvaluator {
        let config = ChainConfig {
            chain_id: CHAIN,
            confirmations: 2,
            head_cache_ms: 0,
            quarantine_ms: 0,
            ..ChainConfig::default()
        };
        GateEvaluator::new(self.world.open_client(config))
    }

    /// The sessions as one replica sees them.
    pub async fn grants(&self, role: Role) -> PlaybackGrants {
        self.grants_with_bus(self.broker.bus(role).await)
    }

    /// The same over a connection of the caller's.
    pub fn grants_with_bus(&self, bus: Bus) -> PlaybackGrants {
        let ahead_ms = Arc::clone(&self.ahead_ms);
        let clock = Arc::new(move || nats::now_ms() + ahead_ms.load(Ordering::SeqCst));
        PlaybackGrants::with_clock(bus, self.gate_evaluator(), GrantConfig::default(), clock)
    }

    /// Takes or leaves the room in the bucket of the sessions.
    pub async fn fill_grants(&self, is_full: bool) {
        let context = self.admin.context();
        let stream = context.get_stream(subjects::kv_stream_name("grants")).await.unwrap();
        let max_bytes = if is_full { 1 } else { 1 << 28 };
        let config =
            async_nats::jetstream::stream::Config { max_bytes, ..stream.cached_info().config.clone() };
        context.update_stream(config).await.unwrap();
    }

    /// Remembers a session in `grants`, which has to follow changes: asks until no node is asked any more.
    pub async fn wait_until_cached(&self, grants: &PlaybackGrants, session: &PlaybackSession) {
        loop {
            let before = self.world.request_count();
            grants.check_session(session.playback_id, session.media_id).await.unwrap();
            if self.world.request_count() == before {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn advance_ms(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// A medium with a gate.
    pub async fn create_medium(&self, rule: Option<&GateRule>) -> MediaId {
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        let gate = rule.map(|rule| {
            let compiled = compile_rule(rule).unwrap();
            MediaGate { epoch: 1, rule: Some(compiled.rule), rule_digest: compiled.digest, changed_at_ms: 1 }
        });
        let record = document::MediaDocumentRecord {
            title: "a film".into(),
            gate,
            ..document::MediaDocumentRecord::new(media_id, OWNER.into(), 1)
        };
        self.admin.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
        media_id
    }

    /// The newest event of a kind about a medium.
    pub async fn last_event<E: BusEvent>(&self, media_id: MediaId) -> Option<E> {
        let subject = format!("evt.{}.{}.{media_id}", E::ENTITY, E::VERB);
        let stream = self.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
        let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(nats::decode_message(&subject, &message.payload).unwrap())
    }

    pub async fn load_session(&self, session: &PlaybackSession) -> PlaybackSession {
        self.admin
            .load_record::<PlaybackSession>(&session.playback_id.to_string())
            .await
            .unwrap()
            .unwrap()
            .record
    }
}

pub fn wallet_viewer(wallet: alloy_primitives::Address) -> GateViewer {
    GateViewer {
        name: wallet.to_string(),
        wallet: Some(wallet.into()),
        rights: ViewerRights::Owner,
        opener: None,
    }
}
