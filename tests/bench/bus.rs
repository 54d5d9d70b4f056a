//! Events per second through our publish, against plain async-nats with the same payloads on the same server.

use std::{collections::BTreeMap, time::Instant};

use futures::StreamExt;
use nats::{Bus, Role, testing::TestBroker};
use schemas::{envelope::UnsentEvent, ids::UploadId, subjects, upload};
use serde_bytes::ByteBuf;

use crate::{Aim, Row, median};

const EVENTS: usize = 4_000;
const IN_FLIGHT: usize = 64;

fn events() -> Vec<UnsentEvent> {
    (0..EVENTS)
        .map(|_| {
            let event = upload::UploadTerminated {
                upload_id: UploadId::from_bytes(nats::new_id_bytes()),
                media_id: schemas::ids::MediaId::from_bytes(nats::new_id_bytes()),
                owner: "bench".into(),
                offset_bytes: 1,
                code: None,
            };
            let subject = subjects::event_subject(&event);
            UnsentEvent {
                id: subject.clone(),
                subject,
                headers: BTreeMap::from([("ce-type".to_owned(), "upload.terminated".to_owned())]),
                payload: ByteBuf::from(nats::encode_message("event", &event).unwrap()),
                once: true,
                after_sequence: None,
            }
        })
        .collect()
}

pub(crate) async fn events_per_second() -> Row {
    let broker = TestBroker::start().await;
    let settings = nats::BusConfig::new(
        vec![broker.url().to_owned()],
        Role::Admin,
        Some(broker.seed(Role::Admin).to_owned()),
    );
    let bus = Bus::connect(&settings).await.unwrap();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (first, second) = (events(), events());
        let started = Instant::now();
        futures::stream::iter(&first)
            .for_each_concurrent(IN_FLIGHT, |event| async {
                bus.publish_unsent(event).await.map(drop).unwrap();
            })
            .await;
        ours.push(EVENTS as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        futures::stream::iter(second)
            .for_each_concurrent(IN_FLIGHT, |event| async {
                let sent = bus.context().publish(event.subject, event.payload.into_vec().into()).await;
                sent.unwrap().await.map(drop).unwrap();
            })
            .await;
        plain.push(EVENTS as f64 / started.elapsed().as_secs_f64());
    }
    Row {
        name: "events/s, 64 in flight",
        ours: median(ours),
        baseline: median(plain),
        unit: "/s",
        against: "plain async-nats",
        aim: Aim::RatioLeast(0.8),
    }
}
