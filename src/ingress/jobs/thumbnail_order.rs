//! Which pictures a job may be asked for.

use schemas::thumbnails::{TIMES_MAX, ThumbnailOrder, WIDTH_PIXELS_MAX, WIDTH_PIXELS_MIN};
use web::{error::Problem, problem_code::ProblemCode};

/// Refuses pictures that no job makes; `to_pointer` says where in the request a member of the job stands.
pub(crate) fn check_order(
    order: &ThumbnailOrder,
    to_pointer: impl Fn(&str) -> String,
) -> Result<(), Problem> {
    let invalid = |member: &str, detail: String| {
        Err(Problem::new(ProblemCode::RequestInvalid).with_pointer(&to_pointer(member), detail))
    };
    if !(1..=TIMES_MAX).contains(&order.times_ms.len()) {
        return invalid("times_ms", format!("1 to {TIMES_MAX} times"));
    }
    if !(WIDTH_PIXELS_MIN..=WIDTH_PIXELS_MAX).contains(&order.width) {
        return invalid("width", format!("{WIDTH_PIXELS_MIN} to {WIDTH_PIXELS_MAX} pixels"));
    }
    Ok(())
}
