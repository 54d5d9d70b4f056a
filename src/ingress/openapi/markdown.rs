//! Markdown as the runbooks, the guides and `SETTINGS.md` use it: headings, lists of one level, tables, blocks of code, paragraphs of one
//! line, and in lines code, links to paths of this service, and names of alerts, which lead to their runbooks.

use std::fmt::Write as _;

use alerts::{find_runbook, runbook_path};

use crate::page_assets::escape_html;

/// What the lines are part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MarkdownBlock {
    /// Each line is a paragraph.
    Paragraphs,
    /// `- ` begins each.
    List,
    /// `| ` begins each; the first row names the columns.
    Table,
    /// Between two lines of three backticks.
    Code,
}

impl MarkdownBlock {
    const fn end(self) -> &'static str {
        match self {
            Self::Paragraphs => "",
            Self::List => "</ul>\n",
            Self::Table => "</tbody>\n</table>\n",
            Self::Code => "</pre>\n",
        }
    }
}

/// The beginning of a page up to its heading; what the header says follows.
pub(super) fn open_page(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n\
         <link rel=\"stylesheet\" href=\"/docs/docs.css\">\n</head>\n<body>\n<header>\n<h1>{0}</h1>\n",
        escape_html(title)
    )
}

/// A text as HTML; an anchor of each heading is its text in small letters, with dashes.
pub(super) fn render_text(text: &str) -> String {
    let (mut html, mut block) = (String::new(), MarkdownBlock::Paragraphs);
    for line in text.lines() {
        block = push_line(&mut html, block, line);
    }
    html.push_str(block.end());
    html
}

/// Adds a line; answers what it is part of.
fn push_line(html: &mut String, block: MarkdownBlock, line: &str) -> MarkdownBlock {
    use MarkdownBlock::{Code, List, Paragraphs, Table};
    if line.starts_with("```") {
        html.push_str(if block == Code { Code.end() } else { "<pre>" });
        return if block == Code { Paragraphs } else { Code };
    }
    if block == Code {
        html.push_str(&escape_html(line));
        html.push('\n');
        return Code;
    }
    let (item, row) = (line.strip_prefix("- "), line.strip_prefix("| "));
    let next = match () {
        () if item.is_some() => List,
        () if row.is_some() => Table,
        () => Paragraphs,
    };
    let begins = next != block;
    if begins {
        html.push_str(block.end());
    }
    // Writing to a text does not fail.
    _ = match (item, row) {
        (Some(item), _) => {
            writeln!(html, "{}<li>{}</li>", if begins { "<ul>\n" } else { "" }, render_inline(item))
        }
        (_, Some(row)) if begins => {
            writeln!(html, "<table>\n<thead>\n{}\n</thead>\n<tbody>", render_row(row, "th"))
        }
        (_, Some(row)) if row.starts_with("---") => Ok(()),
        (_, Some(row)) => writeln!(html, "{}", render_row(row, "td")),
        _ => push_paragraph(html, line),
    };
    next
}

fn push_paragraph(html: &mut String, line: &str) -> std::fmt::Result {
    let heading = [("### ", "h3"), ("## ", "h2")]
        .into_iter()
        .find_map(|(mark, element)| Some((line.strip_prefix(mark)?, element)));
    match heading {
        Some((text, element)) => {
            let anchor = text.to_lowercase().replace(' ', "-").replace('`', "");
            writeln!(html, "<{element} id=\"{}\">{}</{element}>", escape_html(&anchor), render_inline(text))
        }
        None if line.is_empty() => Ok(()),
        None => writeln!(html, "<p>{}</p>", render_inline(line)),
    }
}

/// The cells of a row, without its first bar; `\|` is a bar in a cell.
pub(super) fn split_cells(row: &str) -> Vec<String> {
    let row = row.trim_end().strip_suffix('|').unwrap_or(row);
    let cells = row.replace("\\|", "\0");
    cells.split('|').map(|cell| cell.trim().replace('\0', "|")).collect()
}

fn render_row(row: &str, element: &str) -> String {
    let cells = split_cells(row);
    let cells = cells.iter().map(|cell| format!("<{element}>{}</{element}>", render_inline(cell)));
    format!("<tr>{}</tr>", cells.collect::<String>())
}

/// A line: code between backticks, links, and names of alerts as links.
pub(super) fn render_inline(line: &str) -> String {
    let mut html = String::new();
    for (at, part) in line.split('`').enumerate() {
        if at % 2 == 1 {
            _ = write!(html, "<code>{}</code>", escape_html(part));
        } else {
            push_words(&mut html, part);
        }
    }
    html
}

/// Text without code. A link leads to a path of this service: its text has neither brackets nor code.
fn push_words(html: &mut String, text: &str) {
    let link = text.split_once("](/").and_then(|(before, rest)| {
        let (before, shown) = before.rsplit_once('[')?;
        let (path, rest) = rest.split_once(')')?;
        Some((before, shown, path, rest))
    });
    if let Some((before, shown, path, rest)) = link {
        push_words(html, before);
        _ = write!(html, "<a href=\"/{}\">{}</a>", escape_html(path), escape_html(shown));
        push_words(html, rest);
        return;
    }
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_holds_is_text() {
        assert_eq!(
            render_inline("a <b> `x{y=\"z\"} < 1`, see StreamGateBrokerDown."),
            "a &lt;b&gt; <code>x{y=&quot;z&quot;} &lt; 1</code>, see <a href=\"/docs/runbooks/StreamGateBrokerDown\">StreamGateBrokerDown</a>."
        );
        assert_eq!(
            render_inline("[a <b>](/docs#\"x\") and [no](https://elsewhere)"),
            "<a href=\"/docs#&quot;x&quot;\">a &lt;b&gt;</a> and [no](https://elsewhere)"
        );
    }

    #[test]
    fn blocks_end_where_another_begins() {
        let html = render_text(
            "## A `b` c\n- one\n- two\n| x | y \\| z |\n| --- | --- |\n| `1` | 2 |\n\n```\n<b> - | \n```\nend",
        );
        assert_eq!(
            html,
            "<h2 id=\"a-b-c\">A <code>b</code> c</h2>\n<ul>\n<li>one</li>\n<li>two</li>\n</ul>\n\
             <table>\n<thead>\n<tr><th>x</th><th>y | z</th></tr>\n</thead>\n<tbody>\n\
             <tr><td><code>1</code></td><td>2</td></tr>\n</tbody>\n</table>\n<pre>&lt;b&gt; - | \n</pre>\n<p>end</p>\n"
        );
    }
}
