//! `media` and `jobs`: lists as tables, single ones as documents; media can be removed.

use reqwest::{
    Method,
    header::{ETAG, HeaderValue, IF_MATCH},
};
use serde_json::{Value, json};

use super::{
    CommandOutcome, JobIdsArgs, JobsCommand, JobsListArgs, MediaCommand, PageArgs, captions,
    client::{ApiClient, ClientError},
    download,
    each::act_on_each,
    edit, export, fetch, grant, history, jobs_act, jobs_watch, output, poster, publish, render, renditions,
    search, thumbnail, transcode, verify,
};

/// A way to show an item of a list: the heads of the columns, and what stands in them.
struct ListColumns {
    heads: &'static [&'static str],
    row: fn(&Value) -> Vec<String>,
}

const MEDIA: ListColumns = ListColumns {
    heads: &["MEDIA", "STATUS", "CREATED", "DURATION", "SIZE", "TITLE"],
    row: |item| {
        let duration_ms = &item["summary"]["duration_ms"];
        vec![
            format_field(item, "media_id"),
            format_status(item),
            format_field(item, "created_at_ms"),
            render::format_scalar("duration_ms", duration_ms),
            format_field(item, "size_bytes"),
            format_field(item, "title"),
        ]
    },
};

const REMOVED_MEDIA: ListColumns = ListColumns {
    heads: &["MEDIA", "REMOVED", "CREATED", "TITLE"],
    row: |item| {
        ["media_id", "removed_at_ms", "created_at_ms", "title"].map(|name| format_field(item, name)).into()
    },
};

const JOBS: ListColumns = ListColumns {
    heads: &["JOB", "KIND", "STATUS", "PARTS", "CREATED", "CPU", "MEDIA"],
    row: |item| {
        vec![
            format_field(item, "job_id"),
            format_field(item, "kind"),
            if item["paused_at_ms"].is_u64() { "paused".to_owned() } else { format_status(item) },
            format!("{}/{}", format_field(item, "parts_done"), format_field(item, "parts_total")),
            format_field(item, "created_at_ms"),
            format_field(item, "cpu_ms"),
            format_medium(item),
        ]
    },
};

/// The medium of a job; nothing where it works on none.
fn format_medium(job: &Value) -> String {
    render::format_medium_id(job["media_id"].as_str().unwrap_or_default())
}

fn format_field(item: &Value, name: &str) -> String {
    render::format_scalar(name, &item[name])
}

/// The status, with the reason when it is a bad one.
fn format_status(item: &Value) -> String {
    match item["code"].as_str() {
        Some(code) => format!("{} ({code})", format_field(item, "status")),
        None => format_field(item, "status"),
    }
}

/// Lists media, or shows one.
///
/// # Errors
/// When the server refuses.
pub async fn run_media(command: MediaCommand, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let done = match command {
        MediaCommand::Fetch(args) => return fetch::fetch_medium(&args, as_json).await,
        MediaCommand::Ls { removed, page, client } => {
            let only = [("removed", removed.then_some("true"))];
            let columns = if removed { &REMOVED_MEDIA } else { &MEDIA };
            print_list(&ApiClient::new(&client)?, "v1/media", &only, &page, columns, as_json).await
        }
        MediaCommand::Search(args) => search::search_media(&args, as_json).await,
        MediaCommand::History { media_id, client } => {
            history::print_history(&ApiClient::new(&client)?, "media", &media_id, as_json).await
        }
        MediaCommand::Show { media_id, client } => {
            print_document(&ApiClient::new(&client)?, &format!("v1/media/{media_id}"), as_json).await
        }
        MediaCommand::Publish { media_ids, replace, client } => {
            publish::publish_media(&ApiClient::new(&client)?, &media_ids, replace, as_json).await
        }
        MediaCommand::Unpublish { media_ids, client } => {
            publish::unpublish_media(&ApiClient::new(&client)?, &media_ids, as_json).await
        }
        MediaCommand::Download(args) => download::download_medium(&args, as_json).await,
        MediaCommand::Edit(args) => edit::edit_medium(&args, as_json).await,
        MediaCommand::Thumbnail(args) => thumbnail::fetch_thumbnail(&args, as_json).await,
        MediaCommand::Renditions(args) => renditions::publish_renditions(&args, as_json).await,
        MediaCommand::Captions(args) => captions::run_captions(&args, as_json).await,
        MediaCommand::Poster(args) => poster::choose_poster(&args, as_json).await,
        MediaCommand::Grant(args) => grant::run_grant(&args, as_json).await,
        MediaCommand::Transcode(args) => transcode::transcode_media(&args, as_json).await,
        MediaCommand::Verify(args) => verify::verify_media(&args, as_json).await,
        MediaCommand::Rm { media_ids, permanent, client } => {
            let client = ApiClient::new(&client)?;
            let remove = async |media_id: &str| remove_medium(&client, media_id, permanent, as_json).await;
            act_on_each("medium", &media_ids, remove).await
        }
        MediaCommand::Restore { media_ids, client } => {
            let client = ApiClient::new(&client)?;
            let restore = async |media_id: &str| restore_medium(&client, media_id, as_json).await;
            act_on_each("medium", &media_ids, restore).await
        }
    };
    done.map(|()| CommandOutcome::Well)
}

/// Removes a medium as it is now; one that was removed before for good.
async fn remove_medium(
    client: &ApiClient,
    media_id: &str,
    permanent: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    let path = format!("v1/media/{media_id}");
    let found = client.send(client.build_request(Method::GET, client.build_url(&path, &[]))).await;
    let tag = match found {
        Err(error) if permanent && error.code() == "media_removed" => HeaderValue::from_static("*"),
        found => {
            let tag = found?.headers().get(ETAG).cloned();
            tag.ok_or_else(|| ClientError::strange("the answer has no ETag"))?
        }
    };
    let url = client.build_url(&path, &[("permanent", permanent.then_some("true"))]);
    client.send(client.build_request(Method::DELETE, url).header(IF_MATCH, tag)).await?;
    if as_json {
        let removed = json!({ "media_id": media_id, "removed": true, "permanent": permanent });
        return Ok(output::print_json(&removed)?);
    }
    let shown = output::sanitize_text(media_id);
    output::print_message(if permanent {
        format!("Removed for good: {shown}")
    } else {
        format!("Removed: {shown}; `streamgate media restore {shown}` brings it back for a time")
    });
    Ok(())
}

/// Restores a removed medium.
async fn restore_medium(client: &ApiClient, media_id: &str, as_json: bool) -> anyhow::Result<()> {
    let url = client.build_url(&format!("v1/media/{media_id}/restore"), &[]);
    let document = client.send_json(client.build_request(Method::POST, url)).await?;
    if as_json {
        return Ok(output::print_json(&document)?);
    }
    let status = format_status(&document);
    output::print_message(format!("Restored: {}, {status}", output::sanitize_text(media_id)));
    Ok(())
}

/// Lists jobs, or shows one.
///
/// # Errors
/// When the server refuses.
pub async fn run_jobs(command: JobsCommand, as_json: bool) -> anyhow::Result<CommandOutcome> {
    match command {
        JobsCommand::Export(args) => export::export_medium(&args, as_json).await,
        JobsCommand::Act(args) => return jobs_act::act_on_jobs(&args, as_json).await,
        JobsCommand::Watch(args) => return jobs_watch::watch_jobs(&args, as_json).await,
        JobsCommand::Ls(args) => {
            let (client, only) = (ApiClient::new(&args.client)?, job_filters(&args));
            print_list(&client, "v1/jobs", &only, &args.page, &JOBS, as_json).await
        }
        JobsCommand::History { job_id, client } => {
            history::print_history(&ApiClient::new(&client)?, "jobs", &job_id, as_json).await
        }
        JobsCommand::Show { job_id, client } => {
            print_document(&ApiClient::new(&client)?, &format!("v1/jobs/{job_id}"), as_json).await
        }
        JobsCommand::Cancel(jobs) => change_jobs(&jobs, "cancel", "Cancelled", as_json).await,
        JobsCommand::Pause(jobs) => change_jobs(&jobs, "pause", "Paused", as_json).await,
        JobsCommand::Resume(jobs) => change_jobs(&jobs, "resume", "Resumed", as_json).await,
        JobsCommand::Priority { priority, jobs } => prioritize_jobs(&jobs, &priority, as_json).await,
        JobsCommand::Why { job_id, client } => explain_job(&ApiClient::new(&client)?, &job_id, as_json).await,
        JobsCommand::Retry(JobIdsArgs { job_ids, client }) => {
            let client = ApiClient::new(&client)?;
            act_on_each("job", &job_ids, async |job_id| retry_job(&client, job_id, as_json).await).await
        }
    }?;
    Ok(CommandOutcome::Well)
}

/// What of the jobs is asked for, as parameters of their list.
fn job_filters(args: &JobsListArgs) -> [(&'static str, Option<&str>); 6] {
    [
        ("media_id", args.media.as_deref()),
        ("kind", args.kind.as_deref()),
        ("priority", args.priority.as_deref()),
        ("code", args.code.as_deref()),
        ("paused", args.paused.map(|is_paused| if is_paused { "true" } else { "false" })),
        ("owner", args.owner.as_deref()),
    ]
}

async fn act_on_job(client: &ApiClient, job_id: &str, action: &str) -> anyhow::Result<Value> {
    let url = client.build_url(&format!("v1/jobs/{job_id}/{action}"), &[]);
    Ok(client.send(client.build_request(Method::POST, url)).await?.json().await?)
}

/// Changes jobs by an action that answers with the job; `done` says so to people.
async fn change_jobs(jobs: &JobIdsArgs, action: &str, done: &str, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&jobs.client)?;
    let change = async |job_id: &str| {
        let job = act_on_job(&client, job_id, action).await?;
        if as_json {
            return Ok(output::print_json(&json!({ "job_id": job_id, "state": job["state"] }))?);
        }
        output::print_message(format!("{done}: {}", output::sanitize_text(job_id)));
        Ok(())
    };
    act_on_each("job", &jobs.job_ids, change).await
}

async fn prioritize_jobs(jobs: &JobIdsArgs, priority: &str, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&jobs.client)?;
    let change = async |job_id: &str| {
        let url = client.build_url(&format!("v1/jobs/{job_id}"), &[]);
        let request = client.build_request(Method::PATCH, url).json(&json!({ "priority": priority }));
        let job: Value = client.send(request).await?.json().await?;
        if as_json {
            return Ok(output::print_json(&json!({ "job_id": job_id, "priority": job["priority"] }))?);
        }
        output::print_message(format!("Now {priority}: {}", output::sanitize_text(job_id)));
        Ok(())
    };
    act_on_each("job", &jobs.job_ids, change).await
}

/// Prints why a job does not run: the sentence, and when it will.
async fn explain_job(client: &ApiClient, job_id: &str, as_json: bool) -> anyhow::Result<()> {
    let why = client.get_json(&format!("v1/jobs/{job_id}/why"), &[]).await?;
    if as_json {
        return Ok(output::print_json(&why)?);
    }
    output::print_line(output::sanitize_text(why["sentence"].as_str().unwrap_or_default()))?;
    if let Some(start_in_ms) = why["start_in_ms"].as_u64() {
        let seconds = start_in_ms.div_ceil(1_000);
        output::print_line(format!("By the rate of the last ten minutes it goes on in about {seconds} s."))?;
    }
    Ok(())
}

async fn retry_job(client: &ApiClient, job_id: &str, as_json: bool) -> anyhow::Result<()> {
    let retried = act_on_job(client, job_id, "retry").await?;
    if as_json {
        return Ok(output::print_json(&retried)?);
    }
    let next = retried["job_id"].as_str().unwrap_or_default();
    let (ended, next) = (output::sanitize_text(job_id), output::sanitize_text(next));
    output::print_message(format!("Tried again: {ended}, as {next}"));
    Ok(())
}

async fn print_list(
    client: &ApiClient,
    path: &str,
    only: &[(&str, Option<&str>)],
    page: &PageArgs,
    columns: &ListColumns,
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
    let answer = client.get_json(path, &query).await?;
    let items = answer["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    let next = answer["next_cursor"].as_str();
    if as_json {
        items.iter().try_for_each(output::print_json)?;
        // The last line, only when there is more.
        next.map_or(Ok(()), |next| output::print_json(&json!({ "next_cursor": next })))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = items.iter().map(columns.row).collect();
    output::print_line(render::format_table(columns.heads, &rows))?;
    if let Some(next) = next {
        output::print_message(format!("There are more: --cursor {}", output::sanitize_text(next)));
    }
    Ok(())
}

async fn print_document(client: &ApiClient, path: &str, as_json: bool) -> anyhow::Result<()> {
    let mut document = client.get_json(path, &[]).await?;
    if as_json {
        return Ok(output::print_json(&document)?);
    }
    // The plan of a job fills screens; `--json` has it.
    if let Some(members) = document.as_object_mut() {
        members.remove("plan");
    }
    Ok(output::print_line(render::format_document(&document))?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, CliCommand};

    #[test]
    fn jobs_are_listed_by_what_is_named() {
        let filters = |line: &[&str]| {
            let parsed = Cli::try_parse_from(["streamgate", "jobs", "ls"].iter().chain(line)).unwrap();
            let CliCommand::Jobs(JobsCommand::Ls(args)) = parsed.command else { panic!("{line:?}") };
            let named = job_filters(&args).into_iter();
            let named = named.filter_map(|(name, value)| Some(format!("{name}={}", value?)));
            named.collect::<Vec<_>>().join("&")
        };
        assert_eq!(filters(&[]), "");
        assert_eq!(filters(&["--paused", "--limit", "5"]), "paused=true");
        assert_eq!(filters(&["--paused=false", "--media", "m1"]), "media_id=m1&paused=false");
        let named = ["--kind", "verify", "--priority", "p2", "--code", "store_full", "--owner", "olga"];
        assert_eq!(filters(&named), "kind=verify&priority=p2&code=store_full&owner=olga");
        let wrong = ["streamgate", "jobs", "ls", "--priority", "p3"];
        assert!(Cli::try_parse_from(wrong).is_err());
    }

    #[test]
    fn rows_fit_their_heads() {
        let item = json!({
            "media_id": "m1", "job_id": "j1", "status": "failed", "code": "media_corrupt",
            "parts_done": 1, "parts_total": 3, "created_at_ms": 0, "summary": null,
        });
        for columns in [MEDIA, JOBS] {
            let row = (columns.row)(&item);
            assert_eq!(row.len(), columns.heads.len());
            assert!(row.contains(&"failed (media_corrupt)".to_owned()), "{row:?}");
        }
        assert_eq!((JOBS.row)(&item)[3], "1/3");
    }
}
