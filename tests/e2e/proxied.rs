//! Behind a proxy that gives us a path of its own and a scheme of its own.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    browser::{self, Player},
    harness::{Cluster, Options, sample},
    library,
    webdriver::Browser,
};

/// What the proxy puts in front of our paths.
const PREFIX: &str = "/video";

/// Largest body that the proxy passes on, in bytes.
const BODY_BYTES_MAX: usize = 1 << 24;

#[derive(Clone)]
struct Proxy {
    address: String,
    behind: String,
    http: reqwest::Client,
}

/// Starts it in front of an address, until the test ends.
async fn start_proxy(behind: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let proxy = Proxy { address: address.clone(), behind: behind.to_owned(), http: reqwest::Client::new() };
    let router = Router::new().fallback(pass_on).with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}{PREFIX}")
}

async fn pass_on(State(proxy): State<Proxy>, request: Request) -> Response {
    let target = request.uri().path_and_query().unwrap().as_str().to_owned();
    let Some(path) = target.strip_prefix(PREFIX) else { return StatusCode::NOT_FOUND.into_response() };
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    headers.remove("host");
    headers.insert("x-forwarded-proto", "http".parse().unwrap());
    headers.insert("x-forwarded-host", proxy.address.parse().unwrap());
    headers.insert("x-forwarded-prefix", PREFIX.parse().unwrap());
    let body = to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    let asked =
        proxy.http.request(parts.method, format!("{}{path}", proxy.behind)).headers(headers).body(body);
    let answer = asked.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
}

fn bearer(cluster: &Cluster, method: Method, url: &str) -> reqwest::RequestBuilder {
    cluster.http.request(method, url).bearer_auth(&cluster.key)
}

#[tokio::test]
async fn behind_a_proxy_every_address_leads_back_through_it() {
    let trusted = "[ingress.client]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let mut cluster = Cluster::start_with(Options::default(), trusted).await;
    let site = start_proxy(&cluster.url).await;
    let created = bearer(&cluster, Method::POST, &format!("{site}/v1/uploads/"))
        .header("tus-resumable", "1.0.0")
        .header("upload-length", "5")
        .send()
        .await
        .unwrap();
    let location = created.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(&format!("{site}/v1/uploads/")), "{location}");
    let head =
        bearer(&cluster, Method::HEAD, &location).header("tus-resumable", "1.0.0").send().await.unwrap();
    assert_eq!((head.status(), head.headers()["upload-offset"].to_str().unwrap()), (StatusCode::OK, "0"));
    let media_id = {
        let film = sample(3, "320x180", "25");
        let made = bearer(&cluster, Method::POST, &format!("{site}/v1/media"))
            .header("content-type", "video/mp4")
            .body(film)
            .send()
            .await
            .unwrap();
        let location = made.headers()["location"].to_str().unwrap().to_owned();
        let document: Value =
            bearer(&cluster, Method::GET, &location).send().await.unwrap().json().await.unwrap();
        document["media_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let session: Value = bearer(&cluster, Method::POST, &format!("{site}/v1/media/{media_id}/playback"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for name in ["hls_url", "dash_url", "poster_url", "media_url", "watch_url"] {
        assert!(session[name].as_str().unwrap().starts_with(&format!("{site}/")), "{name}: {session}");
    }
    browser::plays(Browser::Chromium, session["watch_url"].as_str().unwrap(), Player::HlsJs, 2).await;
    library::lists(&format!("{site}/"), &cluster.key, &media_id).await;
    // What nobody said is not made up: without the proxy addresses are those of the host that was asked.
    let direct = bearer(&cluster, Method::POST, &format!("{}/v1/media/{media_id}/playback", cluster.url));
    let direct: Value = direct.send().await.unwrap().json().await.unwrap();
    assert!(direct["hls_url"].as_str().unwrap().starts_with("/play/"), "{direct}");
    assert_eq!(direct["status"], json!("ready"));
}
