//! The document of all metrics as pages of families, for those who read JSON.
//!
//! Limits: [`SAMPLES_MAX`] samples of a family; [`monitor_query::FAMILIES_MAX`] families and [`PAGE_BYTES_MAX`] bytes of samples a page.

use schemas::monitor_query::{self, MetricFamilyView, MetricPage, MetricQuery, MetricSampleView};

use crate::sample;

/// Most samples of a family.
const SAMPLES_MAX: usize = 2_000;
/// Bytes of samples with which a page is full, below the broker's `max_payload`.
const PAGE_BYTES_MAX: usize = 400 * 1024;

/// The families of a document of OpenMetrics that a question asks for, by name.
pub(crate) fn select_families(document: &str, wanted: &MetricQuery) -> MetricPage {
    let mut families = read_families(document, wanted);
    families.sort_by(|a, b| a.name.cmp(&b.name));
    let limit = usize::try_from(wanted.limit.clamp(1, monitor_query::FAMILIES_MAX)).unwrap_or(1);
    let (mut page, mut size_bytes) = (MetricPage::default(), 0);
    for family in families {
        let bytes = size_of(&family);
        if page.families.len() == limit || (size_bytes + bytes > PAGE_BYTES_MAX && !page.families.is_empty())
        {
            page.next = page.families.last().map(|family| family.name.clone());
            break;
        }
        size_bytes += bytes;
        page.families.push(family);
    }
    page
}

fn size_of(family: &MetricFamilyView) -> usize {
    let of_sample = |sample: &MetricSampleView| {
        let labels = sample.labels.iter().map(|(name, value)| name.len() + value.len() + 8);
        sample.name.len() + sample.value.len() + labels.sum::<usize>() + 16
    };
    family.help.len() + family.samples.iter().map(of_sample).sum::<usize>()
}

fn read_families(document: &str, wanted: &MetricQuery) -> Vec<MetricFamilyView> {
    let mut families: Vec<MetricFamilyView> = Vec::new();
    let (mut help, mut current) = (None, None);
    let is_wanted = |name: &str| name.starts_with(&wanted.prefix) && name > wanted.behind.as_str();
    for line in document.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = Some((name, text));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            current = is_wanted(name).then(|| {
                let help = help.filter(|(of, _)| *of == name).map_or("", |(_, text)| text);
                families.push(MetricFamilyView {
                    name: name.to_owned(),
                    kind: kind.to_owned(),
                    help: help.to_owned(),
                    samples: Vec::new(),
                    omitted_samples: 0,
                });
            });
        } else if current.is_some()
            && let (Some(sample), Some(family)) = (sample::parse_sample(line), families.last_mut())
        {
            add_sample(family, &sample);
        }
    }
    families
}

fn add_sample(family: &mut MetricFamilyView, sample: &sample::MetricSample<'_>) {
    if family.samples.len() == SAMPLES_MAX {
        family.omitted_samples += 1;
        return;
    }
    let labels = sample.labels.iter().map(|(name, value)| ((*name).to_owned(), unescape(value))).collect();
    let (name, value) = (sample.name.to_owned(), sample.value.to_owned());
    family.samples.push(MetricSampleView { name, labels, value });
}

/// The value of a label as it is meant (OpenMetrics 1.0, "Escaping").
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => plain.push(match characters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            }),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# HELP b_seconds Time.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
        b_seconds_bucket{le=\"+Inf\"} 2 # {trace_id=\"ab\"} 0.1\nb_seconds_sum 0.5\nb_seconds_count 2\n\
        # HELP a Things.\n# TYPE a gauge\na{name=\"x \\\"y\\\\ \\n\"} 1\na{name=\"z\"} NaN\n# HELP c Others.\n# TYPE c counter\nc_total 3\n# EOF\n";

    fn names(page: &MetricPage) -> Vec<&str> {
        page.families.iter().map(|family| family.name.as_str()).collect()
    }

    #[test]
    fn families_come_by_name_and_page_by_page() {
        let all = select_families(DOCUMENT, &MetricQuery { limit: 50, ..MetricQuery::default() });
        assert_eq!((names(&all), &all.next), (vec!["a", "b_seconds", "c"], &None));
        let [a, b, _] = all.families.as_slice() else { panic!("{all:?}") };
        assert_eq!((a.kind.as_str(), a.help.as_str(), a.samples.len()), ("gauge", "Things.", 2));
        assert_eq!(
            (a.samples[0].labels["name"].as_str(), a.samples[1].value.as_str()),
            ("x \"y\\ \n", "NaN")
        );
        let values: Vec<(&str, &str)> =
            b.samples.iter().map(|s| (s.name.as_str(), s.value.as_str())).collect();
        assert_eq!(values, [("b_seconds_bucket", "2"), ("b_seconds_sum", "0.5"), ("b_seconds_count", "2")]);
        let first = select_families(DOCUMENT, &MetricQuery { limit: 2, ..MetricQuery::default() });
        assert_eq!((names(&first), first.next.as_deref()), (vec!["a", "b_seconds"], Some("b_seconds")));
        let rest = MetricQuery { limit: 2, behind: "b_seconds".into(), ..MetricQuery::default() };
        assert_eq!(names(&select_families(DOCUMENT, &rest)), ["c"]);
        let some = MetricQuery { limit: 2, prefix: "b_".into(), ..MetricQuery::default() };
        assert_eq!(names(&select_families(DOCUMENT, &some)), ["b_seconds"]);
    }

    #[test]
    fn a_page_and_a_family_have_only_so_many_samples() {
        let mut document = String::new();
        for family in ["a", "b", "c"] {
            document += &["# HELP ", family, " Many.\n# TYPE ", family, " gauge\n"].concat();
            for number in 0..SAMPLES_MAX + 5 {
                let number = format!("{number:0100}");
                document += &[family, "{name=\"", &number, "\"} 1\n"].concat();
            }
        }
        let page = select_families(&document, &MetricQuery { limit: 50, ..MetricQuery::default() });
        assert_eq!((names(&page), page.next.as_deref()), (vec!["a"], Some("a")));
        assert_eq!((page.families[0].samples.len(), page.families[0].omitted_samples), (SAMPLES_MAX, 5));
    }
}
