//! Contract accounts over HTTP, on two chains of real nodes: what was proven on one counts there, as long as its account says so.

use std::time::Instant;

use alloy_primitives::{Address, B256, Bytes, hex};
use alloy_sol_types::{SolCall, SolValue, sol};
use reqwest::{Method, StatusCode};
use schemas::session::AuthSession;
use serde_json::{Value, json};

use crate::{
    chain::{Anvil, CHAIN_ID, Wallet, config_of, personal_digest},
    gate::{Site, refusal},
    harness::{Cluster, Options, WAIT_MAX},
};

sol! {
    function give(address next) external;
    function make(address owner, bytes32 salt) external returns (address);
    function where(address owner, bytes32 salt) external view returns (address);
    function agree(bytes32 hash) external;
    function digest(bytes32 hash) external view returns (bytes32);
}

/// The other chain.
const ELSEWHERE: u64 = CHAIN_ID + 1;
/// The end of a wrapped signature (ERC-6492).
const WRAPPED: [u8; 32] = hex!("6492649264926492649264926492649264926492649264926492649264926492");

fn settings(a: &Anvil, b: &Anvil) -> String {
    // Each question sees the newest block, which a test just made.
    let chains = [(CHAIN_ID, a), (ELSEWHERE, b)]
        .map(|(id, node)| config_of(id, std::slice::from_ref(&node.url)) + "head_cache = \"0s\"\n");
    // Short, so that nobody waits: an account is asked again for each block, and grants last for two seconds.
    let short = "\n[auth]\nproof = \"0s\"\n[grants]\ngrant = \"2s\"\nrenew_early = \"500ms\"\n";
    chains.concat() + short
}

/// Signs in as `account`, with what `sign` makes of the message; answers status and document.
async fn login(
    cluster: &Cluster,
    (account, chain_id): (Address, u64),
    sign: impl AsyncFnOnce(&str) -> Vec<u8>,
) -> (StatusCode, Value) {
    let post = |path: &str| cluster.http.request(Method::POST, format!("{}{path}", cluster.url));
    let asked = json!({ "address": account.to_string(), "chain_id": chain_id, "ttl_s": 900 });
    let given = post("/v1/auth/challenge").json(&asked).send().await.unwrap();
    assert_eq!(given.status(), StatusCode::CREATED);
    let cookie = given.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let challenge: Value = given.json().await.unwrap();
    let message = challenge["message"].as_str().unwrap();
    let signature = hex::encode_prefixed(sign(message).await);
    let body = json!({ "message": message, "signature": signature });
    let answer = post("/v1/auth/login").header("cookie", cookie).json(&body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Signs in with one key, whatever the account; answers the document.
async fn signed_in(cluster: &Cluster, account: (Address, u64), owner: &Wallet) -> Value {
    let sign = async |text: &str| owner.sign_digest(personal_digest(text));
    let (status, tokens) = login(cluster, account, sign).await;
    assert_eq!(status, StatusCode::CREATED, "{tokens}");
    tokens
}

fn token(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}

fn owner(account: Address, chain_id: u64) -> String {
    format!("eip155:{chain_id}:{}", account.to_string().to_lowercase())
}

/// Makes accounts; at the same address on every chain where it is the first but one contract.
struct Maker {
    at: Address,
}

impl Maker {
    async fn on(anvil: &Anvil) -> Self {
        Self { at: anvil.deploy_account("Maker", Vec::new()).await }
    }

    /// Where the account of `owner` is, or will be.
    async fn place(&self, anvil: &Anvil, owner: &Wallet, salt: u8) -> Address {
        let asked = whereCall { owner: owner.address, salt: B256::repeat_byte(salt) }.abi_encode();
        Address::from_slice(&anvil.view(self.at, asked).await[12..])
    }

    fn making(owner: &Wallet, salt: u8) -> Vec<u8> {
        makeCall { owner: owner.address, salt: B256::repeat_byte(salt) }.abi_encode()
    }

    async fn make(&self, anvil: &Anvil, owner: &Wallet, salt: u8) -> Address {
        anvil.call_as(owner.address, self.at, Self::making(owner, salt)).await;
        self.place(anvil, owner, salt).await
    }

    /// The signature of an account that is not there yet.
    fn wrap(&self, owner: &Wallet, salt: u8, text: &str) -> Vec<u8> {
        let signature = Bytes::from(owner.sign_digest(personal_digest(text)));
        let parts = (self.at, Bytes::from(Self::making(owner, salt)), signature);
        [parts.abi_encode_params(), WRAPPED.to_vec()].concat()
    }
}

async fn give(anvil: &Anvil, account: Address, from: &Wallet, to: &Wallet) {
    anvil.call_as(from.address, account, giveCall { next: to.address }.abi_encode()).await;
}

#[tokio::test]
async fn what_a_contract_proves_on_one_chain_counts_on_no_other() {
    let (a, b) = (Anvil::start().await, Anvil::start_as(ELSEWHERE).await);
    let more = settings(&a, &b);
    let site = Site::over(a, &more).await;
    // The same contracts at the same places.
    b.deploy().await;
    let (ann, mallory) = (Wallet::new(120), Wallet::new(121));
    let (here, there) = (Maker::on(&site.anvil).await, Maker::on(&b).await);
    assert_eq!(here.at, there.at);
    let account = here.make(&site.anvil, &ann, 1).await;
    assert_eq!(there.make(&b, &ann, 1).await, account);
    give(&b, account, &ann, &mallory).await;
    site.anvil.give(site.contract, crate::gate::TOKEN, account).await;
    site.confirm().await;
    site.set_gate(site.nft_rule()).await;

    let (mine, theirs) = (
        signed_in(&site.cluster, (account, CHAIN_ID), &ann).await,
        signed_in(&site.cluster, (account, ELSEWHERE), &mallory).await,
    );
    assert_eq!(mine["owner"], owner(account, CHAIN_ID));
    assert_eq!(theirs["owner"], owner(account, ELSEWHERE));
    let session = site.open(token(&mine)).await;
    let segment = site.play(&session).await;
    let (status, key) = site.ask(Method::POST, "/v1/auth/keys", Some(token(&mine)), Some(json!({}))).await;
    assert_eq!(status, StatusCode::CREATED, "{key}");

    // She plays nothing, sees and revokes no key, and ends no session.
    assert_eq!(refusal(&site.playback(Some(token(&theirs))).await), (401, "wallet_needed"));
    let (_, listed) = site.ask(Method::GET, "/v1/auth/keys", Some(token(&theirs)), None).await;
    assert_eq!(listed["items"], json!([]));
    let path = format!("/v1/auth/keys/{}", key["key_id"].as_str().unwrap());
    let refused = site.ask(Method::DELETE, &path, Some(token(&theirs)), None).await;
    assert_eq!(refusal(&refused), (404, "not_found"));
    let everything = Some(json!({ "all": true, "wallet": account.to_string() }));
    let (status, _) = site.ask(Method::POST, "/v1/auth/logout", Some(token(&theirs)), everything).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(site.ask(Method::GET, "/v1/auth/me", Some(token(&theirs)), None).await.0, 401);
    assert_eq!(site.ask(Method::GET, "/v1/auth/me", Some(token(&mine)), None).await.0, 200);
    let (status, _) = site.ask(Method::GET, "/v1/auth/me", Some(key["key"].as_str().unwrap()), None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(site.fetch(&segment).await.0, StatusCode::OK);

    // Where an account is not there yet its first owner speaks for it, and for it alone.
    let rotated = here.make(&site.anvil, &ann, 2).await;
    give(&site.anvil, rotated, &ann, &mallory).await;
    site.anvil.give(site.contract, crate::gate::TOKEN, rotated).await;
    site.confirm().await;
    let wrapped = async |text: &str| there.wrap(&ann, 2, text);
    let (status, first) = login(&site.cluster, (rotated, ELSEWHERE), wrapped).await;
    assert_eq!((status, &first["owner"]), (StatusCode::CREATED, &json!(owner(rotated, ELSEWHERE))));
    assert_eq!(refusal(&site.playback(Some(token(&first))).await), (401, "wallet_needed"));
    let wrapped = async |text: &str| here.wrap(&ann, 2, text);
    assert_eq!(
        refusal(&login(&site.cluster, (rotated, CHAIN_ID), wrapped).await),
        (401, "signature_refused")
    );
    let new = signed_in(&site.cluster, (rotated, CHAIN_ID), &mallory).await;
    site.open(token(&new)).await;
}

#[tokio::test]
async fn an_owner_who_gave_the_account_away_is_out_and_an_outage_opens_nothing() {
    let (a, b) = (Anvil::start().await, Anvil::start_as(ELSEWHERE).await);
    let more = settings(&a, &b);
    let mut site = Site::over(a, &more).await;
    let (ann, bob) = (Wallet::new(122), Wallet::new(123));
    let account = site.anvil.deploy_account("Account", ann.address.abi_encode()).await;
    site.anvil.give(site.contract, crate::gate::TOKEN, account).await;
    site.confirm().await;
    site.set_gate(site.nft_rule()).await;
    let old = signed_in(&site.cluster, (account, CHAIN_ID), &ann).await;
    let segment = site.play(&site.open(token(&old)).await).await;

    give(&site.anvil, account, &ann, &bob).await;
    site.confirm().await;
    // Nothing opens, no key is made, and neither session goes on.
    let began = Instant::now();
    while site.ask(Method::GET, "/v1/auth/me", Some(token(&old)), None).await.0 != 401 {
        assert!(began.elapsed() < WAIT_MAX, "the old owner stays in");
    }
    assert_eq!(refusal(&site.playback(Some(token(&old))).await), (401, "unauthorized"));
    let refused = site.ask(Method::POST, "/v1/auth/keys", Some(token(&old)), Some(json!({}))).await;
    assert_eq!(refusal(&refused), (401, "unauthorized"));
    let refresh = Some(json!({ "refresh_token": old["refresh_token"] }));
    let refused = site.ask(Method::POST, "/v1/auth/refresh", None, refresh).await;
    assert_eq!(refusal(&refused), (401, "session_over"));
    assert_eq!(refusal(&site.refused(&segment).await), (403, "playback_refused"));

    // While its chain is away the session of the new owner is kept, and opens nothing.
    let new = signed_in(&site.cluster, (account, CHAIN_ID), &bob).await;
    let segment = site.play(&site.open(token(&new)).await).await;
    site.anvil.stop();
    let began = Instant::now();
    while site.ask(Method::GET, "/v1/auth/me", Some(token(&new)), None).await.0 != 503 {
        assert!(began.elapsed() < WAIT_MAX, "nobody asks the account");
    }
    assert_eq!(site.playback(Some(token(&new))).await.0, 503);
    let refused = site.ask(Method::POST, "/v1/auth/keys", Some(token(&new)), Some(json!({}))).await;
    assert_eq!(refusal(&refused), (503, "unavailable"));
    assert_eq!(site.refused(&segment).await.0, 503);
    let id = new["session_id"].as_str().unwrap();
    let session = site.cluster.bus.load_record::<AuthSession>(id).await.unwrap().unwrap().record;
    assert!(session.is_open(nats::now_ms()), "{session:?}");
    // Who has a key needs no chain.
    signed_in(&site.cluster, (ann.address, CHAIN_ID), &ann).await;
}

#[tokio::test]
async fn accounts_of_every_kind_sign_in() {
    let (a, b) = (Anvil::start().await, Anvil::start_as(ELSEWHERE).await);
    let options = Options { without_workers: true, ..Options::default() };
    let cluster = Cluster::start_with(options, &settings(&a, &b)).await;
    let (ann, bob, cat) = (Wallet::new(124), Wallet::new(125), Wallet::new(126));
    let maker = Maker::on(&a).await;

    // A key, before and after its account delegates to a contract that does not know it (EIP-7702).
    let name = format!("eip155:{}", cat.address.to_string().to_lowercase());
    assert_eq!(signed_in(&cluster, (cat.address, CHAIN_ID), &cat).await["owner"], name);
    a.delegate(cat.address, maker.at).await;
    assert_eq!(signed_in(&cluster, (cat.address, CHAIN_ID), &cat).await["owner"], name);
    assert_eq!(signed_in(&cluster, (cat.address, ELSEWHERE), &cat).await["owner"], name);

    // A contract (ERC-1271), and one that is not there yet (ERC-6492).
    let account = maker.make(&a, &ann, 1).await;
    let tokens = signed_in(&cluster, (account, CHAIN_ID), &ann).await;
    assert_eq!(tokens["owner"], owner(account, CHAIN_ID));
    let later = maker.place(&a, &ann, 2).await;
    let wrapped = async |text: &str| maker.wrap(&ann, 2, text);
    let (status, tokens) = login(&cluster, (later, CHAIN_ID), wrapped).await;
    assert_eq!((status, &tokens["owner"]), (StatusCode::CREATED, &json!(owner(later, CHAIN_ID))));

    // An account of several owners: two of three sign its own digest, or agree on the chain and send nothing.
    let mut owners = [&ann, &bob, &cat];
    owners.sort_by_key(|wallet| wallet.address);
    let first = (owners.map(|wallet| wallet.address).to_vec(), alloy_primitives::U256::from(2));
    let safe = a.deploy_account("Safe", first.abi_encode_params()).await;
    let signed_by = async |text: &str, count: usize| {
        let asked = digestCall { hash: personal_digest(text) }.abi_encode();
        let digest = B256::from_slice(&a.view(safe, asked).await);
        owners[..count].iter().flat_map(|wallet| wallet.sign_digest(digest)).collect::<Vec<u8>>()
    };
    let one = login(&cluster, (safe, CHAIN_ID), async |text: &str| signed_by(text, 1).await).await;
    assert_eq!(refusal(&one), (401, "signature_refused"));
    let (status, tokens) =
        login(&cluster, (safe, CHAIN_ID), async |text: &str| signed_by(text, 2).await).await;
    assert_eq!((status, &tokens["owner"]), (StatusCode::CREATED, &json!(owner(safe, CHAIN_ID))));
    let agreed = async |text: &str, count: usize| {
        let data = agreeCall { hash: personal_digest(text) }.abi_encode();
        for wallet in &owners[..count] {
            a.call_as(wallet.address, safe, data.clone()).await;
        }
        Vec::new()
    };
    let one = login(&cluster, (safe, CHAIN_ID), async |text: &str| agreed(text, 1).await).await;
    assert_eq!(refusal(&one), (401, "signature_refused"));
    let (status, tokens) = login(&cluster, (safe, CHAIN_ID), async |text: &str| agreed(text, 2).await).await;
    assert_eq!((status, &tokens["owner"]), (StatusCode::CREATED, &json!(owner(safe, CHAIN_ID))));
}
