//! `upload`: files over tus, one after the other. An upload that was cut is found again and goes on.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{
    CommandOutcome, UploadArgs,
    client::{ApiClient, ClientError},
    event::EventPrinter,
    follow::{FollowOutcome, FollowTarget, SseFollower},
    output, play, render,
    resume::{InterruptedUpload, UploadIdentity, UploadResumeStore},
    tus::{self, FileDescription, TusUpload, UploadByteSource},
};

/// Uploads the files, and with `--wait` follows each until it is ready or rejected.
///
/// # Errors
/// When a file can't be read, which is seen before any is sent, or the server refuses; running the command again goes on then.
pub async fn run_upload(args: UploadArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    if args.files.len() > 1 && (args.title.is_some() || args.description.is_some()) {
        bail!("--title and --description are for one file; upload the others without them");
    }
    let identify = |file: &PathBuf| {
        let identity = UploadIdentity::from_file(file, client.base_url().as_str())
            .with_context(|| format!("{} can't be read", file.display()))?;
        check_file(&identity).map(|()| identity)
    };
    let identities = args.files.iter().map(identify).collect::<anyhow::Result<Vec<_>>>()?;
    let memory = UploadResumeStore::of_user();
    if memory.is_none() {
        output::print_message(
            "streamgate: neither XDG_STATE_HOME nor HOME is set: an upload that is cut begins anew",
        );
    }
    let mut outcome = CommandOutcome::Well;
    for identity in &identities {
        if upload_file(&client, memory.as_ref(), identity, &args, as_json).await? == CommandOutcome::Badly {
            outcome = CommandOutcome::Badly;
        }
    }
    Ok(outcome)
}

async fn upload_file(
    client: &ApiClient,
    memory: Option<&UploadResumeStore>,
    identity: &UploadIdentity,
    args: &UploadArgs,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let upload = open_upload(client, memory, identity, args).await?;
    send_file(client, &upload, identity).await?;
    if let Some(memory) = memory {
        memory.remove_upload(identity);
    }
    let media_id = &upload.media_id;
    let mut answer = json!({
        "media_id": media_id,
        "upload_url": client.build_url(&upload.path, &[]).as_str(),
        "watch_url": client.build_url(&format!("watch/{media_id}"), &[]).as_str(),
    });
    if args.wait {
        return wait_until_ready(client, media_id, answer, as_json).await;
    }
    if as_json {
        output::print_json(&answer.take())?;
    } else {
        output::print_message(format!(
            "It is being prepared; follow it with `streamgate watch --media {media_id}`"
        ));
        output::print_line(media_id)?;
    }
    Ok(CommandOutcome::Well)
}

fn check_file(identity: &UploadIdentity) -> anyhow::Result<()> {
    let name = identity.path.display();
    if !identity.path.is_file() {
        bail!("{name} is no file; name the files in it, such as `streamgate upload {name}/*.mp4`");
    }
    if identity.size_bytes == 0 {
        bail!("{name} is empty: there is nothing to upload");
    }
    Ok(())
}

/// The upload of this file: the one that was cut, when the server still has it, else a new one.
async fn open_upload(
    client: &ApiClient,
    memory: Option<&UploadResumeStore>,
    identity: &UploadIdentity,
    args: &UploadArgs,
) -> anyhow::Result<TusUpload> {
    if let Some(remembered) = memory.and_then(|memory| memory.find_upload(identity)).filter(|_| !args.restart)
    {
        match tus::read_upload(client, &remembered.upload_path).await {
            Ok(upload) => {
                let done = render::format_size(upload.offset_bytes);
                output::print_message(format!("Going on behind {done} that the server has"));
                if args.public || args.title.is_some() || args.description.is_some() {
                    output::print_message(
                        "What it is called and about, and who plays it, are as they were said when it began",
                    );
                }
                return Ok(upload);
            }
            Err(ClientError::Refused(refusal)) if matches!(refusal.status, 403 | 404 | 410) => {
                output::print_message("The server does not have the earlier upload any more; beginning anew");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = file_name(&identity.path);
    let file = FileDescription {
        name: &name,
        title: args.title.as_deref(),
        text: args.description.as_deref(),
        is_public: args.public,
    };
    let upload = tus::create_upload(client, identity.size_bytes, file).await?;
    if let Some(memory) = memory {
        let remembered = InterruptedUpload {
            upload_path: upload.path.clone(),
            media_id: upload.media_id.clone(),
            file: name,
        };
        if let Err(error) = memory.save_upload(identity, &remembered) {
            output::print_message(format!(
                "streamgate: an upload that is cut begins anew: it can't be remembered ({error})"
            ));
        }
    }
    Ok(upload)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

async fn send_file(client: &ApiClient, upload: &TusUpload, identity: &UploadIdentity) -> anyhow::Result<()> {
    let name = file_name(&identity.path);
    let bar = tus::progress_bar(identity.size_bytes, &name);
    let began = Instant::now();
    let source = UploadByteSource::File(identity.path.clone());
    let sent =
        tus::send_upload(client, upload, &source, identity.size_bytes, |at_bytes| bar.set_position(at_bytes))
            .await;
    bar.finish_and_clear();
    let now = UploadIdentity::from_file(&identity.path, &identity.server);
    if now.ok().as_ref() != Some(identity) {
        bail!("{name} changed while it was uploaded; upload it again once it is complete");
    }
    sent.context("the upload was cut; the same command goes on where it stopped")?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let size = render::format_size(identity.size_bytes);
    output::print_message(format!(
        "Uploaded {} ({size}) in {}",
        output::sanitize_text(&name),
        render::format_duration(took_ms)
    ));
    Ok(())
}

/// Follows the medium to its end, and says where it plays.
async fn wait_until_ready(
    client: &ApiClient,
    media_id: &str,
    mut answer: Value,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let wanted = FollowTarget { media: Some(media_id.to_owned()), ..FollowTarget::default() };
    let mut follower = SseFollower::new(client.clone(), wanted.clone());
    let mut printer = EventPrinter::default();
    let (end, last) = loop {
        let event = follower.next_event().await?;
        printer.print_event(&event);
        if let Some(end) = wanted.outcome_of(&event.kind) {
            break (end, event);
        }
    };
    drop(printer);
    let status = last.kind.split_once('.').map_or(last.kind.as_str(), |(_, verb)| verb);
    answer["status"] = json!(status);
    if end == FollowOutcome::Badly {
        for name in ["code", "detail"] {
            answer[name] = last.data["data"][name].clone();
        }
    } else {
        let playback = play::open_playback(client, media_id).await?;
        answer["hls_url"] = json!(playback.hls_text());
        answer["watch_url"] = json!(playback.watch_url.as_str());
    }
    if as_json {
        output::print_json(&answer)?;
    } else if end == FollowOutcome::Well {
        output::print_line(answer["watch_url"].as_str().unwrap_or_default())?;
    }
    Ok(if end == FollowOutcome::Well { CommandOutcome::Well } else { CommandOutcome::Badly })
}
