//! What the product lists, compared with what clients were answered: accepted = ready + rejected + failed + in flight, at any pause.
//!
//! Lists come from the index and may be a moment behind: what differs there is looked up in the documents, which decide.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{gateway::Gateway, ledger::Ledger};

/// Media by where they stand, at one pause.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Reconciliation {
    /// Since the beginning of the run, in seconds.
    pub(crate) at_s: f64,
    /// Uploads that an answer said to be taken.
    pub(crate) accepted: usize,
    pub(crate) refused: u64,
    /// Uploads without an answer; a medium may have come of each.
    pub(crate) unanswered: u64,
    pub(crate) ready: usize,
    pub(crate) rejected: usize,
    pub(crate) failed: usize,
    pub(crate) in_flight: usize,
    /// Media that are listed beyond those that were accepted; at most as many as were not answered.
    pub(crate) unexpected: usize,
    /// Why media were rejected or failed, by code.
    pub(crate) codes: BTreeMap<String, usize>,
    /// What does not fit, with the ids.
    pub(crate) differences: Vec<String>,
    /// Why the lists could not be read; then nothing is known.
    pub(crate) unread: Option<String>,
}

impl Reconciliation {
    /// For people.
    pub(crate) fn line(&self) -> String {
        if let Some(problem) = &self.unread {
            return format!("{:6.1} s: {} accepted; {problem}", self.at_s, self.accepted);
        }
        let codes: Vec<String> =
            self.codes.iter().map(|(code, count)| format!("; {count} x {code}")).collect();
        let Self { at_s, accepted, ready, rejected, failed, in_flight, refused, unanswered, .. } = self;
        let sign = if self.differences.is_empty() { "=" } else { "differs from" };
        format!(
            "{at_s:6.1} s: {accepted} accepted {sign} {ready} ready + {rejected} rejected + {failed} failed + {in_flight} in flight; \
             {refused} refused, {unanswered} without an answer{}",
            codes.concat()
        )
    }
}

/// A listed medium, or the one of a job.
#[derive(Debug, Default, Deserialize)]
struct Listed {
    media_id: String,
    /// Where it stands.
    status: String,
    /// Why it is no further.
    #[serde(default)]
    code: Option<String>,
}

/// Compares while nobody uploads.
pub(crate) async fn reconcile(gateway: &Gateway, ledger: &Ledger, at_s: f64) -> Reconciliation {
    let (accepted, refused, unanswered) = ledger.answers();
    let base =
        Reconciliation { at_s, accepted: accepted.len(), refused, unanswered, ..Reconciliation::default() };
    let lists = async { Ok::<_, String>((list(gateway, "jobs").await?, list(gateway, "media").await?)) };
    let (jobs, media) = match lists.await {
        Ok(lists) => lists,
        Err(problem) => return Reconciliation { unread: Some(problem), ..base },
    };
    let mut found = compare(&accepted, &media, &jobs, base);
    let mut differences = Vec::new();
    for (media_id, difference) in std::mem::take(&mut found.doubts) {
        if !is_resolved(gateway, &media_id).await {
            differences.push(format!("{media_id}: {difference}"));
        }
    }
    found.counts.differences.extend(differences);
    found.counts
}

/// Everything of a list: the medium, and the status.
async fn list(gateway: &Gateway, what: &str) -> Result<Vec<Listed>, String> {
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.read_json(&format!("/v1/{what}?limit=200{cursor}")).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            listed.push(listed_of(item)?);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(listed),
        }
    }
}

fn listed_of(document: &Value) -> Result<Listed, String> {
    Listed::deserialize(document).map_err(|error| format!("{error}: {document}"))
}

/// Counts, and what the lists leave in doubt.
struct Comparison {
    counts: Reconciliation,
    /// Media whose status and jobs do not fit, by id.
    doubts: Vec<(String, String)>,
}

fn compare(
    accepted: &BTreeSet<String>,
    media: &[Listed],
    jobs: &[Listed],
    base: Reconciliation,
) -> Comparison {
    let mut counts = base;
    let mut of_medium: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for job in jobs {
        of_medium.entry(&job.media_id).or_default().push(&job.status);
    }
    let (mut seen, mut unexpected, mut doubts) = (BTreeSet::new(), Vec::new(), Vec::new());
    for Listed { media_id, status, code } in media {
        if !seen.insert(media_id) {
            counts.differences.push(format!("{media_id}: it is listed twice"));
            continue;
        }
        if !accepted.contains(media_id) {
            unexpected.push(media_id.as_str());
            continue;
        }
        let jobs = of_medium.get(media_id.as_str()).map_or(&[][..], Vec::as_slice);
        let (count, fits) = match status.as_str() {
            "ready" => (&mut counts.ready, jobs.contains(&"succeeded")),
            "rejected" => (&mut counts.rejected, jobs.is_empty()),
            "failed" => (&mut counts.failed, jobs.contains(&"failed") || jobs.contains(&"cancelled")),
            "uploading" | "stored" | "playable" => {
                (&mut counts.in_flight, !jobs.iter().any(|job| ["succeeded", "failed"].contains(job)))
            }
            other => {
                counts.differences.push(format!("{media_id}: nobody knows the status {other}"));
                continue;
            }
        };
        *count += 1;
        if let Some(code) = code {
            *counts.codes.entry(code.clone()).or_default() += 1;
        }
        if !fits {
            doubts.push((media_id.clone(), format!("it is {status}, and its jobs are {jobs:?}")));
        }
    }
    let missing = accepted.iter().filter(|media_id| !seen.contains(media_id));
    counts
        .differences
        .extend(missing.map(|media_id| format!("{media_id}: it was accepted, and is not listed")));
    counts.unexpected = unexpected.len();
    if unexpected.len() as u64 > counts.unanswered {
        let text = format!("listed, and never accepted: {}", unexpected.join(" "));
        counts.differences.push(text);
    }
    Comparison { counts, doubts }
}

/// Whether document and jobs of a medium fit now, read one after the other.
async fn is_resolved(gateway: &Gateway, media_id: &str) -> bool {
    let fits = async {
        let document = gateway.read_json(&format!("/v1/media/{media_id}")).await?;
        let jobs = gateway.read_json(&format!("/v1/jobs?media_id={media_id}")).await?;
        let mut statuses = Vec::new();
        for job in jobs["items"].as_array().into_iter().flatten() {
            let path = format!("/v1/jobs/{}", job["job_id"].as_str().unwrap_or_default());
            statuses.push(listed_of(&gateway.read_json(&path).await?)?);
        }
        let medium = listed_of(&document)?;
        let accepted = BTreeSet::from([media_id.to_owned()]);
        let again = compare(&accepted, &[medium], &statuses, Reconciliation::default());
        Ok::<_, String>(again.doubts.is_empty() && again.counts.differences.is_empty())
    };
    fits.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(items: &[(&str, &str)]) -> Vec<Listed> {
        let one = |(media_id, status): &(&str, &str)| Listed {
            media_id: (*media_id).to_owned(),
            status: (*status).to_owned(),
            code: None,
        };
        items.iter().map(one).collect()
    }

    fn compared(
        accepted: &[&str],
        media: &[(&str, &str)],
        jobs: &[(&str, &str)],
        unanswered: u64,
    ) -> Comparison {
        let accepted: BTreeSet<String> = accepted.iter().map(|media_id| (*media_id).to_owned()).collect();
        let base = Reconciliation { accepted: accepted.len(), unanswered, ..Reconciliation::default() };
        compare(&accepted, &listed(media), &listed(jobs), base)
    }

    #[test]
    fn what_is_accepted_is_somewhere() {
        let media =
            [("a", "ready"), ("b", "rejected"), ("c", "failed"), ("d", "uploading"), ("e", "playable")];
        let jobs = [("a", "succeeded"), ("c", "failed"), ("e", "active")];
        let found = compared(&["a", "b", "c", "d", "e"], &media, &jobs, 0);
        let Reconciliation { accepted, ready, rejected, failed, in_flight, differences, .. } = found.counts;
        assert_eq!((accepted, ready, rejected, failed, in_flight), (5, 1, 1, 1, 2));
        assert!(differences.is_empty() && found.doubts.is_empty(), "{differences:?} {:?}", found.doubts);
    }

    #[test]
    fn what_is_lost_doubled_or_unknown_is_named() {
        let found = compared(
            &["a", "b"],
            &[("a", "ready"), ("a", "ready"), ("c", "stored")],
            &[("a", "succeeded")],
            0,
        );
        assert_eq!(
            found.counts.differences,
            [
                "a: it is listed twice",
                "b: it was accepted, and is not listed",
                "listed, and never accepted: c"
            ]
        );
        // Of an upload without an answer a medium may be there.
        let found = compared(&["a"], &[("a", "stored"), ("c", "stored")], &[], 1);
        assert_eq!((found.counts.unexpected, found.counts.differences.len()), (1, 0));
    }

    #[test]
    fn a_status_without_its_job_is_in_doubt() {
        for (status, jobs) in [
            ("ready", &[][..]),
            ("ready", &[("a", "active")]),
            ("failed", &[("a", "succeeded")]),
            ("rejected", &[("a", "failed")]),
            ("stored", &[("a", "failed")]),
        ] {
            let found = compared(&["a"], &[("a", status)], jobs, 0);
            assert_eq!((found.doubts.len(), found.counts.differences.len()), (1, 0), "{status}");
        }
    }
}
