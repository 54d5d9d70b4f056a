//! The client against real servers on loopback.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use schemas::fault::FailureClass;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    LookUp, Networks, OutboundClient, OutboundConfig, OutboundError, OutboundFile, OutboundRequest,
    OutboundResponse, OutboundUrl, RedirectScope,
};

/// Names that stand for what a test says; each look-up is counted.
#[derive(Debug, Default)]
struct Names {
    looked_up: AtomicUsize,
    /// What the name stands for at the first, second... look-up; the last one stays.
    answers: Vec<Vec<IpAddr>>,
}

impl LookUp for Names {
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let number = self.looked_up.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.get(number).or(self.answers.last()).cloned();
        let found = answer.ok_or_else(|| io::Error::other(format!("no {name}")));
        async move { found }.boxed()
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn loopback() -> OutboundConfig {
    OutboundConfig { allow: vec!["127.0.0.0/8".parse().unwrap()], ..OutboundConfig::default() }
}

async fn serve(router: Router) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, AbortOnDropHandle::new(serving))
}

async fn ask(client: &OutboundClient, url: &str) -> Result<OutboundResponse, OutboundError> {
    let url = OutboundUrl::parse(url, client.networks())?;
    client.send(OutboundRequest::get(url, RedirectScope::AnyHost)).await
}

async fn read(mut response: OutboundResponse) -> Result<Vec<u8>, OutboundError> {
    let mut read = Vec::new();
    while let Some(chunk) = response.body.next_chunk().await? {
        read.extend_from_slice(&chunk);
    }
    Ok(read)
}

/// Answers each connection with these bytes and then nothing, or the end.
async fn serve_raw(answer: &'static str, stays_open: bool) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4_096];
            assert!(stream.read(&mut head).await.unwrap() > 0, "the client asked nothing");
            stream.write_all(answer.as_bytes()).await.ok();
            if stays_open {
                open.push(stream);
            }
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_at_the_second_look_is_refused() {
    let (address, _server) = serve(Router::new().route("/", get(|| async { "film" }))).await;
    let answers = vec![addresses(&["127.0.0.1"]), addresses(&["169.254.169.254"])];
    let names = Arc::new(Names { answers, ..Names::default() });
    let client = OutboundClient::with_look_up(loopback(), names.clone()).unwrap();
    let url = format!("http://films.example:{}/", address.port());
    assert_eq!(read(ask(&client, &url).await.unwrap()).await.unwrap(), b"film");
    let refused = ask(&client, &url).await.unwrap_err();
    assert_eq!(names.looked_up.load(Ordering::SeqCst), 2, "each connection looks the name up");
    let OutboundError::NameRefused { ref host, rule } = refused else { panic!("{refused:?}") };
    assert_eq!((host.as_str(), rule.network), ("films.example", "169.254.0.0/16"));
    assert_eq!(refused.class(), FailureClass::Reject);
    let text = refused.to_string();
    assert!(!text.contains("169.254") && !text.contains("link-local"), "it says what is behind: {text}");
}

#[tokio::test]
async fn an_address_that_is_not_public_is_never_connected_to() {
    let (address, _server) = serve(Router::new().route("/", get(|| async { "secret" }))).await;
    let names = Arc::new(Names { answers: vec![addresses(&["127.0.0.1", "::1"])], ..Names::default() });
    let client = OutboundClient::with_look_up(OutboundConfig::default(), names.clone()).unwrap();
    let by_name = ask(&client, &format!("http://films.example:{}/", address.port())).await.unwrap_err();
    assert!(matches!(by_name, OutboundError::NameRefused { .. }), "{by_name:?}");
    let literal = ask(&client, &format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(literal, OutboundError::AddressRefused { .. }), "{literal:?}");
    assert_eq!(names.looked_up.load(Ordering::SeqCst), 1, "nobody is asked for what is written out");
    // The system's own names, too.
    let client = OutboundClient::new(OutboundConfig::default()).unwrap();
    let local = ask(&client, &format!("http://localhost:{}/", address.port())).await.unwrap_err();
    assert!(matches!(local, OutboundError::NameRefused { .. }), "{local:?}");
}

#[tokio::test]
async fn each_redirect_is_checked() {
    let (other, _other) = serve(Router::new().route("/film", get(|| async { "film" }))).await;
    let there = format!("http://{other}/film");
    let router = Router::new()
        .route("/near", get(|| async { Redirect::temporary("/film") }))
        .route("/far", get(|| async move { Redirect::permanent(&there) }))
        .route("/film", get(|| async { "film here" }))
        .route("/inside", get(|| async { Redirect::to("http://10.1.2.3/secret?of=theirs") }))
        .route("/mapped", get(|| async { Redirect::to("http://[::ffff:a9fe:a9fe]/") }))
        .route("/file", get(|| async { Redirect::to("file:///etc/passwd") }))
        .route("/user", get(|| async { Redirect::to("http://a:b@127.0.0.1/") }))
        .route("/round", get(|| async { Redirect::to("/round") }));
    let (address, _server) = serve(router).await;
    let client = OutboundClient::new(loopback()).unwrap();
    for (path, body) in [("/near", "film here"), ("/far", "film")] {
        let response = ask(&client, &format!("http://{address}{path}")).await.unwrap();
        assert_eq!(read(response).await.unwrap(), body.as_bytes());
    }
    for path in ["/inside", "/mapped", "/file", "/user", "/round"] {
        let refused = ask(&client, &format!("http://{address}{path}")).await.unwrap_err();
        assert!(matches!(refused, OutboundError::RedirectRefused { .. }), "{path}: {refused:?}");
        let text = refused.to_string();
        assert!(!text.contains("10.1.2.3") && !text.contains("theirs"), "{text}");
    }
    let url = OutboundUrl::parse(&format!("http://{address}/far"), client.networks()).unwrap();
    let refused = client.send(OutboundRequest::get(url, RedirectScope::SameHost)).await.unwrap_err();
    assert!(matches!(refused, OutboundError::RedirectRefused { why: "to another host", .. }), "{refused:?}");
    let client = OutboundClient::new(OutboundConfig { redirects_max: 0, ..loopback() }).unwrap();
    let refused = ask(&client, &format!("http://{address}/near")).await.unwrap_err();
    assert!(matches!(refused, OutboundError::RedirectRefused { why: "too often", .. }), "{refused:?}");
}

#[tokio::test]
async fn what_is_sent_is_plain_and_nothing_is_decoded() {
    let echo = |headers: HeaderMap| async move {
        let named =
            |name| headers.get(name).map_or("none", |value: &header::HeaderValue| value.to_str().unwrap());
        let text =
            format!("{} {} {}", named(header::ACCEPT_ENCODING), named(header::COOKIE), named(header::RANGE));
        ([(header::CONTENT_ENCODING, "gzip"), (header::SET_COOKIE, "a=b")], text)
    };
    let (address, _server) = serve(Router::new().route("/", get(echo))).await;
    let client = OutboundClient::new(loopback()).unwrap();
    for _ in 0..2 {
        let url = OutboundUrl::parse(&format!("http://{address}/"), client.networks()).unwrap();
        let request = OutboundRequest::get(url, RedirectScope::AnyHost)
            .with_header(header::RANGE, header::HeaderValue::from_static("bytes=5-"));
        let response = client.send(request).await.unwrap();
        assert_eq!(read(response).await.unwrap(), b"identity none bytes=5-");
    }
}

#[tokio::test]
async fn what_is_sent_goes_where_it_was_to_go_and_no_further() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let take = move |headers: HeaderMap, body: String| {
        counted.fetch_add(1, Ordering::SeqCst);
        let kind = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        async move { (StatusCode::ACCEPTED, format!("{kind}: {body}")) }
    };
    let moved = || async { Redirect::temporary("/take") };
    let router =
        Router::new().route("/take", axum::routing::post(take)).route("/moved", axum::routing::post(moved));
    let (address, _server) = serve(router).await;
    let client = OutboundClient::new(loopback()).unwrap();
    let send = async |path: &str| {
        let url = OutboundUrl::parse(&format!("http://{address}{path}"), client.networks()).unwrap();
        let request = OutboundRequest::post(url, Bytes::from_static(b"news"))
            .with_header(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        client.send(request).await.unwrap()
    };
    let response = send("/take").await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    assert_eq!(read(response).await.unwrap(), b"text/plain: news");
    assert_eq!(send("/moved").await.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(taken.load(Ordering::SeqCst), 1, "nobody follows a redirect with what is sent");
    // However an address is written.
    for text in
        ["http://[::ffff:7f00:1]/", "http://2130706433/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/"]
    {
        let refused = OutboundUrl::parse(text, &Networks::default());
        assert!(matches!(refused, Err(OutboundError::AddressRefused { .. })), "{text}: {refused:?}");
    }
}

#[tokio::test]
async fn an_answer_has_an_end_in_bytes_and_in_time() {
    let endless = || async {
        let bytes = futures::stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![7; 1_000])));
        Body::from_stream(bytes).into_response()
    };
    let slow = || async {
        let bytes = futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"begun"))]);
        Body::from_stream(bytes.chain(futures::stream::pending())).into_response()
    };
    let late = || async {
        futures::future::pending::<()>().await;
        StatusCode::OK
    };
    let router =
        Router::new().route("/endless", get(endless)).route("/slow", get(slow)).route("/late", get(late));
    let (address, _server) = serve(router).await;
    let client = OutboundClient::new(OutboundConfig { body_bytes_max: 10_500, ..loopback() }).unwrap();
    let error = read(ask(&client, &format!("http://{address}/endless")).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge { bytes_max: 10_500, .. }), "{error:?}");
    let short = OutboundConfig { idle_timeout_ms: 50, head_timeout_ms: 100, ..loopback() };
    let client = OutboundClient::new(short).unwrap();
    let error = read(ask(&client, &format!("http://{address}/slow")).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, OutboundError::TimedOut { what: "no byte came", .. }), "{error:?}");
    let error = ask(&client, &format!("http://{address}/late")).await.unwrap_err();
    assert!(matches!(error, OutboundError::TimedOut { what: "no answer began", .. }), "{error:?}");
    let client = OutboundClient::new(OutboundConfig { total_time_ms_max: 200, ..loopback() }).unwrap();
    let began = std::time::Instant::now();
    let error = read(ask(&client, &format!("http://{address}/endless")).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, OutboundError::TimedOut { what: "not all of it came", .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(error.class(), FailureClass::Fault);
}

#[tokio::test]
async fn failures_below_http_have_names() {
    let client = OutboundClient::new(loopback()).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(&client, &format!("http://{free}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::ConnectFailed { .. }), "{error:?}");
    let (plain, _plain) = serve_raw("HTTP/1.1 400 Bad Request\r\n\r\n", false).await;
    let error = ask(&client, &format!("https://{plain}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::TlsFailed { .. }), "{error:?}");
    let (cut, _cut) = serve_raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false).await;
    let error = read(ask(&client, &format!("http://{cut}/")).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, OutboundError::Broken { .. }), "{error:?}");
    let (noise, _noise) = serve_raw("SSH-2.0-OpenSSH\r\n", false).await;
    let error = ask(&client, &format!("http://{noise}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::Broken { .. }), "{error:?}");
    let client = OutboundClient::with_look_up(loopback(), Arc::new(Names::default())).unwrap();
    let error = ask(&client, "http://nowhere.example/?key=secret").await.unwrap_err();
    assert_eq!(error, OutboundError::NameNotFound { host: "nowhere.example".into() });
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn a_status_says_whether_to_try_again() {
    let router = Router::new().route(
        "/{status}",
        get(|path: axum::extract::Path<u16>| async move { StatusCode::from_u16(path.0).unwrap() }),
    );
    let (address, _server) = serve(router).await;
    let client = OutboundClient::new(loopback()).unwrap();
    for (status, class) in [
        (403, FailureClass::Reject),
        (404, FailureClass::Reject),
        (416, FailureClass::Reject),
        (429, FailureClass::Fault),
        (500, FailureClass::Fault),
        (503, FailureClass::Fault),
        (304, FailureClass::Reject),
    ] {
        let response = ask(&client, &format!("http://{address}/{status}")).await.unwrap();
        assert_eq!(response.check_success().unwrap_err().class(), class, "{status}");
    }
}

#[test]
fn names_need_no_network_to_be_read() {
    assert!(
        OutboundUrl::parse("http://localhost/", &Networks::default()).is_ok(),
        "a name is looked up later"
    );
}

/// The file of `length_bytes` that `bytes` bring.
fn file(
    client: &OutboundClient,
    address: SocketAddr,
    (length_bytes, bytes): (u64, Vec<io::Result<Bytes>>),
) -> OutboundFile {
    let url = OutboundUrl::parse(&format!("http://{address}/take"), client.networks()).unwrap();
    OutboundFile { url, length_bytes, content_type: "video/mp4", bytes: futures::stream::iter(bytes).boxed() }
}

#[tokio::test]
async fn a_file_is_sent_with_its_length_and_a_redirect_is_an_answer() {
    let take = async |headers: HeaderMap, body: Body| {
        let length = headers[header::CONTENT_LENGTH].to_str().unwrap().to_owned();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(length, bytes.len().to_string());
        assert!(headers.get(header::TRANSFER_ENCODING).is_none());
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/elsewhere")])
    };
    let (address, _server) = serve(Router::new().route("/take", axum::routing::put(take))).await;
    let client = OutboundClient::new(loopback()).unwrap();
    let pieces = vec![Ok(Bytes::from(vec![1; 300_000])), Ok(Bytes::from(vec![2; 5]))];
    let response = client.put(file(&client, address, (300_005, pieces))).await.unwrap();
    assert_eq!(response.status, 307);
    assert!(response.check_success().is_err());
}

/// Bytes on the way to a host that has closed reset the connection, and its answer with it.
#[tokio::test]
async fn who_refuses_by_the_head_gets_nothing_of_a_file() {
    let refuse = axum::routing::put(async || StatusCode::FORBIDDEN);
    let (address, _server) = serve(Router::new().route("/take", refuse)).await;
    let client = OutboundClient::new(loopback()).unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let asked = (0..8).map(async |_: u32| {
        let counted = taken.clone();
        let pieces = (0..64).map(|_| Ok(Bytes::from(vec![0; 1 << 20]))).collect();
        let mut file = file(&client, address, (64 << 20, pieces));
        let count = move |_: &io::Result<Bytes>| {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        file.bytes = file.bytes.inspect(count).boxed();
        client.put(file).await.unwrap().status
    });
    for status in futures::future::join_all(asked).await {
        assert_eq!(status, 403);
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_takes_no_more_of_a_file_or_gives_no_answer_is_given_up() {
    let hang = async |body: Body| {
        std::future::pending::<()>().await;
        drop(body);
    };
    let never = async |body: Body| {
        axum::body::to_bytes(body, usize::MAX).await.unwrap();
        std::future::pending::<()>().await;
    };
    let config = OutboundConfig { idle_timeout_ms: 300, head_timeout_ms: 400, ..loopback() };
    let client = OutboundClient::new(config).unwrap();
    for (handler, wanted_ms) in [(axum::routing::put(hang), 300), (axum::routing::put(never), 700)] {
        let (address, _server) = serve(Router::new().route("/take", handler)).await;
        // More than any buffer of the system on the way.
        let pieces = (0..64).map(|_| Ok(Bytes::from(vec![0; 1 << 20]))).collect();
        let refused = client.put(file(&client, address, (64 << 20, pieces))).await.unwrap_err();
        let OutboundError::TimedOut { limit_ms, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(limit_ms, wanted_ms);
        assert_eq!(refused.class(), FailureClass::Fault);
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_here_is_no_file_there() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let take = async move |body: Body| {
        if axum::body::to_bytes(body, usize::MAX).await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (address, _server) = serve(Router::new().route("/take", axum::routing::put(take))).await;
    let client = OutboundClient::new(loopback()).unwrap();
    let pieces = vec![Ok(Bytes::from_static(b"half")), Err(io::Error::other("the disk"))];
    let refused = client.put(file(&client, address, (8, pieces))).await.unwrap_err();
    assert!(matches!(refused, OutboundError::Broken { .. }), "{refused:?}");
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}
