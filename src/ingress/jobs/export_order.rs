//! Which exports a job may be asked for.

use outbound::{Networks, OutboundUrl};
use schemas::export::{AUDIO_CHARS_MAX, ExportFile, ExportJobRequest, ExportOrder};
use web::{error::Problem, problem_code::ProblemCode};

use crate::AppState;

/// What the job sends and where, as `asked_by` asks for it; a name is looked up when it is sent. `to_pointer` says where in the request a member of the job stands.
pub(super) fn read_order(
    app: &AppState,
    (wanted, asked_by): (&ExportJobRequest, &str),
    to_pointer: impl Fn(&str) -> String,
) -> Result<ExportOrder, Problem> {
    let invalid = |member: &str, detail: String| {
        Err(Problem::new(ProblemCode::RequestInvalid).with_pointer(&to_pointer(member), detail))
    };
    if wanted.file == ExportFile::Source && (wanted.height.is_some() || wanted.audio.is_some()) {
        let member = if wanted.height.is_some() { "height" } else { "audio" };
        let detail = "the file that was uploaded is sent as it is: leave this out";
        return Err(Problem::new(ProblemCode::ExportInvalid).with_pointer(&to_pointer(member), detail));
    }
    if wanted.height.is_some_and(|height| height == 0 || height > packaging::SIDE_PIXELS_MAX) {
        return invalid("height", format!("1 to {} pixels", packaging::SIDE_PIXELS_MAX));
    }
    if wanted.audio.as_ref().is_some_and(|audio| !(1..=AUDIO_CHARS_MAX).contains(&audio.chars().count())) {
        return invalid("audio", format!("1 to {AUDIO_CHARS_MAX} characters"));
    }
    let networks = Networks::new(app.config.uploads.fetch_networks.clone());
    let url = OutboundUrl::parse(&wanted.target_url, &networks).map_err(|error| {
        Problem::new(ProblemCode::TargetRefused).with_pointer(&to_pointer("target_url"), error.to_string())
    })?;
    Ok(ExportOrder {
        file: wanted.file,
        height: wanted.height,
        audio: wanted.audio.clone(),
        url: Some(url.expose().to_owned()),
        shown: url.shown(),
        asked_by: Some(asked_by.to_owned()),
    })
}
