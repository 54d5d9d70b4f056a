//! What the environment says of a cloud store is what it is opened with, for all three of them.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    sync::mpsc,
};

use crate::{StoreConfig, StoreError, testing};

/// URL of the store, in the process that has the environment.
const URL: &str = "STREAMGATE_TEST_STORE_URL";

/// What a server says that has nothing.
const ABSENT: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Opens the store at `url` with nothing but `environment`, and looks for an object; answers what was asked first.
fn asked(name: &str, url: &str, environment: impl Fn(&str) -> Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (lines, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, mut line) = (connection.unwrap(), String::new());
            BufReader::new(&connection).read_line(&mut line).unwrap();
            // Before it is answered, so that it is there once the child that asked has ended.
            lines.send(line).unwrap();
            connection.write_all(ABSENT).unwrap();
        }
    });
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .env(URL, url)
        .envs(environment(&endpoint))
        .status()
        .unwrap();
    assert!(ended.success(), "{url}: {ended}");
    asked.try_recv().expect("the store asked its server")
}

#[test]
fn settings_of_the_environment_reach_every_cloud_store() {
    let name = "tests::environment::settings_of_the_environment_reach_every_cloud_store";
    if let Ok(url) = std::env::var(URL) {
        let store =
            testing::open_test_store(StoreConfig { retries_max: 0, ..StoreConfig::from_url(url) }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let absent = runtime.block_on(store.head("a/b")).unwrap_err();
        // The server was reached, and has nothing, not even the mark of a store.
        assert!(matches!(absent, StoreError::NotFound { .. }), "{absent:?}");
        return;
    }
    let s3 = asked(name, "s3://films/here", |endpoint| {
        vec![
            ("AWS_ENDPOINT", endpoint.to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "id".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    });
    assert!(s3.starts_with("HEAD /films/here/a/b "), "{s3}");
    let google = asked(name, "gs://films/here", |endpoint| {
        // An account that needs no token, as for emulators: without it the metadata server of a cloud would be asked.
        let account = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
        vec![("GOOGLE_BASE_URL", endpoint.to_owned()), ("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_owned())]
    });
    assert!(google.starts_with("HEAD /films/here%2Fa%2Fb "), "{google}");
    let azure = asked(name, "az://films/here", |endpoint| {
        vec![
            ("AZURE_ENDPOINT", endpoint.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account".to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0".to_owned()),
        ]
    });
    assert!(azure.starts_with("HEAD /films/here/a/b "), "{azure}");
}
