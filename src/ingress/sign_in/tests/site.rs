//! A broker, replicas of the ingress with sign-in only, and wallets.

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use data_encoding::BASE64URL_NOPAD;
use futures::{StreamExt, stream};
use nats::{Bus, Role, testing::TestBroker};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use schemas::{BusEvent, KvRecord, access::ApiKeyScope, subjects};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub(super) use auth::testing::{DOMAIN, SOON, TestSiweMessage, TestWallet};
use auth::{AuthConfig, Principal, ProofChecker, SignInService, contract::ContractCaller, enforce_access};

use crate::openapi;
use web::{
    access_sums::AccessSums,
    client,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    request, serve,
};

pub(super) struct Site {
    pub(super) broker: TestBroker,
    pub(super) admin: Bus,
    pub(super) proxies: client::ClientAddressConfig,
    tasks: JoinSet<()>,
}

#[derive(Clone)]
pub(super) struct Replica {
    pub(super) url: String,
    pub(super) sign_in: SignInService,
    client: Client,
}

pub(super) fn config() -> AuthConfig {
    AuthConfig {
        domains: vec![DOMAIN.into(), "localhost:8080".into()],
        chains: vec![1, 137],
        challenges_per_prefix_max: 10_000,
        ..AuthConfig::default()
    }
}

static LIST_MEDIA: Operation = Operation::read(
    "/v1/media",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);
static CREATE_MEDIA: Operation = Operation::change(
    Method::POST,
    "/v1/media",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &[],
);

impl Site {
    pub(super) async fn start() -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        Self { broker, admin, proxies: client::ClientAddressConfig::default(), tasks: JoinSet::new() }
    }

    /// A replica that receives the ends of sessions.
    pub(super) async fn replica(&mut self, config: AuthConfig) -> Replica {
        let replica = self.deaf_replica(config, None).await;
        let sign_in = replica.sign_in.clone();
        self.tasks.spawn(async move { sign_in.run(CancellationToken::new()).await.unwrap() });
        replica
    }

    /// A replica that no message reaches.
    pub(super) async fn deaf_replica(
        &mut self,
        config: AuthConfig,
        chain: Option<Arc<dyn ContractCaller>>,
    ) -> Replica {
        let mut settings = self.broker.config(Role::Ingress);
        settings.request_timeout_ms = 1_000;
        let bus = Bus::connect(&settings).await.unwrap();
        let proofs = ProofChecker::new(bus.clone(), chain.clone(), &config);
        let sign_in = SignInService::open(bus.clone(), config, chain, proofs).await.unwrap();
        let written = sign_in.clone();
        bus.observe_writes(move |bucket, key| written.note_write(bucket, key));
        let guarded = OperationRouter::default()
            .with(&LIST_MEDIA, |who: Principal| async move { who.owner })
            .with(&CREATE_MEDIA, |who: Principal| async move { who.owner })
            .route_layer(middleware::from_fn_with_state(sign_in.clone(), enforce_access));
        let (app, operations) =
            crate::sign_in::router(sign_in.clone(), openapi::accepted_parameters(), |own| own)
                .merge(guarded)
                .into_parts();
        let app: Router = app
            .layer(operations.match_layer())
            .layer(middleware::from_fn_with_state(
                Arc::new(client::ClientIdentification { config: self.proxies.clone(), public_url: None }),
                client::identify_client,
            ))
            .layer(middleware::from_fn_with_state(AccessSums::default(), request::assign_request_id));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        self.tasks.spawn(serve::serve_connections(
            listener,
            app,
            CancellationToken::new(),
            Duration::from_secs(5),
        ));
        Replica { url, sign_in, client: Client::new() }
    }

    /// Every event of this kind, in order.
    pub(super) async fn events<E: BusEvent>(&self) -> Vec<E> {
        let filter = vec![subjects::event_filter::<E>()];
        let settings = nats::reader::ReaderConfig::new(subjects::EVENTS, filter, nats::ReaderStart::All);
        let mut reader = self.admin.open_reader(settings).await.unwrap();
        let mut found = Vec::new();
        let mut left = reader.pending_at_start();
        while left > 0 {
            let entry = reader.next().await.unwrap();
            left = entry.pending;
            found.push(nats::decode_message(&entry.subject, &entry.payload).unwrap());
        }
        found
    }

    /// Waits until the broker has removed a record.
    pub(super) async fn until_gone(&self, bucket: &str, key: &str) {
        let deadline = Instant::now() + SOON;
        while self.admin.read_value(bucket, key).await.unwrap().is_some_and(|raw| raw.value.is_some()) {
            assert!(Instant::now() < deadline, "{key} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn record<R: KvRecord>(&self, key: &str) -> R {
        self.admin.load_record::<R>(key).await.unwrap().unwrap().record
    }
}

/// A status and a JSON body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    pub(super) cookie: Option<String>,
    pub(super) retry_after_s: Option<u64>,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let status = response.status();
        let cookie = response.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        let retry_after_s =
            response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Self { status, body, cookie, retry_after_s }
    }

    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("no code")
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("{name}: {self:?}")).to_owned()
    }

    #[track_caller]
    pub(super) fn assert(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self:?}");
    }

    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }
}

impl Replica {
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::GET, path).bearer_auth(token)).await
    }

    pub(super) async fn me(&self, token: &str) -> Answer {
        self.get("/v1/auth/me", token).await
    }

    /// A nonce and its cookie.
    pub(super) async fn challenge(&self) -> (String, String) {
        let answer = self.post("/v1/auth/challenge", json!({})).await.expect(201);
        (answer.text("nonce"), pair(&answer))
    }

    pub(super) async fn login(&self, cookie: &str, message: &str, signature: &[u8]) -> Answer {
        let signature = format!("0x{}", alloy_primitives::hex::encode(signature));
        let body = json!({ "message": message, "signature": signature });
        self.send(self.request(Method::POST, "/v1/auth/login").header("cookie", cookie).json(&body)).await
    }

    /// Signs a wallet in, all as it should be.
    pub(super) async fn sign_in(&self, wallet: &TestWallet) -> Answer {
        let (nonce, cookie) = self.challenge().await;
        let message = TestSiweMessage::new(wallet, &nonce).to_string();
        self.login(&cookie, &message, &wallet.sign_personal(&message)).await.expect(201)
    }

    pub(super) async fn refresh(&self, token: &str) -> Answer {
        self.post("/v1/auth/refresh", json!({ "refresh_token": token })).await
    }

    pub(super) async fn logout(&self, token: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, "/v1/auth/logout").bearer_auth(token).json(&body)).await
    }

    /// Waits until the token is refused; answers how long that took.
    pub(super) async fn until_refused(&self, token: &str) -> Duration {
        let start = Instant::now();
        while self.me(token).await.status != StatusCode::UNAUTHORIZED {
            assert!(start.elapsed() < SOON, "the token is still taken");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }
}

/// The name and value of the cookie an answer sets.
pub(super) fn pair(answer: &Answer) -> String {
    answer.cookie.as_deref().unwrap().split(';').next().unwrap().to_owned()
}

/// A JWT of any header and claims, signed with HMAC-SHA256.
pub(super) fn forge(header: &Value, claims: &Value, key: &[u8]) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let body = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(body.as_bytes());
    format!("{body}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

/// Header and claims of a token, unchecked.
pub(super) fn opened(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap_or_default())
            .unwrap_or_default()
    });
    (parts.next().unwrap(), parts.next().unwrap())
}

/// Runs all at once and answers what each led to.
pub(super) async fn at_once<F: Future<Output = Answer>>(
    requests: impl IntoIterator<Item = F>,
) -> Vec<Answer> {
    stream::iter(requests).buffer_unordered(64).collect().await
}
