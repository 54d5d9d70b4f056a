//! The pages of runbooks: a list of all alerts, and one page each.

use std::fmt::Write as _;

use alerts::{RUNBOOKS, RuleSet, Runbook, find_runbook, runbook_path};

use super::markdown::{open_page, render_inline, render_text};

/// The list of all alerts, by how urgent they are.
pub(super) fn render_index_page() -> String {
    let mut page = open_page("Runbooks");
    page.push_str(
        "<p>What to do about each alert: what it means, whom it affects, how to find the cause, and how to end it. \
         <code>streamgate alerts</code> shows which fire.</p>\n<p><a href=\"/docs\">HTTP API</a> <a href=\"/docs/guides\">Guides</a></p>\n</header>\n<main>\n<dl>\n",
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
    let text = runbook.text.split_once('\n').map_or("", |(_, text)| text);
    page.push_str(&render_text(text));
    page.push_str("</main>\n</body>\n</html>\n");
    Some(page)
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
}
