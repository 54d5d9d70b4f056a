//! `media` and `jobs`: lists as tables, single ones as documents; media can be removed.

use anyhow::Context;
use reqwest::{
    Method,
    header::{ETAG, IF_MATCH},
};
use serde_json::{Value, json};

use super::{JobsCommand, MediaCommand, PageArgs, client::Client, out, render};

/// A way to show an item of a list: the heads of the columns, and what stands in them.
struct Columns {
    heads: &'static [&'static str],
    row: fn(&Value) -> Vec<String>,
}

const MEDIA: Columns = Columns {
    heads: &["MEDIA", "STATUS", "CREATED", "DURATION", "SIZE", "TITLE"],
    row: |item| {
        let duration_ms = &item["summary"]["duration_ms"];
        vec![
            field(item, "media_id"),
            status(item),
            field(item, "created_at_ms"),
            render::scalar("duration_ms", duration_ms),
            field(item, "size_bytes"),
            field(item, "title"),
        ]
    },
};

const JOBS: Columns = Columns {
    heads: &["JOB", "STATUS", "PARTS", "CREATED", "CPU", "MEDIA"],
    row: |item| {
        vec![
            field(item, "job_id"),
            status(item),
            format!("{}/{}", field(item, "parts_done"), field(item, "parts_total")),
            field(item, "created_at_ms"),
            field(item, "cpu_ms"),
            field(item, "media_id"),
        ]
    },
};

fn field(item: &Value, name: &str) -> String {
    render::scalar(name, &item[name])
}

/// The status, with the reason when it is a bad one.
fn status(item: &Value) -> String {
    match item["code"].as_str() {
        Some(code) => format!("{} ({code})", field(item, "status")),
        None => field(item, "status"),
    }
}

/// Lists media, or shows one.
///
/// # Errors
/// When the server refuses.
pub async fn media(command: MediaCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        MediaCommand::Ls { page, client } => {
            list(&Client::new(&client)?, "v1/media", &[], &page, &MEDIA, as_json).await
        }
        MediaCommand::Show { media_id, client } => {
            show(&Client::new(&client)?, &format!("v1/media/{media_id}"), as_json).await
        }
        MediaCommand::Rm { media_ids, client } => {
            let client = Client::new(&client)?;
            for media_id in media_ids {
                remove(&client, &media_id, as_json).await?;
            }
            Ok(())
        }
    }
}

/// Removes a medium as it is now.
async fn remove(client: &Client, media_id: &str, as_json: bool) -> anyhow::Result<()> {
    let url = client.url(&format!("v1/media/{media_id}"), &[]);
    let found = client.send(client.request(Method::GET, url.clone())).await?;
    let tag = found.headers().get(ETAG).context("the answer has no ETag")?.clone();
    client.send(client.request(Method::DELETE, url).header(IF_MATCH, tag)).await?;
    if as_json {
        return Ok(out::json(&json!({ "media_id": media_id, "removed": true }))?);
    }
    out::say(format!("Removed: {}", out::clean(media_id)));
    Ok(())
}

/// Lists jobs, or shows one.
///
/// # Errors
/// When the server refuses.
pub async fn jobs(command: JobsCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        JobsCommand::Ls { media, page, client } => {
            let only = [("media_id", media.as_deref())];
            list(&Client::new(&client)?, "v1/jobs", &only, &page, &JOBS, as_json).await
        }
        JobsCommand::Show { job_id, client } => {
            show(&Client::new(&client)?, &format!("v1/jobs/{job_id}"), as_json).await
        }
    }
}

async fn list(
    client: &Client,
    path: &str,
    only: &[(&str, Option<&str>)],
    page: &PageArgs,
    columns: &Columns,
    as_json: bool,
) -> anyhow::Result<()> {
    let limit = page.limit.to_string();
    let query = [
        &[
            ("limit", Some(limit.as_str())),
            ("cursor", page.cursor.as_deref()),
            ("status", page.status.as_deref()),
        ],
        only,
    ]
    .concat();
    let answer = client.get(path, &query).await?;
    let items = answer["items"].as_array().context("the answer is no list")?;
    let next = answer["next_cursor"].as_str();
    if as_json {
        items.iter().try_for_each(out::json)?;
        // The last line, only when there is more.
        next.map_or(Ok(()), |next| out::json(&json!({ "next_cursor": next })))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = items.iter().map(columns.row).collect();
    out::line(render::table(columns.heads, &rows))?;
    if let Some(next) = next {
        out::say(format!("There are more: --cursor {}", out::clean(next)));
    }
    Ok(())
}

async fn show(client: &Client, path: &str, as_json: bool) -> anyhow::Result<()> {
    let mut document = client.get(path, &[]).await?;
    if as_json {
        return Ok(out::json(&document)?);
    }
    // What a job's encoder was told fills screens; `--json` has it.
    if let Some(members) = document.as_object_mut() {
        members.remove("plan");
    }
    Ok(out::line(render::document(&document))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_their_heads() {
        let item = json!({
            "media_id": "m1", "job_id": "j1", "status": "failed", "code": "media_corrupt",
            "parts_done": 1, "parts_total": 3, "created_at_ms": 0, "summary": null,
        });
        for columns in [MEDIA, JOBS] {
            let row = (columns.row)(&item);
            assert_eq!(row.len(), columns.heads.len());
            assert_eq!(row[1], "failed (media_corrupt)");
        }
        assert_eq!((JOBS.row)(&item)[2], "1/3");
    }
}
