//! The pages of runbooks: a list of all alerts, and one page each. Their texts are Markdown, of which what they use is known here: headings,
//! lists of one level, paragraphs and code.

use std::fmt::Write as _;

use alerts::{RUNBOOKS, RuleSet, Runbook, find_runbook, runbook_path};

use crate::page_assets::escape_html;

/// The beginning of a page.
fn open_page(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n\
         <link rel=\"stylesheet\" href=\"/docs/docs.css\">\n</head>\n<body>\n<header>\n<h1>{0}</h1>\n",
        escape_html(title)
    )
}

/// The list of all alerts, by how urgent they are.
pub(super) fn render_index_page() -> String {
    let mut page = open_page("Runbooks");
    page.push_str(
        "<p>What to do about each alert: what it means, whom it affects, how to find the cause, and how to end it. \
         <code>streamgate alerts</code> shows which fire.</p>\n<p><a href=\"/docs\">HTTP API</a></p>\n</header>\n<main>\n<dl>\n",
    );
    let rules = RuleSet::built_in().map(|set| set.rules).unwrap_or_default();
    for Runbook { name, text } in RUNBOOKS {
        let severities: Vec<&str> =
            rules.iter().filter(|rule| rule.name == *name).map(|rule| rule.severity.name()).collect();
        let mut shown = severities;
        shown.dedup();
        let meaning = text.split("## Meaning\n\n").nth(1).and_then(|rest| rest.split("\n\n").next());
        // Writing to a text does not fail.
        _ = writeln!(
            page,
            "<dt><a href=\"{}\">{name}</a> <small>{}</small></dt><dd>{}</dd>",
            runbook_path(name),
            shown.join(", "),
            render_inline(meaning.unwrap_or_default())
        );
    }
    page.push_str("</dl>\n</main>\n</body>\n</html>\n");
    page
}

/// The page of one alert; `None` where there is no such alert.
pub(super) fn render_runbook_page(name: &str) -> Option<String> {
    let runbook = find_runbook(name)?;
    let mut page = open_page(runbook.name);
    page.push_str("<p><a href=\"/docs/runbooks\">All runbooks</a> <a href=\"/docs\">HTTP API</a></p>\n</header>\n<main>\n");
    let mut is_list = false;
    for line in runbook.text.lines().skip(1) {
        let item = line.strip_prefix("- ");
        if is_list && item.is_none() {
            page.push_str("</ul>\n");
        }
        if !is_list && item.is_some() {
            page.push_str("<ul>\n");
        }
        is_list = item.is_some();
        if let Some(item) = item {
            _ = writeln!(page, "<li>{}</li>", render_inline(item));
        } else if let Some(heading) = line.strip_prefix("## ") {
            _ = writeln!(page, "<h2 id=\"{0}\">{1}</h2>", heading.to_lowercase(), escape_html(heading));
        } else if !line.is_empty() {
            _ = writeln!(page, "<p>{}</p>", render_inline(line));
        }
    }
    if is_list {
        page.push_str("</ul>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Some(page)
}

/// A line: code between backticks, and names of other alerts as links.
fn render_inline(line: &str) -> String {
    let mut html = String::new();
    for (at, part) in line.split('`').enumerate() {
        if at % 2 == 1 {
            _ = write!(html, "<code>{}</code>", escape_html(part));
            continue;
        }
        for word in part.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let name = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            match find_runbook(name) {
                Some(_) => {
                    let rest = word.strip_prefix(name).unwrap_or_default();
                    _ = write!(html, "<a href=\"{}\">{name}</a>{}", runbook_path(name), escape_html(rest));
                }
                None => html.push_str(&escape_html(word)),
            }
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runbook_is_a_page_and_stands_in_the_list() {
        let index = render_index_page();
        for Runbook { name, .. } in RUNBOOKS {
            assert!(index.contains(&format!("<a href=\"/docs/runbooks/{name}\">")), "{name}");
            let page = render_runbook_page(name).unwrap();
            for part in ["meaning", "impact", "diagnosis", "mitigation"] {
                assert!(page.contains(&format!("<h2 id=\"{part}\">")), "{name}: {part}");
            }
            assert!(
                !page.contains('`') && page.matches("<ul>").count() == page.matches("</ul>").count(),
                "{page}"
            );
        }
        assert!(render_runbook_page("../secrets").is_none() && render_runbook_page("").is_none());
    }

    #[test]
    fn what_a_line_holds_is_text() {
        assert_eq!(
            render_inline("a <b> `x{y=\"z\"} < 1`, see StreamGateBrokerDown."),
            "a &lt;b&gt; <code>x{y=&quot;z&quot;} &lt; 1</code>, see <a href=\"/docs/runbooks/StreamGateBrokerDown\">StreamGateBrokerDown</a>."
        );
    }
}
