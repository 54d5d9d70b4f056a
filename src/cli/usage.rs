//! `usage`: what one used today, and how much one may use.

use serde_json::Value;

use super::{client::ApiClient, output, render};

const HEADS: [&str; 3] = ["WHAT", "USED", "AT MOST"];

/// Prints what is used.
///
/// # Errors
/// When the server refuses.
pub(super) async fn print_usage(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let usage = client.get_json("v1/usage", &[]).await?;
    if as_json {
        return Ok(output::print_json(&usage)?);
    }
    let rows = [
        ("uploaded today", "uploaded_bytes"),
        ("encoded today", "encoded_ms"),
        ("jobs that have not ended", "open_jobs"),
    ]
    .map(|(what, name)| usage_row(what, name, &usage[name]));
    output::print_line(render::format_table(&HEADS, &rows))?;
    let resets_at = render::format_scalar("resets_at_ms", &usage["resets_at_ms"]);
    output::print_message(format!("A new day begins at {resets_at}."));
    Ok(())
}

fn usage_row(what: &str, name: &str, share: &Value) -> Vec<String> {
    let max = match &share["max"] {
        Value::Null => "no limit".to_owned(),
        max => render::format_scalar(name, max),
    };
    vec![what.to_owned(), render::format_scalar(name, &share["used"]), max]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_is_shown_with_its_unit() {
        let row = usage_row("encoded today", "encoded_ms", &json!({ "used": 65_000, "max": 0 }));
        assert_eq!(row[1..], ["1:05 min", "0.0 s"]);
        let row = usage_row("uploaded today", "uploaded_bytes", &json!({ "used": 1_048_576, "max": null }));
        assert_eq!(row[1..], ["1.00 MiB", "no limit"]);
    }
}
