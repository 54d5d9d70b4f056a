//! Problems for people: a browser that opens an address gets a page, and never what is written for programs.
//!
//! Programs name no `text/html` in `Accept`, nor does what a page of ours fetches: they get the problem document.
//! Limits: a page is small and made of the status, the code and the id of the request; nothing of the request goes into it but the
//! id of a medium, checked by type.

use std::sync::LazyLock;

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use schemas::ids::MediaId;
use sha2::{Digest, Sha256};

use super::{problem_code::ProblemCode, public_address::PublicAddress, request};

/// Colours, measures and the ground of all pages.
pub const TOKENS_CSS: &str = include_str!("tokens.css");

const PAGE_CSS: &str = "
main { max-width: 37rem; margin: 12vh auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .75rem; }
a { display: inline-block; margin: 1rem 1rem 0 0; color: var(--accent); }
small { display: block; margin-top: 2.5rem; color: var(--soft); overflow-wrap: anywhere; }
";

static STYLE: LazyLock<String> = LazyLock::new(|| format!("{TOKENS_CSS}{PAGE_CSS}"));

/// Only the page's own style, which is named by its digest (CSP 3, section 6.7.3.3).
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = data_encoding::BASE64.encode(&Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// Answers a browser that opens an address with a page where others get a problem document.
pub async fn show_problem_page(request: Request, next: Next) -> Response {
    let is_navigation = match *request.method() {
        Method::GET | Method::HEAD => true,
        // The form of a page leads to what answers it.
        Method::POST => is_form(request.headers()),
        _ => false,
    };
    let is_form = *request.method() == Method::POST;
    let is_person = is_navigation && wants_page(request.headers());
    if !is_person {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let address = match PublicAddress::from_request_parts(&mut parts, &()).await {
        Ok(address) => address,
        Err(never) => match never {},
    };
    let media_id = played_medium(parts.uri.path());
    let response = next.run(Request::from_parts(parts, body)).await;
    match response.extensions().get::<ProblemCode>().copied() {
        Some(kind) => page_response(response, kind, &address, (media_id, is_form)),
        None => response,
    }
}

/// True for a request whose body is a form with parts (RFC 7578).
pub fn is_form(headers: &HeaderMap) -> bool {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = found.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("multipart/form-data")
}

/// True for what a browser sends when somebody opens an address.
pub fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|name| name.trim() == "text/html"))
}

/// The medium of an address below `/play/{token}/{media_id}/`.
fn played_medium(path: &str) -> Option<MediaId> {
    path.strip_prefix("/play/")?.split('/').nth(1)?.parse().ok()
}

/// Keeps status and headers, such as `Retry-After`, and takes the words away.
fn page_response(
    problem: Response,
    kind: ProblemCode,
    address: &PublicAddress,
    (media_id, is_form): (Option<MediaId>, bool),
) -> Response {
    let status = problem.status();
    let (heading, advice) =
        if is_form { words_for_form(status) } else { words_for(status, media_id.is_some()) };
    let base = address.prefix();
    let watch =
        media_id.map(|id| format!("<a href=\"{base}/watch/{id}\">Open its page</a>")).unwrap_or_default();
    let request_id = request::current_id().map(|id| format!(", request {id}")).unwrap_or_default();
    let (number, code) = (status.as_u16(), kind.code());
    let rest = format!(
        "{watch}<a href=\"{base}/\">Go to the library</a>\n\
         <small>For the operator of this service: {number} {code}{request_id}.</small>\n"
    );
    let parts = problem.into_parts().0;
    let mut page = render_page(status, parts.headers, heading, advice, &rest);
    // That it is a problem, and which one, is still to be seen by the layers around.
    *page.extensions_mut() = parts.extensions;
    page
}

/// A page that says something to a person; it keeps `headers` but for those of another body.
pub fn message_page(status: StatusCode, headers: HeaderMap, heading: &str, advice: &str) -> Response {
    render_page(status, headers, heading, advice, "")
}

fn render_page(
    status: StatusCode,
    mut headers: HeaderMap,
    heading: &str,
    advice: &str,
    rest: &str,
) -> Response {
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let style = STYLE.as_str();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{heading}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n<p>{advice}</p>\n\
         {rest}</main>\n</body>\n</html>\n"
    );
    (status, headers, page).into_response()
}

/// What became of a file that somebody sent by a form.
fn words_for_form(status: StatusCode) -> (&'static str, &'static str) {
    let heading = "Your file was not taken";
    let advice = match status.as_u16() {
        400 => "Choose one file. If you did, the page with the form has to be changed by whom it belongs to.",
        401 | 403 => {
            "The page with the form is too old, or was sent before. Load it again, then choose the file again."
        }
        413 => "It is larger than files may be here.",
        415 => "Choose a video, a sound or a picture.",
        429 => "Too many files were sent from here. Wait a minute, then load the page with the form again.",
        _ => "This does not work at the moment. Wait a minute, then load the page with the form again.",
    };
    (heading, advice)
}

/// What happened, and what to do, for somebody who knows no API.
fn words_for(status: StatusCode, is_playback: bool) -> (&'static str, &'static str) {
    match status.as_u16() {
        401 | 403 | 404 | 410 if is_playback => (
            "This link does not play any more",
            "A link to a video is good for some hours, and only while you may watch it. Open the page of the video: it plays there if you still may.",
        ),
        401 => ("Sign in first", "Sign in to the library; then open this address again from there."),
        403 => ("This is not open to you", "Sign in with another account, or ask whom it belongs to."),
        404 => (
            "There is nothing here",
            "The address may be mistyped, or what it led to was removed. Ask the person who gave it to you.",
        ),
        410 => {
            ("This is gone", "It was removed, or its time is over. Ask the person who gave you the address.")
        }
        429 => ("Too many requests", "Wait a minute, then load the page again."),
        500..=599 => (
            "This does not work at the moment",
            "Nothing that was uploaded is lost. Wait a minute, then load the page again.",
        ),
        _ => ("This address can't be opened", "It is made for programs, or something in it is wrong."),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::to_bytes, middleware, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::error::Problem;

    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    async fn answer(path: &str, accept: &str) -> (StatusCode, String, String) {
        let refused = || async { Problem::new(ProblemCode::PlaybackRefused).with_retry_after_s(7) };
        let router = Router::new()
            .route("/play/{*path}", get(refused))
            .route("/fine", get(|| async { "fine" }))
            .fallback(request::no_such_path)
            .layer(middleware::from_fn(show_problem_page));
        let asked = axum::http::Request::get(path).header(header::ACCEPT, accept);
        let response = router.oneshot(asked.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn what_became_of_a_form_is_said_for_each_status() {
        let said: std::collections::BTreeSet<&str> = [400, 401, 413, 415, 429, 500, 507]
            .map(|status| words_for_form(StatusCode::from_u16(status).unwrap()).1)
            .into();
        assert_eq!(said.len(), 6, "{said:?}");
    }

    #[tokio::test]
    async fn a_browser_gets_a_page_and_a_program_a_document() {
        let playback = "/play/<b>/06db00820dt0303jc5mn0r355k/master.m3u8";
        for (path, heading) in
            [("/nothing", "There is nothing here"), (playback, "This link does not play any more")]
        {
            let path = path.replace('<', "%3C").replace('>', "%3E");
            let (status, kind, page) = answer(&path, BROWSER).await;
            assert!(status.is_client_error() && kind.starts_with("text/html"), "{path} {status} {kind}");
            assert!(page.contains(&format!("<h1>{heading}</h1>")) && !page.contains("<b>"), "{page}");
            for accept in ["*/*", "application/json", "application/problem+json", "text/plain"] {
                let (same, kind, _) = answer(&path, accept).await;
                assert_eq!((same, kind.as_str()), (status, "application/problem+json"), "{accept}");
            }
        }
        let (_, _, page) = answer(playback.replace("<b>", "x").as_str(), BROWSER).await;
        assert!(page.contains("href=\"/watch/06db00820dt0303jc5mn0r355k\""), "{page}");
        assert_eq!(answer("/fine", BROWSER).await.2, "fine");
    }
}
