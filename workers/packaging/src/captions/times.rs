//! Times of cues as files write them.

/// Most digits of hours.
const HOUR_DIGITS_MAX: usize = 4;

/// `HH:MM:SS.mmm` or `MM:SS.mmm` in milliseconds; `marks` stand between seconds and milliseconds.
pub(super) fn parse_time(text: &str, marks: &[char]) -> Option<u64> {
    let (whole, millis) = text.rsplit_once(marks)?;
    let mut steps = whole.split(':').rev();
    let seconds = parse_digits(steps.next()?, 2..=2).filter(|seconds| *seconds < 60)?;
    let minutes = parse_digits(steps.next()?, 2..=2).filter(|minutes| *minutes < 60)?;
    let hours = match steps.next() {
        Some(hours) => parse_digits(hours, 1..=HOUR_DIGITS_MAX)?,
        None => 0,
    };
    let millis = parse_digits(millis, 3..=3)?;
    steps.next().is_none().then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + millis)
}

/// So many digits and nothing else, of which there are few.
fn parse_digits(text: &str, count: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let is_plain = count.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}
