//! The watcher on a real broker, with a model chain and with a real node.

mod lifetimes;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent;
use bytes::Bytes;
use evm::testing::{CHAIN, COIN, NFT, NodeBehavior, transfer_topic};
use nats::{Outbox, Role};
use schemas::{
    KvRecord as _,
    gate::{ChainCursor, GateReasonCode, GateRevoked, GateRule, PlaybackSession, WatchedContract},
    ids::PlaybackId,
    subjects,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{ChainWatcher, WatcherConfig, run_watcher, sessions::WatchedSessions};
use gate::{
    abi::ConsecutiveTransfer,
    gate_evaluator::GateEvaluator,
    grant::{self, PlaybackGrants},
    testing::{
        ANN, BOB,
        anvil::{ANVIL, AnvilNode, CONFIRMATIONS},
        nft_rule, not_rule,
        site::{GateTestSite, open_playback, wallet_viewer},
    },
};

const SOON: Duration = Duration::from_secs(20);

/// A running watcher.
struct Watching {
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watching {
    async fn start(site: &GateTestSite, grants: PlaybackGrants) -> Self {
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let bus = site.broker.bus(Role::Keeper).await;
        let config = WatcherConfig { poll_ms: 100, ..WatcherConfig::default() };
        tasks.spawn(run_watcher(bus, grants, config, shutdown.clone()));
        Self { shutdown, tasks }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// A watcher whose looks the test takes one by one.
struct ByHand {
    watcher: ChainWatcher,
    sessions: Arc<WatchedSessions>,
    held: CancellationToken,
    tasks: JoinSet<()>,
}

impl ByHand {
    /// It does not follow sessions yet.
    async fn new(site: &GateTestSite) -> Self {
        let (bus, grants) = (site.broker.bus(Role::Keeper).await, site.grants(Role::Keeper).await);
        let watcher = ChainWatcher { bus, grants, config: WatcherConfig::default() };
        Self { watcher, sessions: Arc::default(), held: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// Returns when it knows all sessions there are.
    async fn follow(&mut self) {
        let (sessions, bus, held) = (Arc::clone(&self.sessions), self.watcher.bus.clone(), self.held.clone());
        self.tasks.spawn(async move { sessions.follow_bucket(&bus, &held).await });
        assert!(self.sessions.wait_until_current(&self.held).await);
    }

    async fn look(&self) -> anyhow::Result<Vec<PlaybackId>> {
        let mut due = BTreeSet::new();
        self.look_for(&mut due).await?;
        Ok(due.into_iter().collect())
    }

    async fn look_for(&self, due: &mut BTreeSet<PlaybackId>) -> anyhow::Result<()> {
        self.watcher.poll_chain(CHAIN, &self.sessions, due).await
    }

    async fn stop(mut self) {
        self.held.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// A session that plays by one token, and a watcher that has looked at it.
async fn open_watched(site: &GateTestSite) -> (PlaybackSession, ByHand) {
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    let mut watcher = ByHand::new(site).await;
    watcher.follow().await;
    watcher.look().await.unwrap();
    (session, watcher)
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn read_to(site: &GateTestSite, chain_id: u64, hash: &str) {
    until("the watcher reads the newest block", || async {
        let key = ChainCursor { chain_id, blocks: Vec::new() }.key();
        let held = site.admin.load_record::<ChainCursor>(&key).await.unwrap();
        held.is_some_and(|held| held.record.blocks.last().is_some_and(|block| block.hash == hash))
    })
    .await;
}

async fn read_head(site: &GateTestSite) {
    read_to(site, CHAIN, &site.world.head_block().hash.to_string()).await;
}

async fn ended(site: &GateTestSite, session: &PlaybackSession, code: GateReasonCode) {
    until("the session ends", || async { site.load_session(session).await.revoked == Some(code) }).await;
}

#[tokio::test]
async fn a_transfer_ends_the_sessions_it_concerns() {
    let site = GateTestSite::start().await;
    site.world.transfer_token(2, Some(BOB));
    (0..2).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    let ingress = site.grants(Role::Ingress).await;
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    let (one, two) = (
        site.create_medium(Some(&nft_rule(NFT, Some(1)))).await,
        site.create_medium(Some(&nft_rule(NFT, Some(2)))).await,
    );
    let without = site.create_medium(Some(&not_rule(nft_rule(NFT, None)))).await;
    let ann = open_playback(&ingress, &wallet_viewer(ANN), one).await.unwrap();
    let bob = open_playback(&ingress, &wallet_viewer(BOB), two).await.unwrap();
    let cat = wallet_viewer(Address::repeat_byte(0xc3));
    let outsider = open_playback(&ingress, &cat, without).await.unwrap();
    read_head(&site).await;
    site.world.transfer_token(1, cat.wallet.map(|wallet| wallet.address.get()));
    site.world.sync_all();
    ended(&site, &ann, GateReasonCode::NotOwner).await;
    // Getting a token can end a session, too.
    ended(&site, &outsider, GateReasonCode::Excluded).await;
    assert_eq!(site.load_session(&bob).await.revoked, None);
    until("the end is published", || async { site.last_event::<GateRevoked>(one).await.is_some() }).await;
    let revoked = site.last_event::<GateRevoked>(one).await.unwrap();
    assert_eq!((revoked.playback_id, revoked.code), (ann.playback_id, GateReasonCode::NotOwner));
    assert_eq!(revoked.blocks[0].hash, site.world.head_block().hash.to_string());
    watching.stop().await;
}

#[tokio::test]
async fn nothing_is_skipped_over_a_restart_or_a_reorganisation() {
    let site = GateTestSite::start().await;
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    read_head(&site).await;
    watching.stop().await;
    // It goes while nobody watches.
    site.world.transfer_token(1, Some(BOB));
    (0..4).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    ended(&site, &session, GateReasonCode::NotOwner).await;
    let session = open_playback(&ingress, &wallet_viewer(BOB), film).await.unwrap();
    read_head(&site).await;
    // The chain is rewritten without the transfer; no log says so.
    site.world.reorganise_chain(5);
    site.world.sync_all();
    ended(&site, &session, GateReasonCode::NotOwner).await;
    watching.stop().await;
}

#[tokio::test]
async fn a_session_let_in_by_an_older_block_is_caught() {
    let site = GateTestSite::start().await;
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    // The watcher begins behind the transfer, and receives the session later than the block.
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    ended(&site, &session, GateReasonCode::NotOwner).await;
    watching.stop().await;
}

#[tokio::test]
async fn an_outage_ends_nothing_and_is_made_up_for() {
    let site = GateTestSite::start().await;
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    read_head(&site).await;
    (0..3).for_each(|node| site.world.set_behavior(node, NodeBehavior::Down));
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    let asked = site.world.request_count();
    until("the nodes are asked in vain", || async { site.world.request_count() >= asked + 9 }).await;
    assert_eq!(site.load_session(&session).await.revoked, None);
    (0..3).for_each(|node| site.world.set_behavior(node, NodeBehavior::Honest));
    ended(&site, &session, GateReasonCode::NotOwner).await;
    watching.stop().await;
}

#[tokio::test]
async fn logs_of_nodes_that_are_behind_hide_no_transfer() {
    let site = GateTestSite::start().await;
    let (session, watcher) = open_watched(&site).await;
    assert_eq!(watcher.look().await.unwrap(), []);
    // A quorum of them agrees that there are no logs, of a block that it does not know.
    (0..2).for_each(|node| site.world.set_behavior(node, NodeBehavior::LogsBehind));
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    assert_eq!(watcher.look().await.unwrap(), [session.playback_id]);
    watcher.stop().await;
}

#[tokio::test]
async fn what_a_look_found_is_kept_where_the_cursor_could_not_be_stored() {
    let site = GateTestSite::start().await;
    let (session, watcher) = open_watched(&site).await;
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    // The bucket can be read, and takes nothing; whether a write was stored whose answer was lost nobody could say.
    let name = subjects::kv_stream_name(ChainCursor::BUCKET);
    let stream = site.admin.context().get_stream(&name).await.unwrap();
    let mut settings = stream.cached_info().config.clone();
    settings.max_message_size = 1;
    site.admin.context().update_stream(settings).await.unwrap();
    let mut due = BTreeSet::new();
    watcher.look_for(&mut due).await.unwrap_err();
    assert_eq!(due, BTreeSet::from([session.playback_id]));
    watcher.stop().await;
}

#[tokio::test]
async fn a_look_that_fails_forgets_no_session() {
    let site = GateTestSite::start().await;
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    let mut watcher = ByHand::new(&site).await;
    // The transfer was read before the session was received.
    assert_eq!(watcher.look().await.unwrap(), []);
    let key = ChainCursor { chain_id: CHAIN, blocks: Vec::new() }.key();
    let cursor = site.admin.read_value(ChainCursor::BUCKET, &key).await.unwrap().unwrap().value.unwrap();
    let put = async |value: Bytes| {
        let subject = subjects::kv_subject(ChainCursor::BUCKET, &key);
        site.admin.context().publish(subject, value).await.unwrap().await.unwrap();
    };
    watcher.follow().await;
    put(Bytes::from_static(b"no cursor")).await;
    watcher.look().await.unwrap_err();
    put(cursor).await;
    assert_eq!(watcher.look().await.unwrap(), [session.playback_id]);
    assert_eq!(watcher.look().await.unwrap(), [], "once");
    // Another rule, another contract: its transfers before now were not looked for.
    let watch = WatchedContract { chain_id: CHAIN, contract: COIN.to_string() };
    let change = |found: Option<&PlaybackSession>| {
        let session = PlaybackSession { watches: vec![watch.clone()], ..found?.clone() };
        Some((session, Outbox::new()))
    };
    site.admin.change_record::<PlaybackSession>(&session.playback_id.to_string(), change).await.unwrap();
    until("the changed session is looked at", || async {
        watcher.look().await.unwrap() == [session.playback_id]
    })
    .await;
    watcher.stop().await;
}

#[tokio::test]
async fn a_transfer_whose_ends_can_not_be_read_concerns_every_session_of_its_contract() {
    let site = GateTestSite::start().await;
    let ingress = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let watching = Watching::start(&site, site.grants(Role::Keeper).await).await;
    let (ann, bob) = (ANN.into_word(), BOB.into_word());
    let none = B256::ZERO;
    let transfer = transfer_topic();
    for (topics, from, to) in [
        // Nothing is indexed, as in contracts older than the standard.
        (vec![transfer], ANN, BOB),
        (vec![transfer, bob], BOB, ANN),
        // ERC-2309, several tokens at once.
        (vec![ConsecutiveTransfer::SIGNATURE_HASH, none, ann, bob], ANN, BOB),
    ] {
        let session = open_playback(&ingress, &wallet_viewer(from), film).await.unwrap();
        read_head(&site).await;
        site.world.add_log(topics);
        site.world.mine_block(|state| {
            state.owners.insert(1, to);
        });
        site.world.sync_all();
        ended(&site, &session, GateReasonCode::NotOwner).await;
        (0..2).for_each(|_| site.world.mine_block(|_| {}));
        site.world.sync_all();
    }
    watching.stop().await;
}

#[tokio::test]
async fn transfers_of_other_standards_on_a_real_node_end_sessions() {
    let site = GateTestSite::start().await;
    let anvil = AnvilNode::start().await;
    let (old, multi) = (Address::repeat_byte(0x17), anvil.deploy_contract("Multi").await);
    anvil.put_old_nft(old).await;
    anvil.give_old_nft(old, ANN).await;
    anvil.set_multi(multi, ANN, 3, 2).await;
    anvil.mine_blocks(CONFIRMATIONS).await;
    let grants = async |role| {
        let judge = GateEvaluator::new(anvil.open_client());
        PlaybackGrants::new(site.broker.bus(role).await, judge, grant::GrantConfig::default())
    };
    let ingress = grants(Role::Ingress).await;
    let (token_id, contract) = ("1".to_owned(), old.to_string());
    let owns =
        GateRule::Erc721Owner { chain_id: ANVIL, contract, token_id: Some(token_id), sessions_max: None };
    let (token_id, contract) = ("3".to_owned(), multi.to_string());
    let holds = GateRule::Erc1155Balance { chain_id: ANVIL, contract, token_id, balance_min: None };
    let films = [site.create_medium(Some(&owns)).await, site.create_medium(Some(&holds)).await];
    let first = open_playback(&ingress, &wallet_viewer(ANN), films[0]).await.unwrap();
    let second = open_playback(&ingress, &wallet_viewer(ANN), films[1]).await.unwrap();
    let watching = Watching::start(&site, grants(Role::Keeper).await).await;
    read_to(&site, ANVIL, &anvil.head_hash().await.to_string()).await;
    anvil.give_old_nft(old, BOB).await;
    ended(&site, &first, GateReasonCode::NotOwner).await;
    assert_eq!(site.load_session(&second).await.revoked, None);
    anvil.set_multi(multi, ANN, 3, 0).await;
    ended(&site, &second, GateReasonCode::BalanceLow).await;
    watching.stop().await;
}

#[tokio::test]
async fn a_transfer_on_a_real_node_is_refused_everywhere_within_two_seconds() {
    let site = GateTestSite::start().await;
    let anvil = AnvilNode::start().await;
    let contract = anvil.deploy_contract("Nft").await;
    anvil.give_token(contract, 7, ANN).await;
    anvil.mine_blocks(CONFIRMATIONS).await;
    let grants = async |role| {
        let judge = GateEvaluator::new(anvil.open_client());
        PlaybackGrants::new(site.broker.bus(role).await, judge, grant::GrantConfig::default())
    };
    let ingress = grants(Role::Ingress).await;
    let mut watching = Watching::start(&site, grants(Role::Keeper).await).await;
    let (replica, stop) = (ingress.clone(), watching.shutdown.clone());
    watching.tasks.spawn(async move { replica.run(stop).await.unwrap() });
    let rule = GateRule::Erc721Owner {
        chain_id: ANVIL,
        contract: contract.to_string(),
        token_id: Some("7".into()),
        sessions_max: None,
    };
    let film = site.create_medium(Some(&rule)).await;
    let session = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    ingress.check_session(session.playback_id, film).await.unwrap();
    read_to(&site, ANVIL, &anvil.head_hash().await.to_string()).await;
    anvil.give_token(contract, 7, BOB).await;
    let mined = Instant::now();
    until("the viewer is refused", || async {
        ingress.check_session(session.playback_id, film).await.is_err()
    })
    .await;
    assert!(mined.elapsed() <= Duration::from_secs(2), "{:?}", mined.elapsed());
    assert_eq!(site.load_session(&session).await.revoked, Some(GateReasonCode::NotOwner));
    watching.stop().await;
}
