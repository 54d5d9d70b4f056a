//! The library page: `/` takes uploads and lists, publishes and deletes one's own media in a browser.
//!
//! The page is a client of the API like any other: it signs in and asks under `/v1` itself, so this module holds no state and decides
//! nothing. Its script is written in TypeScript beside this file, and bundled and embedded by `build.rs`.
//!
//! Limits: assets are a fixed list; no body is read; the script has at most 60 kB compressed.

use axum::{extract::Path, http::HeaderMap, response::Response};

use super::{
    openapi,
    page_assets::{EmbeddedPage, PageAsset, SCRIPT, STYLE},
};
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
};

static PAGE: EmbeddedPage = EmbeddedPage::new(include_bytes!("index.html"), &ASSETS);
static ASSETS: [PageAsset; 2] = [
    PageAsset { name: "library.css", content_type: STYLE, bytes: include_bytes!("library.css") },
    PageAsset {
        name: "library.js",
        content_type: SCRIPT,
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/library.js")),
    },
];

/// Serves `/` and `/library/assets/{file}`; needs no state and no right, the page asks for the media itself.
pub fn router<S: Clone + Send + Sync + 'static>() -> OperationRouter<S> {
    OperationRouter::default().with(&READ_LIBRARY_PAGE, read_library_page).with(&READ_ASSET, read_asset)
}

/// Its description; the page's own files are none of the API.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_library_page))]
pub(super) struct LibraryApiDoc;

impl openapi::OperationGroup for LibraryApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router::<()>().operations().to_vec()
    }

    fn add_schemas(_: &mut openapi::SchemaCollector) {}
}

static READ_LIBRARY_PAGE: Operation =
    Operation::read("/", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// Use one's own media in a browser
///
/// A page that uploads, lists, publishes and deletes; it signs in by itself.
#[utoipa::path(
    get,
    path = READ_LIBRARY_PAGE.path,
    tag = "metadata",
    operation_id = "library",
    params(("If-None-Match", Header)),
    responses(
        (status = 200, description = "A page", content_type = "text/html", headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_library_page(headers: HeaderMap) -> Response {
    PAGE.document_response(&headers)
}

static READ_ASSET: Operation =
    Operation::read("/library/assets/{file}", OperationAccess::Open, Some(RateLimitGroup::Api))
        .with_any_query();

async fn read_asset(Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    PAGE.asset_response(&file, &headers)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use axum::body::{Body, to_bytes};
    use axum::http::header::CONTENT_SECURITY_POLICY;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    /// Bytes of script that the first view may load, compressed.
    const SCRIPT_BYTES_MAX: usize = 60_000;

    async fn get(path: &str) -> Response {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router::<()>().into_parts().0.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn every_file_the_page_names_is_served_under_a_strict_policy() {
        let response = get("/").await;
        assert_eq!(response.status(), StatusCode::OK);
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let html = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let html = std::str::from_utf8(&html).unwrap();
        // Relative: a proxy may give the gateway a path of its own.
        let named: Vec<&str> = html.split('"').filter(|part| part.starts_with("library/assets/")).collect();
        assert!(named.len() >= 4 && !html.contains("\"/library"), "{named:?}");
        for path in named {
            assert_eq!(get(&format!("/{path}")).await.status(), StatusCode::OK, "{path}");
        }
        assert_eq!(get("/library/assets/mod.rs").await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_first_view_loads_a_small_script() {
        let mut gzip =
            Command::new("gzip").arg("-9c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let script = ASSETS.iter().find(|asset| asset.name == "library.js").unwrap().bytes;
        let mut input = gzip.stdin.take().unwrap();
        let writing = std::thread::spawn(move || input.write_all(script).unwrap());
        let compressed = gzip.wait_with_output().unwrap().stdout.len();
        writing.join().unwrap();
        assert!((1_000..=SCRIPT_BYTES_MAX).contains(&compressed), "{compressed} of {} bytes", script.len());
    }
}
