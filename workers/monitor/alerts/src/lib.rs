//! Rules of alerts as data, and all that is made of them: which conditions hold ([`Evaluator`]), what fires and what is over
//! ([`advance_board`]), rules for Prometheus ([`render_rules`]), dashboards for Grafana ([`render_dashboards`]), the body of webhooks
//! ([`build_payload`]) and runbooks ([`RUNBOOKS`]).
//!
//! A rule is one of a small set of conditions, so that what the monitor evaluates and what Prometheus is given can't differ in more than
//! how they sample. Windows longer than [`WINDOW_MS_MAX`] are rules of Prometheus alone: the monitor keeps no more.
//!
//! Nothing here reads a clock or does input or output.
//!
//! Limits: [`GROUPS_MAX`] groups of series with [`POINTS_MAX`] points each, [`SERIES_MAX`] series whose last value is kept, and
//! [`schemas::alert::ALERTS_MAX`] alerts.

mod amount;
mod board;
mod dashboard;
mod evaluator;
mod family;
mod history;
mod payload;
mod prometheus;
mod rule;
mod rule_set;
mod runbook;
mod sample;
mod summary;

pub use amount::Amount;
pub use board::{BoardChange, Transition, advance_board, compute_fingerprint};
pub use dashboard::{DashboardFile, SCHEMA_VERSION, SERIES_SHOWN_MAX, render_dashboards};
pub use evaluator::{ConditionHolding, Evaluator};
pub use history::{GROUPS_MAX, POINTS_MAX, SERIES_MAX};
pub use payload::{PayloadContext, build_payload};
pub use prometheus::{RenderOptions, render_rules};
pub use rule::{
    Aggregate, AlertRule, BurnWindow, Comparison, Condition, Operator, Selector, ServiceObjective,
    WINDOW_MS_MAX,
};
pub use rule_set::{RULES_SOURCE, RuleSet, RulesError};
pub use runbook::{RUNBOOKS, Runbook, find_runbook, runbook_path};
pub use sample::MetricPoint;
