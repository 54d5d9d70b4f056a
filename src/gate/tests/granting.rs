//! Playback sessions on a real broker.

use std::{collections::BTreeSet, future::Future, time::Duration};

use evm::testing::{CHAIN, Mood, NFT, NOTHING};
use nats::Role;
use schemas::{
    gate::{self, GateGranted, GateReasonCode, GateRevoked, GateRule},
    ids::{MediaId, PlaybackId},
    subjects, view,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::testing::site::{OWNER, Site, holder, play};
use crate::{
    Viewer, ViewerRights,
    grant::{self, Denied, Grants, Renewal},
    rule::compile,
    testing::{ANN, BOB, any, change_rule, listed, nft},
};

const SOON: Duration = Duration::from_secs(20);

fn code(outcome: Result<(), Denied>) -> Option<GateReasonCode> {
    match outcome {
        Ok(()) => None,
        Err(Denied::Closed { code, .. }) => Some(code),
        Err(other) => panic!("{other}"),
    }
}

async fn refused(grants: &Grants, viewer: &Viewer, media_id: MediaId) -> GateReasonCode {
    code(play(grants, viewer, media_id).await.map(drop)).expect("refused")
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
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let media_id = site.medium(None).await;
    assert_eq!(refused(&grants, &holder(ANN), media_id).await, GateReasonCode::Private);
    assert_eq!(refused(&grants, &Viewer::anonymous(), media_id).await, GateReasonCode::Private);
    let operator = Viewer { name: OWNER.into(), wallet: None, rights: ViewerRights::None, opener: None };
    assert_eq!(refused(&grants, &operator, media_id).await, GateReasonCode::Private);
    assert_eq!(refused(&grants, &holder(ANN), MediaId::from_bytes([9; 16])).await, GateReasonCode::Gone);
    let denied = site.event::<gate::GateDenied>(media_id).await.expect("every refusal is told");
    assert_eq!(denied.code, GateReasonCode::Private);
    for (name, rights) in [(OWNER, ViewerRights::Owner), ("root", ViewerRights::Admin)] {
        let viewer = Viewer { name: name.into(), wallet: None, rights, opener: None };
        let session = play(&grants, &viewer, media_id).await.unwrap();
        grants.check(session.playback_id, media_id).await.unwrap();
        assert_eq!(site.event::<GateGranted>(media_id).await.unwrap().code, GateReasonCode::Owner);
    }
    let open = site.medium(Some(&GateRule::Public {})).await;
    let session = play(&grants, &Viewer::anonymous(), open).await.unwrap();
    grants.check(session.playback_id, open).await.unwrap();
    assert_eq!(site.event::<GateGranted>(open).await, None, "volume, not history");
    let subject = format!("view.{}.opened.{open}", view::partition_of_media(&open));
    let views = site.admin.context().get_stream(subjects::VIEWS).await.unwrap();
    let viewed = views.get_last_raw_message_by_subject(&subject).await.unwrap();
    let viewed: view::ViewOpened = nats::decode_message(&subject, &viewed.payload).unwrap();
    assert_eq!((viewed.media_id, viewed.playback_id), (open, session.playback_id));
    // Who signed in is told by name, whatever the gate asks.
    let session = play(&grants, &holder(ANN), open).await.unwrap();
    assert_eq!(site.event::<GateGranted>(open).await.unwrap().playback_id, session.playback_id);
}

#[tokio::test]
async fn a_session_plays_its_medium_and_no_other() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (film, other) = (site.medium(Some(&nft(NFT, Some(1)))).await, site.medium(None).await);
    assert_eq!(refused(&grants, &holder(BOB), film).await, GateReasonCode::NotOwner);
    assert_eq!(refused(&grants, &Viewer::anonymous(), film).await, GateReasonCode::WalletNeeded);
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    let granted = site.event::<GateGranted>(film).await.unwrap();
    assert_eq!(granted.rule_digest, compile(&nft(NFT, Some(1))).unwrap().digest);
    assert_eq!(granted.blocks[0].hash, site.world.head().hash.to_string());
    assert_eq!(code(grants.check(session.playback_id, film).await), None);
    assert_eq!(code(grants.check(session.playback_id, other).await), Some(GateReasonCode::SessionUnknown));
    let unknown = PlaybackId::from_bytes([5; 16]);
    assert_eq!(code(grants.check(unknown, film).await), Some(GateReasonCode::SessionUnknown));
}

#[tokio::test]
async fn a_grant_is_renewed_while_the_gate_holds_and_ends_with_it() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    for _ in 0..5 {
        site.pass_ms(50_000);
        assert_eq!(code(grants.check(session.playback_id, film).await), None);
    }
    let renewed = site.session(&session).await;
    assert!(renewed.granted_until_ms >= session.granted_until_ms + 200_000);
    site.world.transfer(1, Some(BOB));
    site.world.sync_all();
    site.pass_ms(60_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
    assert_eq!(site.session(&session).await.revoked, Some(GateReasonCode::NotOwner));
    let revoked = site.event::<GateRevoked>(film).await.unwrap();
    assert_eq!((revoked.playback_id, revoked.code), (session.playback_id, GateReasonCode::NotOwner));
    // Over is over, even when the token comes back.
    site.world.reorganise(1);
    site.world.sync_all();
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
}

#[tokio::test]
async fn a_gate_known_to_be_closed_is_closed_though_nobody_can_write_it_down() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let shutdown = CancellationToken::new();
    let (running, stop) = (grants.clone(), shutdown.clone());
    let hearing = tokio::spawn(async move { running.run(stop).await });
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    site.remembered(&grants, &session).await;
    site.fill_grants(true).await;
    site.world.transfer(1, Some(BOB));
    site.world.sync_all();
    site.pass_ms(50_000);
    for _ in 0..2 {
        assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
    }
    assert_eq!(site.session(&session).await.revoked, None, "there is no room");
    site.fill_grants(false).await;
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::NotOwner));
    assert_eq!(
        site.session(&session).await.revoked,
        Some(GateReasonCode::NotOwner),
        "the next request writes it"
    );
    shutdown.cancel();
    hearing.await.unwrap().unwrap();
}

#[tokio::test]
async fn two_hours_play_without_the_player_noticing() {
    const KEY: &[u8] = b"a key";
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let (running, shutdown) = (grants.clone(), CancellationToken::new());
    let stop = shutdown.clone();
    let hearing = tokio::spawn(async move { running.run(stop).await.unwrap() });
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    assert!(session.expires_at_ms - session.opened_at_ms >= 7_200_000, "the longest life allows it");
    until("sessions are remembered", || async {
        grants.check(session.playback_id, film).await.unwrap();
        let before = site.world.requests();
        grants.check(session.playback_id, film).await.unwrap();
        site.world.requests() == before
    })
    .await;
    // The player was given one address, and asks for a segment of four seconds after the other.
    let token = grant::token::seal(KEY, session.playback_id);
    let mut ends = BTreeSet::from([session.granted_until_ms]);
    let mut from_memory = 0;
    for segment in 0..7_200 / 4 {
        site.pass_ms(4_000);
        site.world.pass(4);
        if segment % 3 == 0 {
            site.world.mine(|_| {});
            site.world.sync_all();
        }
        let before = site.world.requests();
        let playback_id = grant::token::open(KEY, &token).unwrap();
        assert_eq!(code(grants.check(playback_id, film).await), None, "segment {segment}");
        from_memory += usize::from(site.world.requests() == before);
        ends.insert(site.session(&session).await.granted_until_ms);
    }
    // A grant lasts a minute and is renewed in its last quarter.
    let renewals = ends.len() - 1;
    assert!((120..=165).contains(&renewals), "{renewals} renewals");
    assert!(from_memory >= 1_800 - 2 * renewals, "{from_memory} segments from memory");
    shutdown.cancel();
    hearing.await.unwrap();
}

#[tokio::test]
async fn nodes_that_are_away_cost_no_more_than_the_minute() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    (0..3).for_each(|node| site.world.mood(node, Mood::Down));
    assert_eq!(refused(&grants, &holder(ANN), film).await, GateReasonCode::ChainUnavailable);
    site.pass_ms(55_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), None, "the grant is good to its end");
    site.pass_ms(5_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::ChainUnavailable));
    assert_eq!(site.session(&session).await.revoked, None, "nobody said that it is over");
    (0..3).for_each(|node| site.world.mood(node, Mood::Honest));
    // The nodes rest after their faults; then the session goes on.
    until("the session goes on", || async { grants.check(session.playback_id, film).await.is_ok() }).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_chain_is_counted_and_told() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let bus = site.broker.bus(Role::Ingress).await;
    let counts = grants.judge().chains().counts();
    let told = async || {
        counts.tell(&bus).await;
        let subject = format!("evt.gate.doubted.{CHAIN}");
        let stream = site.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
        let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
        Some(nats::decode_message::<gate::GateDoubted>(&subject, &message.payload).unwrap())
    };
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    play(&grants, &holder(ANN), film).await.unwrap();
    assert_eq!(told().await, None, "all is well");

    let absent = site.medium(Some(&nft(NOTHING, Some(1)))).await;
    assert_eq!(refused(&grants, &holder(ANN), absent).await, GateReasonCode::ContractAbsent);
    let doubted = told().await.unwrap();
    assert_eq!(
        (doubted.what, doubted.contract),
        (gate::ChainDataIssue::ContractAbsent, Some(NOTHING.to_string()))
    );

    // Three answers, and no two alike, at the newest block and at the confirmed one.
    site.world.transfer(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine(|_| {}));
    site.world.sync_all();
    site.world.mood(0, Mood::ClaimsAll);
    site.world.mood(1, Mood::ClaimsNone);
    assert_eq!(refused(&grants, &holder(ANN), film).await, GateReasonCode::ChainDisagrees);
    let doubted = told().await.unwrap();
    assert_eq!((doubted.chain_id, doubted.what), (CHAIN, gate::ChainDataIssue::Disagreement));
    assert_eq!(doubted.providers.len(), 3, "{doubted:?}");

    // The third is a block behind.
    (0..2).for_each(|node| site.world.mood(node, Mood::Honest));
    site.world.mine(|_| {});
    (0..2).for_each(|node| site.world.sync(node));
    assert_eq!(refused(&grants, &holder(ANN), film).await, GateReasonCode::NotOwner);
    let lag = "streamgate_chain_head_lag_blocks{chain_id=\"1337\",provider=\"3\"} 1";
    assert!(counts.metrics().lines().any(|line| line == lag), "{}", counts.metrics());
    site.world.mood(0, Mood::Down);
    assert_eq!(refused(&grants, &holder(ANN), film).await, GateReasonCode::ChainUnavailable);
    let text = counts.metrics();
    for line in [
        "streamgate_gate_decisions_total{code=\"rule_holds\"} 1",
        "streamgate_gate_decisions_total{code=\"contract_absent\"} 1",
        "streamgate_gate_decisions_total{code=\"chain_disagrees\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let fault = "streamgate_chain_faults_total{chain_id=\"1337\",provider=\"1\",kind=\"unreachable\"}";
    assert!(text.contains(fault), "{text}");
    openmetrics_parser::openmetrics::parse_openmetrics(&format!("{text}# EOF\n")).unwrap();
}

#[tokio::test]
async fn the_newest_session_has_the_token() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let other = site.medium(Some(&nft(NFT, Some(1)))).await;
    let first = play(&grants, &holder(ANN), film).await.unwrap();
    let second = play(&grants, &holder(ANN), other).await.unwrap();
    assert_eq!(code(grants.check(first.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check(second.playback_id, other).await), None);
    // Sign in, transfer, sign in again: the token has one viewer.
    site.world.transfer(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine(|_| {}));
    site.world.sync_all();
    let third = play(&grants, &holder(BOB), film).await.unwrap();
    assert_eq!(code(grants.check(second.playback_id, other).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check(third.playback_id, film).await), None);
    // Two at a time where the rule says so.
    let GateRule::Erc721Owner { chain_id, contract, .. } = nft(NFT, Some(1)) else { panic!() };
    let two = GateRule::Erc721Owner { chain_id, contract, token_id: None, sessions_max: Some(2) };
    let pair = site.medium(Some(&two)).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(play(&grants, &holder(BOB), pair).await.unwrap().playback_id);
    }
    let mut codes = Vec::new();
    for session in sessions {
        codes.push(code(grants.check(session, pair).await));
    }
    assert_eq!(codes, [Some(GateReasonCode::Displaced), None, None]);
}

#[tokio::test]
async fn a_session_moves_to_the_token_it_rests_on() {
    let site = Site::start().await;
    site.world.transfer(2, Some(ANN));
    (0..3).for_each(|_| site.world.mine(|_| {}));
    site.world.sync_all();
    let grants = site.grants(Role::Ingress).await;
    let (one, two) = (nft(NFT, Some(1)), nft(NFT, Some(2)));
    let film = site.medium(Some(&any(&[one.clone(), two.clone()]))).await;
    let (first, second) = (site.medium(Some(&one)).await, site.medium(Some(&two)).await);
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    // The token it was let in by is somebody else's; it rests on the other one, as its record says.
    site.world.transfer(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine(|_| {}));
    site.world.sync_all();
    site.pass_ms(50_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), None);
    assert_ne!(site.session(&session).await.slots, session.slots);
    // Whoever has the first token now displaces nobody, and is displaced by nobody.
    let bobs = play(&grants, &holder(BOB), first).await.unwrap();
    assert_eq!(code(grants.check(session.playback_id, film).await), None);
    // The second token has one viewer.
    let newer = play(&grants, &holder(ANN), second).await.unwrap();
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check(newer.playback_id, second).await), None);
    assert_eq!(code(grants.check(bobs.playback_id, first).await), None);
}

#[tokio::test]
async fn a_session_that_lost_its_token_to_another_viewer_is_over() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&any(&[nft(NFT, Some(1)), listed(&[ANN])]))).await;
    let first = play(&grants, &holder(ANN), film).await.unwrap();
    let second = play(&grants, &holder(ANN), film).await.unwrap();
    site.pass_ms(50_000);
    assert_eq!(code(grants.check(first.playback_id, film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check(second.playback_id, film).await), None);
    // Sold, and still on the list: it goes on, and takes nobody's place.
    site.world.transfer(1, Some(BOB));
    (0..2).for_each(|_| site.world.mine(|_| {}));
    site.world.sync_all();
    site.pass_ms(50_000);
    assert_eq!(code(grants.check(second.playback_id, film).await), None);
    assert_eq!(site.session(&second).await.slots, Vec::<String>::new());
}

#[tokio::test]
async fn a_session_has_an_end_and_a_changed_rule_asks_again() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    site.pass_ms(12 * 3_600_000);
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::Expired));
    let session = play(&grants, &holder(ANN), film).await.unwrap();
    change_rule(&site, film, Some(&nft(NFT, Some(2)))).await;
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::ContractFailed));
    change_rule(&site, film, Some(&GateRule::Public {})).await;
    let session = play(&grants, &holder(BOB), film).await.unwrap();
    change_rule(&site, film, None).await;
    assert_eq!(code(grants.check(session.playback_id, film).await), Some(GateReasonCode::Private));
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_early() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&GateRule::Public {})).await;
    let (used, unused) = (
        play(&grants, &Viewer::anonymous(), film).await.unwrap(),
        play(&grants, &Viewer::anonymous(), film).await.unwrap(),
    );
    for _ in 0..2 {
        site.pass_ms(3_000_000);
        assert_eq!(code(grants.check(used.playback_id, film).await), None);
        // A transfer on the chain evaluates a session again, and is no use of it.
        grants.renew(unused.playback_id, film).await.unwrap();
    }
    site.pass_ms(3_000_000);
    assert_eq!(code(grants.check(unused.playback_id, film).await), Some(GateReasonCode::Expired));
    assert_eq!(code(grants.check(used.playback_id, film).await), None);
}

#[tokio::test]
async fn a_client_and_a_wallet_have_so_many_sessions_and_what_plays_ends_for_no_other() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&GateRule::Public {})).await;
    let home: Option<std::net::IpAddr> = Some("192.0.2.1".parse().unwrap());
    let open = async |viewer: &Viewer, client| {
        grants
            .open(grants.admit(viewer, film).await.unwrap(), client)
            .await
            .map(|session| session.playback_id)
    };
    let anybody = Viewer::anonymous();
    let mut playing = Vec::new();
    for _ in 0..200 {
        let session = open(&anybody, home).await.unwrap();
        assert_eq!(code(grants.check(session, film).await), None);
        playing.push(session);
    }
    // Somebody behind the same address opens what nobody plays.
    let mut unplayed = Vec::new();
    for _ in 0..101 {
        unplayed.push(open(&anybody, home).await.unwrap());
    }
    for session in &playing {
        assert_eq!(code(grants.check(*session, film).await), None);
    }
    assert_eq!(code(grants.check(unplayed[0], film).await), Some(GateReasonCode::Displaced));
    assert_eq!(code(grants.check(unplayed[1], film).await), None);
    // Elsewhere there is room, and a wallet has less of it, wherever it comes from.
    open(&anybody, Some("192.0.2.2".parse().unwrap())).await.unwrap();
    let mut anns = Vec::new();
    for n in 0..51_u8 {
        anns.push(open(&holder(ANN), Some([192, 0, 2, 100 + n].into())).await.unwrap());
    }
    assert_eq!(code(grants.check(anns[0], film).await), Some(GateReasonCode::Displaced));
    for session in &anns[1..] {
        assert_eq!(code(grants.check(*session, film).await), None);
    }
    assert!(matches!(open(&holder(ANN), None).await, Err(Denied::Busy)), "all of them play");
    site.pass_ms(130_000);
    for session in &anns[2..] {
        assert_eq!(code(grants.check(*session, film).await), None);
    }
    open(&holder(ANN), None).await.unwrap();
    assert_eq!(
        code(grants.check(anns[1], film).await),
        Some(GateReasonCode::Displaced),
        "the one that lay idle"
    );
    // A key of the service opens sessions for others.
    let key = Viewer { name: "olga".into(), wallet: None, rights: ViewerRights::Owner, opener: None };
    for _ in 0..110 {
        open(&key, home).await.unwrap();
    }
    assert_eq!(code(grants.check(unplayed[2], film).await), None);
}

#[tokio::test]
async fn a_session_that_another_replica_plays_does_not_end_for_a_newer_one() {
    let site = Site::start().await;
    let (one, two) = (site.grants(Role::Ingress).await, site.grants(Role::Ingress).await);
    let film = site.medium(Some(&GateRule::Public {})).await;
    let home: Option<std::net::IpAddr> = Some("192.0.2.1".parse().unwrap());
    let open = async || {
        let admission = one.admit(&Viewer::anonymous(), film).await.unwrap();
        one.open(admission, home).await.unwrap().playback_id
    };
    let (played, unplayed) = (open().await, open().await);
    assert_eq!(code(two.check(played, film).await), None);
    for _ in 0..100 {
        open().await;
    }
    assert_eq!(code(two.check(played, film).await), None);
    assert_eq!(code(two.check(unplayed, film).await), Some(GateReasonCode::Displaced));
}

#[tokio::test]
async fn background_work_takes_no_slot_from_who_plays() {
    let site = Site::start().await;
    let (ingress, keeper) = (site.grants(Role::Ingress).await, site.grants(Role::Keeper).await);
    let film = site.medium(Some(&nft(NFT, None))).await;
    let playing = play(&ingress, &holder(ANN), film).await.unwrap();
    assert_eq!(code(ingress.check(playing.playback_id, film).await), None);
    // Opened by another rule, which the first session's token does not open, and never used.
    let other = site.medium(Some(&GateRule::Public {})).await;
    let unused = play(&ingress, &holder(ANN), other).await.unwrap();
    change_rule(&site, other, Some(&nft(NFT, None))).await;
    assert_eq!(keeper.renew(unused.playback_id, other).await.unwrap(), Renewal::Waits);
    assert_eq!(code(ingress.check(playing.playback_id, film).await), None);
    assert_eq!(site.session(&playing).await.revoked, None);
    // Who comes to play takes it.
    assert_eq!(code(ingress.check(unused.playback_id, other).await), None);
    assert_eq!(code(ingress.check(playing.playback_id, film).await), Some(GateReasonCode::Displaced));
    // What is free is taken without anybody's use.
    let third = site.medium(Some(&GateRule::Public {})).await;
    let free = play(&ingress, &holder(ANN), third).await.unwrap();
    change_rule(&site, third, Some(&nft(NFT, Some(1)))).await;
    assert_eq!(keeper.renew(free.playback_id, third).await.unwrap(), Renewal::Renewed);
    assert_eq!(site.session(&free).await.slots.len(), 1);
}

#[tokio::test]
async fn every_replica_hears_of_a_revocation() {
    let site = Site::start().await;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let grants = site.grants(Role::Ingress).await;
        let (running, stop) = (grants.clone(), shutdown.clone());
        tasks.spawn(async move { running.run(stop).await.unwrap() });
        replicas.push(grants);
    }
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    let session = play(&replicas[0], &holder(ANN), film).await.unwrap();
    // From memory: no node is asked any more once every replica knows the session.
    for replica in &replicas {
        until("the replica remembers", || async {
            replica.check(session.playback_id, film).await.unwrap();
            let before = site.world.requests();
            replica.check(session.playback_id, film).await.unwrap();
            site.world.requests() == before
        })
        .await;
    }
    let started = Instant::now();
    assert!(replicas[1].revoke(session.playback_id, GateReasonCode::Ended, Vec::new()).await.unwrap());
    assert!(
        !replicas[2].revoke(session.playback_id, GateReasonCode::Ended, Vec::new()).await.unwrap(),
        "once"
    );
    for replica in &replicas {
        until("the revocation arrives", || async {
            code(replica.check(session.playback_id, film).await) == Some(GateReasonCode::Ended)
        })
        .await;
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // A changed gate reaches what is in memory, too.
    let session = play(&replicas[0], &holder(ANN), film).await.unwrap();
    for replica in &replicas {
        replica.check(session.playback_id, film).await.unwrap();
    }
    change_rule(&site, film, None).await;
    for replica in &replicas {
        until("the change arrives", || async {
            code(replica.check(session.playback_id, film).await) == Some(GateReasonCode::Private)
        })
        .await;
    }
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn the_same_refusal_is_told_once() {
    let site = Site::start().await;
    let grants = site.grants(Role::Ingress).await;
    let film = site.medium(Some(&nft(NFT, Some(1)))).await;
    // More often than all caps allow: what is told already takes no room.
    for _ in 0..700 {
        refused(&grants, &Viewer::anonymous(), film).await;
    }
    refused(&grants, &holder(BOB), film).await;
    let subject = format!("evt.gate.denied.{film}");
    let settings =
        nats::reader::ReaderConfig::new(schemas::subjects::EVENTS, vec![subject], nats::ReaderStart::All);
    assert_eq!(site.admin.open_reader(settings).await.unwrap().pending_at_start(), 2);
    assert!(grants.metrics().contains("streamgate_gate_refusals_untold_total 0\n"), "{}", grants.metrics());
}
