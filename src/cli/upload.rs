//! `upload`: files over tus, one after the other, and what comes from standard input. An upload of a file that was cut is found again
//! and goes on; one of a pipe goes on as long as the command runs (`stdin_upload`).

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use schemas::{fault::io_advice, rejection::RejectionCode};
use serde_json::{Value, json};

use super::{
    CommandOutcome, UploadArgs,
    client::{ApiClient, ClientError},
    event::EventPrinter,
    follow::{FollowOutcome, FollowTarget, SseFollower},
    output, play,
    progress::FileProgress,
    render,
    resume::{InterruptedUpload, UploadIdentity, UploadResumeStore},
    stdin_upload,
    tus::{self, FileDescription, TusUpload, UploadByteSource},
};
use crate::explained::ExplainedError;

/// What stands for standard input among the files.
const STDIN: &str = "-";
/// How standard input is called where nothing else is said.
const STDIN_NAME: &str = "stdin";

/// What is uploaded.
enum UploadItem {
    File(UploadIdentity),
    Stdin,
}

/// Uploads the files, and with `--wait` follows each until it is ready or rejected.
///
/// # Errors
/// When a file can't be read, which is seen before any is sent, or the server refuses; running the command again goes on then.
pub async fn run_upload(args: UploadArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    let items = find_items(&args, &client)?;
    let memory = UploadResumeStore::of_user();
    if memory.is_none() && items.iter().any(|item| matches!(item, UploadItem::File(_))) {
        output::print_message(
            "streamgate: neither XDG_STATE_HOME nor HOME is set: an upload that is cut begins anew",
        );
    }
    let mut outcome = CommandOutcome::Well;
    for item in &items {
        let upload = match item {
            UploadItem::File(identity) => upload_file(&client, memory.as_ref(), identity, &args).await?,
            UploadItem::Stdin => upload_stdin(&client, &args).await?,
        };
        if report_upload(&client, &upload, &args, as_json).await? == CommandOutcome::Badly {
            outcome = CommandOutcome::Badly;
        }
    }
    Ok(outcome)
}

/// What the command line names, looked at before anything is sent.
fn find_items(args: &UploadArgs, client: &ApiClient) -> anyhow::Result<Vec<UploadItem>> {
    let of_one = args.title.is_some() || args.description.is_some();
    if args.files.len() > 1 && (of_one || args.name.is_some() || args.content_type.is_some()) {
        bail!("--title, --description, --name and --type are for one file; upload the others without them");
    }
    if args.files.iter().filter(|file| file.as_os_str() == STDIN).count() > 1 {
        bail!("standard input can be read once: name `-` once");
    }
    let find = |file: &PathBuf| {
        if file.as_os_str() == STDIN {
            if io::stdin().is_terminal() {
                bail!(
                    "standard input is a terminal: pipe a file into this command, such as `... | streamgate upload -`; a file that is \
                     called - is `./-`"
                );
            }
            return Ok(UploadItem::Stdin);
        }
        let identity = UploadIdentity::from_file(file, client.base_url().as_str()).map_err(|error| {
            let said = format!("{} can't be read ({error}); {}", file.display(), io_advice(&error));
            ExplainedError::new(said, error)
        })?;
        check_file(&identity).map(|()| UploadItem::File(identity))
    };
    args.files.iter().map(find).collect()
}

async fn upload_file(
    client: &ApiClient,
    memory: Option<&UploadResumeStore>,
    identity: &UploadIdentity,
    args: &UploadArgs,
) -> anyhow::Result<TusUpload> {
    let upload = open_upload(client, memory, identity, args).await?;
    send_file(client, &upload, identity).await?;
    if let Some(memory) = memory {
        memory.remove_upload(identity);
    }
    Ok(upload)
}

async fn upload_stdin(client: &ApiClient, args: &UploadArgs) -> anyhow::Result<TusUpload> {
    let began = Instant::now();
    let file = describe_file(args, STDIN_NAME);
    let piped = stdin_upload::upload_pipe(client, tokio::io::stdin(), file).await?;
    report_sent(file.name, piped.size_bytes, began);
    Ok(piped.upload)
}

/// What the command line says of a file that is called `name`.
fn describe_file<'a>(args: &'a UploadArgs, name: &'a str) -> FileDescription<'a> {
    FileDescription {
        name: args.name.as_deref().unwrap_or(name),
        title: args.title.as_deref(),
        text: args.description.as_deref(),
        content_type: args.content_type.as_deref(),
        is_public: args.public,
        profile: args.profile.as_deref(),
        priority: args.priority.as_deref(),
        is_encode_paused: args.encode_paused,
        is_partial: false,
    }
}

/// Says what the upload became, and with `wait` follows it to its end.
async fn report_upload(
    client: &ApiClient,
    upload: &TusUpload,
    args: &UploadArgs,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let answer = json!({ "upload_url": client.build_url(&upload.path, &[]).as_str() });
    report_medium(client, &upload.media_id, answer, (args.wait, args.encode_paused), as_json).await
}

/// Says that a medium is there, with what else is in `answer`, and with `wait` follows it to its end.
pub(super) async fn report_medium(
    client: &ApiClient,
    media_id: &str,
    mut answer: Value,
    (wait, is_encode_paused): (bool, bool),
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    answer["media_id"] = json!(media_id);
    answer["watch_url"] = json!(client.build_url(&format!("watch/{media_id}"), &[]).as_str());
    if wait {
        return wait_until_ready(client, media_id, answer, as_json).await;
    }
    if as_json {
        output::print_json(&answer.take())?;
    } else {
        output::print_message(if is_encode_paused {
            "Its encode waits for `streamgate media renditions`, `media transcode` or `jobs resume`"
                .to_owned()
        } else {
            format!("It is being prepared; follow it with `streamgate watch --media {media_id}`")
        });
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
        bail!("{name} is empty: there is nothing to upload; see whether what makes it has ended");
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
            Ok(_) if remembered.encode_paused != args.encode_paused => {
                let begun = if remembered.encode_paused { "with" } else { "without" };
                bail!(
                    "the upload of {} that was cut was begun {begun} --encode-paused: go on with it like that, or begin anew with --restart",
                    identity.path.display()
                );
            }
            Ok(upload) => {
                let done = render::format_size(upload.offset_bytes);
                output::print_message(format!("Going on behind {done} that the server has"));
                let is_described = args.title.is_some() || args.description.is_some();
                if args.public || is_described || args.name.is_some() || args.content_type.is_some() {
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
    let upload = tus::create_upload(client, Some(identity.size_bytes), describe_file(args, &name)).await?;
    if let Some(memory) = memory {
        let remembered = InterruptedUpload {
            upload_path: upload.path.clone(),
            media_id: upload.media_id.clone(),
            file: name,
            encode_paused: args.encode_paused,
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
    let progress = FileProgress::start(&name, Some(identity.size_bytes), upload.offset_bytes);
    let began = Instant::now();
    let source = UploadByteSource::File(identity.path.clone());
    let sent = tus::send_upload(client, upload, &source, identity.size_bytes, |at_bytes| {
        progress.set_position(at_bytes);
    })
    .await;
    progress.finish();
    let now = UploadIdentity::from_file(&identity.path, &identity.server);
    if now.ok().as_ref() != Some(identity) {
        bail!("{name} changed while it was uploaded; upload it again once it is complete");
    }
    sent.context("the upload was cut; the same command goes on where it stopped")?;
    report_sent(&name, identity.size_bytes, began);
    Ok(())
}

fn report_sent(name: &str, size_bytes: u64, began: Instant) {
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    output::print_message(format!(
        "Uploaded {} ({}) in {}",
        output::sanitize_text(name),
        render::format_size(size_bytes),
        render::format_duration(took_ms)
    ));
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
        if let Some(end) = wanted.outcome_of(&event) {
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
        if let Some(code) = answer["code"].as_str().and_then(RejectionCode::find) {
            let advice = code.advice();
            output::print_message(format!("What to do: {advice}"));
            answer["advice"] = json!(advice);
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
