use std::path::Path;

use async_nats::ConnectOptions;
use nats::{Role, testing::TestBroker};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio_rustls::rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::*;

/// Writes a certificate of a new authority for this machine, and the authority's.
fn write_certificate(folder: &Path) -> BrokerListenerConfig {
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let files = ["certificate.pem", "key.pem", "authority.pem"].map(|name| folder.join(name));
    for (file, text) in files.iter().zip([certificate.pem(), key.serialize_pem(), authority.pem()]) {
        std::fs::write(file, text).unwrap();
    }
    let [certificate, key, authority] = files.map(Some);
    BrokerListenerConfig {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        certificate_file: certificate,
        key_file: key,
        authority_file: authority,
        ..BrokerListenerConfig::default()
    }
}

struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
}

async fn serve(broker: &TestBroker, config: &BrokerListenerConfig) -> Served {
    let mut listener = BrokerListener::open(config).await.unwrap().unwrap();
    if let Some(identity) = listener.identity.as_mut().and_then(Arc::get_mut) {
        identity.look_period = Duration::ZERO;
    }
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let broker = broker.url().trim_start_matches("nats://").to_owned();
    tokio::spawn(listener.run(broker, shutdown.clone()));
    Served { address, shutdown }
}

fn options(broker: &TestBroker, config: &BrokerListenerConfig) -> ConnectOptions {
    ConnectOptions::with_nkey(broker.seed(Role::Reader).to_owned())
        .custom_inbox_prefix("_INBOX_reader")
        .add_root_certificates(config.authority_file.clone().unwrap())
}

/// Connects, once there is room.
async fn connect_in_time(broker: &TestBroker, config: &BrokerListenerConfig, url: &str) {
    let connected = async {
        while options(broker, config).connect(url).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap();
}

#[tokio::test]
async fn a_program_connects_by_tls_as_reader_and_nobody_without_a_key_or_trust() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let config = write_certificate(folder.path());
    let served = serve(&broker, &config).await;
    for scheme in ["tls", "nats"] {
        let url = format!("{scheme}://{}", served.address);
        let client = options(&broker, &config).connect(&url).await.unwrap();
        assert!(client.server_info().connect_urls.is_empty(), "no address that only this machine reaches");
        let events = async_nats::jetstream::with_prefix(client, Role::Reader.api_prefix())
            .get_stream("EVENTS")
            .await
            .unwrap();
        assert_eq!(events.cached_info().config.name, "EVENTS");
        let without_trust = ConnectOptions::with_nkey(broker.seed(Role::Reader).to_owned());
        assert!(without_trust.connect(&url).await.is_err(), "an authority that nobody knows");
        let stranger = nkeys::KeyPair::new_user().seed().unwrap();
        let stranger =
            ConnectOptions::with_nkey(stranger).add_root_certificates(config.authority_file.clone().unwrap());
        assert!(stranger.connect(&url).await.is_err(), "a key that the broker does not know");
    }
    served.shutdown.cancel();
}

#[tokio::test]
async fn a_connection_that_does_not_agree_on_tls_ends_and_leaves_room_for_others() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let mut config = write_certificate(folder.path());
    (config.connections_max, config.handshake_ms_max) = (1, 100);
    let served = serve(&broker, &config).await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let greeting = read_greeting(&mut silent).await.unwrap();
    assert!(
        greeting.starts_with(b"INFO {")
            && String::from_utf8(greeting).unwrap().contains("\"tls_required\":true")
    );
    let mut second = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "one too many is closed");
    // In the clear, behind a greeting that asks for TLS.
    silent.write_all(b"CONNECT {}\r\nPING\r\n").await.unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.ok();
    assert!(!rest.windows(4).any(|said| said == b"PONG"), "nothing is answered without TLS");
    let url = format!("tls://{}", served.address);
    connect_in_time(&broker, &config, &url).await;
    served.shutdown.cancel();
}

#[tokio::test]
async fn who_agrees_on_tls_and_shows_no_key_leaves_the_room_to_others() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let mut config = write_certificate(folder.path());
    config.connections_max = 1;
    let served = serve(&broker, &config).await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    read_greeting(&mut silent).await.unwrap();
    let authority = config.authority_file.as_ref().unwrap();
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let trust = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trust));
    // It stays open, and says nothing.
    let _silent = connector.connect("localhost".try_into().unwrap(), silent).await.unwrap();
    let url = format!("tls://{}", served.address);
    assert!(options(&broker, &config).connect(&url).await.is_err(), "the only place is taken");
    connect_in_time(&broker, &config, &url).await;
    served.shutdown.cancel();
}

#[tokio::test]
async fn a_program_that_ends_gives_its_place_back() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let mut config = write_certificate(folder.path());
    config.address_connections_max = 1;
    let served = serve(&broker, &config).await;
    let url = format!("tls://{}", served.address);
    let first = options(&broker, &config).connect(&url).await.unwrap();
    assert!(options(&broker, &config).connect(&url).await.is_err(), "one of an address");
    first.drain().await.unwrap();
    connect_in_time(&broker, &config, &url).await;
    served.shutdown.cancel();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_connection() {
    let (broker, folder) = (TestBroker::start().await, tempfile::tempdir().unwrap());
    let config = write_certificate(folder.path());
    let served = serve(&broker, &config).await;
    let url = format!("tls://{}", served.address);
    let key_file = config.key_file.clone().unwrap();
    options(&broker, &config).connect(&url).await.unwrap();
    // Half of a renewal: the last one stays in use.
    let (old_authority, old_key) =
        (std::fs::read(folder.path().join("authority.pem")).unwrap(), std::fs::read(&key_file).unwrap());
    write_certificate(folder.path());
    let new_key = std::fs::read(&key_file).unwrap();
    std::fs::write(&key_file, old_key).unwrap();
    std::fs::write(folder.path().join("old.pem"), old_authority).unwrap();
    let old = BrokerListenerConfig { authority_file: Some(folder.path().join("old.pem")), ..config.clone() };
    options(&broker, &old).connect(&url).await.unwrap();
    std::fs::write(&key_file, new_key).unwrap();
    options(&broker, &config).connect(&url).await.unwrap();
    assert!(options(&broker, &old).connect(&url).await.is_err());
    served.shutdown.cancel();
}

#[tokio::test]
async fn what_can_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_certificate(folder.path());
    let said = async |config: &BrokerListenerConfig| {
        let error = BrokerListener::open(config).await.unwrap_err();
        assert!(error.is::<SettingsError>(), "{error:#}");
        error.to_string()
    };
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let cases = [
        (
            BrokerListenerConfig { key_file: file("other.pem", &other_key), ..config.clone() },
            "can't be used together",
        ),
        (
            BrokerListenerConfig { certificate_file: file("empty.pem", ""), ..config.clone() },
            "holds no certificate",
        ),
        (
            BrokerListenerConfig { key_file: Some("/nowhere/key.pem".into()), ..config.clone() },
            "/nowhere/key.pem",
        ),
    ];
    for (config, says) in cases {
        let message = said(&config).await;
        assert!(message.contains("broker.listener.certificate_file") && message.contains(says), "{message}");
    }
}

#[test]
fn a_listener_for_other_machines_needs_tls() {
    let open = BrokerListenerConfig {
        listen: Some("0.0.0.0:4222".parse().unwrap()),
        ..BrokerListenerConfig::default()
    };
    let (field, reason) = open.check(true).unwrap_err();
    assert!(
        field == "listen" && reason.contains("unencrypted") && reason.contains("certificate_file"),
        "{reason}"
    );
    let local = BrokerListenerConfig { listen: Some("127.0.0.1:4222".parse().unwrap()), ..open.clone() };
    local.check(true).unwrap();
    assert_eq!(local.program_url(), Ok(Some("nats://127.0.0.1:4222".into())));
    let half = BrokerListenerConfig { certificate_file: Some("c.pem".into()), ..open.clone() };
    assert_eq!(half.check(true).unwrap_err().0, "key_file");
    let whole = BrokerListenerConfig {
        key_file: Some("k.pem".into()),
        listen: Some("192.0.2.1:4222".parse().unwrap()),
        ..half.clone()
    };
    whole.check(true).unwrap();
    assert_eq!(whole.program_url(), Ok(Some("tls://192.0.2.1:4222".into())));
    assert_eq!(whole.check(false).unwrap_err().0, "listen");
    let unnamed = BrokerListenerConfig { listen: Some("[::]:4222".parse().unwrap()), ..whole.clone() };
    assert!(unnamed.program_url().unwrap_err().contains("public_url"), "no program reaches every address");
    let named = BrokerListenerConfig { public_url: Some("tls://h:4222".into()), ..unnamed };
    assert_eq!(named.program_url(), Ok(Some("tls://h:4222".into())));
    let any_port = BrokerListenerConfig { listen: Some("127.0.0.1:0".parse().unwrap()), ..whole.clone() };
    assert_eq!(any_port.check(true).unwrap_err().0, "listen");
    assert!(any_port.program_url().is_err());
    let unused = BrokerListenerConfig { listen: None, ..half };
    assert_eq!(unused.check(true).unwrap_err().0, "certificate_file");
    let wrong = BrokerListenerConfig { public_url: Some("http://h".into()), ..open };
    assert_eq!(wrong.check(true).unwrap_err().0, "public_url");
}
