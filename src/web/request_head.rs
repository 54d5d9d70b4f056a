//! What the standards want of a request's head beyond its syntax, which the library has seen to.
//!
//! HTTP/1.1 names its host in one field (RFC 9112, 3.2); ranges are for GET alone (RFC 9110, 14.2); a tus client behind a proxy
//! that knows POST only says in a field which method it means (tus 1.0, `X-HTTP-Method-Override`).

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, uri::Authority},
};
use hyper::body::Incoming;

use super::{error::Problem, problem_code::ProblemCode};

/// The version of tus that is spoken.
pub const TUS_VERSION: &str = "1.0.0";
/// Header that names it, in requests and answers.
pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");

static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// A request whose host can't be determined; its answer says so.
#[derive(Debug, Clone, Copy)]
struct InvalidHostMarker;

/// Looks at what came over a connection, before it is routed.
pub(super) fn prepare_request(request: &mut hyper::Request<Incoming>) {
    if !has_valid_host(request) {
        request.extensions_mut().insert(InvalidHostMarker);
    }
    if let Some(plain) = without_last_slash(request.uri()) {
        *request.uri_mut() = plain;
    }
    // Before the router, which chooses the handler by the method.
    if let Some(meant) = overridden_method(request) {
        *request.method_mut() = meant;
    }
}

/// Refuses a request whose host can't be determined, and takes away what means nothing with its method.
///
/// # Errors
/// 400.
pub(super) fn normalize_head(request: &mut Request) -> Result<(), Problem> {
    if request.extensions().get::<InvalidHostMarker>().is_some() {
        let detail = "HTTP/1.1 names the host in exactly one Host field";
        return Err(Problem::new(ProblemCode::RequestMalformed).with_detail(detail));
    }
    if *request.method() != Method::GET {
        // RFC 9110, 14.2: a range counts with GET alone and is ignored elsewhere.
        request.headers_mut().remove(header::RANGE);
        request.headers_mut().remove(header::IF_RANGE);
    }
    Ok(())
}

/// True for what lies below the addresses of uploads, where tus is spoken.
pub(super) fn is_upload_path(path: &str) -> bool {
    path.strip_prefix("/v1/uploads").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Every answer below uploads but that to OPTIONS names the protocol's version, errors too.
pub fn set_tus_version(headers: &mut HeaderMap) {
    headers.insert(TUS_RESUMABLE, HeaderValue::from_static(TUS_VERSION));
}

fn has_valid_host<B>(request: &hyper::Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        // HTTP/1.0 needs none, and HTTP/2 has a field of its own.
        (None, _) => request.version() != Version::HTTP_11,
        (Some(host), None) => host.to_str().is_ok_and(is_valid_host),
        (Some(_), Some(_)) => false,
    }
}

/// `uri-host [ ":" port ]` (RFC 9110, 7.2); empty where the target has no authority.
fn is_valid_host(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Ok(authority) = text.parse::<Authority>() else { return false };
    // The library takes a user and any port.
    let port = text.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':').or(Some(rest)));
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The address of an operation that a client wrote with a slash at its end, as some write the base of all uploads.
fn without_last_slash(uri: &Uri) -> Option<Uri> {
    let path =
        uri.path().strip_suffix('/').filter(|path| path.starts_with("/v1/") && !path.ends_with('/'))?;
    let target = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// The method that a POST to an upload stands for.
fn overridden_method<B>(request: &hyper::Request<B>) -> Option<Method> {
    let mut names = request.headers().get_all(&METHOD_OVERRIDE).iter();
    let (name, None) = (names.next()?, names.next()) else { return None };
    let stands = *request.method() == Method::POST && is_upload_path(request.uri().path());
    Method::from_bytes(name.as_bytes()).ok().filter(|_| stands)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn one_good_host_is_needed_where_the_version_has_it() {
        let http11 = Version::HTTP_11;
        for (version, hosts, wanted) in [
            (http11, &[][..], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_2, &[], true),
            (http11, &["media.example.org"], true),
            (http11, &["media.example.org:8080"], true),
            (http11, &["[::1]:8080"], true),
            (http11, &[""], true),
            (http11, &["a", "a"], false),
            (Version::HTTP_2, &["a", "b"], false),
            (http11, &["a b"], false),
            (http11, &["a/b"], false),
            (http11, &["ann@a"], false),
            (http11, &["a:port"], false),
            (http11, &["http://a"], false),
            (http11, &["a, b"], false),
        ] {
            let request = hosts.iter().fold(Request::builder().version(version), |request, host| {
                request.header(header::HOST, *host)
            });
            assert_eq!(has_valid_host(&request.body(()).unwrap()), wanted, "{version:?} {hosts:?}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_an_operation_is_nothing() {
        for (text, wanted) in [
            ("/v1/uploads/", Some("/v1/uploads")),
            ("/v1/uploads/?a=/", Some("/v1/uploads?a=/")),
            ("http://h:1/v1/uploads/", Some("http://h:1/v1/uploads")),
            ("/v1/uploads", None),
            ("/v1/uploads//", None),
            ("/v1/", None),
            ("/docs/", None),
            ("/", None),
        ] {
            let found = without_last_slash(&text.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_post_to_an_upload_stands_for_what_it_says() {
        for (method, path, said, wanted) in [
            (Method::POST, "/v1/uploads/x", "PATCH", Some(Method::PATCH)),
            (Method::POST, "/v1/uploads/x", "HEAD", Some(Method::HEAD)),
            (Method::POST, "/v1/uploads", "OPTIONS", Some(Method::OPTIONS)),
            (Method::POST, "/v1/media", "DELETE", None),
            (Method::POST, "/v1/uploadsx", "DELETE", None),
            (Method::GET, "/v1/uploads/x", "DELETE", None),
            (Method::POST, "/v1/uploads/x", "no method", None),
        ] {
            let request = Request::builder().method(&method).uri(path).header(&METHOD_OVERRIDE, said);
            assert_eq!(overridden_method(&request.body(()).unwrap()), wanted, "{method} {path} {said}");
        }
    }

    #[test]
    fn only_get_has_ranges() {
        for (method, wanted) in [(Method::GET, true), (Method::HEAD, false), (Method::POST, false)] {
            let request = Request::builder().method(&method).header(header::RANGE, "bytes=0-0");
            let mut request = request.body(Body::empty()).unwrap();
            normalize_head(&mut request).unwrap();
            assert_eq!(request.headers().contains_key(header::RANGE), wanted, "{method}");
        }
    }
}
