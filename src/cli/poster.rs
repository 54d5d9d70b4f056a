//! `media poster`: chooses the poster of a medium, a file or what is shown at a time, or takes the choice back.

use std::{fs, path::PathBuf};

use anyhow::Context;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, IF_MATCH},
};
use serde_json::{Value, json};

use super::{
    ClientArgs,
    client::{ApiClient, ClientError},
    output,
    picture::{WantedPicture, make_picture},
};

/// Width of a poster of what plays, in pixels.
const WIDTH_PIXELS: u32 = 1_280;

/// Flags of `media poster`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("choice").required(true)))]
pub struct PosterArgs {
    /// Its id
    pub media_id: String,
    /// What is shown then, in seconds from the beginning
    #[arg(long, value_name = "SECONDS", group = "choice")]
    pub at: Option<f64>,
    /// A picture of JPEG, PNG or WebP
    #[arg(long, value_name = "FILE", group = "choice")]
    pub file: Option<PathBuf>,
    /// Take the choice back: that of the encode is shown again
    #[arg(long, group = "choice")]
    pub remove: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Chooses the poster, and says so.
///
/// # Errors
/// When the file can't be read, or the server refuses.
pub(super) async fn choose_poster(args: &PosterArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let document = match (&args.file, args.at) {
        (Some(file), _) => {
            let bytes = fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
            let request = change(&client, Method::PUT, args).header(CONTENT_TYPE, media_type(&bytes));
            client.send_json(request.body(bytes)).await?
        }
        (None, Some(at)) => match choose_time(&client, args, at).await {
            Err(ClientError::Refused(refusal)) if refusal.code == "thumbnail_missing" => {
                let wanted = WantedPicture { media_id: &args.media_id, at, width: Some(WIDTH_PIXELS) };
                make_picture(&client, wanted).await?;
                choose_time(&client, args, at).await?
            }
            chosen => chosen?,
        },
        (None, None) => client.send_json(change(&client, Method::DELETE, args)).await?,
    };
    if as_json {
        output::print_json(&document)?;
    } else {
        output::print_line(client.build_url(&format!("v1/media/{}/poster", args.media_id), &[]))?;
    }
    Ok(())
}

/// Whatever the medium says now: the poster alone is written.
fn change(client: &ApiClient, method: Method, args: &PosterArgs) -> reqwest::RequestBuilder {
    let url = client.build_url(&format!("v1/media/{}/poster", args.media_id), &[]);
    client.build_request(method, url).header(IF_MATCH, "*")
}

async fn choose_time(client: &ApiClient, args: &PosterArgs, at: f64) -> Result<Value, ClientError> {
    let choice = json!({ "at_s": at, "width": WIDTH_PIXELS });
    client.send_json(change(client, Method::PUT, args).json(&choice)).await
}

/// By how the file begins; what it is the server finds out.
fn media_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', ..] => "image/png",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "image/jpeg",
    }
}
