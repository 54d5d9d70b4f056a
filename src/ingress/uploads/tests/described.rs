//! What a client says of the medium when it opens an upload.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemas::gate::{GateChanged, GateRule};

use super::*;

fn said(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name} {}", STANDARD.encode(value))).collect();
    pairs.join(",")
}

/// Requests that bring a whole medium, one a protocol.
fn ways<'r>(replica: &'r Replica, metadata: &'r str) -> [RequestBuilder; 3] {
    let plain = |path: &str| replica.client.post(format!("{}{path}", replica.url));
    [
        replica.post(&[("upload-length", "5"), ("content-type", OFFSET_TYPE)]),
        plain("/v1/uploads").header("upload-complete", "?1"),
        plain("/v1/media").header("content-type", "video/mp4"),
    ]
    .map(|request| request.header("upload-metadata", metadata).body("hello"))
}

#[tokio::test]
async fn title_and_visibility_hold_from_the_upload_on_in_every_protocol() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for (metadata, title, is_public) in [
        (
            said(&[("filename", "a.mp4"), ("title", "By the sea"), ("visibility", "public")]),
            "By the sea",
            true,
        ),
        (said(&[("filename", "a.mp4"), ("visibility", "private")]), "a.mp4", false),
        (said(&[("title", " Öde\u{202e} ")]), "Öde", false),
    ] {
        for request in ways(&replica, &metadata) {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 201, "{metadata}");
            let media_id = text(answer.headers(), "streamgate-media-id");
            let held = site.admin.load_record::<document::MediaDocumentRecord>(&media_id).await.unwrap();
            let document = held.unwrap().record;
            assert_eq!(document.title, title);
            let rule = document.gate.as_ref().and_then(|gate| gate.rule.clone());
            assert_eq!(rule, is_public.then_some(GateRule::Public {}), "{metadata}");
            let subject = format!("evt.{}.{}.{media_id}", GateChanged::ENTITY, GateChanged::VERB);
            let events = site.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
            let event = events.get_last_raw_message_by_subject(&subject).await.ok();
            let event =
                event.map(|message| nats::decode_message::<GateChanged>(&subject, &message.payload).unwrap());
            let gate = document.gate.map(|gate| (gate.epoch, gate.rule_digest));
            assert_eq!(event.map(|event| (event.gate_epoch, event.rule_digest)), gate);
        }
    }
}

#[tokio::test]
async fn what_can_not_be_said_is_refused_before_an_upload_is_made() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let public = said(&[("visibility", "public")]);
    for (metadata, scope, wanted) in [
        (said(&[("visibility", "hidden")]), None, (400, "header_invalid")),
        (said(&[("title", " ")]), None, (400, "header_invalid")),
        (said(&[("title", &"a".repeat(256))]), None, (400, "header_invalid")),
        (public.clone(), Some("upload"), (403, "scope_missing")),
        (public, Some("upload gate"), (201, "")),
        (said(&[("visibility", "private")]), Some("upload"), (201, "")),
    ] {
        for request in ways(&replica, &metadata) {
            let request = scope.map_or(request.try_clone(), |scopes| {
                request.try_clone().map(|r| r.header("x-scopes", scopes))
            });
            let answer = request.unwrap().send().await.unwrap();
            assert_eq!(answer.status(), wanted.0, "{metadata} {scope:?}");
            if wanted.0 != 201 {
                assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["code"], wanted.1);
            }
        }
    }
}
