//! `media search`: media by words, with the words that were found in bold where a person watches.

use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::{Value, json};

use super::{
    ClientArgs, PageArgs,
    client::{ApiClient, ClientError},
    output::{self, sanitize_text},
    render,
};

/// Begins and ends bold text on a terminal (ECMA-48, SGR).
const BOLD: [&str; 2] = ["\u{1b}[1m", "\u{1b}[0m"];

/// Heads of the columns; the last one has the words that were found.
const HEADS: [&str; 4] = ["MEDIA", "STATUS", "DURATION", "TITLE"];

/// Which media to find.
#[derive(Debug, Args)]
pub struct MediaSearchArgs {
    /// Words, each of which has to be found; words within quotation marks stand side by side
    pub words: Vec<String>,
    /// Only those with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Only those in this language
    #[arg(long)]
    pub language: Option<String>,
    /// Only those of this owner; for operators and admins
    #[arg(long)]
    pub owner: Option<String>,
    /// Which first
    #[arg(long, value_parser = ["relevance", "newest", "oldest", "longest", "title"], default_value = "relevance")]
    pub sort: String,
    /// Which page.
    #[command(flatten)]
    pub page: PageArgs,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Finds media, and prints them as a table or, with `as_json`, one object a line.
///
/// # Errors
/// When the server refuses.
pub(super) async fn search_media(args: &MediaSearchArgs, as_json: bool) -> anyhow::Result<()> {
    let (words, limit) = (args.words.join(" "), args.page.limit.to_string());
    let query = [
        ("q", Some(words.as_str())),
        ("tag", args.tag.as_deref()),
        ("language", args.language.as_deref()),
        ("owner", args.owner.as_deref()),
        ("sort", Some(args.sort.as_str())),
        ("status", args.page.status.as_deref()),
        ("limit", Some(limit.as_str())),
        ("cursor", args.page.cursor.as_deref()),
    ];
    let answer = ApiClient::new(&args.client)?.get_json("v1/media/search", &query).await?;
    let items = answer["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    let next = answer["next_cursor"].as_str();
    if as_json {
        items.iter().try_for_each(output::print_json)?;
        // The last line, only when there is more.
        next.map_or(Ok(()), |next| output::print_json(&json!({ "next_cursor": next })))?;
        return Ok(());
    }
    // https://no-color.org: set to anything, it asks for no escape sequences.
    let is_bold =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    output::print_line(format_hits(items, is_bold))?;
    if let Some(next) = next {
        output::print_message(format!("There are more: --cursor {}", sanitize_text(next)));
    }
    Ok(())
}

/// A table of media; below each what was found elsewhere than in its title.
fn format_hits(items: &[Value], is_bold: bool) -> String {
    let rows: Vec<Vec<String>> = items.iter().map(format_row).collect();
    let table = render::format_table(&HEADS, &rows);
    let mut lines = table.lines().map(str::to_owned);
    let mut shown: Vec<String> = lines.next().into_iter().collect();
    for (item, line) in items.iter().zip(lines) {
        let highlights = item["highlights"].as_array().into_iter().flatten();
        let (titles, others): (Vec<&Value>, Vec<&Value>) =
            highlights.partition(|highlight| highlight["field"] == "title");
        let title = flat_text(&item["title"]);
        // One that is cut for the highlight stands in the table as a whole.
        let whole = titles.iter().find(|highlight| flat_text(&highlight["text"]) == title);
        let painted = whole.map(|highlight| paint_highlight(highlight, is_bold));
        let row = painted.and_then(|painted| Some(format!("{}{painted}", line.strip_suffix(&title)?)));
        shown.push(row.unwrap_or(line));
        for highlight in others {
            let field = flat_text(&highlight["field"]);
            shown.push(format!("    {field}: {}", paint_highlight(highlight, is_bold)));
        }
    }
    shown.join("\n")
}

fn format_row(item: &Value) -> Vec<String> {
    let duration_ms = &item["summary"]["duration_ms"];
    vec![
        flat_text(&item["media_id"]),
        flat_text(&item["status"]),
        render::format_scalar("duration_ms", duration_ms),
        flat_text(&item["title"]),
    ]
}

/// Text of somebody else on one line. It has as many characters as before, so that ranges hold.
fn flat_text(text: &Value) -> String {
    let line: String =
        text.as_str().unwrap_or_default().chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    sanitize_text(&line)
}

/// The text of a highlight, with its ranges in bold.
fn paint_highlight(highlight: &Value, is_bold: bool) -> String {
    let text = flat_text(&highlight["text"]);
    if !is_bold {
        return text;
    }
    let ranges: Vec<(u64, u64)> = highlight["ranges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|range| Some((range["start"].as_u64()?, range["end"].as_u64()?)))
        .collect();
    let mut painted = String::new();
    for (at, c) in (0..).zip(text.chars()) {
        if ranges.iter().any(|(start, _)| *start == at) {
            painted.push_str(BOLD[0]);
        }
        painted.push(c);
        if ranges.iter().any(|(_, end)| *end == at + 1) {
            painted.push_str(BOLD[1]);
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_were_found_are_bold_and_nothing_else_steers_the_terminal() {
        let item = json!({
            "media_id": "m1", "status": "ready", "title": "Big \u{1b}[2J Bunny", "summary": null,
            "highlights": [
                { "field": "title", "text": "Big \u{1b}[2J Bunny", "ranges": [{ "start": 0, "end": 3 }, { "start": 9, "end": 14 }] },
                { "field": "description", "text": "a bunny\nor two", "ranges": [{ "start": 2, "end": 7 }] },
            ],
        });
        let items = [item, json!({ "media_id": "m2", "status": "stored", "title": "", "highlights": [] })];
        assert_eq!(
            format_hits(&items, false),
            "MEDIA  STATUS  DURATION  TITLE\nm1     ready             Big ?[2J Bunny\n    description: a bunny or two\nm2     stored"
        );
        let painted = format_hits(&items[..1], true);
        assert!(painted.contains("\u{1b}[1mBig\u{1b}[0m ?[2J \u{1b}[1mBunny\u{1b}[0m\n"), "{painted:?}");
        assert!(painted.ends_with("description: a \u{1b}[1mbunny\u{1b}[0m or two"), "{painted:?}");
    }
}
