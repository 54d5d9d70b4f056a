//! `media thumbnail`: has a picture of a medium at a time made, unless it was, and fetches it.

use std::{fs, path::PathBuf};

use anyhow::Context;
use reqwest::{Method, Url};
use serde_json::json;

use super::{
    ThumbnailArgs,
    client::{self, ApiClient, ClientError},
    output,
    picture::{WantedPicture, make_picture},
};

/// Fetches a picture, and says where it is.
///
/// # Errors
/// When the server refuses, there can't be such a picture, or the file can't be written.
pub(super) async fn fetch_thumbnail(args: &ThumbnailArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let (at, width) = (args.at.to_string(), args.width.map(|width| width.to_string()));
    let query = [("t", Some(at.as_str())), ("width", width.as_deref())];
    let url = client.build_url(&format!("v1/media/{}/thumbnail", args.media_id), &query);
    let bytes = match read_picture(&client, &url).await {
        Err(ClientError::Refused(refusal)) if refusal.code == "thumbnail_missing" => {
            let wanted = WantedPicture { media_id: &args.media_id, at: args.at, width: args.width };
            make_picture(&client, wanted).await?;
            read_picture(&client, &url).await?
        }
        found => found?,
    };
    let name = || PathBuf::from(format!("{}-{at}.jpg", args.media_id));
    let path = args.output.clone().unwrap_or_else(name);
    fs::write(&path, &bytes).with_context(|| format!("{} can't be written", path.display()))?;
    if as_json {
        output::print_json(&json!({ "media_id": args.media_id, "path": path, "size_bytes": bytes.len() }))?;
    } else {
        output::print_line(path.display())?;
    }
    Ok(())
}

async fn read_picture(client: &ApiClient, url: &Url) -> Result<Vec<u8>, ClientError> {
    let request = client.build_request(Method::GET, url.clone());
    client::with_time_limit(async { client::read_body(client.send(request).await?).await }).await
}
