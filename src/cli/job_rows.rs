//! Rows of `jobs watch`: what is known of a job, and how a terminal, a pipe or a machine gets it.
//!
//! Limits: a terminal shows at most [`ROWS_MAX`] jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::{
    output::{self, sanitize_text},
    render,
};

/// Without a terminal, progress is printed each time it has grown by this much.
const STEP_PERCENT: u64 = 20;

/// Most rows on a terminal.
const ROWS_MAX: usize = 20;

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct JobRow {
    pub(super) job_id: String,
    pub(super) kind: String,
    pub(super) media_id: String,
    /// `queued`, `running`, `paused`, or how it ended.
    pub(super) state: String,
    pub(super) percent: u64,
    /// Why it failed: a stable code; empty otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) code: String,
}

impl JobRow {
    /// From an item of a list, or a document; `None` for what is neither.
    pub(super) fn from_item(item: &Value) -> Option<Self> {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| item[name].as_u64().unwrap_or_default();
        let (done, status) = (number("parts_done"), text("status"));
        let state = match status.as_str() {
            "active" if item["paused_at_ms"].is_u64() => "paused",
            "active" if done + number("parts_claimed") > 0 => "running",
            "active" => "queued",
            ended => ended,
        };
        let percent = match (status.as_str(), item["progress"]["percent"].as_u64()) {
            ("succeeded", _) => 100,
            (_, Some(percent)) => percent,
            (_, None) => done.saturating_mul(100) / number("parts_total").max(1),
        };
        let job_id = item["job_id"].as_str()?.to_owned();
        let (kind, media_id, code) = (text("kind"), text("media_id"), text("code"));
        Some(Self { job_id, kind, media_id, state: state.to_owned(), percent: percent.min(100), code })
    }

    /// The same, at least as far as `known`: progress says more than whole parts do.
    pub(super) fn with_percent_of(self, known: Option<&Self>) -> Self {
        let percent = known.map_or(self.percent, |known| known.percent.max(self.percent));
        // It was begun, though no part of it is stored or held at the moment.
        let is_begun = self.state == "queued" && known.is_some_and(|known| known.state == "running");
        let state = if is_begun { "running".to_owned() } else { self.state };
        Self { state, percent, ..self }
    }

    /// The same, so far.
    pub(super) fn with_progress(&self, percent: u64) -> Self {
        let state = if self.state == "queued" { "running" } else { &self.state };
        Self { percent: percent.min(100).max(self.percent), state: state.to_owned(), ..self.clone() }
    }

    /// A job that was removed with its medium.
    pub(super) fn removed(&self) -> Self {
        Self { state: "removed".to_owned(), ..self.clone() }
    }

    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running" | "paused")
    }

    /// Whether it ended otherwise than somebody would hope who waits for it.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.state.as_str(), "failed" | "cancelled")
    }

    /// What stands before the bar.
    fn label(&self) -> String {
        let words = [&self.job_id, &self.kind, &self.state].map(|word| sanitize_text(word));
        format!("{}  {:<9}  {:<9}", words[0], words[1], words[2])
    }

    fn line(&self) -> String {
        let code = if self.code.is_empty() { String::new() } else { format!(" ({})", self.code) };
        let end = format!("{}{code}", render::format_medium_id(&self.media_id));
        format!("{}  {:>3} %  {}", self.label(), self.percent, sanitize_text(&end))
    }
}

/// Shows rows: bars on a terminal, lines elsewhere, JSON for machines.
#[derive(Debug)]
pub(super) struct JobDisplay {
    as_json: bool,
    terminal: Option<TerminalTable>,
    /// State and percent at which each job was printed last, where there is no terminal.
    printed: BTreeMap<String, (String, u64)>,
    /// What was said once.
    said: BTreeSet<&'static str>,
}

/// The bars of a terminal, and how many jobs there are below them.
#[derive(Debug)]
struct TerminalTable {
    multi: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
    count: ProgressBar,
}

impl TerminalTable {
    fn new() -> Self {
        let multi = MultiProgress::new();
        let count = multi.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            count.set_style(style);
        }
        Self { multi, bars: BTreeMap::new(), count }
    }

    /// Bars of those that run, then of those that are paused and wait, the oldest first.
    fn show(&mut self, rows: &BTreeMap<String, JobRow>) {
        let mut shown: Vec<&JobRow> = rows.values().collect();
        let rank =
            |row: &JobRow| ["running", "paused"].iter().position(|state| row.state == *state).unwrap_or(2);
        // Stable: among equals they stay in the order of their ids, which is that of their age.
        shown.sort_by_key(|row| rank(row));
        shown.truncate(ROWS_MAX);
        let Self { multi, bars, count } = self;
        bars.retain(|job_id, bar| {
            let stays = shown.iter().any(|row| row.job_id == *job_id);
            if !stays {
                multi.remove(bar);
            }
            stays
        });
        for row in &shown {
            let bar = bars.entry(row.job_id.clone()).or_insert_with(|| {
                let bar = multi.insert_before(count, ProgressBar::new(100));
                if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos:>3} %") {
                    bar.set_style(style);
                }
                bar
            });
            bar.set_message(row.label());
            bar.set_position(row.percent);
        }
        count.set_message(match (rows.len(), rows.len() - shown.len()) {
            (0, _) => "Nothing goes on".to_owned(),
            (jobs, 0) => format!("Jobs that go on: {jobs}"),
            (jobs, more) => format!("Jobs that go on: {jobs}, of which {more} are not shown"),
        });
    }
}

impl JobDisplay {
    pub(super) fn new(as_json: bool) -> Self {
        let terminal = (!as_json && output::is_stderr_terminal()).then(TerminalTable::new);
        Self { as_json, terminal, printed: BTreeMap::new(), said: BTreeSet::new() }
    }

    /// Shows a row that changed; on a terminal only that it ended, the table has the rest.
    pub(super) fn show_change(&mut self, row: &JobRow) -> io::Result<()> {
        match &self.terminal {
            _ if self.as_json => output::print_json(row),
            Some(terminal) if row.has_ended() => terminal.multi.suspend(|| output::print_line(row.line())),
            Some(_) => Ok(()),
            None => self.print_step(row),
        }
    }

    /// Shows all that goes on, where there is a terminal.
    pub(super) fn show_table(&mut self, rows: &BTreeMap<String, JobRow>) {
        if let Some(terminal) = &mut self.terminal {
            terminal.show(rows);
        }
    }

    /// Prints a row if it says something new.
    fn print_step(&mut self, row: &JobRow) -> io::Result<()> {
        let is_step = self.printed.get(&row.job_id).is_none_or(|(state, percent)| {
            *state != row.state || row.percent >= percent.saturating_add(STEP_PERCENT)
        });
        if row.has_ended() {
            self.printed.remove(&row.job_id);
        } else if is_step {
            self.printed.insert(row.job_id.clone(), (row.state.clone(), row.percent));
        }
        if is_step { output::print_line(row.line()) } else { Ok(()) }
    }

    /// Says something beside the rows.
    pub(super) fn print_message(&self, text: &str) {
        match &self.terminal {
            Some(terminal) => terminal.multi.suspend(|| output::print_message(text)),
            None => output::print_message(text),
        }
    }

    /// The same, the first time alone.
    pub(super) fn print_once(&mut self, text: &'static str) {
        if self.said.insert(text) {
            self.print_message(text);
        }
    }

    /// Takes the table away.
    pub(super) fn finish(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.multi.clear().ok();
        }
    }
}
