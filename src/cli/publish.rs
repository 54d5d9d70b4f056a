//! `media publish` and `media unpublish`: whether everybody plays a medium.

use anyhow::bail;
use reqwest::{
    Method, Url,
    header::{ETAG, HeaderValue, IF_MATCH},
};
use schemas::gate::GateRule;
use serde_json::{Value, json};

use super::{
    client::{ApiClient, ClientError},
    output,
};

/// The gate of a medium as it is now.
struct FoundGate {
    url: Url,
    tag: HeaderValue,
    rule: Option<Value>,
}

impl FoundGate {
    async fn read(client: &ApiClient, media_id: &str) -> anyhow::Result<Self> {
        let url = client.build_url(&format!("v1/media/{media_id}/gate"), &[]);
        let response = client.send(client.build_request(Method::GET, url.clone())).await?;
        let tag = response
            .headers()
            .get(ETAG)
            .ok_or_else(|| ClientError::strange("the answer has no ETag"))?
            .clone();
        let mut document: Value = response
            .json()
            .await
            .map_err(|error| ClientError::strange(format!("the answer is no gate ({error})")))?;
        let rule = Some(document["rule"].take()).filter(|rule| !rule.is_null());
        Ok(Self { url, tag, rule })
    }

    fn is_public(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule["kind"] == "public")
    }
}

/// Lets everybody play the media. A rule of the owner's own stays unless `replace` says otherwise.
///
/// # Errors
/// When the server refuses, or a rule would be lost; those before it are published.
pub async fn publish_media(
    client: &ApiClient,
    media_ids: &[String],
    replace: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    for media_id in media_ids {
        let gate = FoundGate::read(client, media_id).await?;
        if !gate.is_public() && gate.rule.is_some() && !replace {
            let name = output::sanitize_text(media_id);
            bail!("{name} has a rule that says who plays it; `--replace` puts an open gate in its place");
        }
        let request = client.build_request(Method::PUT, gate.url).header(IF_MATCH, gate.tag);
        client.send_json(request.json(&GateRule::Public {})).await?;
        let watch = client.build_url(&format!("watch/{media_id}"), &[]);
        if as_json {
            output::print_json(
                &json!({ "media_id": media_id, "public": true, "watch_url": watch.as_str() }),
            )?;
        } else {
            output::print_message("Published; everybody plays it at");
            output::print_line(watch.as_str())?;
        }
    }
    Ok(())
}

/// Takes back that everybody plays the media. A rule of the owner's own stays.
///
/// # Errors
/// When the server refuses; those before it are taken back.
pub async fn unpublish_media(client: &ApiClient, media_ids: &[String], as_json: bool) -> anyhow::Result<()> {
    for media_id in media_ids {
        let gate = FoundGate::read(client, media_id).await?;
        if gate.is_public() {
            client.send(client.build_request(Method::DELETE, gate.url).header(IF_MATCH, gate.tag)).await?;
        } else if gate.rule.is_some() {
            let name = output::sanitize_text(media_id);
            bail!("{name} is not public: a rule of its own says who plays it, and stays");
        }
        if as_json {
            output::print_json(&json!({ "media_id": media_id, "public": false }))?;
        } else {
            output::print_message(format!("You alone play {}", output::sanitize_text(media_id)));
        }
    }
    Ok(())
}
