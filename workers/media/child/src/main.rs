//! `streamgate-media`: the sandboxed program that links FFmpeg.
//!
//! `streamgate-media check` tries its sandbox and says what FFmpeg has. `streamgate-media run` takes one task over
//! stdin. Both answer on stdout in the frames of `media::protocol`, and build the cage before they read a byte.
//!
//! Limits: address space, CPU seconds, files and processes as in `sandbox`; media as in `media::protocol::Limits`.

mod audio;
mod check;
mod decode;
mod encode;
mod error;
mod ffi;
mod fragment;
mod input;
mod lane;
mod probe;
mod remote;
mod resample;
mod sandbox;
mod scan;
mod shape;
mod stills;
mod tables;
mod timeline;
mod truncation;
mod wire;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use media::Code;
use media::protocol::{self, EXIT_SANDBOX, FromChild, Report, Task};

use crate::error::{Error, Result};
use crate::sandbox::Cage;
use crate::wire::{Job, Wire};

fn main() -> ExitCode {
    let began = Instant::now();
    ffi::limit_arenas();
    let (verb, ask) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => return complain(&error, 64),
    };
    let cage = match sandbox::enter(&ask) {
        Ok(cage) => cage,
        Err(error) => return complain(&error, EXIT_SANDBOX),
    };
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
    let ended = match verb.as_str() {
        "check" => tell(&FromChild::Checked(check::run(&cage))),
        _ => serve(began, &cage, ask.memory_bytes_max),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn arguments() -> Result<(String, sandbox::Ask)> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    if verb != "check" && verb != "run" {
        return Err(Error::Failed("usage: streamgate-media check|run [--memory-bytes-max=N] [--cpu-seconds-max=N] [--parent=PID] [--unsandboxed]".into()));
    }
    let mut ask =
        sandbox::Ask { memory_bytes_max: 2 << 30, cpu_seconds_max: 24 * 3600, ..sandbox::Ask::default() };
    for argument in arguments {
        let number = |text: &str| text.parse().map_err(|_| Error::Failed(format!("no number in {argument}")));
        match argument.split_once('=') {
            Some(("--memory-bytes-max", value)) => ask.memory_bytes_max = number(value)?,
            Some(("--cpu-seconds-max", value)) => ask.cpu_seconds_max = number(value)?,
            Some(("--parent", value)) => ask.parent = u32::try_from(number(value)?).unwrap_or(0),
            None if argument == "--unsandboxed" => ask.unsandboxed = true,
            _ => return Err(Error::Failed(format!("unknown argument {argument}"))),
        }
    }
    Ok((verb, ask))
}

/// Takes one task and tells its end; a failure that the parent was told is not one of this process.
fn serve(began: Instant, cage: &Cage, memory_bytes_max: u64) -> Result<()> {
    let (wire, job) = Wire::open(io::stdin(), io::stdout())?;
    ffmpeg_next::init().map_err(|error| Error::Failed(format!("start FFmpeg: {error}")))?;
    let last = match perform(&wire, &job, began) {
        Ok(last) => last,
        // The library says of a file that it is damaged where it had no memory to look at it.
        Err(Error::Refused { code, detail }) if is_damage(code) && is_scarce(cage, memory_bytes_max) => {
            FromChild::Failed { code: None, detail: format!("short of memory: {detail}") }
        }
        Err(Error::Refused { code, detail }) => FromChild::Failed { code: Some(code), detail },
        Err(Error::Failed(detail)) => FromChild::Failed { code: None, detail },
    };
    wire.send(&last)
}

/// Whether a refusal says that the file is damaged, and not that it is too much.
fn is_damage(code: Code) -> bool {
    matches!(code, Code::MediaCorrupt | Code::MediaTruncated | Code::MediaNoFrames | Code::MediaNoStreams)
}

/// Whether the process came so near to its limit that the library may have been refused memory: it says so of few allocations.
fn is_scarce(cage: &Cage, memory_bytes_max: u64) -> bool {
    cage.address_space_bytes_max() > memory_bytes_max / 2
}

fn perform(wire: &Arc<Wire>, job: &Job, began: Instant) -> Result<FromChild> {
    let report = match &job.task {
        Task::Probe => return Ok(FromChild::Probed(Box::new(probe::run(wire, job)?))),
        Task::Encode(spec) => encode::run(wire, job, spec)?,
        Task::Audio(spec) => audio::run(wire, job, spec)?,
        Task::Stills(spec) => stills::run(wire, job, spec)?,
    };
    let used = ffi::usage();
    Ok(FromChild::Done(Report {
        cpu_seconds: used.cpu_seconds,
        rss_bytes_max: used.rss_bytes_max,
        wall_seconds: began.elapsed().as_secs_f64(),
        ..report
    }))
}

fn tell(message: &FromChild) -> Result<()> {
    protocol::write_frame(io::stdout().lock(), message).map_err(|error| Error::Failed(error.to_string()))
}

#[expect(
    clippy::print_stderr,
    reason = "stderr is how a process that cannot speak the protocol explains itself"
)]
fn complain(error: &Error, status: u8) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(status)
}
