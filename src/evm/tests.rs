//! Providers over real HTTP on loopback: lying, lagging, hanging, throttling, flooding.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{BlockRef, ChainConfig, ChainError, EvmClient, RpcUrl, testing::parse_quantity};

const HEIGHT: u64 = 100;
/// Contracts that answer more than an answer may be, fail in the words of one node, and in words nobody knows.
const SHOUTER: Address = Address::repeat_byte(0xbb);
const DEEP: Address = Address::repeat_byte(0xcc);
const STRANGE: Address = Address::repeat_byte(0xdd);

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Honest,
    Lies,
    Lags,
    Hangs,
    Throttles,
    Fails,
    Floods,
    Redirects,
    SpeaksHtml,
    OtherChain,
    Drips,
}

#[derive(Clone)]
struct Server {
    behaviour: Behaviour,
    requests: Arc<AtomicUsize>,
}

async fn serve(State(server): State<Server>, Json(request): Json<Value>) -> Response {
    server.requests.fetch_add(1, Ordering::SeqCst);
    let answer = || match &request {
        Value::Array(items) => items.iter().map(|item| answer(server.behaviour, item)).collect::<Value>(),
        item => answer(server.behaviour, item),
    };
    match server.behaviour {
        Behaviour::Hangs => futures::future::pending().await,
        Behaviour::Throttles => {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7".parse().unwrap())]);
            (StatusCode::TOO_MANY_REQUESTS, headers).into_response()
        }
        Behaviour::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Behaviour::Floods => "[".repeat(1_000_000).into_response(),
        Behaviour::Redirects => Redirect::temporary("http://127.0.0.1:1/").into_response(),
        Behaviour::SpeaksHtml => "<html>".into_response(),
        Behaviour::Drips => {
            let bytes = futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, std::convert::Infallible>(" "), ()))
            });
            axum::body::Body::from_stream(bytes).into_response()
        }
        _ => Json(answer()).into_response(),
    }
}

fn answer(behaviour: Behaviour, request: &Value) -> Value {
    let params = &request["params"];
    let height = if behaviour == Behaviour::Lags { HEIGHT - 50 } else { HEIGHT };
    let result = match request["method"].as_str().unwrap() {
        "eth_chainId" => json!(if behaviour == Behaviour::OtherChain { "0x1" } else { "0x7" }),
        "eth_getBlockByNumber" => {
            let number = match params[0].as_str().unwrap() {
                "latest" => height,
                text => parse_quantity(text),
            };
            if number > height { Value::Null } else { block(number) }
        }
        _ if params[1]["blockHash"] != json!(hash(height))
            && params[1]["blockHash"] != json!(hash(height - 5)) =>
        {
            return json!({ "id": request["id"], "error": { "code": -32000, "message": "header not found" } });
        }
        _ if params[0]["to"] == json!(SHOUTER) => json!(Bytes::from(vec![1; 100_000])),
        _ if params[0]["to"] == json!(DEEP) => {
            let error = json!({ "code": -32000, "message": "stack limit reached 1024 (1023)" });
            return json!({ "id": request["id"], "error": error });
        }
        _ if params[0]["to"] == json!(STRANGE) => {
            let error = json!({ "code": -32000, "message": "words that no other node has" });
            return json!({ "id": request["id"], "error": error });
        }
        _ => {
            let value = if behaviour == Behaviour::Lies { 666 } else { 5 };
            json!(B256::from(U256::from(value)))
        }
    };
    json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
}

fn hash(number: u64) -> B256 {
    keccak256(number.to_string())
}

fn block(number: u64) -> Value {
    json!({
        "number": format!("{number:#x}"), "hash": hash(number), "parentHash": hash(number.saturating_sub(1)),
        "timestamp": format!("{:#x}", nats::now_ms() / 1_000 - (HEIGHT - number)),
    })
}

struct Site {
    chains: EvmClient,
    requests: Vec<Arc<AtomicUsize>>,
    _servers: JoinSet<()>,
}

impl Site {
    async fn start(behaviours: &[Behaviour], config: ChainConfig) -> Self {
        let (mut servers, mut requests, mut rpc_urls) = (JoinSet::new(), Vec::new(), Vec::new());
        for behaviour in behaviours {
            let count = Arc::new(AtomicUsize::new(0));
            let server = Server { behaviour: *behaviour, requests: Arc::clone(&count) };
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let url = format!("http://{}/v3/secret-key", listener.local_addr().unwrap());
            rpc_urls.push(RpcUrl::try_from(url).unwrap());
            requests.push(count);
            let app = Router::new().route("/v3/secret-key", post(serve)).with_state(server);
            servers.spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
        let chains = EvmClient::open(&[ChainConfig { rpc_urls, ..config }]).unwrap();
        Self { chains, requests, _servers: servers }
    }

    async fn ask(&self) -> Result<Bytes, ChainError> {
        self.chains
            .call_contract(7, Address::repeat_byte(1), Bytes::from_static(&[1]), BlockRef::Latest)
            .await
    }
}

/// Settings under which a provider that never answers is given up soon.
fn config() -> ChainConfig {
    ChainConfig {
        chain_id: 7,
        confirmations: 5,
        call_timeout_ms: 400,
        answer_bytes_max: 64 * 1024,
        ..ChainConfig::default()
    }
}

/// Settings under which an honest provider is never late, however busy the machine is.
fn patient() -> ChainConfig {
    ChainConfig { call_timeout_ms: 10_000, ..config() }
}

fn five() -> Bytes {
    B256::from(U256::from(5)).to_vec().into()
}

#[tokio::test]
async fn one_bad_provider_of_three_changes_nothing() {
    for bad in [
        Behaviour::Lies,
        Behaviour::Lags,
        Behaviour::Hangs,
        Behaviour::Throttles,
        Behaviour::Fails,
        Behaviour::Floods,
        Behaviour::Redirects,
        Behaviour::SpeaksHtml,
        Behaviour::OtherChain,
        Behaviour::Drips,
    ] {
        let site = Site::start(&[bad, Behaviour::Honest, Behaviour::Honest], patient()).await;
        let started = Instant::now();
        assert_eq!(site.ask().await, Ok(five()), "{bad:?}");
        // It waits for a quorum, never for the last one.
        let limit = Duration::from_millis(patient().call_timeout_ms);
        assert!(started.elapsed() < limit, "{bad:?} {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn two_bad_providers_of_three_give_an_error_in_time() {
    for (bad, wanted) in [
        (Behaviour::Hangs, ChainError::Unavailable { chain_id: 7 }),
        (Behaviour::Throttles, ChainError::Unavailable { chain_id: 7 }),
        (Behaviour::Fails, ChainError::Unavailable { chain_id: 7 }),
        (Behaviour::Floods, ChainError::Unavailable { chain_id: 7 }),
        (Behaviour::OtherChain, ChainError::Unavailable { chain_id: 7 }),
        (Behaviour::Drips, ChainError::Unavailable { chain_id: 7 }),
    ] {
        let site = Site::start(&[bad, Behaviour::Honest, bad], config()).await;
        let started = Instant::now();
        assert_eq!(site.ask().await, Err(wanted), "{bad:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{bad:?} {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn contradiction_is_no_answer() {
    let site = Site::start(&[Behaviour::Lies, Behaviour::Honest], patient()).await;
    assert_eq!(site.ask().await, Err(ChainError::Disagreement { chain_id: 7 }));
}

#[tokio::test]
async fn a_throttling_provider_is_left_alone() {
    let settings = ChainConfig { head_cache_ms: 0, ..patient() };
    let site = Site::start(&[Behaviour::Throttles, Behaviour::Honest, Behaviour::Honest], settings).await;
    for _ in 0..5 {
        assert_eq!(site.ask().await, Ok(five()));
    }
    assert_eq!(site.requests[0].load(Ordering::SeqCst), 1, "it asked for seven seconds of rest");
}

#[tokio::test]
async fn a_provider_of_another_chain_is_never_counted() {
    let one = Site::start(&[Behaviour::OtherChain], config()).await;
    assert_eq!(one.ask().await, Err(ChainError::Unavailable { chain_id: 7 }));
}

#[tokio::test]
async fn what_a_contract_brings_about_rests_no_provider() {
    let site = Site::start(&[Behaviour::Honest; 3], patient()).await;
    let reverted = Err(ChainError::Reverted { chain_id: 7 });
    let strange = Err(ChainError::Unavailable { chain_id: 7 });
    for (contract, wanted) in [(SHOUTER, &reverted), (DEEP, &reverted), (STRANGE, &strange)] {
        let call = || site.chains.call_contract(7, contract, Bytes::from_static(&[1]), BlockRef::Latest);
        for answer in futures::future::join_all((0..10).map(|_| call())).await {
            assert_eq!(&answer, wanted, "{contract}");
        }
        assert_eq!(site.ask().await, Ok(five()), "after {contract}");
    }
    let at = site.chains.read_head(7).await.unwrap().latest.hash;
    let calls = [Address::repeat_byte(1), SHOUTER, Address::repeat_byte(2)].map(|to| (to, Bytes::new()));
    let answers = site.chains.call_contracts(7, &calls, at).await.unwrap();
    assert_eq!(answers, [Ok(five()), reverted, Ok(five())], "one does not spoil the others");
}

#[tokio::test]
async fn what_is_asked_apart_uses_up_no_other_budget() {
    let settings = ChainConfig { questions_per_s_max: 4, ..patient() };
    let site = Site::start(&[Behaviour::Honest], settings).await;
    let apart = site.chains.with_separate_limits();
    let call = || apart.call_contract(7, Address::repeat_byte(1), Bytes::from_static(&[1]), BlockRef::Latest);
    let answers = futures::future::join_all((0..30).map(|_| call())).await;
    assert!(answers.contains(&Err(ChainError::Unavailable { chain_id: 7 })), "{answers:?}");
    assert_eq!(site.ask().await, Ok(five()));
}

#[tokio::test]
async fn too_much_at_once_is_refused_before_it_is_sent() {
    let site = Site::start(&[Behaviour::Honest], ChainConfig { batch_max: 2, ..config() }).await;
    let calls = vec![(Address::ZERO, Bytes::new()); 3];
    assert_eq!(
        site.chains.call_contracts(7, &calls, B256::ZERO).await,
        Err(ChainError::TooMany { count: 3, count_max: 2 })
    );
    assert_eq!(site.requests[0].load(Ordering::SeqCst), 0);
    assert_eq!(site.chains.read_head(8).await, Err(ChainError::Unknown { chain_id: 8 }));
}

#[test]
fn a_quorum_is_more_than_half() {
    let url = || RpcUrl::try_from("https://rpc.example.org/v3/secret-key".to_owned()).unwrap();
    let with = |count: usize, quorum| ChainConfig {
        chain_id: 1,
        rpc_urls: (0..count).map(|_| url()).collect(),
        quorum,
        ..ChainConfig::default()
    };
    for (count, quorum, good) in [
        (0, None, false),
        (1, None, true),
        (2, Some(1), false),
        (3, Some(2), true),
        (4, Some(2), false),
        (4, None, true),
        (3, Some(4), false),
        (3, Some(0), false),
    ] {
        assert_eq!(with(count, quorum).check().is_ok(), good, "{quorum:?} of {count}");
    }
}

#[test]
fn an_address_with_a_key_is_shown_without_it() {
    let config = ChainConfig {
        rpc_urls: vec![
            RpcUrl::try_from("https://user:pass@rpc.example.org:8443/v3/secret-key?k=secret".to_owned())
                .unwrap(),
        ],
        ..ChainConfig::default()
    };
    for shown in [format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
        assert!(shown.contains("https://rpc.example.org:8443"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains("pass"), "{shown}");
    }
    let refused = RpcUrl::try_from("ftp://secret".to_owned()).unwrap_err();
    assert!(!refused.contains("secret"), "{refused}");
}

/// Set in the process whose environment names a proxy.
const PROXIED: &str = "STREAMGATE_TEST_PROXIED";

#[test]
fn a_proxy_of_the_environment_is_shown_no_request() {
    let name = "tests::a_proxy_of_the_environment_is_shown_no_request";
    if std::env::var_os(PROXIED).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = runtime.block_on(async {
            let site = Site::start(&[Behaviour::Honest; 3], patient()).await;
            site.ask().await
        });
        assert_eq!(answered, Ok(five()));
        return;
    }
    // Nobody listens there: whatever is sent by it fails.
    let proxies = ["http_proxy", "https_proxy", "all_proxy"].map(|name| (name, "http://127.0.0.1:1"));
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(PROXIED, "1")
        .envs(proxies)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
