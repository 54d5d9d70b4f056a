//! Levels of the log that admins change for a while: one record in the bucket `limits`, which each process reads every few seconds.
//!
//! A filter names modules of this program alone. What libraries log stays as it is configured: at their lowest levels some of them show
//! headers and addresses, with the secrets in them.
//!
//! Limits: [`OVERRIDES_MAX`] filters at a time, each for [`FOR_MS_MAX`] at most, of [`DIRECTIVES_MAX`] directives and
//! [`FILTER_BYTES_MAX`] bytes.

use std::fmt::{self, Write as _};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, KvRecord, ids::RequestId, process_report::LogSeverity};

/// Most filters at a time.
pub const OVERRIDES_MAX: usize = 32;

/// How long a filter holds unless the request says so, in milliseconds: a quarter of an hour.
pub const FOR_MS_DEFAULT: u64 = 15 * 60_000;

/// Longest time of a filter, in milliseconds: a day.
pub const FOR_MS_MAX: u64 = 24 * 3_600_000;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 512;

/// Most directives of a filter.
pub const DIRECTIVES_MAX: usize = 16;

/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 200;

/// The modules that a filter may name, each with all below it: the crates of this program that run in its processes.
pub const MODULES: [&str; 25] = [
    "alerts",
    "audit",
    "auth",
    "dispatch",
    "evm",
    "gate",
    "index",
    "ingress",
    "instruments",
    "media",
    "monitor",
    "nats",
    "outbound",
    "packaging",
    "queue_worker",
    "schedule",
    "schemas",
    "spans",
    "store",
    "streamgate",
    "tasks",
    "transcode",
    "upload",
    "web",
    "webhooks",
];

/// What a directive of a filter asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDirective {
    /// The module, with all below it; absent: every one of [`MODULES`].
    pub module: Option<String>,
    /// The least that is logged of it.
    pub severity: LogSeverity,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFilterError {
    /// It has no directive, or too many bytes.
    Length,
    /// It has too many directives.
    TooMany,
    /// A directive has no level.
    Level(String),
    /// A directive names what is not a module of this program.
    Module(String),
}

impl fmt::Display for LogFilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "a filter has 1 to {FILTER_BYTES_MAX} bytes"),
            Self::TooMany => {
                write!(f, "a filter has at most {DIRECTIVES_MAX} directives, with commas between them")
            }
            Self::Level(text) => write!(
                f,
                "{text:?} is no level: it is one of error, warn, info, debug, trace, alone or as in `upload=debug`"
            ),
            Self::Module(text) => write!(
                f,
                "{text:?} is no module of this program, such as `upload`, `nats::consume` or `streamgate::keeper`"
            ),
        }
    }
}

impl std::error::Error for LogFilterError {}

const LEVELS: [(&str, LogSeverity); 5] = [
    ("error", LogSeverity::Error),
    ("warn", LogSeverity::Warn),
    ("info", LogSeverity::Info),
    ("debug", LogSeverity::Debug),
    ("trace", LogSeverity::Trace),
];

/// Reads a filter: a level, or directives such as `upload=debug,nats::consume=trace`, with commas between them.
///
/// # Errors
/// [`LogFilterError`] names what is wrong.
pub fn parse_filter(text: &str) -> Result<Vec<LogDirective>, LogFilterError> {
    if !(1..=FILTER_BYTES_MAX).contains(&text.len()) {
        return Err(LogFilterError::Length);
    }
    if text.split(',').count() > DIRECTIVES_MAX {
        return Err(LogFilterError::TooMany);
    }
    text.split(',').map(|directive| parse_directive(directive.trim())).collect()
}

fn parse_directive(text: &str) -> Result<LogDirective, LogFilterError> {
    let (module, level) = text.rsplit_once('=').map_or((None, text), |(module, level)| (Some(module), level));
    if let Some(module) = module.filter(|module| !is_module(module)) {
        return Err(LogFilterError::Module(module.to_owned()));
    }
    let found = LEVELS.into_iter().find(|(name, _)| *name == level);
    let (_, severity) = found.ok_or_else(|| LogFilterError::Level(level.to_owned()))?;
    Ok(LogDirective { module: module.map(str::to_owned), severity })
}

fn is_module(text: &str) -> bool {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let first = text.split("::").next().unwrap_or_default();
    MODULES.contains(&first) && text.split("::").all(is_name)
}

/// The directives as `tracing` reads them behind those that are configured: a level alone is written out for each of [`MODULES`].
pub fn render_directives(directives: &[LogDirective]) -> String {
    let mut text = String::new();
    for LogDirective { module, severity } in directives {
        let level = LEVELS.into_iter().find(|(_, known)| known == severity).map_or("info", |(name, _)| name);
        let named = module.as_deref().map_or(&MODULES[..], |_| &[]);
        for module in named.iter().copied().chain(module.as_deref()) {
            // Writing to a text does not fail.
            _ = write!(text, ",{module}={level}");
        }
    }
    text
}

/// A filter that holds for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LogLevelOverride")]
pub struct LogLevelOverride {
    /// The role whose processes it is for. A process that runs several roles has one log: it takes what is set for any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The process that it is for. Without it and without a role it is for all processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// A level, or directives such as `upload=debug`. It is added to the filter that is configured.
    pub filter: String,
    /// Unix time in milliseconds by the broker at which it was set.
    pub set_at_ms: u64,
    /// Unix time in milliseconds at which the filter that is configured returns.
    pub until_ms: u64,
    /// The account of the person.
    pub set_by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl LogLevelOverride {
    /// Whether it holds at a time by the broker, in Unix milliseconds. One that would hold for longer than it may was set by a broker
    /// whose clock was wrong, and is over.
    pub fn holds_at(&self, now_ms: u64) -> bool {
        self.until_ms.checked_sub(now_ms).is_some_and(|left_ms| (1..=FOR_MS_MAX).contains(&left_ms))
    }
}

/// All filters that hold for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevels {
    /// At most one of each role, of each process, and of all.
    #[serde(default)]
    pub overrides: Vec<LogLevelOverride>,
}

impl LogLevels {
    /// Its key; there is one record.
    pub const KEY: &'static str = "log_levels";

    /// What a process logs by at `now_ms`: what is set for itself, else for its first role that has something, else for all.
    pub fn find(&self, roles: &[String], instance: &str, now_ms: u64) -> Option<&LogLevelOverride> {
        let holds = |role: Option<&str>, instance: Option<&str>| {
            self.overrides.iter().find(|one| {
                one.holds_at(now_ms) && one.role.as_deref() == role && one.instance.as_deref() == instance
            })
        };
        let of_role = || roles.iter().find_map(|role| holds(Some(role), None));
        holds(None, Some(instance)).or_else(of_role).or_else(|| holds(None, None))
    }

    /// Puts one in the place of what is set for the same, or takes that back where it ends at once; forgets what has ended. False where
    /// there is no place for it.
    pub fn set(&mut self, wanted: &LogLevelOverride) -> bool {
        let is_same = |one: &LogLevelOverride| (&one.role, &one.instance) == (&wanted.role, &wanted.instance);
        self.overrides.retain(|one| one.holds_at(wanted.set_at_ms) && !is_same(one));
        if wanted.until_ms <= wanted.set_at_ms {
            return true;
        }
        let has_place = self.overrides.len() < OVERRIDES_MAX;
        if has_place {
            self.overrides.push(wanted.clone());
        }
        has_place
    }
}

impl KvRecord for LogLevels {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// `evt.admin.log_level_changed`: an admin changed what processes log, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminLogLevelChanged {
    /// Names this event.
    pub request_id: RequestId,
    /// The role whose processes it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The process that it is for. Without it and without a role it is for all processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The filter; absent where it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Unix time in milliseconds at which the filter that is configured returns; not later than the event where it is taken back.
    pub until_ms: u64,
    /// The account of the person.
    pub changed_by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BusEvent for AdminLogLevelChanged {
    const ENTITY: &'static str = "admin";
    const VERB: &'static str = "log_level_changed";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.request_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn a_filter_names_levels_and_modules_of_this_program_or_is_refused_by_what_is_wrong() {
        for (text, wanted) in [
            ("", LogFilterError::Length),
            (&*"debug,".repeat(100), LogFilterError::Length),
            ("debug,,info", LogFilterError::Level(String::new())),
            ("loud", LogFilterError::Level("loud".into())),
            ("off", LogFilterError::Level("off".into())),
            ("upload", LogFilterError::Level("upload".into())),
            ("upload=Debug", LogFilterError::Level("Debug".into())),
            ("hyper=trace", LogFilterError::Module("hyper".into())),
            ("uplaod=debug", LogFilterError::Module("uplaod".into())),
            ("upload::=debug", LogFilterError::Module("upload::".into())),
            ("upload[span{field=1}]=debug", LogFilterError::Module("upload[span{field=1}]".into())),
            ("=debug", LogFilterError::Module(String::new())),
        ] {
            assert_eq!(parse_filter(text), Err(wanted), "{text}");
        }
        assert_eq!(parse_filter(&["info"; DIRECTIVES_MAX + 1].join(",")), Err(LogFilterError::TooMany));
        let directives = parse_filter("warn, upload=debug,nats::consume=trace").unwrap();
        assert_eq!(directives.len(), 3);
        let text = render_directives(&directives);
        assert!(
            text.starts_with(",alerts=warn,audit=warn,")
                && text.ends_with(",upload=debug,nats::consume=trace"),
            "{text}"
        );
        assert_eq!(text.matches("=warn").count(), MODULES.len());
    }

    #[test]
    fn what_is_set_for_a_process_goes_before_its_role_and_that_before_all() {
        let one = |role: Option<&str>, instance: Option<&str>, until_ms| LogLevelOverride {
            role: role.map(str::to_owned),
            instance: instance.map(str::to_owned),
            filter: "debug".into(),
            set_at_ms: 10,
            until_ms,
            set_by: "admin".into(),
            reason: None,
        };
        let mut levels = LogLevels::default();
        let roles = ["ingress".to_owned(), "upload".to_owned()];
        assert_eq!(levels.find(&roles, "p1", 10), None);
        for (role, instance, until_ms) in
            [(None, None, 90), (Some("upload"), None, 80), (Some("index"), None, 80), (None, Some("p1"), 70)]
        {
            assert!(levels.set(&one(role, instance, until_ms)));
        }
        let until = |now_ms| levels.find(&roles, "p1", now_ms).map(|found| found.until_ms);
        assert_eq!([69, 70, 80, 90].map(until), [Some(70), Some(80), Some(90), None]);
        assert_eq!(levels.find(&roles, "p2", 10).unwrap().until_ms, 80);

        assert!(levels.set(&one(Some("upload"), None, 10)), "taken back");
        assert_eq!(levels.find(&roles, "p2", 10).unwrap().until_ms, 90);
        for number in levels.overrides.len()..OVERRIDES_MAX {
            assert!(levels.set(&one(None, Some(&number.to_string()), 90)));
        }
        assert!(!levels.set(&one(None, Some("more"), 90)), "there is no place");
        assert!(levels.set(&one(None, None, 95)), "what is there is changed");
        let later = LogLevelOverride { set_at_ms: 92, until_ms: 99, ..one(None, Some("more"), 0) };
        assert!(levels.set(&later), "what has ended makes place");
        assert_eq!(levels.overrides.len(), 2);
    }

    #[test]
    fn the_modules_are_the_crates_of_this_program() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
        let members = members.split('"').skip(1).step_by(2);
        let mut names: Vec<String> = members
            .map(|member| {
                let text = fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap();
                let package = text.split("[package]").nth(1).unwrap();
                package.split("name = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
            })
            // A program of its own, which has a log of its own.
            .filter(|name| name != "media-child")
            .collect();
        names.sort();
        assert_eq!(names, MODULES);
    }
}
