//! Searching media over HTTP and from the command line, while the index is killed and its files are removed.

use reqwest::{Method, StatusCode, header};
use schemas::{access, document::MediaDocumentRecord, media::MediaRecord};
use serde_json::{Value, json};

use crate::{
    cli::{program, run},
    harness::{Cluster, Options, WAIT_MAX, poll},
};

/// Says something about a medium; answers the revision that its document has then.
async fn change(cluster: &Cluster, media_id: &str, change: Value) -> u64 {
    let path = format!("/v1/media/{media_id}");
    let request = cluster.request(Method::PATCH, &path).header(header::IF_MATCH, "*").json(&change);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    revision(cluster, media_id).await
}

async fn revision(cluster: &Cluster, media_id: &str) -> u64 {
    cluster.bus.load_with_tombstone::<MediaDocumentRecord>(media_id).await.unwrap().unwrap().revision()
}

/// What a key gets for a search.
async fn search(cluster: &Cluster, key: &str, query: &str) -> (StatusCode, Value) {
    let url = format!("{}/v1/media/search?{query}", cluster.url);
    let answer = cluster.http.get(url).bearer_auth(key).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Waits until the search has seen the technical metadata of a medium as they are now.
async fn metadata_are_searched(cluster: &Cluster, media_id: &str) {
    let held = cluster.bus.load_with_tombstone::<MediaRecord>(media_id).await.unwrap().unwrap();
    let seen = poll(WAIT_MAX, async || {
        let (_, page) = search(cluster, &cluster.key, "limit=1").await;
        page["revisions"]["assets"].as_u64().is_some_and(|seen| seen >= held.revision()).then_some(())
    });
    seen.await.expect("the search sees the metadata");
}

/// The media of a page.
fn found(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["media_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_found_by_its_owner_alone_until_it_is_removed() {
    let mut cluster = Cluster::start(Options::default()).await;
    let bob = auth::create_api_key(&cluster.bus, "bob", access::PrincipalRole::Owner).await.unwrap();
    let medium = cluster.upload(vec![1; 20], "fjord.bin").await;
    let other = cluster.upload(vec![2; 20], "mountain.bin").await;
    for media_id in [&medium, &other] {
        cluster.media_event("media.rejected", media_id).await;
    }
    let said = json!({ "title": "Fjords of Norway", "tags": ["Travel"], "language": "en",
        "description": "A boat goes along the mountains." });
    let written = change(&cluster, &medium, said).await;
    let key = cluster.key.clone();
    for media_id in [&medium, &other] {
        metadata_are_searched(&cluster, media_id).await;
    }

    // A typing error, in another case: found as soon as it was written.
    let query = format!("q=FJRODS&min_revision={written}&facets=tag,status,owner");
    let (status, page) = search(&cluster, &key, &query).await;
    assert_eq!((status, found(&page)), (StatusCode::OK, vec![medium.as_str()]), "{page}");
    assert_eq!((&page["total"], &page["total_is_lower_bound"]), (&json!(1), &json!(false)));
    assert_eq!(page["facets"]["tag"], json!([{ "value": "travel", "count": 1 }]));
    assert_eq!(page["facets"]["status"], json!([{ "value": "rejected", "count": 1 }]));
    let item = &page["items"][0];
    assert_eq!(
        (&item["title"], &item["code"]),
        (&json!("Fjords of Norway"), &json!("unsupported_type")),
        "{item}"
    );
    assert_eq!(
        item["highlights"],
        json!([{ "field": "title", "text": "Fjords of Norway", "ranges": [{ "start": 0, "end": 6 }] }])
    );
    assert!(page["revision"].as_u64().unwrap() >= written && page["revisions"]["assets"].is_u64(), "{page}");
    let (_, both) = search(&cluster, &key, "q=mountain").await;
    assert_eq!(found(&both), [&other, &medium], "a title before a description");
    let (_, page) =
        search(&cluster, &key, "q=boat&tag=TRAVEL&language=eng&visibility=private&created_after=1h").await;
    assert_eq!(found(&page), [&medium]);

    // Nobody else finds or counts it.
    let (status, page) = search(&cluster, &bob, "q=fjords&facets=tag,status").await;
    assert_eq!(
        (status, &page["total"], &page["facets"]),
        (StatusCode::OK, &json!(0), &json!({ "status": [], "tag": [] }))
    );
    for query in ["owner=admin", "facets=owner"] {
        let (status, problem) = search(&cluster, &bob, query).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &json!("operators_only")), "{query}");
    }

    pages_meet(&cluster, &key, &bob, [&other, &medium]).await;
    wrong_questions_are_explained(&cluster).await;
    the_command_line_shows_it(&cluster, &medium).await;
    an_index_that_is_killed_or_removed_comes_back_equal(&mut cluster, [&other, &medium]).await;

    let path = format!("/v1/media/{medium}");
    let removed = cluster.request(Method::DELETE, &path).header(header::IF_MATCH, "*").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let removed = revision(&cluster, &medium).await;
    let (status, page) = search(&cluster, &key, &format!("q=mountain&min_revision={removed}")).await;
    assert_eq!((status, found(&page)), (StatusCode::OK, vec![other.as_str()]), "{page}");
    an_entry_is_found_before_its_bytes(&cluster).await;
}

/// What the request says that opens an entry is searched at once.
async fn an_entry_is_found_before_its_bytes(cluster: &Cluster) {
    let said = json!({ "title": "Harbour", "tags": ["Lighthouse"], "language": "pt_br" });
    let made = cluster.request(Method::POST, "/v1/media").json(&said).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let entry = made["media_id"].as_str().unwrap();
    let written = revision(cluster, entry).await;
    let query = format!("q=harbour&tag=lighthouse&language=pt-BR&min_revision={written}");
    let (status, page) = search(cluster, &cluster.key, &query).await;
    assert_eq!((status, found(&page)), (StatusCode::OK, vec![entry]), "{page}");
}

/// Two media, a page for each.
async fn pages_meet(cluster: &Cluster, key: &str, bob: &str, media: [&str; 2]) {
    let (_, first) = search(cluster, key, "q=mountain&limit=1").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = search(cluster, key, &format!("q=mountain&limit=1&cursor={cursor}")).await;
    assert_eq!([found(&first), found(&second)], media.map(|media_id| vec![media_id]));
    assert_eq!(second["next_cursor"], Value::Null);
    for (key, query) in [
        (key, "q=boat"),
        (key, "q=mountain&sort=title"),
        (key, "q=mountain&status=ready"),
        (bob, "q=mountain"),
    ] {
        let (status, problem) = search(cluster, key, &format!("{query}&cursor={cursor}")).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("cursor_malformed")),
            "{query}"
        );
    }
}

async fn wrong_questions_are_explained(cluster: &Cluster) {
    let quotes = format!("q={}", "%22".repeat(201));
    for (query, status, code) in [
        (quotes.as_str(), 400, "query_malformed"),
        ("q=a+b+c+d+e+f+g+h+i", 400, "query_malformed"),
        ("sort=best", 400, "query_malformed"),
        ("facets=title", 400, "query_malformed"),
        ("facets=", 400, "query_malformed"),
        ("language=nonsense", 400, "query_malformed"),
        ("tag=", 400, "query_malformed"),
        ("limit=201", 400, "query_malformed"),
        ("created_before=yesterday", 400, "query_malformed"),
        ("visibility=all", 400, "query_malformed"),
        ("colour=red", 400, "query_malformed"),
        ("cursor=abc", 400, "cursor_malformed"),
        ("min_revision=18446744073709551615", 409, "revision_unknown"),
    ] {
        let (found, problem) = search(cluster, &cluster.key, query).await;
        assert_eq!((found.as_u16(), problem["code"].as_str()), (status, Some(code)), "{query}: {problem}");
    }
    for text in ["%22%22%22", "a:b+OR+(", "%00", ".*%5B%5D%5C", "%E2%80%8B", "%F0%9F%8E%AC"] {
        let (status, page) = search(cluster, &cluster.key, &format!("q={text}")).await;
        assert_eq!(status, StatusCode::OK, "{text}: {page}");
    }
}

async fn the_command_line_shows_it(cluster: &Cluster, media_id: &str) {
    let home = tempfile::tempdir().unwrap();
    let ask = |args: &[&str]| {
        let server = ["--url", &cluster.url, "--api-key", &cluster.key];
        run(program(home.path(), &[&["media", "search"], args, &server].concat()))
    };
    let said = ask(&["boat", "--json", "--tag", "travel"]).await;
    assert_eq!((said.status, &said.json()[0]["media_id"]), (0, &json!(media_id)), "{said:?}");
    let said = ask(&["boat", "norway"]).await;
    assert!(said.out.contains("Fjords of Norway\n    description: A boat goes along"), "{said:?}");
    assert!(!said.out.contains('\u{1b}'), "nobody watches: {said:?}");
    let said = ask(&["--sort", "best"]).await;
    assert_eq!(said.status, 2, "{said:?}");
}

/// Once by kill -9, once with its files gone.
async fn an_index_that_is_killed_or_removed_comes_back_equal(cluster: &mut Cluster, media: [&str; 2]) {
    for removes in [false, true] {
        cluster.kill("index");
        if removes {
            std::fs::remove_dir_all(cluster.dir.path().join("data-index/index/search")).unwrap();
        }
        cluster.spawn("index", &["worker", "index"]);
        let page = poll(WAIT_MAX, async || {
            let (status, page) = search(cluster, &cluster.key, "q=mountain").await;
            status.is_success().then_some(page)
        });
        let page = page.await.unwrap();
        assert_eq!(found(&page), media, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_misses_what_they_changed_a_moment_before() {
    let mut cluster = Cluster::start(Options::default()).await;
    let medium = cluster.upload(vec![1; 20], "fjord.bin").await;
    cluster.media_event("media.rejected", &medium).await;
    let key = cluster.key.clone();
    for number in 0..20 {
        let title = format!("Title{number}");
        let path = format!("/v1/media/{medium}");
        let change = cluster.request(Method::PATCH, &path).header(header::IF_MATCH, "*");
        let changed = change.json(&json!({ "title": title })).send().await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
        let (status, page) = search(&cluster, &key, &format!("q=%22{title}%22")).await;
        assert_eq!((status, found(&page)), (StatusCode::OK, vec![medium.as_str()]), "{title}: {page}");
        let list: Value =
            cluster.request(Method::GET, "/v1/media").send().await.unwrap().json().await.unwrap();
        assert_eq!(list["items"][0]["title"], title, "{list}");
    }
}
