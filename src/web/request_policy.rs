//! Policy towards browsers and slow or careless clients: safe headers on every answer, an allow-list of foreign origins, a limit
//! of the request's head, and a limit of the time to an answer.
//!
//! Limits: `head_bytes_max` for all headers, `target_bytes_max` for path and query, `answer_ms_max` for an answer to begin.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};

use super::{error::Problem, problem_code::ProblemCode, request_head};

/// Foreign origins, heads of requests and the time until an answer begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestConfig {
    /// Foreign origins whose pages may call this, such as `https://app.example.org`; `*` alone is every origin, without credentials.
    pub origins: Vec<String>,
    /// True when pages of those origins may send cookies.
    pub credentials: bool,
    /// How long browsers may keep what they learnt about an origin, in seconds.
    pub preflight_s: u64,
    /// Most that all headers of a request may take, in bytes.
    pub head_bytes_max: usize,
    /// Longest path and query of a request, in bytes.
    pub target_bytes_max: usize,
    /// Longest time until an answer begins, in milliseconds; what streams its request has limits of its own.
    pub answer_ms_max: u64,
}

impl Default for RequestConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            credentials: false,
            preflight_s: 600,
            head_bytes_max: 32 * 1024,
            target_bytes_max: 8 * 1024,
            answer_ms_max: 30_000,
        }
    }
}

/// A setting that would open more than it says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidOriginConfig(pub String);

/// Which foreign origins are let in where. One pointer: it is copied for each request.
#[derive(Debug, Clone)]
pub struct CorsPolicy(Arc<CorsLayers>);

#[derive(Debug)]
struct CorsLayers {
    /// The origins of the settings.
    listed: CorsLayer,
    /// Every origin, for what `/play/` serves: the token in the path is the right, and no cookie goes with it.
    play: CorsLayer,
    /// The origins of the settings; `None` for every origin.
    origins: Option<Arc<[HeaderValue]>>,
}

impl CorsPolicy {
    /// The layers that answer preflights and mark answers for the allowed origins.
    ///
    /// # Errors
    /// When an origin is none, or every origin would get credentials.
    pub fn new(config: &RequestConfig) -> Result<Self, InvalidOriginConfig> {
        let any = config.origins.iter().any(|origin| origin == "*");
        if any && (config.credentials || config.origins.len() > 1) {
            return Err(InvalidOriginConfig("\"*\" stands alone and without credentials".into()));
        }
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let base = CorsLayer::new()
            .allow_methods(methods)
            .allow_headers(ASKED.map(HeaderName::from_static))
            .expose_headers(EXPOSED.map(HeaderName::from_static))
            .max_age(Duration::from_secs(config.preflight_s));
        // The right to play is in the path, so no credentials are needed and any site may embed a player.
        let play = base.clone().allow_origin(AllowOrigin::any());
        if any {
            return Ok(Self(Arc::new(CorsLayers { listed: play.clone(), play, origins: None })));
        }
        let listed = config.origins.iter().map(|text| parse_origin(text)).collect::<Result<Arc<[_]>, _>>()?;
        let origins = Some(Arc::clone(&listed));
        let (allowed, trusted) = (Arc::clone(&listed), listed);
        let credentials = config.credentials;
        let listed = base
            .allow_origin(AllowOrigin::predicate(move |origin, _| allowed.contains(origin)))
            .allow_credentials(AllowCredentials::predicate(move |origin, _| {
                credentials && trusted.contains(origin)
            }));
        Ok(Self(Arc::new(CorsLayers { listed, play, origins })))
    }

    /// True when pages of `origin` may call this: the settings name it, or every origin. What browsers ask for a WebSocket no layer
    /// refuses, since they open one to any site.
    pub fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.0.origins.as_ref().is_none_or(|origins| origins.contains(origin))
    }

    /// The layer for answers at this path.
    fn layer_for_path(&self, path: &str) -> &CorsLayer {
        if is_playback_path(path) { &self.0.play } else { &self.0.listed }
    }
}

/// Answers preflights, and marks all other answers for the allowed origins. An OPTIONS request that is no preflight is somebody's
/// question about a resource (tus asks one) and reaches its handler, which the layer alone would not let it do.
pub async fn apply_cors(State(origins): State<CorsPolicy>, request: Request, next: Next) -> Response {
    let layer = origins.layer_for_path(request.uri().path());
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let answered = if asks || *request.method() != Method::OPTIONS {
        layer.layer(next).oneshot(request).await
    } else {
        // The CORS layer takes every OPTIONS for a preflight: what is none is answered first and only marked by it.
        let mut marked = Request::new(Body::empty());
        marked.headers_mut().clone_from(request.headers());
        let mut response = Some(next.run(request).await);
        let once = service_fn(move |_: Request| std::future::ready(Ok(response.take().unwrap_or_default())));
        layer.layer(once).oneshot(marked).await
    };
    answered.unwrap_or_else(|never: Infallible| match never {})
}

/// Whether the path is one that carries its right in itself, which pages of any origin may use.
fn is_playback_path(path: &str) -> bool {
    path.starts_with("/play/")
}

/// Headers that scripts may send.
pub const ASKED: [&str; 25] = [
    "authorization",
    "content-type",
    "content-digest",
    "content-disposition",
    "repr-digest",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "if-range",
    "last-event-id",
    "range",
    "tus-resumable",
    "upload-checksum",
    "upload-complete",
    "upload-concat",
    "upload-draft-interop-version",
    "upload-incomplete",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
    "want-repr-digest",
    "x-http-method-override",
    "x-request-id",
    "x-requested-with",
];

/// Headers that scripts may read.
pub const EXPOSED: [&str; 30] = [
    "accept-patch",
    "accept-ranges",
    "allow",
    "etag",
    "link",
    "location",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "idempotency-replayed",
    "x-request-id",
    "streamgate-media-id",
    "content-disposition",
    "content-range",
    "www-authenticate",
    "tus-resumable",
    "tus-version",
    "tus-extension",
    "tus-max-size",
    "tus-checksum-algorithm",
    "upload-complete",
    "upload-concat",
    "upload-defer-length",
    "upload-draft-interop-version",
    "upload-expires",
    "upload-incomplete",
    "upload-length",
    "upload-limit",
    "upload-metadata",
    "upload-offset",
];

/// An origin is scheme and authority, nothing behind them; `null` is what every sandboxed page calls itself.
/// An origin as browsers send it (RFC 6454, section 6.2).
///
/// # Errors
/// When it is none, or not in the only spelling that is compared.
pub fn parse_origin(text: &str) -> Result<HeaderValue, InvalidOriginConfig> {
    let invalid = || InvalidOriginConfig(format!("{text:?} is no origin such as https://app.example.org"));
    let authority =
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(invalid)?;
    let parsed: axum::http::uri::Authority = authority.parse().map_err(|_| invalid())?;
    if parsed.as_str() != authority || authority.contains(['@', '*']) || text != text.to_ascii_lowercase() {
        return Err(invalid());
    }
    HeaderValue::from_str(text).map_err(|_| invalid())
}

/// What every answer says to browsers unless its handler said something else. No answer of the API is a page.
const SAFE: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Addresses of playback carry their right in the path.
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

static RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Adds the safe headers, and the version of tus below uploads, to refusals too. What `/play` serves may be embedded anywhere: its
/// path is its right.
pub async fn add_safe_headers(request: Request, next: Next) -> Response {
    let embeddable = is_playback_path(request.uri().path());
    let speaks_tus =
        request_head::is_upload_path(request.uri().path()) && *request.method() != Method::OPTIONS;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if speaks_tus {
        request_head::set_tus_version(headers);
    }
    if embeddable {
        headers.entry(&RESOURCE_POLICY).or_insert(HeaderValue::from_static("cross-origin"));
    }
    for (name, value) in SAFE {
        // Where a handler set its own, as pages do with their policy, that one stays.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Refuses a head that names no host or is larger than its limits, as a problem. Far beyond them the accept loop refuses.
pub async fn limit_request_head(
    State(config): State<Arc<RequestConfig>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = request_head::normalize_head(&mut request) {
        return problem.into_response();
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > config.target_bytes_max {
        return Problem::new(ProblemCode::TargetTooLong)
            .with_member("limit_bytes", config.target_bytes_max)
            .into_response();
    }
    // Four bytes for colon, space and line end.
    let size =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    if size > config.head_bytes_max {
        return Problem::new(ProblemCode::HeadersTooLarge)
            .with_member("limit_bytes", config.head_bytes_max)
            .into_response();
    }
    next.run(request).await
}

/// Answers 503 when a handler takes too long. Not for handlers that stream their request or wait on purpose.
pub async fn limit_response_time(
    State(config): State<Arc<RequestConfig>>,
    request: Request,
    next: Next,
) -> Response {
    let limit = Duration::from_millis(config.answer_ms_max);
    if let Ok(response) = tokio::time::timeout(limit, next.run(request)).await {
        return response;
    }
    tracing::warn!(limit_ms = config.answer_ms_max, "a handler took too long");
    Problem::new(ProblemCode::Timeout)
        .with_detail("a request that changes something may have had its effect: look before you repeat it, or repeat a POST under its `Idempotency-Key`")
        .with_retry_after_s(2)
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::get};

    use super::*;

    const APP: &str = "https://app.example.org";

    fn router(config: &RequestConfig) -> Router {
        let shared = Arc::new(config.clone());
        Router::new()
            .route("/", get(|| async { "here" }).put(|| async { "put" }))
            .route("/page", get(|| async { ([(header::CONTENT_SECURITY_POLICY, "own")], "page") }))
            .route("/play/segment", get(|| async { "segment" }))
            .route("/ask", axum::routing::options(|| async { ([("tus-version", "1.0.0")], "") }))
            .route("/slow", get(std::future::pending::<&'static str>))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), limit_response_time))
            .layer(middleware::from_fn_with_state(shared, limit_request_head))
            .layer(middleware::from_fn_with_state(CorsPolicy::new(config).unwrap(), apply_cors))
            .layer(middleware::from_fn(add_safe_headers))
    }

    async fn ask(config: &RequestConfig, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router(config).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn allowed(response: &Response) -> Option<&str> {
        response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn only_listed_origins_are_let_in() {
        let config =
            RequestConfig { origins: vec![APP.into()], credentials: true, ..RequestConfig::default() };
        for origin in
            ["https://evil.example.org", "null", "http://app.example.org", "https://app.example.org.evil.org"]
        {
            let answer = ask(&config, Method::GET, "/", &[("origin", origin)]).await;
            assert_eq!(allowed(&answer), None, "{origin}");
            let preflight = [("origin", origin), ("access-control-request-method", "PUT")];
            assert_eq!(allowed(&ask(&config, Method::OPTIONS, "/", &preflight).await), None, "{origin}");
        }
        let answer = ask(&config, Method::GET, "/", &[("origin", APP)]).await;
        assert_eq!(allowed(&answer), Some(APP));
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
        let vary = answer.headers().get_all("vary").iter().any(|v| v.to_str().unwrap().contains("origin"));
        assert!(vary, "{:?}", answer.headers());
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("ratelimit") && exposed.contains("retry-after"), "{exposed}");
        let preflight = [("origin", APP), ("access-control-request-method", "PUT")];
        let answer = ask(&config, Method::OPTIONS, "/", &preflight).await;
        assert_eq!(answer.headers()["access-control-max-age"], "600");
        assert!(answer.headers()["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    }

    #[tokio::test]
    async fn a_question_that_is_no_preflight_reaches_its_handler() {
        let config = RequestConfig { origins: vec![APP.into()], ..RequestConfig::default() };
        let answer = ask(&config, Method::OPTIONS, "/ask", &[("origin", APP)]).await;
        assert_eq!(answer.headers()["tus-version"], "1.0.0");
        assert_eq!(allowed(&answer), Some(APP));
        assert!(!answer.headers().contains_key("access-control-allow-methods"), "{:?}", answer.headers());
        let preflight = [("origin", APP), ("access-control-request-method", "OPTIONS")];
        let answer = ask(&config, Method::OPTIONS, "/ask", &preflight).await;
        assert!(!answer.headers().contains_key("tus-version"));
        assert_eq!(allowed(&answer), Some(APP));
    }

    #[tokio::test]
    async fn by_default_no_origin_is_let_in_and_every_origin_means_no_credentials() {
        assert_eq!(
            allowed(&ask(&RequestConfig::default(), Method::GET, "/", &[("origin", APP)]).await),
            None
        );
        let every = RequestConfig { origins: vec!["*".into()], ..RequestConfig::default() };
        let answer = ask(&every, Method::GET, "/", &[("origin", APP)]).await;
        assert_eq!(allowed(&answer), Some("*"));
        assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn an_origin_that_is_none_is_refused_at_start() {
        for (origins, credentials) in [
            (vec!["*"], true),
            (vec!["*", APP], false),
            (vec!["app.example.org"], false),
            (vec!["null"], false),
            (vec!["https://"], false),
            (vec!["https://app.example.org/"], false),
            (vec!["https://app.example.org/path"], false),
            (vec!["https://user@app.example.org"], false),
            (vec!["https://App.example.org"], false),
            (vec!["https://*.example.org"], false),
            (vec!["ftp://app.example.org"], false),
        ] {
            let origins = origins.into_iter().map(ToOwned::to_owned).collect::<Vec<_>>();
            let config = RequestConfig { origins: origins.clone(), credentials, ..RequestConfig::default() };
            assert!(CorsPolicy::new(&config).is_err(), "{origins:?} {credentials}");
        }
        for text in ["https://app.example.org", "http://localhost:3000", "http://[::1]:3000"] {
            assert!(
                CorsPolicy::new(&RequestConfig { origins: vec![text.into()], ..RequestConfig::default() })
                    .is_ok(),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn every_answer_is_safe_and_a_page_keeps_its_own_policy() {
        let config = RequestConfig::default();
        for (path, policy) in
            [("/", "default-src 'none'"), ("/page", "own"), ("/nothing", "default-src 'none'")]
        {
            let answer = ask(&config, Method::GET, path, &[]).await;
            assert!(
                answer.headers()["content-security-policy"].to_str().unwrap().starts_with(policy),
                "{path}"
            );
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
            assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
        }
        let answer = ask(&config, Method::GET, "/play/segment", &[]).await;
        assert_eq!(answer.headers()["cross-origin-resource-policy"], "cross-origin");
    }

    #[tokio::test]
    async fn a_head_beyond_its_limit_is_refused() {
        let config =
            RequestConfig { head_bytes_max: 1_000, target_bytes_max: 100, ..RequestConfig::default() };
        let long = "x".repeat(990);
        assert_eq!(ask(&config, Method::GET, "/", &[("x-a", &long)]).await.status(), 200);
        let answer = ask(&config, Method::GET, "/", &[("x-a", &long), ("x-b", "1234")]).await;
        assert_eq!(answer.status(), 431);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(ask(&config, Method::GET, &format!("/?{}", "x".repeat(99)), &[]).await.status(), 414);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_hangs_is_answered_for() {
        let answer = ask(&RequestConfig::default(), Method::GET, "/slow", &[]).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }

    /// What a script learns of an answer: the origin that is let in, and whether with credentials.
    fn learnt(response: &Response) -> (Option<&str>, bool) {
        (allowed(response), response.headers().contains_key("access-control-allow-credentials"))
    }

    #[tokio::test]
    async fn credentials_are_for_listed_origins_and_never_with_every_origin() {
        let config =
            RequestConfig { origins: vec![APP.into()], credentials: true, ..RequestConfig::default() };
        let evil = "https://evil.example.org";
        let long = format!("/play/{}", "x".repeat(9_000));
        for (path, origin, wanted) in [
            ("/", APP, (Some(APP), true)),
            ("/", evil, (None, false)),
            ("/", "null", (None, false)),
            ("/nothing", evil, (None, false)),
            ("/play/segment", APP, (Some("*"), false)),
            ("/play/segment", evil, (Some("*"), false)),
            ("/play/nothing", evil, (Some("*"), false)),
            (&long, evil, (Some("*"), false)),
            ("/playground", evil, (None, false)),
        ] {
            for method in [Method::GET, Method::DELETE, Method::OPTIONS] {
                let answer = ask(&config, method.clone(), path, &[("origin", origin)]).await;
                assert_eq!(learnt(&answer), wanted, "{method} {path} {origin}");
                let preflight = [("origin", origin), ("access-control-request-method", "GET")];
                let answer = ask(&config, Method::OPTIONS, path, &preflight).await;
                assert_eq!(learnt(&answer), wanted, "preflight of {path} {origin}");
            }
        }
        assert_eq!(learnt(&ask(&config, Method::GET, "/", &[]).await), (None, false));
        let answer = ask(&config, Method::GET, "/play/nothing", &[("origin", evil)]).await;
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("retry-after"), "{exposed}");
    }
}
