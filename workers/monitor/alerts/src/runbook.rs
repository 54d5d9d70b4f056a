//! Runbooks: what to do about an alert, one text each, named as the alert. They are served below `/docs/runbooks`.

/// One runbook.
#[derive(Debug, Clone, Copy)]
pub struct Runbook {
    /// The alert.
    pub name: &'static str,
    /// Markdown: a title, and the parts Meaning, Impact, Diagnosis and Mitigation.
    pub text: &'static str,
}

macro_rules! runbooks {
    ($($name:literal),* $(,)?) => {
        /// All of them, by name.
        pub const RUNBOOKS: &[Runbook] =
            &[$(Runbook { name: $name, text: include_str!(concat!("../runbooks/", $name, ".md")) }),*];
    };
}

runbooks! {
    "StreamGateAckPendingFull",
    "StreamGateAuditBehind",
    "StreamGateAuditFault",
    "StreamGateAvailabilityBurn",
    "StreamGateBrokerCannotWrite",
    "StreamGateBrokerDown",
    "StreamGateCapacityFilling",
    "StreamGateCapacityFull",
    "StreamGateChainBehind",
    "StreamGateChainBudget",
    "StreamGateChainDisagreement",
    "StreamGateChainProviderFaulty",
    "StreamGateClockSkew",
    "StreamGateConnectionsRefused",
    "StreamGateDeadLetters",
    "StreamGateEncodeBurn",
    "StreamGateFilesFull",
    "StreamGateGatesUndecided",
    "StreamGateIndexBehind",
    "StreamGateJobsFailing",
    "StreamGateLatencyBurn",
    "StreamGateLimiterStoreLost",
    "StreamGateMonitorDropping",
    "StreamGateMonitorMissing",
    "StreamGateMonitorStale",
    "StreamGateNoWorker",
    "StreamGateNobodyDispatches",
    "StreamGateNobodyDispatchesTasks",
    "StreamGateNotReady",
    "StreamGatePlayableBurn",
    "StreamGateQueueNotServed",
    "StreamGateQuorumLost",
    "StreamGateRedeliveryStorm",
    "StreamGateReportsRefused",
    "StreamGateRoleSilent",
    "StreamGateSeriesCapReached",
    "StreamGateSigningKeyOverdue",
    "StreamGateStateUnread",
    "StreamGateStreamFilling",
    "StreamGateStreamFullSoon",
    "StreamGateStreamUnconfirmed",
    "StreamGateTaskRestarts",
    "StreamGateUploadBurn",
    "StreamGateViewerStallBurn",
    "StreamGateViewerStartBurn",
    "StreamGateWatchdog",
    "StreamGateWorkStalled",
    "StreamGateWritesUnconfirmed",
}

/// The runbook of an alert.
pub fn find_runbook(name: &str) -> Option<&'static Runbook> {
    RUNBOOKS.iter().find(|runbook| runbook.name == name)
}

/// The path of the page of an alert's runbook.
pub fn runbook_path(alert: &str) -> String {
    format!("/docs/runbooks/{alert}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rule_set::RuleSet;

    const PARTS: [&str; 4] = ["\n## Meaning\n", "\n## Impact\n", "\n## Diagnosis\n", "\n## Mitigation\n"];

    #[test]
    fn each_alert_has_one_runbook_and_each_runbook_an_alert() {
        let set = RuleSet::built_in().unwrap();
        let texts: BTreeSet<&str> = RUNBOOKS.iter().map(|runbook| runbook.name).collect();
        assert_eq!(texts, set.names());
        assert_eq!(texts.len(), RUNBOOKS.len(), "none is there twice");
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".md").to_owned())
            .collect();
        assert_eq!(files, texts.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn a_runbook_has_its_four_parts_in_order_and_says_something_in_each() {
        for Runbook { name, text } in RUNBOOKS {
            assert!(text.starts_with(&format!("# {name}\n")), "{name}");
            let places: Vec<usize> = PARTS
                .iter()
                .map(|part| text.find(part).unwrap_or_else(|| panic!("{name}: {part}")))
                .collect();
            assert!(places.is_sorted(), "{name}: {places:?}");
            assert_eq!(text.matches("\n## ").count(), PARTS.len(), "{name}");
            for (at, part) in places.iter().zip(PARTS) {
                let body = text.get(at + part.len()..).unwrap().split("\n## ").next().unwrap().trim();
                assert!(body.len() > 30, "{name}: {part} says little");
            }
        }
    }

    #[test]
    fn a_runbook_names_metrics_that_there_are() {
        for Runbook { name, text } in RUNBOOKS {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            for word in
                text.split(|c| !is_part(c)).filter(|word| word.len() > 11 && word.starts_with("streamgate_"))
            {
                let is_there = crate::family::find_family(word).is_some()
                    || instruments::find_declaration(word).is_some();
                assert!(is_there, "{name} names {word}");
            }
        }
    }
}
