//! A search that fails beside lists that go on.

use nats::{Outbox, Role, testing::TestBroker};
use schemas::{
    index_query::{INDEX_BEHIND, IndexReply},
    search_query::{MediaSearchPage, MediaSearchQuery, SEARCH_MEDIA, TEXT_MALFORMED},
};

use super::{
    broker::{Running, ask, everything, media, put, search, until},
    document,
};
use crate::{SearchConfig, SearchProjection, follow};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_answered_while_the_search_can_not_be_opened() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let ingress = broker.bus(Role::Ingress).await;
    put(&ingress, document(1, "ann", 1_000), Outbox::new).await;
    let origins = follow::read_origins(&broker.bus(Role::Index).await).await.unwrap();
    let place = folder.path().join("search");
    let mut held = SearchProjection::open(&place, &SearchConfig::default(), &origins).unwrap();
    // One that was never committed fits nobody, and is built anew beside the lock.
    held.1.commit().unwrap();
    let index = Running::start(&broker, folder.path()).await;
    let page = until("a list", || async { media(&ingress, &everything()).await }).await;
    assert_eq!(page.items.len(), 1);
    let question = MediaSearchQuery { limit: 1, ..MediaSearchQuery::default() };
    match ask::<_, MediaSearchPage>(&ingress, SEARCH_MEDIA, &question).await {
        Some(IndexReply::Refused { code, .. }) => assert_eq!(code, INDEX_BEHIND),
        other => panic!("not refused: {other:?}"),
    }
    drop(held);
    let found = until("the search", || async { search(&ingress, "clip", None).await }).await;
    assert_eq!(found.total, 1);
    let question = MediaSearchQuery { text: "京".repeat(100), ..question };
    match ask::<_, MediaSearchPage>(&ingress, SEARCH_MEDIA, &question).await {
        Some(IndexReply::Refused { code, .. }) => assert_eq!(code, TEXT_MALFORMED),
        other => panic!("not refused: {other:?}"),
    }
    index.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_whose_files_go_while_it_runs_comes_back_beside_the_lists() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let ingress = broker.bus(Role::Ingress).await;
    put(&ingress, document(1, "ann", 1_000), Outbox::new).await;
    let index = Running::start(&broker, folder.path()).await;
    until("the search", || async { search(&ingress, "clip", None).await }).await;
    std::fs::remove_dir_all(folder.path().join("search")).unwrap();
    let revision = put(&ingress, document(2, "ann", 1_001), Outbox::new).await;
    let found = until("both", || async {
        // Lists never wait for it.
        assert!(media(&ingress, &everything()).await.is_some());
        search(&ingress, "clip", Some(revision)).await
    });
    assert_eq!(found.await.total, 2);
    index.stop().await;
}
