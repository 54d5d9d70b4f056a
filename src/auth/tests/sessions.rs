//! The list of a wallet's sessions when it is full: a real broker.

use std::sync::Arc;

use alloy_primitives::B256;
use nats::{Bus, Outbox, Role, testing::TestBroker};
use schemas::{
    ids::{RequestId, SessionId},
    session::{
        AuthSession, SessionEndReason, SignInMethod, WalletSessionEntry, WalletSessions, wallet_sessions_key,
    },
};

use crate::{
    config::AuthConfig,
    proof::ProofChecker,
    session::{SessionStore, WalletProof},
    testing::TestWallet,
};

const SESSIONS_MAX: usize = 3;

struct Site {
    _broker: TestBroker,
    bus: Bus,
    sessions: SessionStore,
    wallet: TestWallet,
}

impl Site {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let bus = broker.bus(Role::Ingress).await;
        let config = AuthConfig { sessions_per_wallet_max: SESSIONS_MAX, ..AuthConfig::default() };
        let proofs = ProofChecker::new(bus.clone(), None, &config);
        let sessions = SessionStore::new(bus.clone(), Arc::new(config), vec![1; 32], proofs);
        Self { _broker: broker, bus, sessions, wallet: TestWallet::new(50) }
    }

    async fn sign_in(&self) -> SessionId {
        let proof = WalletProof {
            address: self.wallet.address,
            chain_id: 1,
            method: SignInMethod::Key,
            is_checksummed: true,
            digest: B256::ZERO,
            signature: &[],
            at: tokio::time::Instant::now(),
        };
        self.sessions.open_session(proof, RequestId::from_bytes([9; 16])).await.unwrap().0.session_id
    }

    fn list_key(&self) -> String {
        wallet_sessions_key(&self.wallet.address.to_lower_hex(), None)
    }

    async fn listed(&self) -> Vec<SessionId> {
        let held = self.bus.load_record::<WalletSessions>(&self.list_key()).await.unwrap().unwrap();
        held.record.sessions.iter().map(|entry| entry.session_id).collect()
    }

    /// Puts one more on the list, as a sign-in does before its session is there.
    async fn list(&self, session_id: SessionId) {
        let entry = WalletSessionEntry { session_id, expires_at_ms: nats::now_ms() + 600_000 };
        let add = |found: Option<&WalletSessions>| {
            let mut wallet = found?.clone();
            wallet.sessions.push(entry);
            Some((wallet, Outbox::new()))
        };
        self.bus.change_record(&self.list_key(), add).await.unwrap().unwrap();
    }

    async fn session(&self, session_id: SessionId) -> AuthSession {
        self.bus.load_record(&session_id.to_string()).await.unwrap().unwrap().record
    }
}

#[tokio::test]
async fn sessions_that_are_over_or_never_opened_make_room_before_live_ones() {
    let site = Site::start().await;
    let (oldest, ended) = (site.sign_in().await, site.sign_in().await);
    // Something went away between the end of a session and the list, and between the list and a session, long ago.
    site.sessions
        .end_session(ended, SessionEndReason::SignedOut, RequestId::from_bytes([9; 16]))
        .await
        .unwrap();
    site.list(ended).await;
    site.list(SessionId::from_bytes([1; 16])).await;
    let new = site.sign_in().await;
    assert_eq!(site.listed().await, [oldest, new]);
    assert_eq!(site.session(oldest).await.ended_at_ms, None);
    // A sign-in that is on its way keeps its place: a live session ends for the next but one.
    let coming = SessionId::from_bytes(nats::new_id_bytes());
    site.list(coming).await;
    let newest = site.sign_in().await;
    assert_eq!(site.listed().await, [new, coming, newest]);
    assert_eq!(site.session(oldest).await.end, Some(SessionEndReason::Replaced));
}
