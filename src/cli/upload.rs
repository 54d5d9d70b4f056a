//! `upload`: a file over tus. An upload that was cut is found again and goes on.

use std::{path::Path, time::Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{
    Ended, UploadArgs,
    client::{Client, Error},
    event::Teller,
    follow::{End, Follower, Wanted},
    out, play, render,
    resume::{Identity, Memory, Remembered},
    tus::{self, Source, Upload},
};

/// Uploads the file, and with `--wait` follows it until it is ready or rejected.
///
/// # Errors
/// When the file can't be read or the server refuses; running the command again goes on then.
pub async fn run(args: UploadArgs, as_json: bool) -> anyhow::Result<Ended> {
    let client = Client::new(&args.client)?;
    let file = &args.file;
    let identity = Identity::of(file, client.base().as_str())
        .with_context(|| format!("{} can't be read", file.display()))?;
    check(&identity)?;
    let memory = Memory::of_user();
    if memory.is_none() {
        out::say("streamgate: neither XDG_STATE_HOME nor HOME is set: an upload that is cut begins anew");
    }
    let upload = open(&client, memory.as_ref(), &identity, args.restart).await?;
    send(&client, &upload, &identity).await?;
    if let Some(memory) = &memory {
        memory.forget(&identity);
    }
    let media_id = &upload.media_id;
    let mut answer = json!({
        "media_id": media_id,
        "upload_url": client.url(&upload.path, &[]).as_str(),
        "watch_url": client.url(&format!("watch/{media_id}"), &[]).as_str(),
    });
    if args.wait {
        return wait(&client, media_id, answer, as_json).await;
    }
    if as_json {
        out::json(&answer.take())?;
    } else {
        out::say(format!("It is being prepared; follow it with `streamgate watch --media {media_id}`"));
        out::line(media_id)?;
    }
    Ok(Ended::Well)
}

fn check(identity: &Identity) -> anyhow::Result<()> {
    let name = identity.path.display();
    if !identity.path.is_file() {
        bail!("{name} is no file; upload one at a time");
    }
    if identity.size_bytes == 0 {
        bail!("{name} is empty: there is nothing to upload");
    }
    Ok(())
}

/// The upload of this file: the one that was cut, when the server still has it, else a new one.
async fn open(
    client: &Client,
    memory: Option<&Memory>,
    identity: &Identity,
    restart: bool,
) -> anyhow::Result<Upload> {
    if let Some(remembered) = memory.and_then(|memory| memory.find(identity)).filter(|_| !restart) {
        match tus::standing(client, &remembered.upload_path).await {
            Ok(upload) => {
                let done = render::size(upload.offset_bytes);
                out::say(format!("Going on behind {done} that the server has"));
                return Ok(upload);
            }
            Err(Error::Refused(refusal)) if matches!(refusal.status, 403 | 404 | 410) => {
                out::say("The server does not have the earlier upload any more; beginning anew");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = file_name(&identity.path);
    let upload = tus::create(client, identity.size_bytes, &name).await?;
    if let Some(memory) = memory {
        let remembered =
            Remembered { upload_path: upload.path.clone(), media_id: upload.media_id.clone(), file: name };
        if let Err(error) = memory.keep(identity, &remembered) {
            out::say(format!(
                "streamgate: an upload that is cut begins anew: it can't be remembered ({error})"
            ));
        }
    }
    Ok(upload)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

async fn send(client: &Client, upload: &Upload, identity: &Identity) -> anyhow::Result<()> {
    let name = file_name(&identity.path);
    let bar = tus::bar(identity.size_bytes, &name);
    let began = Instant::now();
    let source = Source::File(identity.path.clone());
    let sent =
        tus::send(client, upload, &source, identity.size_bytes, |at_bytes| bar.set_position(at_bytes)).await;
    bar.finish_and_clear();
    let now = Identity::of(&identity.path, &identity.server);
    if now.ok().as_ref() != Some(identity) {
        bail!("{name} changed while it was uploaded; upload it again once it is complete");
    }
    sent.context("the upload was cut; the same command goes on where it stopped")?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let size = render::size(identity.size_bytes);
    out::say(format!("Uploaded {} ({size}) in {}", out::clean(&name), render::duration(took_ms)));
    Ok(())
}

/// Follows the medium to its end, and says where it plays.
async fn wait(client: &Client, media_id: &str, mut answer: Value, as_json: bool) -> anyhow::Result<Ended> {
    let wanted = Wanted { media: Some(media_id.to_owned()), ..Wanted::default() };
    let mut follower = Follower::new(client.clone(), wanted.clone());
    let mut teller = Teller::default();
    let (end, last) = loop {
        let told = follower.next().await?;
        teller.tell(&told);
        if let Some(end) = wanted.end(&told.kind) {
            break (end, told);
        }
    };
    drop(teller);
    let status = last.kind.split_once('.').map_or(last.kind.as_str(), |(_, verb)| verb);
    answer["status"] = json!(status);
    if end == End::Badly {
        for name in ["code", "detail"] {
            answer[name] = last.data["data"][name].clone();
        }
    } else {
        let playback = play::open(client, media_id).await?;
        answer["hls_url"] = json!(playback.hls_url.as_str());
        answer["watch_url"] = json!(playback.watch_url.as_str());
    }
    if as_json {
        out::json(&answer)?;
    } else if end == End::Well {
        out::line(answer["watch_url"].as_str().unwrap_or_default())?;
    }
    Ok(if end == End::Well { Ended::Well } else { Ended::Badly })
}
