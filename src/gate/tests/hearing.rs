//! What is answered while nobody hears of changes.

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

use crate::testing::site::{Site, holder, play};
use crate::{
    Viewer,
    grant::Denied,
    testing::{ANN, nft},
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
async fn a_revoked_key_plays_no_more_though_nobody_can_hear_of_it() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (running, shutdown) = (grants.clone(), CancellationToken::new());
    let stop = shutdown.clone();
    let hearing = tokio::spawn(async move { running.run(stop).await });
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let key_id = KeyId::from_bytes([7; 16]);
    let mut held = VersionedRecord::new(key(key_id));
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let viewer = Viewer { opener: Some(PlaybackCredential::Key(key_id)), ..holder(ANN) };
    let session = play(&grants, &viewer, film).await.unwrap();
    site.remembered(&grants, &session).await;

    // Nobody hears of anything any more, and the grant lasts for most of a minute.
    site.admin.context().delete_stream(subjects::EVENTS).await.unwrap();
    held.record.revoked_at_ms = Some(2);
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match grants.check(session.playback_id, film).await {
            Ok(()) => assert!(Instant::now() < deadline, "it goes on playing"),
            Err(Denied::Closed { code, .. }) => {
                assert_eq!(code, GateReasonCode::Ended);
                break;
            }
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    hearing.await.unwrap().unwrap();
}
