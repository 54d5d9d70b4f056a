//! The summary of an alert: a text with places for its value and its labels, for people here and as a template of Prometheus.

use std::{collections::BTreeMap, fmt::Write as _};

/// The names in braces.
pub(crate) fn find_places(text: &str) -> Vec<&str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(place, _)| place).collect()
}

/// The text with each place replaced by what `fill` says.
fn fill_places(text: &str, mut fill: impl FnMut(&str) -> String) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((place, after)) = behind.split_once('}') else { break };
        filled.push_str(before);
        filled.push_str(&fill(place));
        rest = after;
    }
    filled + rest
}

/// As a template of Prometheus.
pub(crate) fn to_template(text: &str) -> String {
    fill_places(text, |place| match place {
        "value" => "{{ $value | printf \"%.0f\" }}".into(),
        "value:duration" => "{{ $value | humanizeDuration }}".into(),
        "value:percent" => "{{ $value | humanizePercentage }}".into(),
        label => format!("{{{{ $labels.{label} }}}}"),
    })
}

/// As people read it; the same words that Prometheus makes of the template.
pub(crate) fn render(text: &str, value: f64, labels: &BTreeMap<String, String>) -> String {
    fill_places(text, |place| match place {
        "value" => format!("{value:.0}"),
        "value:duration" => format_humanized_duration(value),
        "value:percent" => format!("{}%", format_significant(value * 100.0)),
        label => labels.get(label).cloned().unwrap_or_default(),
    })
}

/// `humanizeDuration` of Prometheus for times of a second and more; shorter ones as seconds.
fn format_humanized_duration(value: f64) -> String {
    if !value.is_finite() {
        return format!("{value}");
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let seconds = value.abs();
    if seconds < 60.0 {
        return format!("{sign}{}s", format_significant(seconds));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and cut on purpose"
    )]
    let whole = seconds as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    let mut text = sign.to_owned();
    // Writing to a text does not fail.
    _ = match (days, hours) {
        (0, 0) => write!(text, "{minutes}m {rest}s"),
        (0, _) => write!(text, "{hours}h {minutes}m {rest}s"),
        _ => write!(text, "{days}d {hours}h {minutes}m {rest}s"),
    };
    text
}

/// Four significant digits without zeros at the end, as `%.4g` has them from 0.0001 to 9999.
fn format_significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let exponent = value.abs().log10().floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few digits")]
    let decimals = (3.0 - exponent).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_the_same_here_and_at_prometheus() {
        let labels = BTreeMap::from([("stream".to_owned(), "EVENTS".to_owned())]);
        let text = "{stream} is {value:percent} full for {value:duration}, {value}";
        assert_eq!(
            to_template(text),
            "{{ $labels.stream }} is {{ $value | humanizePercentage }} full for {{ $value | humanizeDuration }}, {{ $value | printf \"%.0f\" }}"
        );
        assert_eq!(render(text, 0.8125, &labels), "EVENTS is 81.25% full for 0.8125s, 1");
        for (value, wanted) in [
            (0.0, "0s"),
            (59.0, "59s"),
            (61.5, "1m 1s"),
            (3_725.0, "1h 2m 5s"),
            (259_199.0, "2d 23h 59m 59s"),
            (-61.0, "-1m 1s"),
        ] {
            assert_eq!(format_humanized_duration(value), wanted, "{value}");
        }
        for (value, wanted) in [(1.53846, "1.538"), (100.0, "100"), (0.1, "0.1"), (12.5, "12.5")] {
            assert_eq!(format_significant(value), wanted, "{value}");
        }
    }
}
