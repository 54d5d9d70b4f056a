//! `media history` and `jobs history`: all that happened to one thing, from its creation on.

use serde_json::{Value, json};

use super::{client::ApiClient, event, follow::FollowedEvent, output};

/// Prints the events of a thing, oldest first, page by page; `collection` is `media` or `jobs`.
///
/// # Errors
/// When the server refuses.
pub(super) async fn print_history(
    client: &ApiClient,
    collection: &str,
    id: &str,
    as_json: bool,
) -> anyhow::Result<()> {
    let path = format!("v1/{collection}/{id}/history");
    let mut cursor: Option<String> = None;
    loop {
        let page = client.get_json(&path, &[("limit", Some("200")), ("cursor", cursor.as_deref())]).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            let event = read_item(item);
            if as_json {
                output::print_json(&json!({ "id": event.id, "event": event.kind, "data": event.data }))?;
            } else {
                output::print_line(event::format_event(&event, false))?;
            }
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn read_item(item: &Value) -> FollowedEvent {
    FollowedEvent {
        id: item["id"].as_str().map(str::to_owned),
        kind: item["data"]["type"].as_str().unwrap_or_default().to_owned(),
        data: item["data"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_shown_as_the_event_that_it_was() {
        let item = json!({ "id": "1a-7", "data": { "type": "media.rejected", "data": { "code": "x" } } });
        let event = read_item(&item);
        assert_eq!((event.id.as_deref(), event.kind.as_str()), (Some("1a-7"), "media.rejected"));
        assert!(event::format_event(&event, false).contains("media.rejected  x"));
    }
}
