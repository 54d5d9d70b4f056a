//! Holes seen in comparable systems, attacked over HTTP from outside; the numbers are those of `src/auth/tests/holes.rs`.

use std::{net::TcpListener, time::Instant};

use async_nats::jetstream::kv;
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use schemas::{access, document, media, session::KeyRing};
use serde_json::{Value, json};

use crate::{
    chain::{CHAIN_ID, RPC_SECRET, Wallet},
    gate::{Site, refusal},
    harness::{Cluster, Options},
    tus,
};

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Names under which credentials are looked for elsewhere.
const NAMES: [&str; 7] = ["token", "access_token", "jwt", "authorization", "key", "api_key", "playback"];

/// A bucket of the installation, as somebody with all rights sees it.
async fn bucket(cluster: &Cluster, name: &str) -> kv::Store {
    cluster.bus.context().get_key_value(name).await.unwrap()
}

/// Settings by which wallets sign in where no node is, as often as they like.
fn wallets() -> String {
    let rate = "auth = { capacity = 1000000, refill_per_s = 100000 }";
    format!("\n[auth]\nchains = [{CHAIN_ID}]\n[ingress.limit.rates]\n{rate}\n")
}

/// An owner of nothing here.
async fn stranger(cluster: &Cluster) -> String {
    auth::create_api_key(&cluster.bus, "mallory", access::PrincipalRole::Owner).await.unwrap()
}

#[tokio::test]
async fn hole_1_a_token_in_the_url_switches_nothing_off_and_makes_no_session() {
    let site = Site::start().await;
    let key = site.cluster.key.clone();
    let (_, session) = site.playback(Some(&key)).await;
    let access_token = Wallet::new(91).token(&site.cluster).await;
    let media = format!("/v1/media/{}", site.media_id);
    let tokens = ["x", session["token"].as_str().unwrap(), &access_token, &key];
    for (name, token) in NAMES.iter().flat_map(|name| tokens.map(|token| (name, token))) {
        for (method, path) in [
            (Method::GET, "/v1/auth/me"),
            (Method::GET, "/v1/jobs"),
            (Method::GET, &media),
            (Method::GET, &format!("{media}/gate")),
            (Method::DELETE, &format!("{media}/gate")),
            (Method::POST, &format!("{media}/playback")),
            (Method::POST, "/v1/uploads"),
        ] {
            let answer = site.ask(method, &format!("{path}?{name}={token}"), None, None).await;
            // Who asks for a playback may be anybody, so there the parameter itself is refused.
            let is_open = path.ends_with("/playback");
            let wanted = if is_open { (400, "query_malformed") } else { (401, "unauthorized") };
            assert_eq!(refusal(&answer), wanted, "{path}?{name}: {}", answer.1);
        }
    }
    // In the place of a credential, a token that was made up or made for a player makes no other one.
    for token in ["x", "null", session["token"].as_str().unwrap()] {
        assert_eq!(refusal(&site.playback(Some(token)).await), (401, "unauthorized"));
    }
}

#[tokio::test]
async fn hole_2_a_viewer_does_not_choose_the_contract() {
    let site = Site::start().await;
    let mallory = Wallet::new(92);
    let token = mallory.token(&site.cluster).await;
    site.set_gate(site.nft_rule()).await;
    let own = site.anvil.deploy().await;
    site.anvil.give(own, 7, mallory.address).await;
    site.confirm().await;
    let named = json!({
        "kind": "erc721_owner", "chain_id": CHAIN_ID, "contract": own.to_string(), "token_id": "7"
    });
    // It does own that token, and that is no answer to the rule.
    let question = json!({ "address": mallory.address.to_string(), "rule": named });
    let (_, answer) = site.ask(Method::POST, "/v1/auth/nft", Some(&token), Some(question)).await;
    assert_eq!(answer["holds"], true, "{answer}");
    let path = format!("/v1/media/{}/playback", site.media_id);
    let query = format!("{path}?contract={own}&chain_id={CHAIN_ID}&token_id=7&wallet={}", site.contract);
    for (path, body) in [
        (&path, json!({ "rule": named })),
        (&path, named.clone()),
        (&path, json!({ "contract": own.to_string(), "token_id": "7" })),
        (&path, json!({ "wallet": site.contract.to_string() })),
    ] {
        let answer = site.ask(Method::POST, path, Some(&token), Some(body)).await;
        assert_eq!(refusal(&answer), (403, "gate_closed"), "{path}: {}", answer.1);
    }
    let answer = site.ask(Method::POST, &query, Some(&token), Some(named)).await;
    assert_eq!(refusal(&answer), (400, "query_malformed"), "{}", answer.1);
    let headers = site.cluster.http.post(format!("{}{path}", site.cluster.url)).bearer_auth(&token);
    let headers = headers.header("x-contract", own.to_string()).header("x-nft-contract", own.to_string());
    assert_eq!(headers.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn hole_3_a_gate_that_is_unreadable_absent_or_gone_lets_nobody_in() {
    let mut site = Site::start().await;
    // A second replica, which shares no memory with the one that is attacked.
    let second = site.cluster.spawn("second", &["ingress", "--listen", "127.0.0.1:0"]);
    let site = site;
    let cluster = &site.cluster;
    let token = Wallet::new(93).token(cluster).await;
    let refused = async |what: &str, wanted: [u16; 2]| {
        let found = (site.playback(Some(&token)).await, site.playback(None).await);
        assert_eq!([found.0.0.as_u16(), found.1.0.as_u16()], wanted, "{what}: {found:?}");
        for answer in [found.0.1, found.1.1] {
            assert!(answer.get("token").is_none() && answer.get("hls_url").is_none(), "{what}: {answer}");
        }
    };
    refused("no rule", [404, 401]).await;
    // A public medium, so that whatever is refused now is refused for the record alone.
    site.set_gate(json!({ "kind": "public" })).await;
    let (status, session) = site.playback(None).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let documents = bucket(cluster, <document::MediaDocumentRecord as schemas::KvRecord>::BUCKET).await;
    let good = documents.get(&site.media_id).await.unwrap().unwrap();
    for garbage in [&b"garbage"[..], b"", b"\x80", b"{}"] {
        documents.put(&site.media_id, garbage.to_vec().into()).await.unwrap();
        refused("garbage", [500, 500]).await;
    }
    documents.put(&site.media_id, good).await.unwrap();
    assert_eq!(site.playback(None).await.0, StatusCode::OK, "the same record again, the same answer");
    // The session plays, as the other replica shows.
    let segment = session["hls_url"].as_str().unwrap().replace("master.m3u8", "v180/1.m4s");
    let there = format!("{}{segment}", second["url"].as_str().unwrap());
    assert_eq!(cluster.http.get(there).send().await.unwrap().status(), StatusCode::OK);
    // Without its document the owner said nothing; without the rest it is not there.
    documents.delete(&site.media_id).await.unwrap();
    refused("no document", [404, 401]).await;
    let assets = bucket(cluster, <media::MediaRecord as schemas::KvRecord>::BUCKET).await;
    assets.delete(&site.media_id).await.unwrap();
    refused("deleted", [404, 401]).await;
    assert_eq!(site.playback(Some(&cluster.key)).await.0, StatusCode::NOT_FOUND);
    let (status, body) = site.fetch(&segment).await;
    let answer = (status, serde_json::from_slice(&body).unwrap());
    let refused = [(403, "playback_refused"), (404, "not_found")];
    assert!(refused.contains(&refusal(&answer)), "what is deleted plays for nobody: {answer:?}");
}

#[tokio::test]
async fn hole_4_nobody_edits_what_another_owns() {
    let site = Site::start().await;
    let cluster = &site.cluster;
    site.set_gate(site.nft_rule()).await;
    let gate = format!("/v1/media/{}/gate", site.media_id);
    let before = site.ask(Method::GET, &gate, Some(&cluster.key), None).await.1;
    let job = cluster.get(&format!("/v1/jobs?media_id={}", site.media_id)).await;
    let job = format!("/v1/jobs/{}", job["items"][0]["job_id"].as_str().unwrap());
    let wallet = Wallet::new(94).token(cluster).await;
    let media = format!("/v1/media/{}", site.media_id);
    let public = json!({ "kind": "public" });
    for credential in [&wallet, &stranger(cluster).await] {
        for (method, path, body) in [
            (Method::GET, &gate, None),
            (Method::PUT, &gate, Some(public.clone())),
            (Method::DELETE, &gate, None),
            (Method::GET, &media, None),
            (Method::PATCH, &media, Some(json!({ "title": "mine" }))),
            (Method::GET, &job, None),
        ] {
            let answer = site.ask(method, path, Some(credential), body).await;
            assert_eq!(refusal(&answer), (404, "not_found"), "{path}: {}", answer.1);
        }
    }
    let operator = auth::create_api_key(&cluster.bus, "olga", access::PrincipalRole::Operator).await.unwrap();
    let answer = site.ask(Method::PUT, &gate, Some(&operator), Some(public)).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN, "an operator changes nothing: {}", answer.1);
    assert_eq!(site.ask(Method::GET, &gate, Some(&cluster.key), None).await.1, before);
    assert_eq!(cluster.get(&media).await["owner"], cluster.get("/v1/auth/me").await["owner"]);
}

#[tokio::test]
async fn hole_4_nobody_touches_an_upload_of_another() {
    let options = Options { without_workers: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options, &wallets()).await;
    let bytes = b"ten bytes.";
    let (upload, _) = tus::create(&cluster, bytes.len()).await;
    assert_eq!(tus::patch(&cluster, &upload, 0, &bytes[..5]).await, 5);
    let status = format!("{upload}/status");
    let before = cluster.get(&status).await;
    let wallet = Wallet::new(101).token(&cluster).await;
    for credential in [&wallet, &stranger(&cluster).await] {
        for (method, path, meant) in [
            (Method::HEAD, &upload, None),
            (Method::GET, &status, None),
            (Method::PATCH, &upload, None),
            (Method::DELETE, &upload, None),
            (Method::POST, &upload, Some("PATCH")),
            (Method::POST, &upload, Some("DELETE")),
        ] {
            let mut request = cluster.http.request(method.clone(), format!("{}{path}", cluster.url));
            request = request.bearer_auth(credential).header("tus-resumable", "1.0.0");
            if method == Method::PATCH || meant == Some("PATCH") {
                let octets = "application/offset+octet-stream";
                request = request.header("content-type", octets).header("upload-offset", 5).body("worse");
            }
            if let Some(meant) = meant {
                request = request.header("x-http-method-override", meant);
            }
            let answer = request.send().await.unwrap();
            let (found, offset) = (answer.status(), answer.headers().get("upload-offset").cloned());
            assert_eq!((found, offset), (StatusCode::NOT_FOUND, None), "{method} {path} {meant:?}");
            let body = answer.bytes().await.unwrap();
            if method != Method::HEAD {
                assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], "not_found");
            }
        }
    }
    // Nothing was appended or ended, and its owner goes on.
    assert_eq!(cluster.get(&status).await, before);
    assert_eq!(tus::offset(&cluster, &upload).await, 5);
    assert_eq!(tus::patch(&cluster, &upload, 5, &bytes[5..]).await, bytes.len());
    let stored = cluster.event("evt.upload.received", |event| event.kind == "upload.received").await;
    let key = schemas::keys::source_key(stored.media_id.unwrap().parse().unwrap());
    assert_eq!(cluster.store.get(&key, 100).await.unwrap(), &bytes[..]);
}

#[tokio::test]
async fn hole_5_a_playback_token_is_no_session_and_a_session_no_playback_token() {
    let site = Site::start().await;
    let cluster = &site.cluster;
    let (_, session) = site.playback(Some(&cluster.key)).await;
    let playback = session["token"].as_str().unwrap();
    for path in ["/v1/auth/me", "/v1/media", "/v1/jobs", "/v1/auth/keys", "/v1/events"] {
        let answer = site.ask(Method::GET, path, Some(playback), None).await;
        assert_eq!(refusal(&answer), (401, "unauthorized"), "{path}");
    }
    let body = json!({ "refresh_token": playback });
    let answer = site.ask(Method::POST, "/v1/auth/refresh", None, Some(body)).await;
    assert_eq!(refusal(&answer), (401, "session_over"), "{}", answer.1);
    let (_, answer) =
        site.ask(Method::POST, "/v1/auth/verify", None, Some(json!({ "token": playback }))).await;
    assert_eq!(answer["active"], false, "{answer}");
    let signed_in = Wallet::new(95).sign_in(cluster).await;
    let others = [
        signed_in["access_token"].as_str().unwrap(),
        signed_in["refresh_token"].as_str().unwrap(),
        &cluster.key,
    ];
    for token in others {
        let path = session["hls_url"].as_str().unwrap().replace(playback, token);
        let (status, body) = site.fetch(&path).await;
        let answer = (status, serde_json::from_slice(&body).unwrap());
        assert_eq!(refusal(&answer), (403, "playback_refused"));
    }
}

#[tokio::test]
async fn hole_6_lists_show_ones_own_and_no_secret() {
    let site = Site::start().await;
    let cluster = &site.cluster;
    let token = Wallet::new(96).token(cluster).await;
    let media = format!("/v1/jobs?media_id={}", site.media_id);
    let mallory = stranger(cluster).await;
    for path in ["/v1/jobs", "/v1/media", "/v1/jobs?limit=200", media.as_str()] {
        for credential in [&token, &mallory] {
            let (status, page) = site.ask(Method::GET, path, Some(credential), None).await;
            assert_eq!((status, page["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)), "{path}");
        }
        assert_eq!(refusal(&site.ask(Method::GET, path, None, None).await), (401, "unauthorized"), "{path}");
        let own = cluster.get(path).await;
        assert_eq!(own["items"].as_array().map(Vec::len), Some(1), "{path}: {own}");
        let text = own.to_string().to_lowercase();
        for secret in ["://", "x-amz", "signature", "token", "secret", "seed", &cluster.key.to_lowercase()] {
            assert!(!text.contains(secret), "{secret} in {path}: {text}");
        }
    }
}

#[tokio::test]
async fn hole_7_a_header_of_the_client_opens_no_other_bucket() {
    const CAPACITY: u64 = 40;
    let settings = format!(
        "\n[auth]\nchallenges_per_prefix_max = 3\n[ingress.limit.rates.auth]\ncapacity = {CAPACITY}\nrefill_per_s = 1\n\
         [ingress.limit]\nreplicas_assumed_count = 1\n"
    );
    let cluster =
        Cluster::start_with(Options { without_workers: true, ..Options::default() }, &settings).await;
    let headers = [
        "x-forwarded-for",
        "x-real-ip",
        "x-client-id",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "forwarded",
        "x-api-key",
        "user-agent",
    ];
    let value = |name: &str, n: u64| match name {
        "forwarded" => format!("for=203.0.113.{n}"),
        _ => format!("203.0.113.{n}"),
    };
    // Nobody gets more challenges than one client does.
    let (began, mut passed, mut given) = (Instant::now(), 0, 0);
    for (name, n) in headers.iter().zip(1..) {
        let request = cluster.http.post(format!("{}/v1/auth/challenge", cluster.url)).json(&json!({}));
        let answer = request.header(*name, value(name, n)).send().await.unwrap();
        assert!(matches!(answer.status().as_u16(), 201 | 429), "{}", answer.status());
        given += u64::from(answer.status() == StatusCode::CREATED);
        passed += 1;
    }
    assert_eq!(given, 3);
    // Nor more requests than one bucket holds and gets back meanwhile, however long that takes here; and no fewer.
    let mut refused = 0;
    for n in 0_u64.. {
        let name = headers[usize::try_from(n).unwrap() % headers.len()];
        let request = cluster.http.get(format!("{}/v1/auth/me", cluster.url));
        let answer = request.header(name, value(name, n % 250)).send().await.unwrap();
        match answer.status() {
            StatusCode::UNAUTHORIZED => passed += 1,
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            status => panic!("{name}: {status}"),
        }
        let allowed = CAPACITY + began.elapsed().as_secs() + 1;
        assert!(passed <= allowed, "{passed} of {allowed} passed");
        assert!(refused == 0 || passed >= CAPACITY, "refused after {passed}");
        if refused == CAPACITY {
            break;
        }
    }
}

/// What playback answers once the decision by the newest block, which is good for a moment, is over.
async fn past_the_last_decision(site: &Site, token: &str) -> (StatusCode, Value) {
    let began = Instant::now();
    loop {
        let answer = site.playback(Some(token)).await;
        if answer.0 != StatusCode::FORBIDDEN || began.elapsed() > crate::harness::WAIT_MAX {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Names `lure` to whatever takes an address or a rule; what was answered.
async fn lured(site: &Site, wallet: &Wallet, token: &str, lure: &str) -> Vec<Value> {
    let key = site.cluster.key.as_str();
    let gate = format!("/v1/media/{}/gate", site.media_id);
    let mut said = Vec::new();
    let with = |name: &str, value: Value| {
        let mut rule = site.nft_rule();
        rule[name] = value;
        rule
    };
    for (rule, status, code) in [
        (with("rpc_url", json!(lure)), 400, "json_invalid"),
        (with("rpc_urls", json!([lure])), 400, "json_invalid"),
        (with("chain_id", json!(lure)), 400, "json_invalid"),
        (with("contract", json!(lure)), 422, "rule_invalid"),
        (with("token_id", json!(lure)), 422, "rule_invalid"),
        (with("chain_id", json!(1)), 422, "chain_unknown"),
        (json!({ "kind": "url", "url": lure }), 400, "json_invalid"),
        (json!({ "kind": "allow_list", "addresses": [lure] }), 422, "rule_invalid"),
    ] {
        let answer = site.ask(Method::PUT, &gate, Some(key), Some(rule.clone())).await;
        assert_eq!(refusal(&answer), (status, code), "{rule}: {}", answer.1);
        let question = json!({ "address": wallet.address.to_string(), "rule": rule });
        let asked = site.ask(Method::POST, "/v1/auth/nft", Some(token), Some(question)).await;
        assert!(asked.0.is_client_error(), "{}", asked.1);
        said.extend([answer.1, asked.1]);
    }
    for (path, body) in [
        ("/v1/auth/challenge", json!({ "rpc_url": lure })),
        ("/v1/auth/challenge", json!({ "domain": lure })),
        ("/v1/auth/challenge", json!({ "chain_id": 5_000_000 })),
        ("/v1/media", json!({ "url": lure, "source_url": lure })),
    ] {
        let answer = site.ask(Method::POST, path, Some(key), Some(body)).await;
        assert!(answer.0.is_client_error(), "{path}: {answer:?}");
        said.push(answer.1);
    }
    said
}

/// What operators and scrapers read, on the public port and on the admin port; none of `privates` stands there.
async fn operated(cluster: &Cluster, admin: &str, privates: &[&str]) -> Vec<Value> {
    let public = cluster.request(Method::GET, "/metrics").send().await.unwrap();
    let mut pages = vec![public.text().await.unwrap()];
    for path in ["/metrics", "/livez", "/readyz", "/v1/media", "/"] {
        let page = cluster.http.get(format!("http://{admin}{path}")).send().await.unwrap();
        pages.push(page.text().await.unwrap());
    }
    // They are what they should be, and count what was asked here.
    let asked = "streamgate_limit_requests_total{group=\"auth\",scope=\"client\",outcome=\"passed\"} ";
    for page in &pages[..2] {
        assert!(page.contains(asked) && !page.contains(&format!("{asked}0\n")), "{page}");
    }
    for (page, private) in pages.iter().flat_map(|page| privates.iter().map(move |private| (page, private))) {
        assert!(!page.to_lowercase().contains(&private.to_lowercase()), "{private} in {page}");
    }
    pages.into_iter().map(Value::String).collect()
}

#[tokio::test]
async fn hole_8_no_client_names_an_address_and_no_answer_names_a_provider() {
    let mut site = Site::start().await;
    // The replica that is asked has an admin port.
    let admin = format!("127.0.0.1:{}", free_port());
    let replica = ["ingress", "--listen", "127.0.0.1:0", "--admin-listen", &admin];
    site.cluster.spawn("asked", &replica)["url"].as_str().unwrap().clone_into(&mut site.cluster.url);
    let trap = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let lure = format!("http://{}/latest/meta-data", trap.local_addr().unwrap());
    let wallet = Wallet::new(98);
    let (key, token) = (site.cluster.key.clone(), wallet.token(&site.cluster).await);
    let mut said = lured(&site, &wallet, &token, &lure).await;
    site.set_gate(site.nft_rule()).await;
    said.push(site.playback(Some(&token)).await.1);
    let gate = format!("/v1/media/{}/gate", site.media_id);
    said.push(site.ask(Method::GET, &gate, Some(&key), None).await.1);
    // The node is gone: that is said without saying where it was.
    let node = site.anvil.url.clone();
    site.anvil.stop();
    let answer = past_the_last_decision(&site, &token).await;
    assert_eq!(refusal(&answer), (503, "chain_unavailable"), "{}", answer.1);
    said.push(answer.1);
    let question = json!({ "address": wallet.address.to_string(), "rule": site.nft_rule() });
    let answer = site.ask(Method::POST, "/v1/auth/nft", Some(&token), Some(question)).await;
    assert_eq!(refusal(&answer), (503, "chain_unavailable"), "{}", answer.1);
    said.push(answer.1);
    for path in ["/livez", "/readyz", "/version", "/openapi.json", "/v1/media", "/v1/jobs", "/v1/auth/me"] {
        said.push(site.ask(Method::GET, path, Some(&key), None).await.1);
    }
    said.extend(site.cluster.all_events().await.into_iter().map(|event| event.data));
    let address = wallet.address.to_string();
    said.extend(operated(&site.cluster, &admin, &[&key, &token, &site.media_id, &address]).await);
    let port = node.rsplit(':').next().unwrap();
    let shown = String::from_utf8(site.cluster.run(&["config"]).stdout).unwrap();
    assert!(shown.contains("rpc_urls") && !shown.contains(RPC_SECRET), "{shown}");
    for text in said.iter().map(ToString::to_string) {
        assert!(!text.contains(RPC_SECRET) && !text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
    assert!(!site.cluster.logs().contains(RPC_SECRET), "{}", site.cluster.logs());
    assert!(trap.accept().is_err(), "somebody followed an address that a client named");
}

/// The token `good` with what it says, signed with `secret`.
fn forged(secret: &[u8], good: &str) -> String {
    let (body, _) = good.rsplit_once('.').unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
    mac.update(body.as_bytes());
    format!("{body}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

#[tokio::test]
async fn hole_9_two_fresh_installations_share_no_secret_and_no_default_opens() {
    let options = Options { without_workers: true, ..Options::default() };
    // Every credential is looked at.
    let settings = wallets() + "\n[ingress.limit.rates.credential]\ncapacity = 10000\nrefill_per_s = 100\n";
    let (one, two) = tokio::join!(Cluster::start(options), Cluster::start_with(options, &settings));
    assert_ne!(one.key, two.key);
    let mut secrets = Vec::new();
    for cluster in [&one, &two] {
        let ring = cluster.bus.load_record::<KeyRing>("ring.access").await.unwrap().unwrap().record;
        secrets.extend(ring.keys.iter().map(|key| key.bytes.to_vec()));
        for name in ["playback", "refresh"] {
            secrets.push(auth::load_signing_key(&cluster.bus, name).await.unwrap());
        }
    }
    assert!(secrets.iter().all(|secret| secret.len() >= 32), "no short key");
    let count = secrets.len();
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), count, "each is its own");

    // What a live session's own token says, under a key that is there: only the signature stands in the way.
    let good = Wallet::new(99).token(&two).await;
    let ring = two.bus.load_record::<KeyRing>("ring.access").await.unwrap().unwrap().record;
    let head = BASE64URL_NOPAD.decode(good.split('.').next().unwrap().as_bytes()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head["kid"], ring.keys[0].key_id.to_string());
    let me = async |credential: &str| {
        let request = two.http.get(format!("{}/v1/auth/me", two.url)).bearer_auth(credential);
        request.send().await.unwrap().status()
    };
    assert_eq!(me(&forged(&ring.keys[0].bytes, &good)).await, StatusCode::OK);
    let mut credentials = vec![one.key.clone()];
    // Whatever signs something else, here or there.
    let others = secrets.iter().filter(|secret| ***secret != *ring.keys[0].bytes);
    credentials.extend(others.map(|secret| forged(secret, &good)));
    assert_eq!(credentials.len(), count);
    for secret in [
        "",
        "secret",
        "changeme",
        "change-me",
        "your-secret-key",
        "dev",
        "test",
        "streamgate",
        "admin",
        "password",
    ] {
        credentials.push(secret.to_owned());
        credentials.push(format!("sg_00000000000000000000000000_{secret}"));
        credentials.push(forged(secret.as_bytes(), &good));
    }
    for credential in credentials {
        assert_eq!(me(&credential).await, StatusCode::UNAUTHORIZED, "{credential}");
        let basic = two.http.get(format!("{}/v1/auth/me", two.url)).basic_auth("admin", Some(&credential));
        assert_eq!(basic.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{credential}");
    }
    assert_eq!(me(&good).await, StatusCode::OK, "and the session is still open");
}
