//! Whatever is asked about a removed medium is answered with a status that the description has.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn each_question_about_a_removed_medium_is_answered_as_described() {
    let (owner, medium, _) = restorable(|_| {}).await;
    assert_eq!(owner.ask("DELETE", &medium, "If-Match: *\r\n", "").await.status, 204);
    let description: Value =
        serde_json::from_str(&owner.ask("GET", "/openapi.json", "", "").await.body).unwrap();
    let mut gone = BTreeSet::new();
    for (template, item) in description["paths"].as_object().unwrap() {
        let Some(rest) = template.strip_prefix("/v1/media/{media_id}") else { continue };
        // It brings it back.
        if rest == "/restore" {
            continue;
        }
        let path = format!("{medium}{}", rest.replace("{language}", "de"));
        for (method, operation) in item.as_object().unwrap() {
            let kinds = operation["requestBody"]["content"].as_object();
            let kind = kinds.and_then(|kinds| kinds.keys().next()).map_or("", String::as_str);
            let body = match kind {
                "" => "",
                "application/json" => "{}",
                "text/vtt" => "WEBVTT\n\n00:00.000 --> 00:01.000\nsea\n",
                _ => "a picture",
            };
            let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
            let condition = if method == "get" { "" } else { "If-Match: *\r\n" };
            let answer = owner.ask(&method.to_uppercase(), &path, &format!("{kind}{condition}"), body).await;
            let status = answer.status.to_string();
            assert!(operation["responses"][&status].is_object(), "{method} {template}: {answer:?}");
            if answer.status == 410 {
                gone.insert(format!("{method} {rest}"));
            }
        }
    }
    for said in ["get ", "patch ", "delete /poster", "put /captions/{language}", "post /transcode"] {
        assert!(gone.contains(said), "{said} is none of {gone:?}");
    }
}
