//! Sign-in as a part of the whole ingress.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use nats::{Role, testing::TestBroker};
use tower::ServiceExt;

use crate as ingress;
use web::registry;

#[tokio::test]
async fn the_ingress_signs_people_in_and_asks_for_it_elsewhere() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let store = store::testing::open_test_store(store::StoreConfig::from_url(format!(
        "file://{}",
        folder.path().display()
    )))
    .unwrap();
    let bus = broker.bus(Role::Ingress).await;
    let app = ingress::AppState::build(
        bus.clone(),
        store,
        ingress::tests::grants(&bus),
        registry::MetricsRegistry::default(),
        ingress::IngressConfig::default(),
        auth::AuthConfig::default(),
    )
    .await
    .unwrap();
    let router = ingress::router(app);
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let kind = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok().map(str::to_owned));
        (response.status(), kind.unwrap_or_default())
    };
    assert_eq!(ask("POST", "/v1/auth/challenge").await.0, StatusCode::CREATED);
    for (method, path, status) in [
        ("POST", "/v1/auth/login", StatusCode::BAD_REQUEST),
        ("POST", "/v1/auth/refresh", StatusCode::BAD_REQUEST),
        ("POST", "/v1/auth/verify", StatusCode::BAD_REQUEST),
        ("POST", "/v1/auth/logout", StatusCode::UNAUTHORIZED),
        ("GET", "/v1/auth/me", StatusCode::UNAUTHORIZED),
        ("GET", "/v1/auth/keys", StatusCode::UNAUTHORIZED),
        ("DELETE", "/v1/auth/keys/1", StatusCode::UNAUTHORIZED),
        ("POST", "/v1/uploads", StatusCode::UNAUTHORIZED),
        ("GET", "/v1/auth/login", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/v1/auth/nothing", StatusCode::NOT_FOUND),
    ] {
        let (found, kind) = ask(method, path).await;
        assert_eq!((found, kind.as_str()), (status, "application/problem+json"), "{method} {path}");
    }
}
