//! `streamgate-media`: the sandboxed program that links FFmpeg.
//!
//! `streamgate-media check` tries its sandbox and says what FFmpeg has. `streamgate-media run` takes one task over
//! stdin. Both answer on stdout in the frames of `media::protocol`, and build the cage before they read a byte.
//!
//! Limits: address space, CPU seconds, files and processes as in `sandbox`; media as in `media::protocol::MediaLimits`.

mod audio;
mod audio_timeline;
mod check;
mod clock_joiner;
mod composition;
mod copy;
mod decode;
mod encode;
mod error;
mod ffi;
mod first_frames;
mod fragment;
mod frame_rate;
mod input;
mod parent_pipe;
mod picture_filter;
mod probe;
mod remote;
mod resample;
mod rung_encoder;
mod sandbox;
mod scan;
mod stills;
mod storyboard;
mod subtitles;
mod survey;
mod tables;
mod timeline;
mod truncation;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use media::MediaErrorCode;
use media::protocol::{self, ChildMessage, EXIT_SANDBOX, MediaTask, MediaTaskReport};

use crate::error::{MediaChildError, MediaChildResult};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::sandbox::SandboxState;

fn main() -> ExitCode {
    let began = Instant::now();
    // Before any thread: each arena reserves address space, which RLIMIT_AS counts.
    ffi::limit_arenas();
    let (verb, ask) = match parse_arguments() {
        Ok(arguments) => arguments,
        Err(error) => return print_error(&error, 64),
    };
    // Before the library is started, and before a byte of the file is read.
    let cage = match sandbox::enter_sandbox(&ask) {
        Ok(cage) => cage,
        Err(error) => return print_error(&error, EXIT_SANDBOX),
    };
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
    let ended = match verb.as_str() {
        "check" => write_message(&ChildMessage::Checked(check::run_self_check(&cage))),
        _ => serve_task(began, &cage, ask.memory_bytes_max),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => print_error(&error, 1),
    }
}

fn parse_arguments() -> MediaChildResult<(String, sandbox::SandboxOptions)> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    if verb != "check" && verb != "run" {
        return Err(MediaChildError::Failed("usage: streamgate-media check|run [--memory-bytes-max=N] [--cpu-seconds-max=N] [--parent=PID] [--unsandboxed]".into()));
    }
    let mut ask = sandbox::SandboxOptions {
        memory_bytes_max: 2 << 30,
        cpu_seconds_max: 24 * 3600,
        ..sandbox::SandboxOptions::default()
    };
    for argument in arguments {
        let number = |text: &str| {
            text.parse().map_err(|_| MediaChildError::Failed(format!("no number in {argument}")))
        };
        match argument.split_once('=') {
            Some(("--memory-bytes-max", value)) => ask.memory_bytes_max = number(value)?,
            Some(("--cpu-seconds-max", value)) => ask.cpu_seconds_max = number(value)?,
            Some(("--parent", value)) => ask.parent = u32::try_from(number(value)?).unwrap_or(0),
            None if argument == "--unsandboxed" => ask.unsandboxed = true,
            _ => return Err(MediaChildError::Failed(format!("unknown argument {argument}"))),
        }
    }
    Ok((verb, ask))
}

/// Takes one task and reports its end; a failure that was reported to the parent is not one of this process.
fn serve_task(began: Instant, cage: &SandboxState, memory_bytes_max: u64) -> MediaChildResult<()> {
    let (wire, job) = ParentPipe::open(io::stdin(), io::stdout())?;
    ffmpeg_next::init().map_err(|error| MediaChildError::Failed(format!("start FFmpeg: {error}")))?;
    let last = match perform_task(&wire, &job, began) {
        Ok(last) => last,
        // The library says of a file that it is damaged where it had no memory to look at it.
        Err(MediaChildError::Refused { code, detail })
            if is_damage_code(code) && is_memory_scarce(cage, memory_bytes_max) =>
        {
            ChildMessage::Failed { code: None, detail: format!("short of memory: {detail}") }
        }
        Err(MediaChildError::Refused { code, detail }) => ChildMessage::Failed { code: Some(code), detail },
        Err(MediaChildError::Failed(detail)) => ChildMessage::Failed { code: None, detail },
    };
    wire.send(&last)
}

/// Whether a refusal says that the file is damaged, and not that it is too much.
fn is_damage_code(code: MediaErrorCode) -> bool {
    matches!(
        code,
        MediaErrorCode::MediaCorrupt
            | MediaErrorCode::MediaTruncated
            | MediaErrorCode::MediaNoFrames
            | MediaErrorCode::MediaNoStreams
    )
}

/// Whether the process came so near to its limit that the library may have been refused memory: it says so of few allocations.
fn is_memory_scarce(cage: &SandboxState, memory_bytes_max: u64) -> bool {
    cage.address_space_bytes_max() > memory_bytes_max / 2
}

fn perform_task(wire: &Arc<ParentPipe>, job: &ChildJob, began: Instant) -> MediaChildResult<ChildMessage> {
    let report = match &job.task {
        MediaTask::Probe => return Ok(ChildMessage::Probed(Box::new(probe::probe_source(wire, job)?))),
        MediaTask::Survey => return Ok(ChildMessage::Surveyed(Box::new(survey::survey_source(wire, job)?))),
        MediaTask::CopyFrames(spec) => copy::copy_frames(wire, job, spec)?,
        MediaTask::CopySound(spec) => copy::copy_sound(wire, job, spec)?,
        MediaTask::Encode(spec) => encode::encode_video(wire, job, spec)?,
        MediaTask::Audio(spec) => audio::encode_audio(wire, job, spec)?,
        MediaTask::Stills(spec) => stills::extract_stills(wire, job, spec)?,
        MediaTask::Subtitles(spec) => subtitles::read_subtitles(wire, job, spec)?,
    };
    let used = ffi::read_process_usage();
    Ok(ChildMessage::Done(MediaTaskReport {
        cpu_seconds: used.cpu_seconds,
        rss_bytes_max: used.rss_bytes_max,
        wall_seconds: began.elapsed().as_secs_f64(),
        ..report
    }))
}

fn write_message(message: &ChildMessage) -> MediaChildResult<()> {
    protocol::write_frame(io::stdout().lock(), message)
        .map_err(|error| MediaChildError::Failed(error.to_string()))
}

#[expect(
    clippy::print_stderr,
    reason = "stderr is how a process that cannot speak the protocol explains itself"
)]
fn print_error(error: &MediaChildError, status: u8) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(status)
}
