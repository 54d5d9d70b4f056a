//! Reading JSON bodies, each refusal a problem that says where and why.
//!
//! A body that has the same member twice in an object is refused: one parser would take the first, another the last.
//!
//! Nothing here is for media: uploads take their bytes as a stream and have limits of their own.
//!
//! Limits: those of [`BodyLimits`], which [`attach_limits`] puts among the request's extensions; without it the defaults.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::Instant;

use super::{duplicate_keys, error::Problem, problem_code::ProblemCode};

/// Limits of a body that is read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub struct BodyLimits {
    /// Largest body, in bytes.
    pub bytes_max: usize,
    /// Slowest average over a window, in bytes per second; the last bytes of a body may come alone.
    pub rate_bytes_per_s_min: u64,
    /// Length of the window over which the rate is measured, in milliseconds.
    pub window_ms: u64,
    /// Longest time for the whole body, in milliseconds.
    pub total_ms: u64,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { bytes_max: 256 * 1024, rate_bytes_per_s_min: 256, window_ms: 5_000, total_ms: 30_000 }
    }
}

/// Puts the limits among the request's extensions.
pub async fn attach_limits(
    State(limits): State<Arc<BodyLimits>>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(*limits);
    next.run(request).await
}

impl BodyLimits {
    /// The limits that apply to a request.
    pub fn from_extensions(extensions: &axum::http::Extensions) -> Self {
        extensions.get::<Self>().copied().unwrap_or_default()
    }
}

/// Reads a whole body.
///
/// # Errors
/// 413 when it is too large, 408 when it comes too slowly, 400 when it ends early.
pub async fn read_body(mut body: Body, limits: &BodyLimits) -> Result<Bytes, Problem> {
    // Refused before it is read; without a length the bytes are counted below.
    if body.size_hint().lower() > u64::try_from(limits.bytes_max).unwrap_or(u64::MAX) {
        return Err(body_too_large(limits));
    }
    let window = Duration::from_millis(limits.window_ms.max(1));
    let window_bytes_min = limits.rate_bytes_per_s_min.saturating_mul(limits.window_ms) / 1_000;
    let latest = Instant::now() + Duration::from_millis(limits.total_ms);
    let mut window_ends = Instant::now() + window;
    let mut window_bytes = 0_u64;
    let mut read = BytesMut::new();
    loop {
        let Ok(frame) = tokio::time::timeout_at(window_ends.min(latest), body.frame()).await else {
            if window_bytes < window_bytes_min || Instant::now() >= latest {
                return Err(body_too_slow());
            }
            (window_ends, window_bytes) = (Instant::now() + window, 0);
            continue;
        };
        let Some(frame) = frame else { return Ok(read.freeze()) };
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "a body ended early");
            Problem::new(ProblemCode::BodyCut)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.bytes_max - read.len() {
            return Err(body_too_large(limits));
        }
        window_bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
        read.extend_from_slice(&data);
    }
}

fn body_too_large(limits: &BodyLimits) -> Problem {
    Problem::new(ProblemCode::BodyTooLarge)
        .with_detail(format!("it may have {} bytes", limits.bytes_max))
        .with_member("limit_bytes", limits.bytes_max)
}

fn body_too_slow() -> Problem {
    Problem::new(ProblemCode::BodyTooSlow)
        // The rest of the body is still to come: nothing else can be read from this connection.
        .with_header(header::CONNECTION, axum::http::HeaderValue::from_static("close"))
}

/// A JSON body.
#[derive(Debug, Clone, Copy)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        let limits = BodyLimits::from_extensions(request.extensions());
        parse_json(&read_body(request.into_body(), &limits).await?).map(Self)
    }
}

/// A JSON body that may be left out: nothing counts as `{}`.
#[derive(Debug, Clone, Copy)]
pub struct OptionalJsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (limits, is_json) =
            (BodyLimits::from_extensions(request.extensions()), is_json(request.headers()));
        let bytes = read_body(request.into_body(), &limits).await?;
        match (bytes.is_empty(), is_json) {
            (true, _) => parse_json(b"{}").map(Self),
            (false, true) => parse_json(&bytes).map(Self),
            (false, false) => Err(not_json()),
        }
    }
}

fn not_json() -> Problem {
    Problem::new(ProblemCode::MediaType).with_detail("send application/json")
}

/// True when the body says that it is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads JSON.
///
/// # Errors
/// 400 that points to the place: by line and column, and by JSON Pointer (RFC 6901) once a value is wrong.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => {
            reader.end().map_err(|error| json_malformed(&error))?;
            duplicate_keys::refuse_duplicate_keys(bytes).map(|()| value).map_err(|error| json_invalid(&error))
        }
        // A `null` where something is wanted is reported as a fault of syntax, though the body is JSON.
        Err(error) if error.inner().is_data() || is_well_formed(bytes) => {
            // Derived readers find a repeated member, too, and can't say where.
            let repeated = duplicate_keys::refuse_duplicate_keys(bytes)
                .err()
                .filter(|repeated| repeated.inner().is_data());
            Err(json_invalid(&repeated.unwrap_or(error)))
        }
        Err(error) => Err(json_malformed(error.inner())),
    }
}

fn json_invalid(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    Problem::new(ProblemCode::JsonInvalid)
        .with_pointer(&json_pointer(error.path()), error.inner().to_string())
}

fn is_well_formed(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn json_malformed(error: &serde_json::Error) -> Problem {
    let detail = error.to_string();
    let (line, column) = (error.line(), error.column());
    let place = json!({ "pointer": "", "detail": detail, "line": line, "column": column });
    Problem::new(ProblemCode::JsonMalformed).with_detail(detail).with_error(place)
}

fn json_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let steps = path.iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key: name } | Segment::Enum { variant: name } => {
            format!("/{}", name.replace('~', "~0").replace('/', "~1"))
        }
        Segment::Unknown => "/?".to_owned(),
    });
    steps.collect()
}

/// For a member that may be absent, with a default: what stands there is a value of its type. So `null` is refused where the type has
/// none, and differs from an absent member where it does.
///
/// # Errors
/// When what stands there is none.
pub fn deserialize_present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[serde(rename = "a/b~c", default)]
        _odd: Option<u8>,
        #[serde(default)]
        _list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        _count: u8,
    }

    async fn problem_document(problem: Problem) -> serde_json::Value {
        let body = axum::body::to_bytes(problem.into_response().into_body(), 4096).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn a_wrong_value_is_pointed_at() {
        for (body, code, pointer) in [
            ("", "json_malformed", ""),
            ("{", "json_malformed", ""),
            ("{} {}", "json_malformed", ""),
            ("nonsense", "json_malformed", ""),
            ("7", "json_invalid", ""),
            ("{\"unknown\":1}", "json_invalid", "/unknown"),
            ("{\"a/b~c\":\"x\"}", "json_invalid", "/a~1b~0c"),
            ("{\"_list\":[{\"_count\":1},{\"_count\":256}]}", "json_invalid", "/_list/1/_count"),
            ("{\"_list\":[{}]}", "json_invalid", "/_list/0"),
            ("{\"_list\":[],\"_list\":[]}", "json_invalid", "/_list"),
        ] {
            let problem = problem_document(parse_json::<Wanted>(body.as_bytes()).unwrap_err()).await;
            assert_eq!(problem["code"], code, "{body}");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        }
        assert!(parse_json::<Wanted>(b"{}").is_ok());
    }

    #[tokio::test]
    async fn a_member_that_is_there_twice_is_pointed_at() {
        for (body, pointer) in [
            (r#"{"a":1,"a":1}"#, "/a"),
            (r#"{"a":{"b":[0,{"c~/":1,"d":2,"c~/":3}]}}"#, "/a/b/1/c~0~1"),
            // Two spellings of the same name.
            (r#"[{"kind":"public","\u006bind":"not"}]"#, "/0/kind"),
            (r#"{"":{},"":{}}"#, "/"),
        ] {
            let problem =
                problem_document(parse_json::<serde_json::Value>(body.as_bytes()).unwrap_err()).await;
            assert_eq!(
                (&problem["code"], &problem["status"]),
                (&json!("json_invalid"), &json!(400)),
                "{body}"
            );
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        }
        for body in [r#"{"a":{"a":1},"b":{"a":1}}"#, r#"[{"a":1},{"a":1}]"#, r#"{"a":1,"A":1}"#] {
            assert!(parse_json::<serde_json::Value>(body.as_bytes()).is_ok(), "{body}");
        }
    }

    #[test]
    fn knows_json_by_its_type() {
        for (text, wanted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/json", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_json(&headers), wanted, "{text}");
        }
    }

    /// A body that sends `bytes` every `pause_ms`.
    fn dripping(bytes: usize, pause_ms: u64, count: usize) -> Body {
        let frames = futures::stream::unfold(0, move |sent| async move {
            if sent == count {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes])), sent + 1))
        });
        Body::from_stream(frames)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_cut_and_a_steady_one_is_not() {
        let limits =
            BodyLimits { bytes_max: 10_000, rate_bytes_per_s_min: 100, window_ms: 1_000, total_ms: 20_000 };
        let started = Instant::now();
        let problem = read_body(dripping(1, 50, 5_000), &limits).await.unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (408, "body_too_slow"));
        assert!(started.elapsed() <= Duration::from_millis(1_001), "{:?}", started.elapsed());
        assert_eq!(read_body(dripping(60, 500, 30), &limits).await.unwrap().len(), 1_800);
        let problem = read_body(dripping(60, 500, 100), &limits).await.unwrap_err();
        assert_eq!(problem.code(), "body_too_slow", "not for ever, either");
        let problem = read_body(
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()),
            &limits,
        );
        assert_eq!(problem.await.unwrap_err().status(), 408);
    }

    #[tokio::test]
    async fn a_body_is_as_large_as_it_may_be_and_no_larger() {
        let limits = BodyLimits { bytes_max: 100, ..BodyLimits::default() };
        assert_eq!(read_body(Body::from(vec![0; 100]), &limits).await.unwrap().len(), 100);
        assert_eq!(read_body(Body::from(vec![0; 101]), &limits).await.unwrap_err().status(), 413);
        // Without a length, too.
        assert_eq!(read_body(dripping(34, 0, 3), &limits).await.unwrap_err().status(), 413);
    }
}
