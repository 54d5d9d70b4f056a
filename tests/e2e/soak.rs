//! Rounds of kill -9 over all roles, on an S3 store and on a local one. One round in `make test`; `make soak` sets `SOAK_ROUNDS`.

use std::collections::BTreeSet;

use nats::{ReaderStart, reader};
use schemas::{headers, subjects};

use crate::{
    faults::check_audit,
    harness::{Cluster, Options, WAIT_MAX, sample},
};

/// Every process that a round kills, and the event of the round's medium after which it is killed.
const VICTIMS: [(&str, &str); 7] = [
    ("upload", "upload.received"),
    ("index", "media.stored"),
    ("keeper", "job.queued"),
    ("transcode", "job.started"),
    ("audit", "media.playable"),
    ("monitor", "media.stored"),
    ("ingress", "job.started"),
];

/// How many rounds: 1 unless the environment says otherwise.
fn rounds() -> usize {
    std::env::var("SOAK_ROUNDS").ok().map_or(1, |text| text.parse().expect("SOAK_ROUNDS is a number"))
}

/// Every event of EVENTS has an id of its own.
pub(crate) async fn check_ids(cluster: &mut Cluster) {
    let total = cluster.all_events().await.len();
    let config =
        reader::ReaderConfig::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], ReaderStart::All);
    let mut events = cluster.bus.open_reader(config).await.unwrap();
    let mut ids = BTreeSet::new();
    let read = async {
        for _ in 0..total {
            let entry = events.next().await.unwrap();
            let id = entry.headers.get(headers::ID).unwrap().to_string();
            assert!(ids.insert(id), "{} at {} was published before", entry.subject, entry.sequence);
        }
    };
    tokio::time::timeout(WAIT_MAX, read).await.expect("all events are read");
}

#[tokio::test]
async fn every_role_is_killed_in_turn_on_an_s3_store() {
    kill_in_turn(Options { remote_store: true, ..Options::default() }).await;
}

#[tokio::test]
async fn every_role_is_killed_in_turn_on_a_local_store() {
    kill_in_turn(Options::default()).await;
}

async fn kill_in_turn(options: Options) {
    let mut cluster = Cluster::start(options).await;
    let source = sample(12, "320x180", "25");
    let mut all = Vec::new();
    for round in 0..rounds() {
        for (victim, trigger) in VICTIMS {
            let media_id = cluster.upload(source.clone(), "killed.mp4").await;
            cluster.media_event(trigger, &media_id).await;
            let ready = cluster.restart(victim);
            if victim == "ingress" {
                ready["url"].as_str().unwrap().clone_into(&mut cluster.url);
            }
            all.push((round, victim, media_id));
        }
    }
    for (round, victim, media_id) in &all {
        let end = cluster.end_of(media_id).await;
        assert_eq!(end.kind, "job.succeeded", "round {round}, {victim}: {end:?}\n{}", cluster.logs());
    }
    check_ids(&mut cluster).await;
    check_audit(&mut cluster).await;
}
