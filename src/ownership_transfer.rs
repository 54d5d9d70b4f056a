//! Whose things are: what contracts own under a name that says no chain, and giving things to another owner.
//!
//! A contract account once signed in as `eip155:0x...`, whichever chain had proved it, and now signs in as `eip155:<chain>:0x...`.
//! Which of the chains its things belong to does not follow from them: an administrator says so.
//!
//! Limits: reads every sign-in that EVENTS keeps, and every medium; one thing is changed at a time, and doing it again goes on
//! where it ended.

use std::collections::{BTreeMap, BTreeSet};

use nats::{Bus, BusError, Outbox, ReaderStart, VersionedRecord, reader};
use schemas::{
    KvRecord, document,
    hook::{HookRecord, hook_key},
    ids::{MediaId, RequestId},
    media,
    schedule::{ScheduleRecord, schedule_key},
    session::{AuthSignedIn, SignInMethod},
    subjects,
    upload::{UploadRecord, UploadStatus},
};
use serde::Serialize;

use auth::{account::WalletAccount, removal::find_records};
use ingress::schedules::owner_key;

/// Who changes owners from the command line.
const BY: &str = "admin";

/// An account that a contract proved while its name said no chain, and what is its own under that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainlessOwner {
    /// The name, `eip155:0x...`.
    pub owner: String,
    /// The names that it may have been proven as, `eip155:<chain>:0x...`.
    pub proven: BTreeSet<String>,
    /// Media it owns.
    pub media_count: usize,
    /// API keys it has.
    pub key_count: usize,
}

/// What was given to another owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OwnerTransferCounts {
    /// Media.
    pub media_count: usize,
    /// API keys.
    pub key_count: usize,
    /// Schedules.
    pub schedule_count: usize,
    /// Webhooks.
    pub hook_count: usize,
}

/// The accounts that contracts proved while their names said no chain, and that own something.
///
/// # Errors
/// When the broker does not answer, or lets nobody read.
pub async fn find_chainless_owners(bus: &Bus) -> Result<Vec<ChainlessOwner>, BusError> {
    let mut accounts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let settings = reader::ReaderConfig::new(
        subjects::EVENTS,
        vec![subjects::event_filter::<AuthSignedIn>()],
        ReaderStart::All,
    );
    visit_entries(bus, settings, |subject, payload| {
        let Ok(event) = nats::decode_message::<AuthSignedIn>(subject, payload) else { return };
        let Ok(account) = event.owner.parse::<WalletAccount>() else { return };
        if event.method != SignInMethod::Key && account.chain_id.is_none() {
            let proven = WalletAccount::from_sign_in(account.address, event.chain_id, event.method);
            accounts.entry(event.owner).or_default().insert(proven.owner_id());
        }
    })
    .await?;
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    let media = read_media_owners(bus).await?;
    let mut found = Vec::new();
    for (owner, proven) in accounts {
        let media_count = media.values().filter(|other| **other == owner).count();
        let key_count = auth::list_key_ids(bus, &owner).await?.len();
        if media_count + key_count > 0 {
            found.push(ChainlessOwner { owner, proven, media_count, key_count });
        }
    }
    Ok(found)
}

/// Gives the media, API keys, schedules and webhooks of `from` to `to`, each with its event.
///
/// # Errors
/// When the broker does not answer; what was given until then stays so.
pub async fn transfer_ownership(bus: &Bus, from: &str, to: &str) -> Result<OwnerTransferCounts, BusError> {
    let mut transferred = OwnerTransferCounts::default();
    // Before the media: what a stage begins from now on is of the new owner.
    let is_open = |upload: &UploadRecord| upload.owner == from && upload.status == UploadStatus::Open;
    for upload in find_records::<UploadRecord>(bus, "*", is_open).await? {
        bus.change_record::<UploadRecord>(&upload.upload_id.to_string(), |found| {
            let open = found.filter(|upload| is_open(upload))?;
            Some((UploadRecord { owner: to.to_owned(), ..open.clone() }, Outbox::new()))
        })
        .await?;
    }
    for (media_id, owner) in read_media_owners(bus).await? {
        if owner == from {
            transfer_medium(bus, media_id, from, to).await?;
            transferred.media_count += 1;
        }
    }
    for key_id in auth::list_key_ids(bus, from).await? {
        let request_id = RequestId::from_bytes(nats::new_id_bytes());
        auth::transfer_key(bus, key_id, (from, to), (BY, request_id)).await?;
        transferred.key_count += 1;
    }
    transferred.schedule_count = transfer_schedules(bus, from, to).await?;
    transferred.hook_count = transfer_hooks(bus, from, to).await?;
    Ok(transferred)
}

/// Gives the schedules, which lie below keys of their owners: they are there under the new key before the old one is gone, so that a
/// crash loses none. A run has the same name in both: what it begins is begun once.
async fn transfer_schedules(bus: &Bus, from: &str, to: &str) -> Result<usize, BusError> {
    let filters = vec![subjects::kv_subject(ScheduleRecord::BUCKET, &schedule_key(&owner_key(from), "*"))];
    let stream = subjects::kv_stream_name(ScheduleRecord::BUCKET);
    let mut found = Vec::new();
    let settings = reader::ReaderConfig::new(stream, filters, ReaderStart::LastPerSubject);
    visit_entries(bus, settings, |key, payload| match nats::decode_record::<ScheduleRecord>(key, payload) {
        Ok((_, record)) if record.is_removed() => {}
        Ok((_, record)) if !record.is_of_newer_version() => found.push(record),
        _ if payload.is_empty() => {}
        _ => tracing::error!(key, "a schedule of a newer version stays where it is: give it by that version"),
    })
    .await?;
    for old in &found {
        let given = ScheduleRecord { owner: to.to_owned(), owner_key: owner_key(to), ..old.clone() };
        let key = given.key();
        let event = ingress::schedules::describe_change(&given, BY);
        let held = bus.load_with_tombstone::<ScheduleRecord>(&key).await?;
        // It may lie there already, where something came in between before, or as a tombstone, where it was given away from there.
        if held.as_ref().is_none_or(|held| held.record.is_removed()) {
            let mut held = held.unwrap_or_else(|| VersionedRecord::new(given.clone()));
            held.record = given;
            bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
        }
        bus.change_record::<ScheduleRecord>(&old.key(), |held| {
            Some((ScheduleRecord { removed_at_ms: Some(nats::now_ms()), ..held?.clone() }, Outbox::new()))
        })
        .await?;
        // Written last: operators read the newest record of an id.
        bus.change_record::<ScheduleRecord>(&key, |held| Some((held?.clone(), Outbox::new()))).await?;
    }
    Ok(found.len())
}

/// Gives the webhooks, as schedules are given: how far each is lies below its own id, and goes on from there. One that sent the events of
/// everybody sends those of its new owner, who may not see the others.
async fn transfer_hooks(bus: &Bus, from: &str, to: &str) -> Result<usize, BusError> {
    let filters = vec![subjects::kv_subject(HookRecord::BUCKET, &hook_key(&owner_key(from), "*"))];
    let stream = subjects::kv_stream_name(HookRecord::BUCKET);
    let mut found = Vec::new();
    let settings = reader::ReaderConfig::new(stream, filters, ReaderStart::LastPerSubject);
    visit_entries(bus, settings, |key, payload| match nats::decode_record::<HookRecord>(key, payload) {
        Ok((_, record)) if record.is_removed() => {}
        Ok((_, record)) => found.push(record),
        _ if payload.is_empty() => {}
        _ => tracing::error!(key, "a hook of a newer version stays where it is: give it by that version"),
    })
    .await?;
    for old in &found {
        // What was logged until now is of its owner of before.
        let given_at_ms = bus.broker_now_ms(&subjects::kv_stream_name(HookRecord::BUCKET)).await?;
        let given = HookRecord {
            owner: to.to_owned(),
            owner_key: owner_key(to),
            is_for_all: false,
            log_from_ms: Some(given_at_ms),
            ..old.clone()
        };
        let key = given.key();
        let event = ingress::hooks::describe_change(&given, BY);
        let held = bus.load_with_tombstone::<HookRecord>(&key).await?;
        // It may lie there already, where something came in between before, or as a tombstone, where it was given away from there.
        if held.as_ref().is_none_or(|held| held.record.is_removed()) {
            let mut held = held.unwrap_or_else(|| VersionedRecord::new(given.clone()));
            held.record = given;
            bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
        }
        bus.change_record::<HookRecord>(&old.key(), |held| {
            let removed_at_ms = Some(nats::now_ms());
            let left = HookRecord {
                removed_at_ms,
                is_given_away: true,
                url: String::new(),
                secrets: Vec::new(),
                ..held?.clone()
            };
            Some((left, Outbox::new()))
        })
        .await?;
        // Written last: operators read the newest record of an id.
        bus.change_record::<HookRecord>(&key, |held| Some((held?.clone(), Outbox::new()))).await?;
    }
    Ok(found.len())
}

/// Gives one medium: the document says whose it is, and what the stages know follows.
async fn transfer_medium(bus: &Bus, media_id: MediaId, from: &str, to: &str) -> Result<(), BusError> {
    let (key, now_ms) = (media_id.to_string(), nats::now_ms());
    let asset = bus.load_record::<media::MediaRecord>(&key).await?.map(|held| held.record);
    bus.change_record::<document::MediaDocumentRecord>(&key, |found| {
        let document = match (found, &asset) {
            (Some(document), _) => document.clone(),
            // Until now only the stages know of it.
            (None, Some(asset)) => document::MediaDocumentRecord {
                changed_at_ms: now_ms,
                ..document::MediaDocumentRecord::new(media_id, asset.owner.clone(), asset.created_at_ms)
            },
            (None, None) => return None,
        };
        if document.owner != from {
            return None;
        }
        let next = document::MediaDocumentRecord { owner: to.to_owned(), changed_at_ms: now_ms, ..document };
        let changed = document::MediaChanged::new(&next, BY, &["owner"]);
        Some((next, Outbox::new().with_event(&changed)))
    })
    .await?;
    let removed = bus.load_with_tombstone::<document::MediaDocumentRecord>(&key).await?;
    if let Some(mut held) = removed.filter(|held| held.record.is_restorable && held.record.owner == from) {
        // Who restores it is its owner then; what the stages know of it follows with that.
        to.clone_into(&mut held.record.owner);
        bus.commit_record(&mut held, Outbox::new()).await?;
    }
    bus.change_record::<media::MediaRecord>(&key, |found| {
        let asset = found.filter(|asset| asset.owner == from)?;
        Some((media::MediaRecord { owner: to.to_owned(), ..asset.clone() }, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// The owner of each medium: the one its document names, else the one that the stages know.
async fn read_media_owners(bus: &Bus) -> Result<BTreeMap<MediaId, String>, BusError> {
    let mut owners = BTreeMap::new();
    visit_entries(bus, record_reader_config::<media::MediaRecord>(), |key, payload| {
        if let Ok((_, asset)) = nats::decode_record::<media::MediaRecord>(key, payload) {
            owners.insert(asset.media_id, asset.owner);
        }
    })
    .await?;
    visit_entries(bus, record_reader_config::<document::MediaDocumentRecord>(), |key, payload| {
        let Ok((_, document)) = nats::decode_record::<document::MediaDocumentRecord>(key, payload) else {
            return;
        };
        if document.is_removed() && !document.is_restorable {
            owners.remove(&document.media_id);
        } else {
            owners.insert(document.media_id, document.owner);
        }
    })
    .await?;
    Ok(owners)
}

fn record_reader_config<R: KvRecord>() -> reader::ReaderConfig {
    let filters = vec![subjects::kv_subject(R::BUCKET, "*")];
    reader::ReaderConfig::new(subjects::kv_stream_name(R::BUCKET), filters, ReaderStart::LastPerSubject)
}

/// Shows `seen` subject and payload of all that is there now.
async fn visit_entries(
    bus: &Bus,
    settings: reader::ReaderConfig,
    mut seen: impl FnMut(&str, &[u8]),
) -> Result<(), BusError> {
    let mut reader = bus.open_reader(settings).await?;
    while let Some(entry) = reader.next_pending().await? {
        seen(&entry.subject, &entry.payload);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nats::{Role, testing::TestBroker};
    use schemas::{
        access,
        ids::{SessionId, UploadId},
        schedule::ScheduleChanged,
        session::AuthKeyCreated,
    };

    use super::*;

    const ADDRESS: &str = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed";

    async fn signed_in(bus: &Bus, owner: &str, chain_id: u64, method: SignInMethod) {
        let event = AuthSignedIn {
            request_id: RequestId::from_bytes(nats::new_id_bytes()),
            session_id: SessionId::from_bytes(nats::new_id_bytes()),
            owner: owner.to_owned(),
            chain_id,
            method,
            is_checksummed: true,
        };
        bus.publish_event(&event, &event.request_id.to_string()).await.unwrap();
    }

    fn document(owner: &str) -> document::MediaDocumentRecord {
        document::MediaDocumentRecord {
            title: "a film".into(),
            ..document::MediaDocumentRecord::new(
                MediaId::from_bytes(nats::new_id_bytes()),
                owner.to_owned(),
                1,
            )
        }
    }

    async fn owner_of(bus: &Bus, media_id: MediaId) -> String {
        bus.load_record::<document::MediaDocumentRecord>(&media_id.to_string())
            .await
            .unwrap()
            .unwrap()
            .record
            .owner
    }

    #[tokio::test]
    async fn what_a_contract_owns_without_a_chain_is_listed_and_given_where_somebody_says() {
        let broker = TestBroker::start().await;
        let bus = broker.bus(Role::Admin).await;
        let (bare, bound) = (format!("eip155:{ADDRESS}"), format!("eip155:10:{ADDRESS}"));
        let key_owner = "eip155:0x0000000000000000000000000000000000000001";
        assert_eq!(find_chainless_owners(&bus).await.unwrap(), []);
        signed_in(&bus, &bare, 1, SignInMethod::Contract).await;
        signed_in(&bus, &bare, 10, SignInMethod::Counterfactual).await;
        signed_in(&bus, &bound, 10, SignInMethod::Contract).await;
        signed_in(&bus, key_owner, 1, SignInMethod::Key).await;
        assert_eq!(find_chainless_owners(&bus).await.unwrap(), [], "it owns nothing");
        let (film, other) = (document(&bare), document(key_owner));
        for record in [&film, &other] {
            bus.commit_record(&mut VersionedRecord::new(record.clone()), Outbox::new()).await.unwrap();
        }
        let upload_id = UploadId::from_bytes(nats::new_id_bytes());
        let upload = UploadRecord::new(upload_id, film.media_id, bare.clone());
        bus.commit_record(&mut VersionedRecord::new(upload), Outbox::new()).await.unwrap();
        let key = auth::create_api_key(&bus, &bare, access::PrincipalRole::Owner).await.unwrap();
        let nightly = ScheduleRecord {
            owner: bare.clone(),
            owner_key: owner_key(&bare),
            ..schemas::examples::schedule_record()
        };
        bus.commit_record(&mut VersionedRecord::new(nightly.clone()), Outbox::new()).await.unwrap();
        let proven = [1, 10].map(|chain| format!("eip155:{chain}:{ADDRESS}")).into();
        let wanted = ChainlessOwner { owner: bare.clone(), proven, media_count: 1, key_count: 1 };
        assert_eq!(find_chainless_owners(&bus).await.unwrap(), [wanted]);

        let given = OwnerTransferCounts { media_count: 1, key_count: 1, schedule_count: 1, hook_count: 0 };
        assert_eq!(transfer_ownership(&bus, &bare, &bound).await.unwrap(), given);
        assert_eq!(owner_of(&bus, film.media_id).await, bound);
        let upload = bus.load_record::<UploadRecord>(&upload_id.to_string()).await.unwrap().unwrap();
        assert_eq!(upload.record.owner, bound, "what it brings is of its new owner, too");
        assert_eq!(owner_of(&bus, other.media_id).await, key_owner);
        assert_eq!(auth::list_key_ids(&bus, &bare).await.unwrap().len(), 0);
        let key_ids = auth::list_key_ids(&bus, &bound).await.unwrap();
        assert!(key.contains(&key_ids[0].to_string()), "{key_ids:?}");
        let by_id = schedule_key("*", &nightly.schedule_id.to_string());
        let schedule = bus.load_record::<ScheduleRecord>(&by_id).await.unwrap().unwrap().record;
        let wanted = ScheduleRecord { owner: bound.clone(), owner_key: owner_key(&bound), ..nightly.clone() };
        assert_eq!(schedule, wanted, "it fires for its new owner");
        assert!(bus.load_record::<ScheduleRecord>(&nightly.key()).await.unwrap().is_none());
        // There and back again, while what was removed there is still a tombstone.
        transfer_schedules(&bus, &bound, key_owner).await.unwrap();
        assert_eq!(transfer_schedules(&bus, key_owner, &bound).await.unwrap(), 1);
        assert_eq!(bus.load_record::<ScheduleRecord>(&by_id).await.unwrap().unwrap().record, wanted);
        assert_eq!(find_chainless_owners(&bus).await.unwrap(), []);
        // Each change was published, and again there is nothing to give.
        let mut published = Vec::new();
        let filters = vec![
            subjects::event_filter::<document::MediaChanged>(),
            subjects::event_filter::<AuthKeyCreated>(),
            subjects::event_filter::<ScheduleChanged>(),
        ];
        let settings = reader::ReaderConfig::new(subjects::EVENTS, filters, ReaderStart::All);
        visit_entries(&bus, settings, |subject, _| published.push(subject.to_owned())).await.unwrap();
        assert_eq!(published.len(), 5, "{published:?}");
        assert_eq!(transfer_ownership(&bus, &bare, &bound).await.unwrap(), OwnerTransferCounts::default());
    }

    #[tokio::test]
    async fn a_webhook_that_is_given_goes_on_for_its_new_owner_alone() {
        let broker = TestBroker::start().await;
        let bus = broker.bus(Role::Admin).await;
        let of = |owner: &str, is_for_all: bool| HookRecord {
            owner: owner.to_owned(),
            owner_key: owner_key(owner),
            is_for_all,
            ..schemas::examples::hook_record()
        };
        let hook = of("olga", true);
        bus.commit_record(&mut VersionedRecord::new(hook.clone()), Outbox::new()).await.unwrap();
        let given = OwnerTransferCounts { hook_count: 1, ..OwnerTransferCounts::default() };
        assert_eq!(transfer_ownership(&bus, "olga", "petr").await.unwrap(), given);
        let by_id = hook_key("*", &hook.hook_id.to_string());
        let found = bus.load_record::<HookRecord>(&by_id).await.unwrap().unwrap().record;
        assert!(
            found.log_from_ms.is_some_and(|from_ms| from_ms > 1_700_000_000_000),
            "it shows no log of before"
        );
        let shown = |found: HookRecord| HookRecord { log_from_ms: None, ..found };
        assert_eq!(shown(found), of("petr", false), "it sends what its new owner may see");
        let left = bus.load_with_tombstone::<HookRecord>(&hook.key()).await.unwrap().unwrap().record;
        assert!(left.is_given_away && left.secrets.is_empty() && left.url.is_empty(), "{left:?}");
        // And back again, where its tombstone lies.
        assert_eq!(transfer_ownership(&bus, "petr", "olga").await.unwrap(), given);
        let found = bus.load_record::<HookRecord>(&by_id).await.unwrap().unwrap().record;
        assert_eq!(shown(found), of("olga", false));
        assert_eq!(transfer_ownership(&bus, "petr", "olga").await.unwrap(), OwnerTransferCounts::default());
    }
}
