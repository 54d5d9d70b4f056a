//! Playback sessions on a real broker.

use std::{collections::BTreeSet, future::Future, time::Duration};

use evm::testing::{CHAIN, NFT, NOTHING, NodeBehavior};
use nats::Role;
use schemas::{
    gate::{self, GateGranted, GateReasonCode, GateRevoked, GateRule},
    ids::{MediaId, PlaybackId},
    subjects, view,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::testing::site::{GateTestSite, OWNER, open_playback, wallet_viewer};
use crate::{
    GateViewer, ViewerRights,
    grant::{PlaybackDenied, PlaybackGrants, RenewalOutcome, token::PlaybackToken},
    rule::compile_rule,
    testing::{ANN, BOB, allow_list_rule, any_rule, change_rule, nft_rule},
};

const SOON: Duration = Duration::from_secs(20);

fn code(outcome: Result<(), PlaybackDenied>) -> Option<GateReasonCode> {
    match outcome {
        Ok(()) => None,
        Err(PlaybackDenied::Closed { code, .. }) => Some(code),
        Err(other) => panic!("{other}"),
    }
}

async fn refused(grants: &PlaybackGrants, viewer: &GateViewer, media_id: MediaId) -> GateReasonCode {
    code(open_playback(grants, viewer, media_id).await.map(drop)).expect("refused")
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_rule_and_no_medium_mean_nobody_but_the_owner() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let media_id = site.create_medium(None).await;
    assert_eq!(refused(&grants, &wallet_viewer(ANN), media_id).await, GateReasonCode::Private);
    assert_eq!(refused(&grants, &GateViewer::anonymous(), media_id).await, GateReasonCode::Private);
    let operator = GateViewer { name: OWNER.into(), wallet: None, rights: ViewerRights::None, opener: None };
    assert_eq!(refused(&grants, &operator, media_id).await, GateReasonCode::Private);
    assert_eq!(
        refused(&grants, &wallet_viewer(ANN), MediaId::from_bytes([9; 16])).await,
        GateReasonCode::Gone
    );
    let denied = site.last_event::<gate::GateDenied>(media_id).await.expect("every refusal is published");
    assert_eq!(denied.code, GateReasonCode::Private);
    for (name, rights) in [(OWNER, ViewerRights::Owner), ("root", ViewerRights::Admin)] {
        let viewer = GateViewer { name: name.into(), wallet: None, rights, opener: None };
        let session = open_playback(&grants, &viewer, media_id).await.unwrap();
        grants.check_session(session.playback_id, media_id).await.unwrap();
        assert_eq!(site.last_event::<GateGranted>(media_id).await.unwrap().code, GateReasonCode::Owner);
    }
    let open = site.create_medium(Some(&GateRule::Public {})).await;
    let session = open_playback(&grants, &GateViewer::anonymous(), open).await.unwrap();
    grants.check_session(session.playback_id, open).await.unwrap();
    assert_eq!(site.last_event::<GateGranted>(open).await, None, "volume, not history");
    let subject = format!("view.{}.opened.{open}", view::partition_of_media(&open));
    let views = site.admin.context().get_stream(subjects::VIEWS).await.unwrap();
    let viewed = views.get_last_raw_message_by_subject(&subject).await.unwrap();
    let viewed: view::ViewOpened = nats::decode_message(&subject, &viewed.payload).unwrap();
    assert_eq!((viewed.media_id, viewed.playback_id), (open, session.playback_id));
    // Who signed in is published by name, whatever the gate asks.
    let session = open_playback(&grants, &wallet_viewer(ANN), open).await.unwrap();
    assert_eq!(site.last_event::<GateGranted>(open).await.unwrap().playback_id, session.playback_id);
}

#[tokio::test]
async fn a_session_plays_its_medium_and_no_other() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (film, other) =
        (site.create_medium(Some(&nft_rule(NFT, Some(1)))).await, site.create_medium(None).await);
    assert_eq!(refused(&grants, &wallet_viewer(BOB), film).await, GateReasonCode::NotOwner);
    assert_eq!(refused(&grants, &GateViewer::anonymous(), film).await, GateReasonCode::WalletNeeded);
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    let granted = site.last_event::<GateGranted>(film).await.unwrap();
    assert_eq!(granted.rule_digest, compile_rule(&nft_rule(NFT, Some(1))).unwrap().digest);
    assert_eq!(granted.blocks[0].hash, site.world.head_block().hash.to_string());
    assert_eq!(code(grants.check_session(session.playback_id, film).await), None);
    assert_eq!(
        code(grants.check_session(session.playback_id, other).await),
        Some(GateReasonCode::SessionUnknown)
    );
    let unknown = PlaybackId::from_bytes([5; 16]);
    assert_eq!(code(grants.check_session(unknown, film).await), Some(GateReasonCode::SessionUnknown));
}

#[tokio::test]
async fn a_grant_is_renewed_while_the_gate_holds_and_ends_with_it() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    for _ in 0..5 {
        site.advance_ms(50_000);
        assert_eq!(code(grants.check_session(session.playback_id, film).await), None);
    }
    let renewed = site.load_session(&session).await;
    assert!(renewed.granted_until_ms >= session.granted_until_ms + 200_000);
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    site.advance_ms(60_000);
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
    assert_eq!(site.load_session(&session).await.revoked, Some(GateReasonCode::NotOwner));
    let revoked = site.last_event::<GateRevoked>(film).await.unwrap();
    assert_eq!((revoked.playback_id, revoked.code), (session.playback_id, GateReasonCode::NotOwner));
    // Over is over, even when the token comes back.
    site.world.reorganise_chain(1);
    site.world.sync_all();
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
}

#[tokio::test]
async fn a_gate_known_to_be_closed_is_closed_though_nobody_can_write_it_down() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let shutdown = CancellationToken::new();
    let (running, stop) = (grants.clone(), shutdown.clone());
    let following = tokio::spawn(async move { running.run(stop).await });
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    site.wait_until_cached(&grants, &session).await;
    site.fill_grants(true).await;
    site.world.transfer_token(1, Some(BOB));
    site.world.sync_all();
    site.advance_ms(50_000);
    for _ in 0..2 {
        assert_eq!(
            code(grants.check_session(session.playback_id, film).await),
            Some(GateReasonCode::NotOwner)
        );
    }
    assert_eq!(site.load_session(&session).await.revoked, None, "there is no room");
    site.fill_grants(false).await;
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
    assert_eq!(
        site.load_session(&session).await.revoked,
        Some(GateReasonCode::NotOwner),
        "the next request writes it"
    );
    shutdown.cancel();
    following.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_hours_play_without_the_player_noticing() {
    const KEY: &[u8] = b"a key";
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (running, shutdown) = (grants.clone(), CancellationToken::new());
    let stop = shutdown.clone();
    let following = tokio::spawn(async move { running.run(stop).await.unwrap() });
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    assert!(session.expires_at_ms - session.opened_at_ms >= 7_200_000, "the longest life allows it");
    until("sessions are remembered", || async {
        grants.check_session(session.playback_id, film).await.unwrap();
        let before = site.world.request_count();
        grants.check_session(session.playback_id, film).await.unwrap();
        site.world.request_count() == before
    })
    .await;
    // The player was given one address, and asks for a segment of four seconds after the other.
    let token = PlaybackToken { playback_id: session.playback_id, encode: Some(1) }.seal(KEY);
    let mut ends = BTreeSet::from([session.granted_until_ms]);
    let mut from_memory = 0;
    for segment in 0..7_200 / 4 {
        site.advance_ms(4_000);
        site.world.advance_time(4);
        if segment % 3 == 0 {
            site.world.mine_block(|_| {});
            site.world.sync_all();
        }
        let before = site.world.request_count();
        let playback_id = PlaybackToken::open(KEY, &token).unwrap().playback_id;
        assert_eq!(code(grants.check_session(playback_id, film).await), None, "segment {segment}");
        from_memory += usize::from(site.world.request_count() == before);
        ends.insert(site.load_session(&session).await.granted_until_ms);
    }
    // A grant lasts a minute and is renewed in its last quarter.
    let renewals = ends.len() - 1;
    assert!((120..=165).contains(&renewals), "{renewals} renewals");
    assert!(from_memory >= 1_800 - 2 * renewals, "{from_memory} segments from memory");
    shutdown.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn nodes_that_are_away_cost_no_more_than_the_minute() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    (0..3).for_each(|node| site.world.set_behavior(node, NodeBehavior::Down));
    assert_eq!(refused(&grants, &wallet_viewer(ANN), film).await, GateReasonCode::ChainUnavailable);
    site.advance_ms(55_000);
    assert_eq!(
        code(grants.check_session(session.playback_id, film).await),
        None,
        "the grant is good to its end"
    );
    site.advance_ms(5_000);
    assert_eq!(
        code(grants.check_session(session.playback_id, film).await),
        Some(GateReasonCode::ChainUnavailable)
    );
    assert_eq!(site.load_session(&session).await.revoked, None, "nobody said that it is over");
    (0..3).for_each(|node| site.world.set_behavior(node, NodeBehavior::Honest));
    // The nodes rest after their faults; then the session goes on.
    until("the session goes on", || async { grants.check_session(session.playback_id, film).await.is_ok() })
        .await;
}

#[tokio::test]
async fn what_is_wrong_with_a_chain_is_counted_and_published() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let bus = site.broker.bus(Role::Ingress).await;
    let counts = grants.gate_evaluator().chains().counters();
    let last_doubt = async || {
        counts.publish_doubts(&bus).await;
        let subject = format!("evt.gate.doubted.{CHAIN}");
        let stream = site.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
        let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(nats::decode_message::<gate::GateDoubted>(&subject, &message.payload).unwrap())
    };
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    assert_eq!(last_doubt().await, None, "all is well");

    let absent = site.create_medium(Some(&nft_rule(NOTHING, Some(1)))).await;
    assert_eq!(refused(&grants, &wallet_viewer(ANN), absent).await, GateReasonCode::ContractAbsent);
    // The broker is away: the doubt is published once it is back.
    site.broker.freeze();
    counts.publish_doubts(&bus).await;
    site.broker.thaw();
    let doubted = last_doubt().await.unwrap();
    assert_eq!(
        (doubted.what, doubted.contract),
        (gate::ChainDataIssue::ContractAbsent, Some(NOTHING.to_string()))
    );

    // Three answers, and no two alike, at the newest block and at the confirmed one.
    site.world.transfer_token(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    site.world.set_behavior(0, NodeBehavior::ClaimsAll);
    site.world.set_behavior(1, NodeBehavior::ClaimsNone);
    assert_eq!(refused(&grants, &wallet_viewer(ANN), film).await, GateReasonCode::ChainDisagrees);
    let doubted = last_doubt().await.unwrap();
    assert_eq!((doubted.chain_id, doubted.what), (CHAIN, gate::ChainDataIssue::Disagreement));
    assert_eq!(doubted.providers.len(), 3, "{doubted:?}");

    // The third is a block behind.
    (0..2).for_each(|node| site.world.set_behavior(node, NodeBehavior::Honest));
    site.world.mine_block(|_| {});
    (0..2).for_each(|node| site.world.sync_node(node));
    assert_eq!(refused(&grants, &wallet_viewer(ANN), film).await, GateReasonCode::NotOwner);
    let lag = "streamgate_chain_head_lag_blocks{chain_id=\"1337\",provider=\"3\"} 1";
    assert!(
        nats::metrics::render_collector(counts.clone()).lines().any(|line| line == lag),
        "{}",
        nats::metrics::render_collector(counts.clone())
    );
    site.world.set_behavior(0, NodeBehavior::Down);
    assert_eq!(refused(&grants, &wallet_viewer(ANN), film).await, GateReasonCode::ChainUnavailable);
    let text = nats::metrics::render_collector(counts.clone());
    for line in [
        "streamgate_gate_decisions_total{code=\"rule_holds\"} 1",
        "streamgate_gate_decisions_total{code=\"contract_absent\"} 1",
        "streamgate_gate_decisions_total{code=\"chain_disagrees\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let fault = "streamgate_chain_faults_total{chain_id=\"1337\",provider=\"1\",kind=\"unreachable\"}";
    assert!(text.contains(fault), "{text}");
    openmetrics_parser::openmetrics::parse_openmetrics(&text).unwrap();
}

#[tokio::test]
async fn the_newest_session_has_the_token() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let other = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let first = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    let second = open_playback(&grants, &wallet_viewer(ANN), other).await.unwrap();
    assert_eq!(code(grants.check_session(first.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check_session(second.playback_id, other).await), None);
    // Sign in, transfer, sign in again: the token has one viewer.
    site.world.transfer_token(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    let third = open_playback(&grants, &wallet_viewer(BOB), film).await.unwrap();
    assert_eq!(code(grants.check_session(second.playback_id, other).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check_session(third.playback_id, film).await), None);
    // Two at a time where the rule says so.
    let GateRule::Erc721Owner { chain_id, contract, .. } = nft_rule(NFT, Some(1)) else { panic!() };
    let two = GateRule::Erc721Owner { chain_id, contract, token_id: None, sessions_max: Some(2) };
    let pair = site.create_medium(Some(&two)).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(open_playback(&grants, &wallet_viewer(BOB), pair).await.unwrap().playback_id);
    }
    let mut codes = Vec::new();
    for session in sessions {
        codes.push(code(grants.check_session(session, pair).await));
    }
    assert_eq!(codes, [Some(GateReasonCode::Displaced), None, None]);
}

#[tokio::test]
async fn a_session_moves_to_the_token_it_rests_on() {
    let site = GateTestSite::start().await;
    site.world.transfer_token(2, Some(ANN));
    (0..3).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    let grants = site.grants(Role::Ingress).await;
    let (one, two) = (nft_rule(NFT, Some(1)), nft_rule(NFT, Some(2)));
    let film = site.create_medium(Some(&any_rule(&[one.clone(), two.clone()]))).await;
    let (first, second) = (site.create_medium(Some(&one)).await, site.create_medium(Some(&two)).await);
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    // The token it was let in by is somebody else's; it rests on the other one, as its record says.
    site.world.transfer_token(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    site.advance_ms(50_000);
    assert_eq!(code(grants.check_session(session.playback_id, film).await), None);
    assert_ne!(site.load_session(&session).await.slots, session.slots);
    // The viewer who has the first token now displaces nobody, and is displaced by nobody.
    let bobs = open_playback(&grants, &wallet_viewer(BOB), first).await.unwrap();
    assert_eq!(code(grants.check_session(session.playback_id, film).await), None);
    // The second token has one viewer.
    let newer = open_playback(&grants, &wallet_viewer(ANN), second).await.unwrap();
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check_session(newer.playback_id, second).await), None);
    assert_eq!(code(grants.check_session(bobs.playback_id, first).await), None);
}

#[tokio::test]
async fn a_session_that_lost_its_token_to_another_viewer_is_over() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&any_rule(&[nft_rule(NFT, Some(1)), allow_list_rule(&[ANN])]))).await;
    let first = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    let second = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    site.advance_ms(50_000);
    assert_eq!(code(grants.check_session(first.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check_session(second.playback_id, film).await), None);
    // Sold, and still on the list: it goes on, and takes nobody's place.
    site.world.transfer_token(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine_block(|_| {}));
    site.world.sync_all();
    site.advance_ms(50_000);
    assert_eq!(code(grants.check_session(second.playback_id, film).await), None);
    assert_eq!(site.load_session(&second).await.slots, Vec::<String>::new());
}

#[tokio::test]
async fn a_session_has_an_end_and_a_changed_rule_asks_again() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    site.advance_ms(12 * 3_600_000);
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::Expired));
    let session = open_playback(&grants, &wallet_viewer(ANN), film).await.unwrap();
    change_rule(&site, film, Some(&nft_rule(NFT, Some(2)))).await;
    assert_eq!(
        code(grants.check_session(session.playback_id, film).await),
        Some(GateReasonCode::ContractFailed)
    );
    change_rule(&site, film, Some(&GateRule::Public {})).await;
    let session = open_playback(&grants, &wallet_viewer(BOB), film).await.unwrap();
    change_rule(&site, film, None).await;
    assert_eq!(code(grants.check_session(session.playback_id, film).await), Some(GateReasonCode::Private));
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_early() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&GateRule::Public {})).await;
    let (used, unused) = (
        open_playback(&grants, &GateViewer::anonymous(), film).await.unwrap(),
        open_playback(&grants, &GateViewer::anonymous(), film).await.unwrap(),
    );
    for _ in 0..2 {
        site.advance_ms(3_000_000);
        assert_eq!(code(grants.check_session(used.playback_id, film).await), None);
        // A transfer on the chain evaluates a session again, and is no use of it.
        grants.renew_session(unused.playback_id, film).await.unwrap();
    }
    site.advance_ms(3_000_000);
    assert_eq!(code(grants.check_session(unused.playback_id, film).await), Some(GateReasonCode::Expired));
    assert_eq!(code(grants.check_session(used.playback_id, film).await), None);
}

#[tokio::test]
async fn a_client_and_a_wallet_have_so_many_sessions_and_what_plays_ends_for_no_other() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&GateRule::Public {})).await;
    let home: Option<std::net::IpAddr> = Some("192.0.2.1".parse().unwrap());
    let open = async |viewer: &GateViewer, client| {
        grants
            .open_session(grants.admit_viewer(viewer, film).await.unwrap(), client)
            .await
            .map(|session| session.playback_id)
    };
    let anybody = GateViewer::anonymous();
    let mut playing = Vec::new();
    for _ in 0..200 {
        let session = open(&anybody, home).await.unwrap();
        assert_eq!(code(grants.check_session(session, film).await), None);
        playing.push(session);
    }
    // Somebody behind the same address opens what nobody plays.
    let mut unplayed = Vec::new();
    for _ in 0..101 {
        unplayed.push(open(&anybody, home).await.unwrap());
    }
    for session in &playing {
        assert_eq!(code(grants.check_session(*session, film).await), None);
    }
    assert_eq!(code(grants.check_session(unplayed[0], film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check_session(unplayed[1], film).await), None);
    // Elsewhere there is room, and a wallet has less of it, wherever it comes from.
    open(&anybody, Some("192.0.2.2".parse().unwrap())).await.unwrap();
    let mut anns = Vec::new();
    for n in 0..51_u8 {
        anns.push(open(&wallet_viewer(ANN), Some([192, 0, 2, 100 + n].into())).await.unwrap());
    }
    assert_eq!(code(grants.check_session(anns[0], film).await), Some(GateReasonCode::Displaced));
    for session in &anns[1..] {
        assert_eq!(code(grants.check_session(*session, film).await), None);
    }
    assert!(matches!(open(&wallet_viewer(ANN), None).await, Err(PlaybackDenied::Busy)), "all of them play");
    site.advance_ms(130_000);
    for session in &anns[2..] {
        assert_eq!(code(grants.check_session(*session, film).await), None);
    }
    open(&wallet_viewer(ANN), None).await.unwrap();
    assert_eq!(
        code(grants.check_session(anns[1], film).await),
        Some(GateReasonCode::Displaced),
        "the one that lay idle"
    );
    // A key of the service opens sessions for others.
    let key = GateViewer { name: "olga".into(), wallet: None, rights: ViewerRights::Owner, opener: None };
    for _ in 0..110 {
        open(&key, home).await.unwrap();
    }
    assert_eq!(code(grants.check_session(unplayed[2], film).await), None);
}

#[tokio::test]
async fn a_session_that_another_replica_plays_does_not_end_for_a_newer_one() {
    let site = GateTestSite::start().await;
    let (one, two) = (site.grants(Role::Ingress).await, site.grants(Role::Ingress).await);
    let film = site.create_medium(Some(&GateRule::Public {})).await;
    let home: Option<std::net::IpAddr> = Some("192.0.2.1".parse().unwrap());
    let open = async || {
        let admission = one.admit_viewer(&GateViewer::anonymous(), film).await.unwrap();
        one.open_session(admission, home).await.unwrap().playback_id
    };
    let (played, unplayed) = (open().await, open().await);
    assert_eq!(code(two.check_session(played, film).await), None);
    for _ in 0..100 {
        open().await;
    }
    assert_eq!(code(two.check_session(played, film).await), None);
    assert_eq!(code(two.check_session(unplayed, film).await), Some(GateReasonCode::Displaced));
}

#[tokio::test]
async fn background_work_takes_no_slot_from_who_plays() {
    let site = GateTestSite::start().await;
    let (ingress, keeper) = (site.grants(Role::Ingress).await, site.grants(Role::Keeper).await);
    let film = site.create_medium(Some(&nft_rule(NFT, None))).await;
    let playing = open_playback(&ingress, &wallet_viewer(ANN), film).await.unwrap();
    assert_eq!(code(ingress.check_session(playing.playback_id, film).await), None);
    // Opened by another rule, which the first session's token does not open, and never used.
    let other = site.create_medium(Some(&GateRule::Public {})).await;
    let unused = open_playback(&ingress, &wallet_viewer(ANN), other).await.unwrap();
    change_rule(&site, other, Some(&nft_rule(NFT, None))).await;
    assert_eq!(keeper.renew_session(unused.playback_id, other).await.unwrap(), RenewalOutcome::Waits);
    assert_eq!(code(ingress.check_session(playing.playback_id, film).await), None);
    assert_eq!(site.load_session(&playing).await.revoked, None);
    // Who comes to play takes it.
    assert_eq!(code(ingress.check_session(unused.playback_id, other).await), None);
    assert_eq!(code(ingress.check_session(playing.playback_id, film).await), Some(GateReasonCode::Displaced));
    // What is free is taken without anybody's use.
    let third = site.create_medium(Some(&GateRule::Public {})).await;
    let free = open_playback(&ingress, &wallet_viewer(ANN), third).await.unwrap();
    change_rule(&site, third, Some(&nft_rule(NFT, Some(1)))).await;
    assert_eq!(keeper.renew_session(free.playback_id, third).await.unwrap(), RenewalOutcome::Renewed);
    assert_eq!(site.load_session(&free).await.slots.len(), 1);
}

#[tokio::test]
async fn every_replica_receives_a_revocation() {
    let site = GateTestSite::start().await;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let grants = site.grants(Role::Ingress).await;
        let (running, stop) = (grants.clone(), shutdown.clone());
        tasks.spawn(async move { running.run(stop).await.unwrap() });
        replicas.push(grants);
    }
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    let session = open_playback(&replicas[0], &wallet_viewer(ANN), film).await.unwrap();
    // From memory: no node is asked any more once every replica knows the session.
    for replica in &replicas {
        until("the replica remembers", || async {
            replica.check_session(session.playback_id, film).await.unwrap();
            let before = site.world.request_count();
            replica.check_session(session.playback_id, film).await.unwrap();
            site.world.request_count() == before
        })
        .await;
    }
    let started = Instant::now();
    assert!(
        replicas[1].revoke_session(session.playback_id, GateReasonCode::Ended, Vec::new()).await.unwrap()
    );
    assert!(
        !replicas[2].revoke_session(session.playback_id, GateReasonCode::Ended, Vec::new()).await.unwrap(),
        "once"
    );
    for replica in &replicas {
        until("the revocation arrives", || async {
            code(replica.check_session(session.playback_id, film).await) == Some(GateReasonCode::Ended)
        })
        .await;
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // A changed gate reaches what is in memory, too.
    let session = open_playback(&replicas[0], &wallet_viewer(ANN), film).await.unwrap();
    for replica in &replicas {
        replica.check_session(session.playback_id, film).await.unwrap();
    }
    change_rule(&site, film, None).await;
    for replica in &replicas {
        until("the change arrives", || async {
            code(replica.check_session(session.playback_id, film).await) == Some(GateReasonCode::Private)
        })
        .await;
    }
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn the_same_refusal_is_published_once() {
    let site = GateTestSite::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.create_medium(Some(&nft_rule(NFT, Some(1)))).await;
    // More often than all caps allow: what was published already takes no room.
    for _ in 0..700 {
        refused(&grants, &GateViewer::anonymous(), film).await;
    }
    refused(&grants, &wallet_viewer(BOB), film).await;
    let subject = format!("evt.gate.denied.{film}");
    let settings =
        nats::reader::ReaderConfig::new(schemas::subjects::EVENTS, vec![subject], nats::ReaderStart::All);
    assert_eq!(site.admin.open_reader(settings).await.unwrap().pending_at_start(), 2);
    assert!(
        nats::metrics::render_collector(grants.clone()).contains("streamgate_gate_refusals_untold_total 0\n"),
        "{}",
        nats::metrics::render_collector(grants.clone())
    );
}
