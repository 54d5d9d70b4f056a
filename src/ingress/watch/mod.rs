//! The watch page: `/watch/{media_id}` plays one media in a browser, from this binary alone.
//!
//! The page is the same for every media: it reads the id from its address and asks `/v1/media/{id}/playback` itself, so this module
//! holds no state and decides nothing. Scripts, styles and hls.js are embedded at build time; the content security policy allows
//! nothing from elsewhere.
//!
//! Limits: media ids only, checked by type; assets are a fixed list; no body is read.

use axum::{extract::Path, http::HeaderMap, response::Response};
use schemas::ids::MediaId;

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
static ASSETS: [PageAsset; 8] = [
    PageAsset { name: "watch.css", content_type: STYLE, bytes: include_bytes!("watch.css") },
    PageAsset { name: "watch.js", content_type: SCRIPT, bytes: include_bytes!("watch.js") },
    PageAsset { name: "player.js", content_type: SCRIPT, bytes: include_bytes!("player.js") },
    PageAsset { name: "scenes.js", content_type: SCRIPT, bytes: include_bytes!("scenes.js") },
    PageAsset { name: "wallet.js", content_type: SCRIPT, bytes: include_bytes!("wallet.js") },
    PageAsset { name: "server.js", content_type: SCRIPT, bytes: include_bytes!("server.js") },
    PageAsset {
        name: "hls.min.mjs",
        content_type: SCRIPT,
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/hls.min.mjs")),
    },
    PageAsset {
        name: "hls.worker.js",
        content_type: SCRIPT,
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/hls.worker.js")),
    },
];

/// Serves `/watch/{media_id}` and `/watch/assets/{file}`; needs no state and no right, the page asks for the media itself.
pub fn router<S: Clone + Send + Sync + 'static>() -> OperationRouter<S> {
    OperationRouter::default().with(&READ_WATCH_PAGE, read_watch_page).with(&READ_ASSET, read_asset)
}

/// Its description; the page's own files are none of the API.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_watch_page))]
pub(super) struct WatchApiDoc;

impl openapi::OperationGroup for WatchApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router::<()>().operations().to_vec()
    }

    fn add_schemas(_: &mut openapi::SchemaCollector) {}
}

static READ_WATCH_PAGE: Operation =
    Operation::read("/watch/{media_id}", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// Watch one medium in a browser
///
/// The same page for every medium: it opens the playback session itself.
#[utoipa::path(
    get,
    path = READ_WATCH_PAGE.path,
    tag = "streaming",
    operation_id = "watch",
    params(("media_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "A page", content_type = "text/html", headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_watch_page(Path(media_id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    match media_id.parse::<MediaId>() {
        Ok(_) => Ok(PAGE.document_response(&headers)),
        Err(_) => Err(Problem::not_found("there is no such watch page")),
    }
}

static READ_ASSET: Operation =
    Operation::read("/watch/assets/{file}", OperationAccess::Open, Some(RateLimitGroup::Api))
        .with_any_query();

async fn read_asset(Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    PAGE.asset_response(&file, &headers)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::header::{CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    use super::*;

    const ID: &str = "00000000000000000000000000";

    async fn get(path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tags) = if_none_match {
            request = request.header(IF_NONE_MATCH, tags);
        }
        router::<()>().into_parts().0.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn ids_and_files_that_cannot_be_are_refused() {
        let long = format!("/watch/{ID}a");
        for path in [
            "/watch/short",
            "/watch/AAAAAAAAAAAAAAAAAAAAAAAAAA",
            long.as_str(),
            "/watch/assets/..%2Fmod.rs",
            "/watch/assets/mod.rs",
        ] {
            assert_eq!(get(path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn every_file_the_page_names_is_served_under_a_strict_policy() {
        let response = get(&format!("/watch/{ID}"), None).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let html = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let html = std::str::from_utf8(&html).unwrap();
        let named: Vec<&str> = html.split('"').filter(|part| part.starts_with("assets/")).collect();
        assert!(named.len() >= 3, "{named:?}");
        for path in named {
            assert_eq!(get(&format!("/watch/{path}"), None).await.status(), StatusCode::OK, "{path}");
        }
    }

    #[tokio::test]
    async fn a_file_the_browser_has_is_not_sent_again() {
        let first = get("/watch/assets/hls.min.mjs", None).await;
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for list in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = get("/watch/assets/hls.min.mjs", Some(&list)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{list}");
            assert!(to_bytes(again.into_body(), 1).await.unwrap().is_empty());
        }
        assert_eq!(get("/watch/assets/hls.min.mjs", Some("\"other\"")).await.status(), StatusCode::OK);
    }
}
