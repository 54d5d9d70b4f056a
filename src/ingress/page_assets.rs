//! Pages that are embedded at build time: how their files are served, under one content security policy.
//!
//! Limits: a page's files are a fixed list; no body is read. Scripts, styles and connections are of this service alone.

use std::sync::OnceLock;

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::Response,
};
use web::{
    bytes::{self, RepresentationMetadata},
    error::Problem,
};

/// Media type of a page.
const HTML: &str = "text/html; charset=utf-8";
/// Media type of a script.
pub(super) const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Media type of a style sheet.
pub(super) const STYLE: &str = "text/css; charset=utf-8";
/// Media type of a drawing.
const DRAWING: &str = "image/svg+xml";

/// Colours of all pages, in light and dark.
static TOKENS: PageAsset =
    PageAsset { name: "tokens.css", content_type: STYLE, bytes: web::problem_page::TOKENS_CSS.as_bytes() };
/// The icon of both pages.
static ICON: PageAsset =
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
    fn to_response(&'static self, tag: &str, request: &HeaderMap) -> Response {
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

/// A page: its document and the files that it names.
#[derive(Debug)]
pub(super) struct EmbeddedPage {
    document: PageAsset,
    assets: &'static [PageAsset],
    tag: OnceLock<String>,
}

impl EmbeddedPage {
    /// A page of an HTML document and its own files; it has those of all pages, too.
    pub(super) const fn new(html: &'static [u8], assets: &'static [PageAsset]) -> Self {
        let document = PageAsset { name: "index.html", content_type: HTML, bytes: html };
        Self { document, assets, tag: OnceLock::new() }
    }

    /// The document for a request, or that the browser has it.
    pub(super) fn document_response(&'static self, request: &HeaderMap) -> Response {
        self.document.to_response(self.tag(), request)
    }

    /// A file of the page for a request; 404 for one that it does not have.
    pub(super) fn asset_response(
        &'static self,
        name: &str,
        request: &HeaderMap,
    ) -> Result<Response, Problem> {
        let asset = self.assets().find(|asset| asset.name == name);
        asset
            .map(|asset| asset.to_response(self.tag(), request))
            .ok_or_else(|| Problem::not_found("this page has no such file"))
    }

    fn assets(&self) -> impl Iterator<Item = &'static PageAsset> + use<> {
        self.assets.iter().chain([&TOKENS, &ICON])
    }

    /// One tag for all files of a page: they belong together, and a new build replaces all of them.
    fn tag(&'static self) -> &'static str {
        self.tag.get_or_init(|| {
            let mut digest = blake3::Hasher::new();
            for asset in std::iter::once(&self.document).chain(self.assets()) {
                digest.update(asset.name.as_bytes()).update(asset.bytes);
            }
            let digest = digest.finalize().to_hex();
            format!("\"{digest}\"")
        })
    }
}
