//! Alerts: what fires, what is kept quiet, and who looks at it. One record in the bucket `limits`, which the monitor that has the lease
//! and the API change by compare-and-set.
//!
//! Limits: at most [`ALERTS_MAX`] alerts and [`MARKS_MAX`] silences, and as many acknowledgements, are kept at a time.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, KvRecord, ids::RequestId};

/// Most alerts that are kept at a time, resolved ones whose receivers do not know it yet among them.
pub const ALERTS_MAX: usize = 256;

/// Most silences that are kept at a time, and most acknowledgements.
pub const MARKS_MAX: usize = 200;

/// Longest silence or acknowledgement, in milliseconds: 30 days.
pub const MARK_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 200;

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// A person acts now.
    Page,
    /// A person acts on a working day.
    Ticket,
    /// It fires always, to show that alerts arrive.
    None,
}

impl AlertSeverity {
    /// As the label `severity` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Ticket => "ticket",
            Self::None => "none",
        }
    }
}

/// Where an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertPhase {
    /// Its condition holds, not yet for as long as the rule asks.
    Pending,
    /// It fires.
    Firing,
    /// It fired, and receivers are being informed that it is over.
    Resolved,
}

/// One alert: a rule, and the labels of what it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertState {
    /// Its id: the fingerprint of its labels, 16 hexadecimal digits, as Alertmanager computes it.
    pub alert_id: String,
    /// The rule.
    pub name: String,
    /// How urgent it is.
    pub severity: AlertSeverity,
    /// Labels without `alertname` and `severity`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub phase: AlertPhase,
    /// What is wrong, for people.
    pub summary: String,
    /// What was measured when the phase began.
    pub value: f64,
    /// Unix time in milliseconds by the broker since when the condition holds.
    pub since_ms: u64,
    /// Unix time in milliseconds at which it began to fire; absent before. What is pending again has it while receivers do not know
    /// that it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at_ms: Option<u64>,
    /// Unix time in milliseconds at which it was over; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at_ms: Option<u64>,
    /// Receivers that know of the phase, and the Unix time in milliseconds at which each took it last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notified_at_ms: BTreeMap<String, u64>,
}

/// A silence or an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AlertMark {
    /// Unix time in milliseconds by the broker at which it was made.
    pub made_at_ms: u64,
    /// Unix time in milliseconds at which it ends.
    pub until_ms: u64,
    /// The account of the person.
    pub made_by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// All alerts, and what people said about them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertBoard {
    /// Unix time in milliseconds at which a monitor wrote it last: at each change, and every minute.
    #[serde(default)]
    pub evaluated_at_ms: u64,
    /// What is pending, fires, or was resolved lately; by name and id.
    #[serde(default)]
    pub alerts: Vec<AlertState>,
    /// Alerts for which there was no place.
    #[serde(default)]
    pub omitted_count: u64,
    /// What informs nobody for a while, by the name of a rule or the id of an alert.
    #[serde(default)]
    pub silences: BTreeMap<String, AlertMark>,
    /// What somebody looks at: nobody is reminded of it for a while; by the name of a rule or the id of an alert.
    #[serde(default)]
    pub acknowledgements: BTreeMap<String, AlertMark>,
}

impl AlertBoard {
    /// Its key; there is one record.
    pub const KEY: &'static str = "alerts";

    /// What keeps an alert quiet at `now_ms`, and under which key: its own, or that of its rule.
    pub fn find_silence(&self, alert: &AlertState, now_ms: u64) -> Option<(&str, &AlertMark)> {
        find_mark(&self.silences, alert, |mark| mark.until_ms > now_ms)
    }

    /// Who looks at an alert at `now_ms`, and under which key that stands. What somebody said before it began to fire is not about it.
    pub fn find_acknowledgement(&self, alert: &AlertState, now_ms: u64) -> Option<(&str, &AlertMark)> {
        let fired_at_ms = alert.fired_at_ms?;
        let counts = |mark: &AlertMark| mark.until_ms > now_ms && mark.made_at_ms >= fired_at_ms;
        find_mark(&self.acknowledgements, alert, counts)
    }

    /// Forgets marks that have ended.
    pub fn drop_ended_marks(&mut self, now_ms: u64) {
        self.silences.retain(|_, mark| mark.until_ms > now_ms);
        self.acknowledgements.retain(|_, mark| mark.until_ms > now_ms);
    }
}

fn find_mark<'a>(
    marks: &'a BTreeMap<String, AlertMark>,
    alert: &AlertState,
    counts: impl Fn(&AlertMark) -> bool,
) -> Option<(&'a str, &'a AlertMark)> {
    let find = |key: &String| marks.get_key_value(key).filter(|(_, mark)| counts(mark));
    find(&alert.alert_id).or_else(|| find(&alert.name)).map(|(key, mark)| (key.as_str(), mark))
}

impl KvRecord for AlertBoard {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// `evt.alert.fired`: the condition of a rule has held for as long as the rule asks. The last token of the subject is the alert's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertFired {
    /// Its id.
    pub alert_id: String,
    /// The rule.
    pub name: String,
    /// How urgent it is.
    pub severity: AlertSeverity,
    /// Labels without `alertname` and `severity`.
    pub labels: BTreeMap<String, String>,
    /// What is wrong, for people.
    pub summary: String,
    /// What was measured.
    pub value: f64,
    /// Unix time in milliseconds since when the condition holds.
    pub since_ms: u64,
    /// Unix time in milliseconds at which it began to fire.
    pub fired_at_ms: u64,
    /// True when a silence keeps it from receivers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_silenced: bool,
}

impl BusEvent for AlertFired {
    const ENTITY: &'static str = "alert";
    const VERB: &'static str = "fired";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.alert_id.clone()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

/// `evt.alert.resolved`: the condition of an alert that fired does not hold any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AlertResolved {
    /// Its id.
    pub alert_id: String,
    /// The rule.
    pub name: String,
    /// How urgent it was.
    pub severity: AlertSeverity,
    /// Labels without `alertname` and `severity`.
    pub labels: BTreeMap<String, String>,
    /// Unix time in milliseconds at which it began to fire.
    pub fired_at_ms: u64,
    /// Unix time in milliseconds at which it was over.
    pub resolved_at_ms: u64,
}

impl BusEvent for AlertResolved {
    const ENTITY: &'static str = "alert";
    const VERB: &'static str = "resolved";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.alert_id.clone()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

macro_rules! mark_event {
    ($(#[$doc:meta])* $name:ident, $verb:literal, $(#[$by_doc:meta])* $by:ident) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// Names this event.
            pub request_id: RequestId,
            /// The name of a rule, or the id of an alert.
            pub alert: String,
            /// Unix time in milliseconds at which it ends; not later than the event where it is taken back.
            pub until_ms: u64,
            $(#[$by_doc])*
            pub $by: String,
            /// Why, for people.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub reason: Option<String>,
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = "alert";
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.request_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext::default()
            }
        }
    };
}

mark_event! {
    /// `evt.alert.silenced`: a rule, or one alert, informs nobody until a time.
    AlertSilenced, "silenced",
    /// The account of the person.
    silenced_by
}

mark_event! {
    /// `evt.alert.acknowledged`: somebody looks at what fires, and nobody is reminded of it until a time.
    AlertAcknowledged, "acknowledged",
    /// The account of the person.
    acknowledged_by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_acknowledgement_of_an_alert_hides_no_newer_one_of_its_rule() {
        let alert = AlertState {
            alert_id: "5d5ba0a1b2c3d4e5".into(),
            name: "StreamGateDeadLetters".into(),
            severity: AlertSeverity::Page,
            labels: BTreeMap::new(),
            phase: AlertPhase::Firing,
            summary: String::new(),
            value: 1.0,
            since_ms: 10,
            fired_at_ms: Some(20),
            resolved_at_ms: None,
            notified_at_ms: BTreeMap::new(),
        };
        let mark =
            |made_at_ms| AlertMark { made_at_ms, until_ms: 100, made_by: "admin".into(), reason: None };
        let mut board = AlertBoard::default();
        board.acknowledgements.insert(alert.alert_id.clone(), mark(5));
        assert_eq!(board.find_acknowledgement(&alert, 50), None);
        board.acknowledgements.insert(alert.name.clone(), mark(25));
        assert_eq!(board.find_acknowledgement(&alert, 50), Some((alert.name.as_str(), &mark(25))));
        assert_eq!(board.find_acknowledgement(&alert, 100), None, "it has ended");
    }
}
