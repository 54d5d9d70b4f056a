//! Gates that close in the middle, with the periods that are shipped: by a transfer, by the end of the token, by blocks that go.

use std::{net::TcpListener, time::Instant};

use alloy_primitives::Address;
use reqwest::StatusCode;

use crate::{
    chain::{self, Anvil, CHAIN_ID, Wallet},
    gate::{REVOKED_WITHIN, Site, TOKEN, refusal},
};

/// Transfers of one test; each meets the watcher at another moment of its period.
const ROUNDS: usize = 4;

/// Hands the token to and fro between two wallets while its holder plays.
async fn transfers_close_in_time(site: &Site) {
    let wallets = [Wallet::new(81), Wallet::new(82)];
    let tokens = [wallets[0].token(&site.cluster).await, wallets[1].token(&site.cluster).await];
    site.mint(&wallets[0]).await;
    site.set_gate(site.nft_rule()).await;
    for round in 0..ROUNDS {
        let segment = site.play(&site.open(&tokens[round % 2]).await).await;
        // Before the block: it can't be there earlier.
        let block = Instant::now();
        site.anvil.give(site.contract, TOKEN, wallets[(round + 1) % 2].address).await;
        let refused = site.refused(&segment).await;
        let took = block.elapsed();
        assert_eq!(refusal(&refused), (403, "playback_refused"), "{}", refused.1);
        assert_eq!(refused.1["reason"], "not_owner", "{}", refused.1);
        assert!(took <= REVOKED_WITHIN, "round {round}: {took:?}");
        site.confirm().await;
    }
}

#[tokio::test]
async fn the_segment_after_a_transfer_is_refused_within_two_seconds() {
    transfers_close_in_time(&Site::start().await).await;
}

#[tokio::test]
async fn one_of_three_providers_that_hangs_delays_no_refusal() {
    let anvil = Anvil::start().await;
    // It takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let other = anvil.url.replace("127.0.0.1", "localhost");
    let config = chain::config(&[hanging, anvil.url.clone(), other]);
    let site = Site::over(anvil, &config).await;
    transfers_close_in_time(&site).await;
    let request =
        site.cluster.http.get(format!("{}/metrics", site.cluster.url)).bearer_auth(&site.cluster.key);
    let metrics = request.send().await.unwrap().text().await.unwrap();
    for line in [
        "streamgate_gate_decisions_total{code=\"rule_holds\"} ".to_owned(),
        format!("streamgate_chain_head_lag_blocks{{chain_id=\"{CHAIN_ID}\",provider=\"3\"}} 0"),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_burnt_token_and_blocks_that_go_close_the_gate() {
    let site = Site::start().await;
    let (ann, bob) = (Wallet::new(81), Wallet::new(82));
    let token = ann.token(&site.cluster).await;
    site.mint(&ann).await;
    site.set_gate(site.nft_rule()).await;
    let segment = site.play(&site.open(&token).await).await;
    let block = Instant::now();
    site.anvil.give(site.contract, TOKEN, Address::ZERO).await;
    let refused = site.refused(&segment).await;
    let took = block.elapsed();
    assert_eq!(
        (refusal(&refused), &refused.1["reason"]),
        ((403, "playback_refused"), &"contract_failed".into())
    );
    assert!(took <= REVOKED_WITHIN, "{took:?}");

    // The token comes back, and the block in which it did is gone again.
    site.mint(&ann).await;
    let segment = site.play(&site.open(&token).await).await;
    let block = Instant::now();
    site.anvil.reorganise(2).await;
    let refused = site.refused(&segment).await;
    let took = block.elapsed();
    assert_eq!(
        (refusal(&refused), &refused.1["reason"]),
        ((403, "playback_refused"), &"contract_failed".into())
    );
    assert!(took <= REVOKED_WITHIN, "{took:?}");
    // The ingress may take the block that is gone for the newest as long as a head is kept, and no longer.
    let gone = Instant::now();
    site.confirm().await;
    while refusal(&site.playback(Some(&token)).await) != (403, "gate_closed") {
        assert!(gone.elapsed() <= REVOKED_WITHIN, "the gate is open by a block that is gone");
    }

    // A transfer is undone: what it ended is over, and who has the token again begins again.
    site.mint(&ann).await;
    let segment = site.play(&site.open(&token).await).await;
    site.give(&bob).await;
    assert_eq!(site.refused(&segment).await.1["reason"], "not_owner");
    site.anvil.reorganise(1).await;
    let again = site.play(&site.open(&token).await).await;
    assert_eq!(site.fetch(&again).await.0, StatusCode::OK);
    assert_eq!(site.fetch(&segment).await.0, StatusCode::FORBIDDEN);
}
