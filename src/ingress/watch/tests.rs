use crate::tests::{Answer, Site};

const ID: &str = "00000000000000000000000000";

async fn get(site: &Site, path: &str, headers: &str) -> Answer {
    site.ask("GET", path, headers, "").await
}

#[tokio::test]
async fn ids_and_files_that_cannot_be_are_refused() {
    let site = Site::start(|_| ()).await;
    let long = format!("/watch/{ID}a");
    for path in [
        "/watch/short",
        "/embed/short",
        "/watch/AAAAAAAAAAAAAAAAAAAAAAAAAA",
        long.as_str(),
        "/watch/assets/..%2Fmod.rs",
        "/watch/assets/mod.rs",
    ] {
        assert_eq!(get(&site, path, "").await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn every_file_the_pages_name_is_served_under_a_strict_policy() {
    let site = Site::start(|_| ()).await;
    for (page, folder) in [("watch", "assets/"), ("embed", "../watch/assets/")] {
        let response = get(&site, &format!("/{page}/{ID}"), "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let html = &response.body;
        let named: Vec<&str> = html.split('"').filter_map(|part| part.strip_prefix(folder)).collect();
        assert!(named.len() >= 3, "{named:?}");
        for file in named {
            assert_eq!(get(&site, &format!("/watch/assets/{file}"), "").await.status, 200, "{file}");
        }
    }
}

#[tokio::test]
async fn a_file_the_browser_has_is_not_sent_again() {
    let site = Site::start(|_| ()).await;
    let first = get(&site, "/watch/assets/hls.min.mjs", "").await;
    let tag = first.header("etag").unwrap().to_owned();
    for list in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let again = get(&site, "/watch/assets/hls.min.mjs", &format!("If-None-Match: {list}\r\n")).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{list}");
    }
    let other = get(&site, "/watch/assets/hls.min.mjs", "If-None-Match: \"other\"\r\n").await;
    assert_eq!(other.status, 200);
}
