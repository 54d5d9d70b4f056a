//! The self-check: what the sandbox refuses, which FFmpeg this is, and whether it has what the tasks need.

use ffmpeg_next::{codec, decoder, encoder, filter, format};
use media::{FfmpegVersions, MediaSelfCheck};

use crate::ffi;
use crate::sandbox::{self, SandboxState};

/// Filters that the tasks cannot do without.
const FILTERS: &[&str] = &[
    "buffer",
    "buffersink",
    "abuffer",
    "abuffersink",
    "scale",
    "format",
    "setsar",
    "bwdif",
    "transpose",
    "hflip",
    "vflip",
    "aresample",
    "aformat",
    "pan",
    "alimiter",
    "volume",
];

/// Filters without which HDR sources look washed out.
const FILTERS_OPTIONAL: &[&str] = &["zscale", "tonemap"];

/// Runs the check. The program is not fit for anything else afterwards.
pub(crate) fn run_self_check(cage: &SandboxState) -> MediaSelfCheck {
    let mut missing = Vec::new();
    for name in ["libx264", "aac", "mjpeg"] {
        if encoder::find_by_name(name).is_none() {
            missing.push(format!("encoder {name}"));
        }
    }
    for id in [codec::Id::H264, codec::Id::AAC] {
        if decoder::find(id).is_none() {
            missing.push(format!("decoder {}", id.name()));
        }
    }
    missing.extend(list_missing_filters(FILTERS));
    MediaSelfCheck {
        versions: FfmpegVersions {
            ffmpeg: ffi::version_text(),
            avformat: format_version(format::version()),
            avcodec: format_version(codec::version()),
            avfilter: format_version(filter::version()),
            avutil: format_version(ffmpeg_next::util::version()),
        },
        missing,
        missing_optional: list_missing_filters(FILTERS_OPTIONAL),
        sandbox: sandbox::probe_sandbox(cage),
    }
}

fn list_missing_filters(names: &[&str]) -> Vec<String> {
    let gone = names.iter().filter(|name| filter::find(name).is_none());
    gone.map(|name| format!("filter {name}")).collect()
}

fn format_version(version: u32) -> String {
    format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)
}
