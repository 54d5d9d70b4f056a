//! `media download`: a finished medium as one MP4 file. What was cut goes on where it ended, also in a later run.
//!
//! Until it is whole the file has `.<version>.part` behind its name: the version is that of the server's file, so that bytes of two are
//! never put together.
//!
//! Limits: [`CUTS_MAX`] cuts without a byte between them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, ETAG, IF_RANGE, RANGE},
};
use serde_json::json;

use super::{
    DownloadArgs,
    client::{ApiClient, ClientError, innermost_cause},
    output,
    progress::FileProgress,
};

/// Most times in a row that a connection may be cut before a byte has come.
const CUTS_MAX: u32 = 3;

/// The file of the server, as its head says.
struct RemoteFile {
    url: Url,
    size_bytes: u64,
    /// With its quotes.
    tag: String,
}

/// Downloads a medium, and says where it is.
///
/// # Errors
/// When the owner lets nobody download it, there is no file of it yet, the file is there already, or it can't be written.
pub(super) async fn download_medium(args: &DownloadArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.mp4", args.media_id)));
    if !args.force && path.exists() {
        bail!("{} is there already: name another file with -o, or replace it with --force", path.display());
    }
    let remote = find_file(&client, args).await?;
    let part_path = part_path(&path, &remote.tag);
    let mut file = OpenOptions::new().append(true).create(true).open(&part_path);
    let file = file.as_mut().map_err(|error| anyhow::anyhow!("{}: {error}", part_path.display()))?;
    let mut at_bytes = file.metadata()?.len();
    if at_bytes > remote.size_bytes {
        file.set_len(0)?;
        at_bytes = 0;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let progress = FileProgress::start(&name, Some(remote.size_bytes), at_bytes);
    let fetched = fetch_rest(&client, args, remote, file, at_bytes, &progress).await;
    progress.finish();
    fetched.with_context(|| format!("what has come is in {}", part_path.display()))?;
    file.sync_all()?;
    fs::rename(&part_path, &path).with_context(|| format!("{} can't be renamed", part_path.display()))?;
    let size_bytes = fs::metadata(&path)?.len();
    if as_json {
        output::print_json(&json!({ "media_id": args.media_id, "path": path, "size_bytes": size_bytes }))?;
    } else {
        output::print_line(path.display())?;
    }
    Ok(())
}

/// Opens a playback session and looks at the file.
async fn find_file(client: &ApiClient, args: &DownloadArgs) -> anyhow::Result<RemoteFile> {
    let url = client.build_url(&format!("v1/media/{}/playback", args.media_id), &[]);
    let answer = client.send_json(client.build_request(Method::POST, url)).await?;
    let Some(url) = answer["download_url"].as_str() else {
        match answer["status"].as_str() {
            Some("playable") => {
                bail!("it is still being encoded; `streamgate watch {}` follows it", args.media_id)
            }
            _ => bail!(
                "there is no file of it for you: its owner lets viewers download it by `streamgate media edit --downloads viewers`"
            ),
        }
    };
    let mut url = client.base_url().join(url)?;
    if let Some(height) = args.height {
        url.query_pairs_mut().append_pair("height", &height.to_string());
    }
    if let Some(audio) = &args.audio {
        url.query_pairs_mut().append_pair("audio", audio);
    }
    // HEAD has no document that says why it is refused: one byte says as much.
    let request = client.build_open_request(Method::GET, url.clone()).header(RANGE, "bytes=0-0");
    let head = client.send(request).await?;
    let total = head
        .headers()
        .get("content-range")
        .and_then(|value| value.to_str().ok()?.rsplit('/').next()?.parse().ok());
    let tag = head.headers().get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (Some(size_bytes), Some(tag)) = (total, tag) else {
        return Err(ClientError::strange("the file has no size or version").into());
    };
    Ok(RemoteFile { url, size_bytes, tag })
}

/// Fetches what is missing, over as many connections as that takes.
async fn fetch_rest(
    client: &ApiClient,
    args: &DownloadArgs,
    mut remote: RemoteFile,
    file: &mut File,
    mut at_bytes: u64,
    progress: &FileProgress,
) -> anyhow::Result<()> {
    let mut cuts = 0;
    while at_bytes < remote.size_bytes {
        let request = client.build_open_request(Method::GET, remote.url.clone());
        let request = request.header(RANGE, format!("bytes={at_bytes}-")).header(IF_RANGE, &remote.tag);
        let before = at_bytes;
        let outcome = match client.send(request).await {
            Ok(answer) => copy_body(answer, file, &mut at_bytes, progress).await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = outcome else { continue };
        cuts = if at_bytes > before { 0 } else { cuts + 1 };
        let refusal = error.downcast_ref::<ClientError>().and_then(ClientError::as_refusal);
        let is_over = refusal.is_some_and(|refusal| refusal.code == "playback_refused");
        let is_transient = error.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient);
        if cuts >= CUTS_MAX || !(is_over || is_transient) {
            return Err(error);
        }
        if is_over {
            // The session has ended, and another one goes on with the same file, unless there is a newer encode.
            let next = find_file(client, args).await?;
            if next.tag != remote.tag {
                bail!("it was encoded again meanwhile; run the command again for the new file");
            }
            remote = next;
        }
    }
    Ok(())
}

/// Appends what comes to the file.
async fn copy_body(
    mut answer: Response,
    file: &mut File,
    at_bytes: &mut u64,
    progress: &FileProgress,
) -> anyhow::Result<()> {
    if answer.status() != StatusCode::PARTIAL_CONTENT || answer.headers().get(CONTENT_LENGTH).is_none() {
        bail!("it was encoded again meanwhile; run the command again for the new file");
    }
    let cut = |error: reqwest::Error| ClientError::Cut { reason: innermost_cause(&error) };
    while let Some(piece) = answer.chunk().await.map_err(cut)? {
        file.write_all(&piece)?;
        *at_bytes += u64::try_from(piece.len())?;
        progress.set_position(*at_bytes);
    }
    Ok(())
}

/// Where the bytes of a version are until all of them are there.
fn part_path(path: &Path, tag: &str) -> PathBuf {
    let version: String = tag.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let mut name = OsString::from(path);
    name.push(format!(".{version}.part"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_two_versions_have_two_names() {
        let path = Path::new("films/sea.mp4");
        assert_eq!(part_path(path, "\"0123456789abcdef\""), Path::new("films/sea.mp4.0123456789ab.part"));
        assert_ne!(part_path(path, "\"1\""), part_path(path, "\"2\""));
        assert_eq!(part_path(path, "\"../x\""), Path::new("films/sea.mp4.x.part"));
    }
}
