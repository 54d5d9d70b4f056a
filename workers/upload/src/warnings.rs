//! Puts into words what of a file is missing, or not read.

use schemas::media::{MediaWarning, warning_codes};

/// Bytes before the first packet.
pub(crate) fn of_leading_bytes(leading_bytes: usize) -> MediaWarning {
    let bytes = with_thousands(u64::try_from(leading_bytes).unwrap_or(u64::MAX));
    new_warning(
        warning_codes::LEADING_BYTES,
        format!("{bytes} bytes before the first whole packet are not read"),
    )
}

/// Bytes from `at` to the end of a file of `size_bytes`.
pub(crate) fn of_trailing_bytes(at: u64, size_bytes: u64) -> MediaWarning {
    let detail = match size_bytes.saturating_sub(at) {
        1 => format!("1 byte behind the end at byte {} is not read", with_thousands(at)),
        bytes => {
            format!(
                "{} bytes behind the end at byte {} are not read",
                with_thousands(bytes),
                with_thousands(at)
            )
        }
    };
    new_warning(warning_codes::TRAILING_BYTES, detail)
}

/// A file of `size_bytes` that ends inside the element at `start`.
pub(crate) fn of_cut(start: u64, size_bytes: u64) -> MediaWarning {
    let detail = format!(
        "the file ends at byte {}, inside the element that begins at byte {}; it plays to where it goes",
        with_thousands(size_bytes),
        with_thousands(start)
    );
    new_warning(warning_codes::TRUNCATED, detail)
}

fn new_warning(code: &str, detail: String) -> MediaWarning {
    MediaWarning { code: code.to_owned(), detail }
}

/// A number in groups of three digits, such as `123,456`.
pub(crate) fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
