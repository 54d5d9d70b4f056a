//! What a run prints at its end.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{
    flatness::FlatnessRow, killed_role::KilledRole, reconcile::Reconciliation, saturation::SaturatedResource,
    tally::OperationRow,
};

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) seed: u64,
    /// How long clients arrived, in seconds.
    pub(crate) seconds: f64,
    pub(crate) operations: Vec<OperationRow>,
    /// At each pause, the last one at the end.
    pub(crate) reconciliations: Vec<Reconciliation>,
    /// Resources that passed their thresholds, the first one first.
    pub(crate) saturated: Vec<SaturatedResource>,
    /// Share of all processors, in percent, by process and without its children.
    pub(crate) cpu_percent: BTreeMap<String, f64>,
    pub(crate) flatness: Vec<FlatnessRow>,
    pub(crate) killed: Option<KilledRole>,
    /// What did not hold; the run fails when there is anything.
    pub(crate) problems: Vec<String>,
}

impl LoadReport {
    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("load: {:.1} s, seed {}\n\n", self.seconds, self.seed);
        self.write_operations(&mut text);
        text.push_str("\nRECONCILIATION, while everybody is held still\n");
        for pause in &self.reconciliations {
            push_line(&mut text, &pause.line());
        }
        self.write_saturated(&mut text);
        self.write_processes(&mut text);
        if let Some(killed) = &self.killed {
            write_killed(&mut text, killed);
        }
        text.push('\n');
        if self.problems.is_empty() {
            push_line(&mut text, "Everything holds.");
        }
        for problem in &self.problems {
            push_line(&mut text, &format!("FAILED: {problem}"));
        }
        text
    }

    fn write_operations(&self, text: &mut String) {
        push_line(
            text,
            "OPERATION                COUNT      p50 ms      p90 ms      p99 ms      max ms   ERRORS",
        );
        for row in &self.operations {
            let OperationRow { operation, count, p50_ms, p90_ms, p99_ms, max_ms, errors, left_out } = row;
            let mut errors: Vec<String> =
                errors.iter().map(|(error, count)| format!("{count} x {error}")).collect();
            if *left_out > 0 {
                errors.push(format!("{left_out} left out"));
            }
            let errors = if errors.is_empty() { "-".to_owned() } else { errors.join("; ") };
            push_line(
                text,
                &format!(
                    "{operation:<22} {count:>7} {p50_ms:>11.1} {p90_ms:>11.1} {p99_ms:>11.1} {max_ms:>11.1}   {errors}"
                ),
            );
        }
    }

    fn write_saturated(&self, text: &mut String) {
        match self.saturated.split_first() {
            None => text.push_str("\nSATURATED: nothing passed its threshold\n"),
            Some((first, rest)) => {
                push_line(text, &format!("\nSATURATED FIRST\n{}", resource_line(first)));
                for resource in rest {
                    push_line(text, &format!("then\n{}", resource_line(resource)));
                }
            }
        }
    }

    fn write_processes(&self, text: &mut String) {
        push_line(
            text,
            "\nPROCESS      CPU %   WHAT               AT THE END     BY UPLOAD   AT MOST   VERDICT",
        );
        for row in &self.flatness {
            let FlatnessRow { process, what, last, per_upload, per_upload_max, verdict } = row;
            let cpu = self.cpu_percent.get(process).copied().unwrap_or_default();
            let (unit, divisor) = if what.ends_with("_bytes") { ("KiB", 1_024.0) } else { ("", 1.0) };
            let (last, per_upload, most) = (last / divisor, per_upload / divisor, per_upload_max / divisor);
            let (what, verdict) = (what.trim_end_matches("_bytes"), verdict.name());
            push_line(
                text,
                &format!(
                    "{process:<12} {cpu:>5.1}   {what:<12} {last:>12.0} {unit:<3} {per_upload:>10.2} {most:>9.2}   {verdict}"
                ),
            );
        }
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn resource_line(resource: &SaturatedResource) -> String {
    let SaturatedResource { at_s, resource, detail, value, threshold, most } = resource;
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    format!("{at_s:6.1} s: {resource}: {value:.1}, above {threshold:.1}; at most {most:.1}{detail}")
}

fn write_killed(text: &mut String, killed: &KilledRole) {
    let shown =
        |seconds: Option<f64>| seconds.map_or("never".to_owned(), |seconds| format!("{seconds:.1} s"));
    // Writing to a text does not fail.
    _ = write!(
        text,
        "\nKILLED: {}\nhealth said so after {} (at most {:.0} s)\nthe alert fired after {} (at most {:.0} s), {} of which it was pending (for = {:.0} s)\n\
         started again: health ok after {}, the alert over after {}\n",
        killed.role,
        shown(killed.health_s),
        killed.health_max_s,
        shown(killed.alert_s),
        killed.alert_max_s,
        shown(killed.alert_pending_s),
        killed.alert_for_s,
        shown(killed.health_over_s),
        shown(killed.alert_over_s),
    );
}
