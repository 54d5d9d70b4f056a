//! `media edit`: changes what is said about a medium.

use anyhow::{Context, bail};
use reqwest::{Method, header::IF_MATCH};
use serde_json::{Map, Value, json};

use super::{EditArgs, client::ApiClient, output, render};

/// Changes the members that are named, and shows what the medium says then.
///
/// # Errors
/// When nothing is to be changed, what is given is not in its form, or the server refuses.
pub(super) async fn edit_medium(args: &EditArgs, as_json: bool) -> anyhow::Result<()> {
    let change = describe_change(args)?;
    if change.is_empty() {
        bail!("nothing to change: `streamgate media edit --help` lists what can be said about a medium");
    }
    let client = ApiClient::new(&args.client)?;
    let url = client.build_url(&format!("v1/media/{}", args.media_id), &[]);
    // Whatever it says now: only what is named is written, and nobody looked at it before.
    let request = client.build_request(Method::PATCH, url).header(IF_MATCH, "*").json(&change);
    let document: Value = client.send_json(request).await?;
    if as_json {
        output::print_json(&document)?;
    } else {
        output::print_line(render::format_document(&document))?;
    }
    Ok(())
}

/// The body of the request. An empty text takes away what it is given for, except a title.
fn describe_change(args: &EditArgs) -> anyhow::Result<Map<String, Value>> {
    let mut change = Map::new();
    let or_none = |text: &String| if text.is_empty() { Value::Null } else { json!(text) };
    if let Some(title) = &args.title {
        change.insert("title".into(), json!(title));
    }
    if let Some(visibility) = &args.visibility {
        change.insert("visibility".into(), json!(visibility));
    }
    if let Some(downloads) = &args.downloads {
        change.insert("downloads".into(), json!(downloads));
    }
    let texts = [
        ("description", &args.description),
        ("language", &args.language),
        ("contact_email", &args.contact),
        ("mint_tx", &args.mint_tx),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            change.insert(name.into(), or_none(text));
        }
    }
    if !args.tags.is_empty() {
        let tags: Vec<&String> = args.tags.iter().filter(|tag| !tag.is_empty()).collect();
        change.insert("tags".into(), json!(tags));
    }
    if !args.links.is_empty() {
        let links =
            args.links.iter().filter(|link| !link.is_empty()).map(|link| match link.split_once(' ') {
                Some((url, label)) => json!({ "url": url, "label": label.trim() }),
                None => json!({ "url": link }),
            });
        change.insert("links".into(), links.collect());
    }
    if !args.chapters.is_empty() {
        let chapters =
            args.chapters.iter().filter(|chapter| !chapter.is_empty()).map(|text| parse_chapter(text));
        change.insert("chapters".into(), chapters.collect::<anyhow::Result<_>>()?);
    }
    if let Some(text) = &args.attributes {
        let attributes = if text.is_empty() {
            Value::Null
        } else {
            let parsed: Map<String, Value> = serde_json::from_str(text)
                .context("--attributes is no JSON object, such as '{\"shelf\": 7}'")?;
            Value::Object(parsed)
        };
        change.insert("attributes".into(), attributes);
    }
    Ok(change)
}

/// A chapter by when it begins, in seconds, and its title.
fn parse_chapter(text: &str) -> anyhow::Result<Value> {
    let parsed = text.split_once(' ').and_then(|(start, title)| Some((start.parse::<f64>().ok()?, title)));
    let (start_s, title) = parsed.with_context(|| {
        format!("--chapter takes seconds and a title, such as '61.5 The sea', and not {text:?}")
    })?;
    Ok(json!({ "start_s": start_s, "title": title.trim() }))
}
