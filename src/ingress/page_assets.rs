//! Pages that are embedded at build time: how their files are served, under one content security policy.
//!
//! Limits: a page's files are a fixed list; no body is read. Scripts, styles and connections are of this service alone.

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::Response,
};
use web::bytes::{self, RepresentationMetadata};

/// Media type of a page.
pub(super) const HTML: &str = "text/html; charset=utf-8";
/// Media type of a script.
pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Media type of a style sheet.
pub(super) const STYLE: &str = "text/css; charset=utf-8";
/// Media type of a drawing.
pub(super) const DRAWING: &str = "image/svg+xml";

/// Colours of both pages, in light and dark.
pub(super) static TOKENS: PageAsset =
    PageAsset { name: "tokens.css", content_type: STYLE, bytes: web::problem_page::TOKENS_CSS.as_bytes() };
/// The icon of both pages.
pub(super) static ICON: PageAsset =
    PageAsset { name: "icon.svg", content_type: DRAWING, bytes: include_bytes!("watch/icon.svg") };

/// `blob:` is where Media Source Extensions attach to a video element, `data:` the empty file that hls.js makes text tracks with; it loads
/// its worker from its own file.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob: data:; \
     connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

const SAFETY: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // The address may carry a playback token or a sign-in code in its fragment, and the media's id in its path.
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// One embedded file.
#[derive(Debug)]
pub(super) struct PageAsset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
}

impl PageAsset {
    /// The file for a request, or that the browser has it; `tag` is that of its page.
    pub(super) fn to_response(&'static self, tag: &str, request: &HeaderMap) -> Response {
        let facts = RepresentationMetadata {
            size_bytes: u64::try_from(self.bytes.len()).unwrap_or(u64::MAX),
            etag: tag.to_owned(),
            content_type: self.content_type,
            // Asked about on every use, answered with 304: a new version of the gateway never meets an old script.
            cache_control: "no-cache",
        };
        let mut response = bytes::bytes_response(request, &facts, &Bytes::from_static(self.bytes));
        let headers = response.headers_mut();
        for (name, value) in SAFETY {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// One tag for all files of a page: they belong together, and a new build replaces all of them.
pub(super) fn tag_of<'a>(assets: impl IntoIterator<Item = &'a PageAsset>) -> String {
    let mut digest = blake3::Hasher::new();
    for asset in assets {
        digest.update(asset.name.as_bytes()).update(asset.bytes);
    }
    let digest = digest.finalize().to_hex();
    format!("\"{digest}\"")
}
