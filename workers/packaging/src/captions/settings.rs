//! Where a cue is shown (WebVTT, 4.4): what is no place is left out, as players do.

/// The settings of a cue that are known and make sense, each once, in the order in which they came; those of regions are not kept.
pub(super) fn clean_settings(text: &str) -> String {
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for (name, value) in text.split_ascii_whitespace().filter_map(|setting| setting.split_once(':')) {
        let is_known = match name {
            "vertical" => matches!(value, "rl" | "lr"),
            "line" => is_line(value),
            "position" => is_position(value),
            "size" => is_percentage(value),
            "align" => matches!(value, "start" | "center" | "end" | "left" | "right"),
            _ => false,
        };
        if is_known && !kept.iter().any(|(other, _)| *other == name) {
            kept.push((name, value));
        }
    }
    kept.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(" ")
}

fn is_line(value: &str) -> bool {
    let (offset, align) = value.split_once(',').unwrap_or((value, "start"));
    let number = offset.strip_prefix('-').unwrap_or(offset);
    let is_number =
        !number.is_empty() && number.len() <= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number || is_percentage(offset)) && matches!(align, "start" | "center" | "end")
}

fn is_position(value: &str) -> bool {
    let (offset, align) = value.split_once(',').unwrap_or((value, "center"));
    is_percentage(offset) && matches!(align, "line-left" | "center" | "line-right")
}

/// 0 to 100 with a `%`, in few digits.
fn is_percentage(value: &str) -> bool {
    let Some(number) = value.strip_suffix('%').filter(|number| number.len() <= 8) else { return false };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(whole) && are_digits(decimals) && number.parse::<f64>().is_ok_and(|number| number <= 100.0)
}
