//! Guides for those who run an installation and those who extend it, below `/docs/guides`. What can be generated is: settings by handler are
//! those of `SETTINGS.md`, and what each handler has follows from the declarations of operations and metrics.

use std::{collections::BTreeSet, fmt::Write as _};

use nats::metrics::{MetricHandler, declarations};
use web::{
    limit::{GroupRates, RateLimitGroup},
    operation::Operation,
};

use super::markdown::{open_page, render_inline, render_text, split_cells};

/// All settings, as the tests of `streamgate config --markdown` keep it.
const SETTINGS: &str = include_str!("../../../../SETTINGS.md");

/// A guide.
pub(super) struct Guide {
    /// Its name in the address.
    pub(super) name: &'static str,
    title: &'static str,
    /// What it is good for, in one line.
    about: &'static str,
    /// Markdown that stands first.
    text: &'static str,
    /// Markdown that follows.
    generated: Option<fn() -> String>,
}

/// All of them.
pub(super) const GUIDES: [Guide; 4] = [
    Guide {
        name: "deployment",
        title: "Deployment checklist",
        about: "What to look at before people use an installation, and at each upgrade.",
        text: include_str!("deployment.md"),
        generated: None,
    },
    Guide {
        name: "configuration",
        title: "Configuration by handler",
        about: "Every setting with its default and range, by the part of the product that it is about.",
        text: include_str!("configuration.md"),
        generated: Some(describe_settings),
    },
    Guide {
        name: "performance",
        title: "Performance",
        about: "What costs what, what to look at, and how to measure it: `make load`, `make bench`.",
        text: include_str!("performance.md"),
        generated: None,
    },
    Guide {
        name: "integration",
        title: "Integration of a new handler",
        about: "Its declaration, limits, metrics, cache and audit; and what each handler has today.",
        text: include_str!("integration.md"),
        generated: Some(describe_handlers),
    },
];

/// Handlers by the beginnings of the settings that are about them; of several the longest counts.
const SETTINGS_OF: [(MetricHandler, &[&str]); MetricHandler::ALL.len()] = [
    (
        MetricHandler::Gateway,
        &["capacity", "ingress", "ingress.client", "ingress.limit", "ingress.capacity", "ingress.quotas"],
    ),
    (MetricHandler::Api, &["ingress.body", "ingress.idempotency", "ingress.events"]),
    (MetricHandler::Upload, &["ingress.uploads", "ingress.upload_statuses", "upload", "store"]),
    (MetricHandler::Streaming, &["ingress.playback", "ingress.sharing", "grants"]),
    (MetricHandler::Metadata, &["ingress.media", "ingress.documents", "index"]),
    (MetricHandler::Cache, &["ingress.cache"]),
    (MetricHandler::Auth, &["auth", "chains"]),
    (MetricHandler::Worker, &["keeper", "tasks", "retention"]),
    (MetricHandler::Transcoder, &["transcode", "media"]),
    (MetricHandler::Monitor, &["monitor", "audit"]),
    (MetricHandler::Hooks, &["keeper.webhooks", "outbound"]),
    (MetricHandler::Process, &["admin_listen", "data_dir", "broker", "telemetry"]),
];

/// Caches by the handlers that ask them, as the label `cache` names them.
const CACHES_OF: [(MetricHandler, &[&str]); 4] = [
    (MetricHandler::Upload, &["uploads"]),
    (MetricHandler::Streaming, &["streaming", "segments", "downloads"]),
    (MetricHandler::Metadata, &["metadata"]),
    (MetricHandler::Cache, &["entries"]),
];

/// The list of all guides.
pub(super) fn render_index_page() -> String {
    let mut page = open_page("Guides");
    page.push_str(
        "<p><a href=\"/docs\">HTTP API</a> <a href=\"/docs/runbooks\">Runbooks</a> \
         <a href=\"/docs/programs\">Follow events from your own program</a></p>\n</header>\n<main>\n<dl>\n",
    );
    for Guide { name, title, about, .. } in &GUIDES {
        // Writing to a text does not fail.
        _ = writeln!(
            page,
            "<dt><a href=\"/docs/guides/{name}\">{title}</a></dt><dd>{}</dd>",
            render_inline(about)
        );
    }
    page.push_str("</dl>\n</main>\n</body>\n</html>\n");
    page
}

/// The page of one guide; `None` where there is no such guide.
pub(super) fn render_guide_page(name: &str) -> Option<String> {
    let guide = GUIDES.iter().find(|guide| guide.name == name)?;
    let mut page = open_page(guide.title);
    page.push_str(
        "<p><a href=\"/docs/guides\">All guides</a> <a href=\"/docs\">HTTP API</a></p>\n</header>\n<main>\n",
    );
    page.push_str(&render_text(guide.text));
    if let Some(generate) = guide.generated {
        page.push_str(&render_text(&generate()));
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Some(page)
}

/// The handler that a setting is about.
fn handler_of(key: &str) -> Option<MetricHandler> {
    let matching = |prefix: &&str| {
        key.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let longest = |(handler, prefixes): &(MetricHandler, &[&str])| {
        let length = prefixes.iter().filter(|prefix| matching(prefix)).map(|prefix| prefix.len()).max();
        length.map(|length| (length, *handler))
    };
    SETTINGS_OF.iter().filter_map(longest).max_by_key(|(length, _)| *length).map(|(_, handler)| handler)
}

/// Each row of the tables of `SETTINGS.md`, with its key.
fn setting_rows() -> impl Iterator<Item = (String, &'static str)> {
    let rows = SETTINGS.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let key = split_cells(row.trim_start_matches("| ")).swap_remove(0);
        (key.trim_matches('`').to_owned(), row)
    })
}

/// Settings by handler, as Markdown.
fn describe_settings() -> String {
    let mut text = String::new();
    for handler in MetricHandler::ALL {
        let rows = setting_rows().filter(|(key, _)| handler_of(key) == Some(handler));
        let rows: Vec<&str> = rows.map(|(_, row)| row).collect();
        _ = writeln!(
            text,
            "\n## {}\n\n| key | meaning | default | range |\n| --- | --- | --- | --- |",
            handler.name()
        );
        _ = writeln!(text, "{}", rows.join("\n"));
    }
    text
}

/// What each handler has, as Markdown.
fn describe_handlers() -> String {
    let operations = super::describe_groups(&mut super::SchemaCollector::new()).0;
    let mut text = String::new();
    for handler in MetricHandler::ALL {
        let group = RateLimitGroup::ALL.into_iter().find(|group| group.name() == handler.name());
        _ = writeln!(text, "\n### {}\n", handler.name());
        if let Some(group) = group {
            let rate = GroupRates::default().rate_for(group);
            _ = writeln!(text, "- Limit: {} at once, {} a second.", rate.capacity, rate.refill_per_s);
            describe_operations(&mut text, &operations, group);
        }
        let names = declarations().filter(|declared| declared.handler == handler);
        let names: Vec<String> = names.map(|declared| format!("`{}`", declared.series_name())).collect();
        _ = writeln!(text, "- Metrics: {}.", names.join(", "));
        for (_, caches) in CACHES_OF.iter().filter(|(of, _)| *of == handler) {
            _ = writeln!(text, "- Caches: `{}`.", caches.join("`, `"));
        }
    }
    text
}

/// Operations that count as a group, and the events that they may cause.
fn describe_operations(text: &mut String, operations: &[&Operation], group: RateLimitGroup) {
    let of_group = || operations.iter().filter(|operation| operation.rate_group == Some(group));
    let mut names: Vec<String> =
        of_group().map(|operation| format!("`{} {}`", operation.method, operation.path)).collect();
    names.sort();
    let events: BTreeSet<&str> = of_group().flat_map(|operation| operation.events).copied().collect();
    let events: Vec<String> = events.iter().map(|event| format!("`{event}`")).collect();
    if !names.is_empty() {
        _ = writeln!(text, "- Operations: {}.", names.join(", "));
    }
    if !events.is_empty() {
        _ = writeln!(text, "- Events: {}.", events.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use nats::metrics::{LabelValues, table};

    use super::*;

    /// The bench, whose rows the page about performance lists.
    const BENCH: &str = include_str!("../../../../tests/bench/main.rs");

    #[test]
    fn each_guide_is_a_page_and_stands_in_the_list() {
        let index = render_index_page();
        for Guide { name, title, .. } in GUIDES {
            assert!(index.contains(&format!("<a href=\"/docs/guides/{name}\">{title}</a>")), "{name}");
            let page = render_guide_page(name).unwrap();
            assert!(page.contains(&format!("<h1>{title}</h1>")) && page.contains("<h2 id="), "{name}");
            assert!(
                !page.contains('`') && !page.contains("<script") && !page.contains("]("),
                "{name}: {page}"
            );
            for element in ["ul", "table", "tbody", "pre"] {
                let count = |text: String| page.matches(&text).count();
                assert_eq!(
                    count(format!("<{element}>")),
                    count(format!("</{element}>")),
                    "{name}: {element}"
                );
            }
        }
        assert!(render_guide_page("../secrets").is_none() && render_guide_page("").is_none());
    }

    #[test]
    fn every_setting_stands_once_at_a_handler_and_every_handler_has_some() {
        let page = render_guide_page("configuration").unwrap();
        for handler in MetricHandler::ALL {
            let section = page.split(&format!("<h2 id=\"{}\">", handler.name())).nth(1).unwrap();
            let section = section.split("<h2").next().unwrap();
            assert!(section.contains("<td><code>"), "{} has no settings", handler.name());
        }
        let keys: Vec<String> = setting_rows().map(|(key, _)| key).collect();
        assert!(keys.len() > 200, "{keys:?}");
        for key in keys {
            assert!(handler_of(&key).is_some(), "{key} is of no handler");
            let cell = format!("<td><code>{}</code></td>", crate::page_assets::escape_html(&key));
            assert_eq!(page.matches(&cell).count(), 1, "{key}");
        }
        for prefix in SETTINGS_OF.iter().flat_map(|(_, prefixes)| *prefixes) {
            assert!(setting_rows().any(|(key, _)| key.starts_with(prefix)), "nothing begins with {prefix}");
        }
        assert_eq!(handler_of("ingress.cache.ttl"), Some(MetricHandler::Cache));
        assert_eq!(handler_of("ingress.grace"), Some(MetricHandler::Gateway));
        assert_eq!(handler_of("chains[].quorum"), Some(MetricHandler::Auth));
        assert_eq!(handler_of("ingresses"), None);
    }

    #[test]
    fn every_handler_has_its_operations_metrics_caches_and_events() {
        let page = render_guide_page("integration").unwrap();
        let page = page.split("<h2 id=\"what-each-handler-has\">").nth(1).unwrap();
        for declared in declarations() {
            let name = format!("<code>{}</code>", declared.series_name());
            assert_eq!(page.matches(&name).count(), 1, "{name}");
        }
        let operations = super::super::all_operations();
        for operation in operations.iter().filter(|operation| operation.rate_group.is_some()) {
            let name = format!("<code>{} {}</code>", operation.method, operation.path);
            assert_eq!(page.matches(&name).count(), 1, "{name}");
            for event in operation.events {
                assert!(page.contains(&format!("<code>{event}</code>")), "{event}");
            }
        }
        for handler in MetricHandler::ALL {
            assert!(page.contains(&format!("<h3 id=\"{0}\">{0}</h3>", handler.name())), "{}", handler.name());
        }
        let mut named: Vec<&str> = CACHES_OF.iter().flat_map(|(_, caches)| *caches).copied().collect();
        let LabelValues::Fixed(known) = table::CACHE_ENTRIES.labels[0].values else { panic!("not known") };
        let mut known = known.to_vec();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
    }

    #[test]
    fn every_row_of_the_bench_stands_on_the_page_about_performance() {
        let page = render_guide_page("performance").unwrap();
        let rows = BENCH.split("rows: ").nth(1).unwrap().split(';').next().unwrap();
        for row in rows.split_whitespace() {
            assert!(page.contains(&format!("<td><code>{row}</code></td>")), "{row}");
        }
        for metric in
            page.split("<code>streamgate_").skip(1).map(|rest| rest.split("</code>").next().unwrap())
        {
            let name = format!("streamgate_{metric}");
            assert!(declarations().any(|declared| declared.series_name() == name), "nobody counts {name}");
        }
    }

    #[test]
    fn settings_that_a_guide_names_are_there() {
        let first = |key: &str| key.split(['.', '[']).next().unwrap().to_owned();
        let tables: BTreeSet<String> = setting_rows().map(|(key, _)| first(&key)).collect();
        for Guide { name, text, .. } in GUIDES {
            let codes = text.split('`').skip(1).step_by(2);
            let events = schemas::catalog::event_entries();
            let is_key = |code: &&str| {
                let of_key = |c: char| c.is_ascii_lowercase() || "._".contains(c);
                code.contains('.')
                    && code.chars().all(of_key)
                    && tables.contains(&first(code))
                    && !events.iter().any(|event| event.name == **code)
            };
            for key in codes.filter(is_key) {
                let is_there = setting_rows().any(|(known, _)| {
                    known
                        .strip_prefix(key)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                });
                assert!(is_there, "{name}: no setting is {key}");
            }
        }
    }
}
