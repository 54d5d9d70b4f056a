//! What the AsyncAPI document says of the broker itself: where it is, how one is let in, where answers arrive, and how the role of programs
//! reads streams.

use nats::Role;
use schemas::subjects;
use serde_json::{Map, Value, json};

/// Streams that have a mirror for the role `reader`.
const MIRRORED_STREAMS: [&str; 4] = [subjects::EVENTS, subjects::AUDIT, subjects::VIEWS, subjects::PROGRESS];

/// True for a stream whose messages the role `reader` receives.
pub(crate) fn is_mirrored(stream: &str) -> bool {
    MIRRORED_STREAMS.contains(&stream)
}

/// The broker, as clients name it.
pub(crate) fn build_servers() -> Value {
    json!({
        "broker": {
            "host": "{host}:{port}",
            "protocol": "nats",
            "protocolVersion": "2.12",
            "title": "NATS JetStream",
            "description": "The broker of `streamgate up`, or one of your own. `streamgate nats credentials reader` prints its address. \
                            With tls:// the connection is encrypted after the first line of the server, as NATS clients do by themselves.",
            "variables": {
                "host": { "default": "127.0.0.1", "description": "Another machine reaches `up` where `broker.listener` is set." },
                "port": { "default": "4222", "description": "Of `up` without `broker.listener`: one that stays the same for a data folder." },
            },
            "security": [{ "$ref": "#/components/securitySchemes/nkey" }],
            "x-inbox-prefixes": build_inbox_prefixes(),
            "x-reader": build_reader_rules(),
        },
    })
}

/// How one is let in.
pub(crate) fn build_security_schemes() -> Value {
    json!({
        "nkey": {
            "type": "asymmetricEncryption",
            "description": "An nkey (Ed25519) of each role. The server sends a nonce, the client signs it with its seed; the seed is never \
                            sent. The role decides what may be published and subscribed: see nats/permissions.conf.",
        },
    })
}

/// A role may subscribe to answers below its own prefix alone; clients have a setting for it.
fn build_inbox_prefixes() -> Map<String, Value> {
    let of_role = |role: Role| (role.name().to_owned(), json!(role.inbox_prefix()));
    Role::ALL.into_iter().filter(|role| *role != Role::Admin).map(of_role).collect()
}

/// What a program has to keep to.
fn build_reader_rules() -> Value {
    let streams: Map<String, Value> = MIRRORED_STREAMS
        .into_iter()
        .map(|stream| {
            let api = Role::Reader.api_prefix();
            let subjects = json!({
                "create": format!("{api}.CONSUMER.CREATE.{stream}"),
                "pull": format!("{api}.CONSUMER.MSG.NEXT.{stream}.{{consumer}}"),
                "consumerInfo": format!("{api}.CONSUMER.INFO.{stream}.{{consumer}}"),
                "streamInfo": format!("{api}.STREAM.INFO.{stream}"),
            });
            (stream.to_owned(), subjects)
        })
        .collect();
    json!({
        "description": "Programs of the operator read mirrors of four streams, with the sequences of the streams, in an account of their own. \
                        Consumers have no durable name and acknowledge nothing: the filters stand in the body of the request, one or \
                        several, and none in its subject. `opt_start_seq` begins behind what was read. Everything else is refused.",
        "apiPrefix": Role::Reader.api_prefix(),
        "consumersPerStreamMax": 64,
        "consumerIdleSecondsMax": 300,
        "connectionsMax": 64,
        "streams": streams,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_readers_is_what_they_may_and_what_the_topology_has() {
        let rules = build_reader_rules();
        let (_, rights) = nats::server::PERMISSIONS.split_once("PERMISSIONS_READER = {").unwrap();
        let (rights, _) = rights.split_once("\n}").unwrap();
        for subjects in rules["streams"].as_object().unwrap().values() {
            for subject in subjects.as_object().unwrap().values() {
                let right = format!("\"{}\"", subject.as_str().unwrap().replace("{consumer}", "*"));
                assert!(rights.contains(&right), "{right}");
            }
        }
        assert_eq!(rights.matches("API.").count(), 4 * 4, "and nothing else");
        let prefix = format!("\"{}.>\"", Role::Reader.inbox_prefix());
        assert!(rights.contains(&prefix));
        let topology = nats::topology::FILE;
        assert_eq!(topology.matches("[mirror.").count(), MIRRORED_STREAMS.len());
        assert!(MIRRORED_STREAMS.iter().all(|stream| topology.contains(&format!("[mirror.{stream}]"))));
        assert_eq!(topology.matches("consumers_max = 64").count(), 4);
        assert_eq!(topology.matches("consumer_idle_max = \"5m\"").count(), 4);
        assert!(nats::server::PERMISSIONS.contains("max_conn: 64,"));
    }
}
