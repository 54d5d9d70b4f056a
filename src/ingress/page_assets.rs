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

/// `blob:` is where Media Source Extensions attach to a video element and posters that need a credential are shown from, `data:` the empty
/// file that hls.js makes text tracks with; it loads its worker from its own file.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob: data:; \
     connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors ";

/// Pages that show what needs a credential are framed by pages of this service alone.
static OWN_FRAMES: HeaderValue = HeaderValue::from_static("'self'");

const SAFETY: [(HeaderName, &str); 4] = [
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
        page_response(request, tag.to_owned(), self.content_type, &Bytes::from_static(self.bytes))
    }
}

fn page_response(request: &HeaderMap, etag: String, content_type: &'static str, body: &Bytes) -> Response {
    let facts = RepresentationMetadata {
        size_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
        etag,
        content_type,
        // Asked about on every use, answered with 304: a new version of the gateway never meets an old script.
        cache_control: "no-cache",
    };
    let mut response = bytes::bytes_response(request, &facts, body);
    let headers = response.headers_mut();
    for (name, value) in SAFETY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    set_frame_sources(headers, &OWN_FRAMES);
    response
}

fn set_frame_sources(headers: &mut HeaderMap, sources: &HeaderValue) {
    let policy = [POLICY.as_bytes(), sources.as_bytes()].concat();
    let policy = HeaderValue::from_bytes(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
}

/// Lets pages of other sites frame a page that uses no credential; `sources` are those of `frame-ancestors` (CSP 3, section 6.4.2).
pub(super) fn allow_frames(mut response: Response, sources: &HeaderValue) -> Response {
    set_frame_sources(response.headers_mut(), sources);
    response
}

/// Text as it stands in HTML, also between quotes.
pub(super) fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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

    /// The document with `head` instead of its title.
    pub(super) fn document_response_with_head(&'static self, head: &str, request: &HeaderMap) -> Response {
        let html = String::from_utf8_lossy(self.document.bytes);
        let Some((before, after)) =
            html.split_once("<title>").and_then(|(b, rest)| Some((b, rest.split_once("</title>")?.1)))
        else {
            return self.document_response(request);
        };
        let digest = blake3::hash([self.tag(), head].concat().as_bytes()).to_hex();
        let body = Bytes::from([before, head, after].concat());
        page_response(request, format!("\"{digest}\""), HTML, &body)
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
