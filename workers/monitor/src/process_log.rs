//! What processes say of themselves, kept for a while: who lives, what stands in their way, and what they logged.
//!
//! - Consumes: core `log.<role>`, a report of each process at least every [`process_report::PERIOD_S`] seconds.
//! - Emits: answers to `ask.monitor.*`.
//! - Limits: lines of [`LINES_AGE_MAX`] and [`LINES_BYTES_MAX`] bytes at most; [`PROCESSES_MAX`] processes, each until
//!   [`PROCESS_AGE_MAX`] after its last word; a report of more than [`REPORT_BYTES_MAX`] bytes is left out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemas::{
    monitor_query::{self, KeptLine, LogPage, LogQuery, ProcessList, SeenProcess},
    process_report::{self, LogLine, ProcessReport},
};

/// How long a line is kept.
pub(crate) const LINES_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Most bytes of lines.
pub(crate) const LINES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most processes.
pub(crate) const PROCESSES_MAX: usize = 256;
/// How long a process is known after its last word.
pub(crate) const PROCESS_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Largest report.
pub(crate) const REPORT_BYTES_MAX: usize = 512 * 1024;
/// Most bytes of lines in an answer, below the broker's `max_payload`.
const ANSWER_BYTES_MAX: usize = 768 * 1024;
/// Bytes that a line takes beside its texts.
const LINE_OVERHEAD_BYTES: usize = 160;

/// A process, and when it spoke last.
#[derive(Debug)]
struct KnownProcess {
    report: ProcessReport,
    seen_at: Instant,
}

/// A line, when it came, and what it takes.
#[derive(Debug)]
struct RingLine {
    kept: KeptLine,
    at: Instant,
    size_bytes: usize,
}

#[derive(Debug)]
struct LogState {
    started: Instant,
    processes: BTreeMap<String, KnownProcess>,
    /// Processes without a place, and when each spoke last; as many as there are places.
    omitted: BTreeMap<String, Instant>,
    lines: VecDeque<RingLine>,
    size_bytes: usize,
    /// Number of the last line.
    last: u64,
}

/// What is kept. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ProcessLog {
    state: Arc<Mutex<LogState>>,
    /// Names this monitor: its numbers are its own.
    monitor: Arc<str>,
}

impl Default for ProcessLog {
    fn default() -> Self {
        Self::new(&data_encoding::HEXLOWER.encode(&nats::new_id_bytes()[8..]))
    }
}

impl ProcessLog {
    fn new(monitor: &str) -> Self {
        let state = LogState {
            started: Instant::now(),
            processes: BTreeMap::new(),
            omitted: BTreeMap::new(),
            lines: VecDeque::new(),
            size_bytes: 0,
            last: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), monitor: monitor.into() }
    }

    /// Names this monitor.
    pub(crate) fn monitor(&self) -> &str {
        &self.monitor
    }

    /// From now on it receives what is said: it has just subscribed, or was cut off until now.
    pub(crate) fn begin_listening(&self, now: Instant) {
        self.state.lock().started = now;
    }

    /// Takes the report of a process that speaks under `role`; false where it is none.
    pub(crate) fn receive(&self, role: &str, payload: &[u8], now: Instant) -> bool {
        if payload.len() > REPORT_BYTES_MAX {
            return false;
        }
        let Ok(mut report) = nats::decode_message::<ProcessReport>("log", payload) else { return false };
        if !is_sound(&report) {
            return false;
        }
        let lines = std::mem::take(&mut report.lines);
        let mut state = self.state.lock();
        state.drop_old(now);
        for line in lines {
            state.push(role, &report.instance, line, now);
        }
        let is_known = state.processes.contains_key(&report.instance);
        if !is_known && state.processes.len() >= PROCESSES_MAX && !state.drop_silent(now) {
            if state.omitted.len() < PROCESSES_MAX || state.omitted.contains_key(&report.instance) {
                state.omitted.insert(report.instance, now);
            }
            return true;
        }
        state.omitted.remove(&report.instance);
        state.processes.insert(report.instance.clone(), KnownProcess { report, seen_at: now });
        true
    }

    /// The processes that spoke within an hour.
    pub(crate) fn list_processes(&self, now: Instant) -> ProcessList {
        let mut state = self.state.lock();
        state.drop_old(now);
        let started = state.started;
        let seen = |known: &KnownProcess| {
            let ProcessReport { instance, roles, version, started_at_ms, causes, dropped_lines, .. } =
                known.report.clone();
            // What it said before this monitor listened (again), nobody knows.
            let silent_ms = as_ms(now.saturating_duration_since(known.seen_at.max(started)));
            SeenProcess { instance, roles, version, started_at_ms, silent_ms, causes, dropped_lines }
        };
        let mut processes: Vec<SeenProcess> = state.processes.values().map(seen).collect();
        processes.sort_by(|a, b| (&a.roles, &a.instance).cmp(&(&b.roles, &b.instance)));
        ProcessList {
            processes,
            omitted_count: state.omitted.len() as u64,
            listening_ms: as_ms(now.saturating_duration_since(state.started)),
        }
    }

    /// Lines that fit a question: behind its number the oldest, else the newest.
    pub(crate) fn find_lines(&self, wanted: &LogQuery, now: Instant) -> LogPage {
        let mut state = self.state.lock();
        state.drop_old(now);
        let limit = usize::try_from(wanted.limit.clamp(1, monitor_query::LINES_MAX)).unwrap_or(1);
        let first = state.lines.front().map_or(state.last + 1, |line| line.kept.number);
        let lost = wanted.behind.map_or(0, |behind| first.saturating_sub(behind.saturating_add(1)));
        let fits = |line: &&RingLine| {
            wanted.behind.is_none_or(|behind| line.kept.number > behind) && is_wanted(&line.kept, wanted)
        };
        let mut size_bytes = 0;
        let has_room = |line: &&RingLine| {
            size_bytes += line.size_bytes;
            size_bytes <= ANSWER_BYTES_MAX
        };
        let found: Vec<KeptLine> = if wanted.behind.is_some() {
            state
                .lines
                .iter()
                .filter(fits)
                .take(limit)
                .take_while(has_room)
                .map(|line| line.kept.clone())
                .collect()
        } else {
            let newest = state.lines.iter().rev().filter(fits).take(limit).take_while(has_room);
            let mut newest: Vec<KeptLine> = newest.map(|line| line.kept.clone()).collect();
            newest.reverse();
            newest
        };
        // Where the page is full, what is behind its last line is asked for next.
        let is_full = wanted.behind.is_some() && (found.len() == limit || size_bytes > ANSWER_BYTES_MAX);
        let reached = if is_full { found.last().map_or(state.last, |line| line.number) } else { state.last };
        LogPage { lines: found, last: reached, monitor: self.monitor.to_string(), lost }
    }
}

/// Whether a report keeps to its limits.
fn is_sound(report: &ProcessReport) -> bool {
    let is_short = |text: &str| text.len() <= process_report::TEXT_BYTES_MAX;
    let line_is_sound = |line: &LogLine| {
        is_short(&line.message)
            && is_short(&line.target)
            && line.fields.len() <= process_report::FIELDS_MAX
            && line.fields.iter().all(|(name, value)| is_short(name) && is_short(value))
    };
    report.instance.len() == 16
        && report.lines.len() <= process_report::LINES_MAX
        && report.causes.len() <= process_report::LINES_MAX
        && report.roles.iter().all(|role| is_short(role))
        && is_short(&report.version)
        && report.lines.iter().all(line_is_sound)
}

fn is_wanted(kept: &KeptLine, wanted: &LogQuery) -> bool {
    let LogQuery { severity_min, role, instance, target, fields, .. } = wanted;
    severity_min.is_none_or(|least| kept.line.severity >= least)
        && role.as_ref().is_none_or(|role| kept.role == *role)
        && instance.as_ref().is_none_or(|instance| kept.instance == *instance)
        && target.as_ref().is_none_or(|target| kept.line.target.starts_with(target.as_str()))
        && fields.iter().all(|(name, value)| kept.line.fields.get(name) == Some(value))
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl LogState {
    fn push(&mut self, role: &str, instance: &str, line: LogLine, now: Instant) {
        self.last += 1;
        let size_bytes = LINE_OVERHEAD_BYTES + line.size_bytes();
        self.size_bytes += size_bytes;
        let kept = KeptLine { number: self.last, role: role.to_owned(), instance: instance.to_owned(), line };
        self.lines.push_back(RingLine { kept, at: now, size_bytes });
        while self.size_bytes > LINES_BYTES_MAX {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.lines.pop_front() {
            self.size_bytes -= first.size_bytes;
        }
    }

    /// Gives up the process that has been silent for longest, if one counts as gone; false where all live.
    fn drop_silent(&mut self, now: Instant) -> bool {
        let silent = Duration::from_secs(process_report::SILENT_S);
        let gone =
            self.processes.iter().filter(|(_, known)| now.saturating_duration_since(known.seen_at) >= silent);
        let oldest = gone.min_by_key(|(_, known)| known.seen_at).map(|(instance, _)| instance.clone());
        oldest.is_some_and(|oldest| self.processes.remove(&oldest).is_some())
    }

    fn drop_old(&mut self, now: Instant) {
        let silent = Duration::from_secs(process_report::SILENT_S);
        self.omitted.retain(|_, at| now.saturating_duration_since(*at) < silent);
        while self.lines.front().is_some_and(|line| now.saturating_duration_since(line.at) > LINES_AGE_MAX) {
            self.drop_first();
        }
        self.processes.retain(|_, known| now.saturating_duration_since(known.seen_at) < PROCESS_AGE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use schemas::process_report::{HealthCause, LogSeverity};

    use super::*;

    const ONE: &str = "00000000000000aa";

    fn line(number: u64, severity: LogSeverity) -> LogLine {
        LogLine {
            at_ms: number,
            severity,
            target: "upload::verify".into(),
            message: format!("line {number}"),
            fields: BTreeMap::from([("media.id".into(), format!("m{}", number % 2))]),
        }
    }

    fn report(instance: &str, lines: Vec<LogLine>) -> Vec<u8> {
        let report = ProcessReport {
            instance: instance.into(),
            roles: vec!["upload".into()],
            version: "0.1.0".into(),
            started_at_ms: 1,
            causes: vec![HealthCause {
                code: "store_away".into(),
                detail: "the store does not answer".into(),
            }],
            lines,
            dropped_lines: 3,
        };
        nats::encode_message("log", &report).unwrap()
    }

    #[test]
    fn lines_are_found_by_what_they_say_and_followed_by_number() {
        let (log, now) = (ProcessLog::new("m"), Instant::now());
        let lines = (1..=10).map(|n| line(n, if n == 7 { LogSeverity::Error } else { LogSeverity::Info }));
        assert!(log.receive("upload", &report(ONE, lines.collect()), now));
        let numbers = |query: LogQuery| -> Vec<u64> {
            log.find_lines(&query, now).lines.iter().map(|line| line.number).collect()
        };
        let any = LogQuery { limit: 3, ..LogQuery::default() };
        assert_eq!(numbers(any.clone()), [8, 9, 10], "the newest");
        assert_eq!(numbers(LogQuery { behind: Some(0), ..any.clone() }), [1, 2, 3], "from the beginning");
        let next = log.find_lines(&LogQuery { behind: Some(0), ..any.clone() }, now);
        assert_eq!((next.last, next.lost), (3, 0));
        assert_eq!(log.find_lines(&LogQuery { behind: Some(9), ..any.clone() }, now).last, 10);
        assert_eq!(numbers(LogQuery { severity_min: Some(LogSeverity::Warn), ..any.clone() }), [7]);
        let fields = BTreeMap::from([("media.id".to_owned(), "m1".to_owned())]);
        assert_eq!(numbers(LogQuery { fields, ..any.clone() }), [5, 7, 9]);
        for odd in [
            LogQuery { role: Some("index".into()), ..any.clone() },
            LogQuery { target: Some("verify".into()), ..any.clone() },
            LogQuery { instance: Some("00000000000000bb".into()), ..any.clone() },
            LogQuery { behind: Some(10), ..any.clone() },
        ] {
            assert_eq!(numbers(odd.clone()), [0; 0], "{odd:?}");
        }
        assert_eq!(
            numbers(LogQuery { target: Some("upload::".into()), role: Some("upload".into()), ..any }),
            [8, 9, 10]
        );
        let later = now + LINES_AGE_MAX + Duration::from_secs(1);
        let page = log.find_lines(&LogQuery { behind: Some(4), limit: 5, ..LogQuery::default() }, later);
        assert_eq!((page.lines.len(), page.last, page.lost), (0, 10, 6), "they are gone, and it says so");
    }

    #[test]
    fn lines_take_only_so_much_room_and_so_does_an_answer() {
        let (log, now) = (ProcessLog::new("m"), Instant::now());
        let large =
            |n| LogLine { message: "x".repeat(process_report::TEXT_BYTES_MAX), ..line(n, LogSeverity::Info) };
        for round in 0..100 {
            let lines = (0..100).map(|n| large(round * 100 + n)).collect();
            assert!(log.receive("upload", &report(ONE, lines), now));
        }
        assert!(log.state.lock().size_bytes <= LINES_BYTES_MAX);
        let page = log.find_lines(&LogQuery { behind: Some(0), limit: 500, ..LogQuery::default() }, now);
        let size: usize = page.lines.iter().map(|line| line.line.message.len()).sum();
        assert!(page.lost > 0 && size <= ANSWER_BYTES_MAX && page.lines.len() > 100, "{} {size}", page.lost);
        assert_eq!(page.last, page.lines.last().unwrap().number, "the rest follows");
    }

    #[test]
    fn a_process_is_known_for_an_hour_after_its_last_word() {
        let (log, now) = (ProcessLog::new("m"), Instant::now());
        assert!(log.receive("upload", &report(ONE, Vec::new()), now));
        let seen = log.list_processes(now + Duration::from_secs(10)).processes;
        assert_eq!((seen.len(), seen[0].silent_ms, seen[0].causes.len()), (1, 10_000, 1));
        assert!(log.list_processes(now + PROCESS_AGE_MAX).processes.is_empty());
        for number in 0..=PROCESSES_MAX {
            log.receive("upload", &report(&format!("{number:016x}"), Vec::new()), now);
        }
        log.receive("upload", &report(&format!("{PROCESSES_MAX:016x}"), Vec::new()), now);
        let list = log.list_processes(now);
        assert_eq!(
            (list.processes.len(), list.omitted_count),
            (PROCESSES_MAX, 1),
            "it speaks again and again"
        );
        let later = now + Duration::from_secs(process_report::SILENT_S);
        log.receive("upload", &report("00000000000000ff", Vec::new()), later);
        log.receive("upload", &report("ffffffffffffffff", Vec::new()), later);
        let list = log.list_processes(later);
        assert_eq!(
            (list.processes.len(), list.omitted_count),
            (PROCESSES_MAX, 0),
            "those that are gone give way"
        );
        assert!(list.processes.iter().any(|process| process.instance == "ffffffffffffffff"));
        log.begin_listening(later);
        assert!(log.list_processes(later).processes.iter().all(|process| process.silent_ms == 0));
    }

    #[test]
    fn what_is_no_report_is_left_out() {
        let (log, now) = (ProcessLog::new("m"), Instant::now());
        let endless =
            LogLine { message: "x".repeat(process_report::TEXT_BYTES_MAX + 1), ..line(1, LogSeverity::Info) };
        let many = (0..=process_report::LINES_MAX as u64).map(|n| line(n, LogSeverity::Info)).collect();
        for payload in [
            b"x".to_vec(),
            report("short", Vec::new()),
            report(ONE, vec![endless]),
            report(ONE, many),
            vec![0; REPORT_BYTES_MAX + 1],
        ] {
            assert!(!log.receive("upload", &payload, now));
        }
        assert!(log.list_processes(now).processes.is_empty());
    }
}
