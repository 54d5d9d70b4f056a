//! Grants on two replicas.

use nats::{Role, testing::TestBroker};
use schemas::{
    gate::PlaybackCredential,
    ids::{KeyId, UploadGrantId, UploadId},
    upload_grant::{GRANTS_MAX, UploadGrantUse},
};

use crate::upload_grant::{
    NewUploadGrant, create_upload_grant, list_upload_grants, return_upload_grant, use_upload_grant,
};

fn wanted() -> NewUploadGrant {
    NewUploadGrant { size_bytes_max: 5, types: Vec::new(), title: None, expires_in_s: 60 }
}

#[tokio::test]
async fn a_grant_that_two_replicas_use_at_once_is_for_one_upload() {
    let broker = TestBroker::start().await;
    let (one, other) = (broker.bus(Role::Ingress).await, broker.bus(Role::Ingress).await);
    let by = ("ann", PlaybackCredential::Key(KeyId::from_bytes([7; 16])));
    for round in 0..8_u8 {
        let grant_id = UploadGrantId::from_bytes([round; 16]);
        create_upload_grant(&one, grant_id, by, wanted()).await.unwrap().unwrap();
        let upload = |id: u8| UploadGrantUse {
            upload_id: UploadId::from_bytes([id; 16]),
            until_ms: nats::now_ms() + 60_000,
        };
        let (first, second) = tokio::join!(
            use_upload_grant(&one, grant_id, upload(1)),
            use_upload_grant(&other, grant_id, upload(2))
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first != second, "{first} {second}");
        let winner = if first { 1 } else { 2 };
        assert!(use_upload_grant(&other, grant_id, upload(winner)).await.unwrap(), "the same may ask again");
        return_upload_grant(&one, grant_id, UploadId::from_bytes([9; 16])).await;
        assert!(!use_upload_grant(&one, grant_id, upload(3)).await.unwrap(), "nobody else gives it back");
        return_upload_grant(&one, grant_id, UploadId::from_bytes([winner; 16])).await;
        assert!(use_upload_grant(&other, grant_id, upload(3)).await.unwrap(), "it came to nothing");
    }
}

#[tokio::test]
async fn an_owner_has_so_many_as_there_are_records_of() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Ingress).await;
    let by = ("ann", PlaybackCredential::Key(KeyId::from_bytes([7; 16])));
    let make = async || {
        create_upload_grant(&bus, UploadGrantId::from_bytes(nats::new_id_bytes()), by, wanted()).await
    };
    let mut first = None;
    for _ in 0..GRANTS_MAX {
        let (grant, _) = make().await.unwrap().unwrap();
        first.get_or_insert(grant.grant_id);
    }
    assert!(make().await.unwrap().is_none(), "as many as there may be");
    let used = UploadGrantUse { upload_id: UploadId::from_bytes([1; 16]), until_ms: nats::now_ms() + 60_000 };
    assert!(use_upload_grant(&bus, first.unwrap(), used).await.unwrap());
    assert!(
        make().await.unwrap().is_none(),
        "the record of a used one takes its place until the upload is over"
    );
    assert_eq!(list_upload_grants(&bus, "ann").await.unwrap().len(), GRANTS_MAX);
}
