//! What is answered while nobody receives changes.

use std::time::{Duration, Instant};

use evm::testing::NFT;
use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    access::{self, ApiKey},
    gate::{GateReasonCode, PlaybackCredential},
    ids::KeyId,
    subjects,
};
use serde_bytes::ByteBuf;
use tokio_util::sync::CancellationToken;

use crate::testing::site::{GateTestSite, open_playback, wallet_viewer};
use crate::{
    GateViewer,
    grant::PlaybackDenied,
    testing::{ANN, nft_rule},
};

fn key(key_id: KeyId) -> ApiKey {
    ApiKey {
        key_id,
        secret_sha256: ByteBuf::new(),
        owner: "ann".into(),
        role: access::PrincipalRole::Owner,
        created_at_ms: 1,
        scopes: None,
        label: None,
        contact_email: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    }
}

#[tokio::test]
async fn a_revoked_key_plays_no_more_though_nobody_can_receive_its_end() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (running, shutdown) = (grants.clone(), CancellationToken::new());
    let stop = shutdown.clone();
    let following = tokio::spawn(async move { running.run(stop).await });
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let key_id = KeyId::from_bytes([7; 16]);
    let mut held = VersionedRecord::new(key(key_id));
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let viewer = GateViewer { opener: Some(PlaybackCredential::Key(key_id)), ..wallet_viewer(ANN) };
    let session = open_playback(&grants, &viewer, film).await.unwrap();
    site.wait_until_cached(&grants, &session).await;

    // Nobody receives anything any more, and the grant lasts for most of a minute.
    site.admin.context().delete_stream(subjects::EVENTS).await.unwrap();
    held.record.revoked_at_ms = Some(2);
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match grants.check_session(session.playback_id, film).await {
            Ok(()) => assert!(Instant::now() < deadline, "it goes on playing"),
            Err(PlaybackDenied::Closed { code, .. }) => {
                assert_eq!(code, GateReasonCode::Ended);
                break;
            }
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    following.await.unwrap().unwrap();
}
