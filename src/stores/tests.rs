//! Whose store it is: a real broker with the shipped permissions, real stores.

use std::path::PathBuf;

use nats::testing::TestBroker;
use schemas::{
    ids::{MediaId, UploadId},
    keys,
    media::MediaStatus,
};
use store::testing::TestS3Server;
use tempfile::TempDir;

use super::*;

struct Site {
    broker: TestBroker,
    settings: store::StoreConfig,
    root: PathBuf,
    _folder: TempDir,
    _s3: Option<TestS3Server>,
}

impl Site {
    async fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let settings = store::StoreConfig::from_url(format!("file://{}", root.display()));
        Self { broker: TestBroker::start().await, settings, root, _folder: folder, _s3: None }
    }

    async fn remote() -> Self {
        let s3 = TestS3Server::start().await.unwrap();
        // What was seen a moment ago is not enough here: the store goes away within it.
        let settings = store::StoreConfig { marker_ms: 0, ..s3.store_config() };
        let root = s3.bucket_folder();
        Self {
            broker: TestBroker::start().await,
            settings,
            root,
            _folder: tempfile::tempdir().unwrap(),
            _s3: Some(s3),
        }
    }

    async fn open(&self, role: Role) -> anyhow::Result<Store> {
        open_store(self.settings.clone(), &self.broker.bus(role).await).await
    }

    async fn identity(&self) -> Option<StoreIdentity> {
        let bus = self.broker.bus(Role::Admin).await;
        bus.load_record::<StoreIdentity>(StoreIdentity::KEY).await.unwrap().map(|held| held.record)
    }

    fn marker(&self) -> Option<String> {
        std::fs::read_to_string(self.root.join(keys::MARKER)).ok().map(|text| text.trim().to_owned())
    }

    /// An object as versions before markers left it, and the record of its medium.
    async fn older(&self, is_known: bool) {
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        let file = self.root.join(keys::source_key(media_id));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "x").unwrap();
        if is_known {
            self.record(media_id).await;
        }
    }

    async fn record(&self, media_id: MediaId) {
        let record = media::MediaRecord::new(media_id, "alice".into(), MediaStatus::Ready, 0);
        let bus = self.broker.bus(Role::Admin).await;
        bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_installation_marks_its_store_once() {
    for site in [Site::local().await, Site::remote().await] {
        let worker = site.open(Role::Transcode).await.unwrap();
        assert!(
            matches!(worker.verify_marker_now().await, Err(StoreError::Unmarked { .. })),
            "a worker marks nothing"
        );
        assert!(site.identity().await.is_none() && site.marker().is_none());
        let ingress = site.open(Role::Ingress).await.unwrap();
        ingress.put("media/x/source", "x").await.unwrap();
        let identity = site.identity().await.unwrap();
        assert_eq!(site.marker(), Some(identity.store_id.to_string()));
        assert!(identity.marked_at_ms.is_some());
        for role in [Role::Upload, Role::Keeper] {
            site.open(role).await.unwrap().verify_marker_now().await.unwrap();
        }
        assert_eq!(worker.get("media/x/source", 1).await.unwrap(), "x", "the worker knows of it");
        // From now on what has no marker is away for every role.
        let away = site.root.with_extension("away");
        std::fs::rename(&site.root, &away).unwrap();
        let again = site.open(Role::Ingress).await.unwrap();
        for store in [&again, &ingress] {
            assert!(store.put("media/y/source", "y").await.unwrap_err().is_outage());
            assert!(store.head("media/x/source").await.unwrap_err().is_outage());
        }
        assert!(!site.root.exists(), "an absent root is not made again");
        std::fs::rename(&away, &site.root).unwrap();
        again.put("media/y/source", "y").await.unwrap();
        assert_eq!(site.identity().await.unwrap(), identity);
    }
}

#[tokio::test]
async fn a_crash_between_the_id_and_the_marker_is_made_good() {
    let site = Site::local().await;
    let id = create_identity(&site.broker.bus(Role::Ingress).await).await.unwrap().record.store_id;
    site.open(Role::Ingress).await.unwrap().verify_marker_now().await.unwrap();
    assert_eq!(site.marker(), Some(id.to_string()));
    // The other side of the write: the marker is there, and the record does not say so.
    let bus = site.broker.bus(Role::Admin).await;
    let mut held = bus.load_record::<StoreIdentity>(StoreIdentity::KEY).await.unwrap().unwrap();
    held.record.marked_at_ms = None;
    bus.commit_record(&mut held, Outbox::new()).await.unwrap();
    site.open(Role::Ingress).await.unwrap().verify_marker_now().await.unwrap();
    let identity = site.identity().await.unwrap();
    assert_eq!(identity.store_id, id);
    assert_eq!(site.marker(), Some(id.to_string()));
}

#[tokio::test]
async fn a_store_from_before_is_adopted_by_what_is_known_of_it() {
    for site in [Site::local().await, Site::remote().await] {
        site.older(false).await;
        site.older(true).await;
        site.open(Role::Ingress).await.unwrap().verify_marker_now().await.unwrap();
        assert_eq!(site.marker(), Some(site.identity().await.unwrap().store_id.to_string()));
    }
}

#[tokio::test]
async fn an_open_upload_is_known_too() {
    let site = Site::local().await;
    let upload_id = UploadId::from_bytes(nats::new_id_bytes());
    let file = site.root.join(keys::spool_path(upload_id));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, "x").unwrap();
    let record = upload::UploadRecord {
        length_bytes: Some(10),
        offset_bytes: 1,
        generation: 1,
        expires_at_ms: now_ms() + 100_000,
        ..upload::UploadRecord::new(upload_id, MediaId::from_bytes([2; 16]), "o".into())
    };
    let bus = site.broker.bus(Role::Admin).await;
    bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    site.open(Role::Ingress).await.unwrap().verify_marker_now().await.unwrap();
    assert!(site.marker().is_some());
}

#[tokio::test]
async fn what_nobody_knows_waits_for_a_person() {
    // Objects of somebody else; no objects, though the broker knows of media: a mount that is not there.
    for (has_objects, has_records) in [(true, false), (false, true), (true, true)] {
        let site = Site::local().await;
        if has_objects {
            site.older(false).await;
        }
        if has_records {
            site.record(MediaId::from_bytes([7; 16])).await;
        }
        let store = site.open(Role::Ingress).await.unwrap();
        let refused = store.put("media/x/source", "x").await;
        assert!(matches!(refused, Err(StoreError::Unmarked { .. })), "{refused:?}");
        assert_eq!((site.marker(), site.root.exists()), (None, has_objects));
        let admin = site.broker.bus(Role::Admin).await;
        if !has_objects {
            assert!(
                adopt_store(site.settings.clone(), &admin).await.is_err(),
                "what is not there is not adopted"
            );
            std::fs::create_dir(&site.root).unwrap();
        }
        let adopted = adopt_store(site.settings.clone(), &admin).await.unwrap();
        let id = site.identity().await.unwrap().store_id;
        assert_eq!(adopted, AdoptionOutcome::Marked(id));
        store.put("media/x/source", "x").await.unwrap();
        assert_eq!(adopt_store(site.settings.clone(), &admin).await.unwrap(), AdoptionOutcome::Already(id));
    }
}

#[tokio::test]
async fn the_store_of_another_installation_is_a_wrong_setting() {
    let site = Site::local().await;
    let running = site.open(Role::Ingress).await.unwrap();
    running.put("media/x/source", "x").await.unwrap();
    let ours = site.identity().await.unwrap().store_id;
    let theirs = StoreId::from_bytes(nats::new_id_bytes());
    std::fs::write(site.root.join(keys::MARKER), theirs.to_string()).unwrap();
    for role in [Role::Ingress, Role::Upload, Role::Transcode, Role::Keeper] {
        let error = site.open(role).await.unwrap_err();
        assert!(
            error.is::<config::SettingsError>(),
            "the process ends as with every wrong setting: {error:#}"
        );
        let said = format!("{error:#}");
        for part in ["store.url", "streamgate store adopt", &ours.to_string(), &theirs.to_string()] {
            assert!(said.contains(part), "{said}");
        }
    }
    assert!(running.delete("media/x/source").await.unwrap_err().is_outage(), "work is not to blame for it");
    // A person says that it is the one to use; processes that run already use it, too.
    let admin = site.broker.bus(Role::Admin).await;
    let adopted = adopt_store(site.settings.clone(), &admin).await.unwrap();
    assert_eq!(adopted, AdoptionOutcome::Taken { store_id: theirs, before: ours });
    assert_eq!(running.get("media/x/source", 1).await.unwrap(), "x");
    running.delete("media/x/source").await.unwrap();
}
