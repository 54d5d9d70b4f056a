//! A site that is not ours: its page, its libraries, and a film as MP4.

use std::{fs, path::Path};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri, header},
    response::IntoResponse,
};
use tokio::net::TcpListener;

#[derive(Clone)]
struct Site {
    /// Folder of its page below `tests/e2e`.
    folder: &'static str,
    film: Bytes,
}

/// Serves a folder of `tests/e2e` until the test ends. Gives its address.
pub(crate) async fn serve_site(folder: &'static str, film: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(Site { folder, film: film.into() });
    // Until the test's runtime ends.
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn answer(State(site): State<Site>, uri: Uri) -> impl IntoResponse {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("tests/e2e").join(site.folder);
    let (path, kind) = match uri.path() {
        "/" => (page.join("page.html"), "text/html"),
        "/page.js" => (page.join("page.js"), "text/javascript"),
        "/players/hls.min.mjs" => {
            (root.join("src/ingress/watch/node_modules/hls.js/dist/hls.min.mjs"), "text/javascript")
        }
        "/film.mp4" => return (StatusCode::OK, [(header::CONTENT_TYPE, "video/mp4")], site.film),
        path => (root.join(".tools").join(path.trim_start_matches('/')), "text/javascript"),
    };
    match fs::read(path) {
        Ok(bytes) => (StatusCode::OK, [(header::CONTENT_TYPE, kind)], Bytes::from(bytes)),
        Err(_) => (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, kind)], Bytes::new()),
    }
}
